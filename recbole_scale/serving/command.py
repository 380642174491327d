"""The command ``run_scripts/recommend.py``."""

from __future__ import annotations

import argparse
from time import perf_counter

_EXAMPLES = """examples:
  python run_scripts/recommend.py --checkpoint saved/ScaledSASRec-ml-1m-0123456789.best.pth --out recs.parquet
  python run_scripts/recommend.py --checkpoint saved/GRU4Rec.pth --users new.txt --topk 10 --mask_history --out recs.csv

A file of users holds one user a line ("user item item item", oldest first), read in blocks, or is an atomic file
(user_id:token, item_id:token, timestamp:float), read whole. Unknown items are left out and counted.
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    made = argparse.ArgumentParser(
        prog="recommend.py",
        description="Write each user's best items, with raw ids, from a checkpoint of any sequential model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--checkpoint", "-c", required=True, help="a checkpoint of a run")
    made.add_argument("--users", default="all", help="all, or a file of histories (default: all)")
    made.add_argument("--topk", type=int, default=50, help="items a user (default: %(default)s)")
    made.add_argument("--out", required=True, help="file to write: .parquet or .csv (user, item, rank, score)")
    made.add_argument("--mask_history", action="store_true", help="leave out items that the user has had")
    made.add_argument("--batch_size", type=int, default=512, help="users ranked at once (default: %(default)s)")
    made.add_argument("--data_path", help="folder of the data sets, when it is not the one of the training")
    return made


def main(argv: list[str] | None = None) -> None:
    """Load, rank, write, and say what was done."""
    started = perf_counter()
    arguments = parser().parse_args(argv)
    from recbole_scale.serving.recommend import load_trained, recommend

    trained = load_trained(arguments.checkpoint, arguments.data_path)
    loaded = perf_counter() - started
    summary = recommend(
        trained,
        arguments.users,
        arguments.out,
        arguments.topk,
        arguments.mask_history,
        arguments.batch_size,
        progress=True,
    )
    seconds = perf_counter() - started
    print(f"{arguments.out}: {summary}; {seconds:.1f} s, {loaded:.1f} s of them loading")
