"""Options of ``recbole-scale sweep``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import ONE_PROCESS, CommandParser

DECIDED = {
    **ONE_PROCESS,
    "model": "a ladder is of ScaledSASRec; recbole-scale compare trains other models",
    "dataset": "--dataset names it",
    "seed": "--seeds says which",
    "data_fraction": "--fractions says which",
    "epochs": "--epochs says how many",
    "size": "--sizes says which",
    **dict.fromkeys(("n_layers", "hidden_size"), "--shapes says which, as 2x64 for 2 layers of width 64"),
    "results_file": "--rows says where",
    "per_user_file": "--per_user names the folder of these files",
}

ROWS = "results/runs.jsonl"
# what config files may say where the option of this name does not
FROM_FILES = {"dataset": "dataset", "seed": "seeds", "data_fraction": "fractions", "results_file": "rows"}

_EXAMPLES = """  recbole-scale sweep --dataset ml-100k --shapes 1x8 2x16 2x32 tiny --seeds 1 2 3 --epochs 10
  recbole-scale sweep --dataset ml-1m --shapes 2x16 tiny 4x64 --fractions 0.1 0.25 0.5 1 --seeds 1
  recbole-scale sweep --dataset ml-1m --equal_n 98.3K --epochs 10 --dropout_bottom=0.2
  recbole-scale sweep --dataset ml-1m --shapes 2x16 2x32 tiny --tune 4 --epochs 6 12 24 --lr_schedule=wsd
  recbole-scale sweep --sweep my_sweep.yaml --ray_address auto --gpus_per_run 1
Any setting of run_recbole can be given as --key=value. A sweep file holds the same options as YAML.
"""


def parser() -> CommandParser:
    """Options of the command; what it does not know is a setting."""
    made = CommandParser(
        "recbole-scale sweep",
        "Train a grid of ScaledSASRec shapes x seeds x data fractions x epochs; one row per run.",
        _EXAMPLES,
        DECIDED,
        {"model": "ScaledSASRec"},
    )
    add: Any = made.add_argument
    add("--dataset", metavar="D", help="data set")
    add(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="sizes by name (tiny small base medium large xlarge) or count (98.3K)",
    )
    add("--shapes", nargs="+", metavar="LxD", help="shapes LAYERSxD_MODEL[xHEADS], or named sizes")
    add("--layers", nargs="+", type=int, metavar="L", help="with --d_model: every combination")
    add("--d_model", nargs="+", type=int, metavar="D", help="with --layers: every combination")
    add("--equal_n", nargs="+", metavar="N", help="shapes of this N within 2 %%, from wide to deep")
    add("--seeds", nargs="+", type=int, metavar="S", help="random seeds (default: 1)")
    add("--fractions", nargs="+", type=float, metavar="F", help="shares of users that train (default: 1)")
    add(
        "--epochs",
        nargs="+",
        type=int,
        metavar="E",
        help="epochs, a run with its own schedule each (default: the size's)",
    )
    add(
        "--tune",
        nargs="+",
        type=float,
        metavar="RATE",
        help="first try these learning rates, or so many around each shape's own, and take the best by valid NLL",
    )
    add("--tune_seed", type=int, default=9, metavar="S", help="seed of these runs (default: %(default)s)")
    add("--tune_epochs", type=int, metavar="E", help="epochs of these runs (default: the fewest of the sweep)")
    add("--sweep", metavar="FILE", help="YAML file with these options and 'settings:'")
    add("--config_files", nargs="+", metavar="FILE", help="config files of every run")
    add("--rows", metavar="FILE", help=f"where rows go (default: {ROWS})")
    add("--per_user", metavar="DIR", help="also write each run's users, ranks and NLL there, for paired comparison")
    add("--keep", default="best", choices=["best", "none"], help="checkpoints to keep (default: %(default)s)")
    add("--ray_address", metavar="ADDRESS", help="run on Ray: auto, HOST:PORT, or local to start one here")
    add("--cpus_per_run", type=float, metavar="N", help="with Ray (default: those that go with its GPU, else 1)")
    add("--max_failures", type=int, metavar="N", help="with Ray, restarts of a run that lost its process (default: 3)")
    add("--gpus_per_run", type=float, metavar="N", help="with Ray; fractions share one (default: 1 if there are any)")
    add("--dry_run", action="store_true", help="print the plan and stop")
    add("--columns", action="store_true", help="print what the columns of a row mean, and stop")
    return made
