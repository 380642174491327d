"""Options of ``recbole-scale study``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import ONE_PROCESS, CommandParser
from recbole_scale.prepare.options import add_reading

_SWEEP = "recbole-scale sweep"
DECIDED = {
    **ONE_PROCESS,
    "model": "a ladder is of ScaledSASRec; recbole-scale compare trains other models",
    "seed": f"as many as the time allows; {_SWEEP} takes --seeds",
    "data_fraction": f"it trains on the whole log; {_SWEEP} takes --fractions",
    "epochs": f"as many as the time allows; {_SWEEP} takes --epochs",
    "learning_rate": f"it tries several on the smallest size; {_SWEEP} takes --learning_rate",
    "train_budget_seconds": "--hours or --minutes is the time of everything",
    **dict.fromkeys(("size", "n_layers", "hidden_size"), "--sizes says which, as tiny or 2x64"),
    "results_file": "rows lie in --out",
    "per_user_file": f"{_SWEEP} takes --per_user, a folder of these files",
}

_EXAMPLES = """  recbole-scale study --csv log.csv --user user --item item --time when --hours 1
  recbole-scale study --dataset ml-100k --minutes 5
  recbole-scale study --dataset ml-100k --minutes 10 more
The same line again goes on where it was stopped; 'more' adds the runs that narrow the answer most per hour.
Any setting of run_recbole can be given as --key=value and holds for every run.
"""


def parser() -> CommandParser:
    """Options of the command; what it does not know is a setting."""
    made = CommandParser(
        "recbole-scale study",
        "Would a bigger model pay on this log? Prepare, plan a ladder of sizes that fits the time, run, fit, one page.",
        _EXAMPLES,
        DECIDED,
        {"model": "ScaledSASRec"},
    )
    add: Any = made.add_argument
    source = made.add_argument_group("the log: one of these")
    source.add_argument("--csv", metavar="FILE", help="a log as CSV, with --user, --item and --time")
    source.add_argument("--parquet", metavar="FILE", help="a log as Parquet, with --user, --item and --time")
    source.add_argument("--dataset", metavar="D", help="a data set that is prepared; with a file: its new name")
    for role in ("user", "item", "time"):
        add(f"--{role}", metavar="COL", help=f"the file's {role} column")
    add_reading(made.add_argument_group("how the file is written, where that is not found out"))
    add("--hours", nargs="+", metavar="H", help="time for everything; 'H more' sharpens a finished study")
    add("--minutes", nargs="+", metavar="M", help="the same in minutes")
    add("--sizes", nargs="+", metavar="SIZE", help="the ladder by name (tiny), count (98.3K) or shape (2x64)")
    add("--predict", metavar="SIZES", help="sizes to predict: 10x (the largest), 829M, xlarge")
    add("--factor", type=float, default=10.0, metavar="X", help="judge a size so much larger (default: %(default)s)")
    add(
        "--worth_hits", type=float, default=0.002, metavar="HR", help="HR@10 a doubling must win (default: %(default)s)"
    )
    add("--jobs", type=int, default=1, metavar="N", help="runs at once on this machine (default: %(default)s)")
    add("--ray_address", metavar="ADDRESS", help="run on Ray: auto, HOST:PORT, or local to start one here")
    add("--out", metavar="DIR", help="folder of plan, rows and page (default: studies/DATASET)")
    add("--resamples", type=int, default=1000, help="resamples behind the bands (default: %(default)s)")
    add("--dry_run", action="store_true", help="print the plan and stop")
    return made
