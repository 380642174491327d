"""Options of ``recbole-scale fit``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import CommandParser, positive_number, seed_number

X_COLUMNS = ("n_blocks", "n_blocks_exact", "n_parameters", "flops_total", "unique_interactions")
LOSSES = ("test_nll", "best_valid_nll")
_EXAMPLES = """  recbole-scale fit --rows results/runs.jsonl --dataset ml-1m --model ScaledSASRec \\
      --x n_blocks --holdout large,xlarge --predict 829M --out results/ml-1m
"""


def add_question(add: Any, model: str) -> None:
    """Which rows a law is fitted to, and what is asked of it; ``model``: the help of --model."""
    add("--rows", default="results/runs.jsonl", metavar="FILE", help="rows of runs (default: %(default)s)")
    add("--dataset", metavar="D", help="data set of the rows; needed when they hold several")
    add("--model", metavar="M", help=model)
    add("--loss", default="test_nll", metavar="COLUMN", help=f"{', '.join(LOSSES)} (default: %(default)s)")
    add("--holdout", metavar="SIZES", help="sizes by name, shape or count, judged instead of fitted: large,829M")
    add("--predict", metavar="SIZES", help="sizes by name, shape or count to predict: 829M or 8x128,xlarge")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep rows with this value; repeatable")
    add("--resamples", type=int, default=1000, metavar="N", help="resamples behind the bands (default: %(default)s)")
    add("--seed", type=seed_number, default=0, metavar="S", help="seed of the resamples (default: %(default)s)")
    add("--others", nargs="+", default=[], metavar="FILE", help="rows of other models on the data, beside the sizes")


def parser() -> CommandParser:
    """Options of the command."""
    made = CommandParser(
        "recbole-scale fit",
        "Fit L = E + (x0 / x)^alpha to finished runs, judge it on held-out sizes, predict larger ones.",
        _EXAMPLES,
    )
    add: Any = made.add_argument
    add_question(add, "model of the rows; needed when they hold several")
    add("--x", default="n_blocks", metavar="COLUMN", help=f"{', '.join(X_COLUMNS)} (default: %(default)s)")
    add("--joint", action="store_true", help="also fit the joint law in size and data, and split budgets by it")
    add("--d_over_n", default=":", metavar="LOW:HIGH", help="interactions for each parameter that the joint law takes")
    add("--price_per_hour", type=positive_number, metavar="P", help="price of an hour here, to cost a gain in money")
    add("--per_user", metavar="DIR", help="files of `sweep --per_user DIR`: E for all users, not only for those tested")
    add("--out", default="results", metavar="DIR", help="folder for law.json and figures (default: %(default)s)")
    return made
