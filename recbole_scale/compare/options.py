"""Options of ``recbole-scale compare``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from pathlib import Path

from recbole_scale.arguments import ONE_PROCESS, CommandParser, place

DECIDED = {
    **ONE_PROCESS,
    "model": "--models names them",
    "dataset": "--dataset names it",
    "seed": "--seeds says how many",
    "size": "write --models ScaledSASRec:tiny",
    "epochs": "--epochs is the same for everybody",
    "train_budget_seconds": "--budget is the same for everybody",
    "stopping_step": "--patience is the same for everybody",
    "results_file": "--rows says where",
    "per_user_file": "these files lie in --out",
    "checkpoint_dir": "checkpoints lie in --out",
}

_EXAMPLES = """  recbole-scale compare --dataset ml-100k --models SASRec GRU4Rec ScaledSASRec:tiny --epochs 5
  recbole-scale compare --dataset ml-1m --models SASRec GRU4Rec Caser BERT4Rec FMLPRec \\
      ScaledSASRec:tiny ScaledSASRec:small --budget 600s --seeds 2 --SASRec.train_batch_size=256

Any setting can be given as --key=value for everybody or --Model.key=value for one model. Each run is a process of its
own; what is finished is skipped when the command is given again. Written to --out: table.txt, .md and .tex, the rank
of every user's held-out item (per_user/), and the log of each run (logs/).
"""


def parser() -> CommandParser:
    """Options of the command; what it does not know is a setting."""
    made = CommandParser(
        "recbole-scale compare",
        "Compare models on the same split, order, ranking and budget, with significance over users.",
        _EXAMPLES,
        DECIDED,
    )
    made.add_argument("--dataset", "-d", required=True, help="name of the data set")
    made.add_argument("--models", "-m", nargs="+", required=True, metavar="MODEL", help="Model or ScaledSASRec:size")
    made.add_argument("--seeds", type=int, default=1, help="runs of each model, with seeds 1, 2, ... (default: 1)")
    made.add_argument("--epochs", type=int, help="budget: epochs")
    made.add_argument("--budget", help="budget: wall clock of training, evaluation apart, as 600s, 10m or 1h")
    made.add_argument("--jobs", type=int, default=1, help="runs at once, each with its share of the CPU (default: 1)")
    made.add_argument("--patience", type=int, help="without a budget: evaluations without a gain (default: 10)")
    made.add_argument("--reference", help="model that the others are tested against (default: the first)")
    made.add_argument("--samples", type=int, default=10_000, help="resamples of the users (default: %(default)s)")
    made.add_argument(
        "--rows", dest="results_file", type=place, default="results/runs.jsonl", metavar="FILE",
        help="rows of the runs (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--data_path", type=place, help="folder of the data sets (default: dataset)")
    made.add_argument("--out", type=Path, help="folder of the tables (default: results/compare-DATASET)")
    return made
