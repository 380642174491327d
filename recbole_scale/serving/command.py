"""The command ``recbole-scale recommend``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from recbole_scale.arguments import CommandParser
from recbole_scale.errors import UserError

_EXAMPLES = """  recbole-scale recommend --rows results/runs.jsonl --dataset ml-1m --out recs.parquet
  recbole-scale recommend --checkpoint 0123456789 --users new.txt --topk 10 --mask_history --out recs.csv

A file of users holds one user a line ("user item item item", oldest first), read in blocks, or is an atomic file
(user_id:token, item_id:token, timestamp:float), read whole. Unknown items are left out and counted.
"""


def parser() -> CommandParser:
    """Arguments of the command."""
    made = CommandParser(
        "recbole-scale recommend",
        "Write each user's best items, with raw ids, from a checkpoint of any sequential model.",
        _EXAMPLES,
    )
    made.add_argument("--checkpoint", "-c", metavar="FILE", help="a checkpoint: its file, a glob, or the id of its run")
    made.add_argument("--rows", metavar="FILE", help="instead: rows of runs; the run of lowest valid NLL is taken")
    made.add_argument("--dataset", "-d", metavar="D", help="the data set; needed when --rows hold several")
    made.add_argument("--checkpoint_dir", default="saved", metavar="DIR", help="of the runs (default: %(default)s)")
    made.add_argument("--users", default="all", help="all, or a file of histories (default: all)")
    made.add_argument("--topk", type=int, default=50, help="items a user (default: %(default)s)")
    made.add_argument("--out", help="file to write: .parquet or .csv (user, item, rank, score)")
    made.add_argument("--items", metavar="FILE", help="raw ids to choose from, one a line: the catalogue of today")
    made.add_argument("--export", metavar="FILE", help="instead of lists: write the model for serving (torch.export)")
    made.add_argument("--mask_history", action="store_true", help="leave out items that the user has had")
    made.add_argument("--batch_size", type=int, default=512, help="users ranked at once (default: %(default)s)")
    made.add_argument("--data_path", help="folder of the data sets, when it is not the one of the training")
    return made


def main(argv: list[str] | None = None) -> int:
    """Load, rank, write, and say what was done."""
    started = perf_counter()
    arguments = parser().parse_args(argv)
    if bool(arguments.checkpoint) == bool(arguments.rows):
        raise UserError("give either --checkpoint, or --rows")
    if bool(arguments.out) == bool(arguments.export):
        raise UserError("give --out for lists of items, or --export for the model itself")
    from recbole_scale.runs.trained import best_of_rows, one_checkpoint
    from recbole_scale.serving.recommend import recommend
    from recbole_scale.serving.trained import load_trained

    if arguments.rows:
        path = best_of_rows(arguments.rows, arguments.dataset, arguments.checkpoint_dir)
    else:
        path = one_checkpoint([arguments.checkpoint], arguments.checkpoint_dir)
    trained = load_trained(path, arguments.data_path, with_data=arguments.users == "all" and not arguments.export)
    if arguments.dataset and arguments.dataset != trained.config["dataset"]:
        raise UserError(f"{path} was trained on '{trained.config['dataset']}', not on '{arguments.dataset}'")
    if arguments.export:
        from recbole_scale.serving.export import export_model

        print(export_model(trained, arguments.export))
        return 0
    loaded = perf_counter() - started
    summary = recommend(
        trained,
        arguments.users,
        arguments.out,
        arguments.topk,
        arguments.mask_history,
        arguments.batch_size,
        progress=True,
        items=_lines(arguments.items) if arguments.items else None,
    )
    seconds = perf_counter() - started
    print(f"{arguments.out}: {summary}; {seconds:.1f} s, {loaded:.1f} s of them loading")
    return 0


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; --items takes one with an item a line")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line for line in file.read().splitlines() if line]
    except (OSError, UnicodeDecodeError) as failure:
        raise UserError(f"--items {path} cannot be read ({failure})") from failure
