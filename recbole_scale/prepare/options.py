"""Options of ``recbole-scale prepare``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

import re
from typing import Any

from recbole_scale.arguments import CommandParser
from recbole_scale.errors import UserError

COLUMNS = {
    "user": "whose sequence a row belongs to",
    "session": "in place of --user: sequences are sessions",
    "item": "the item",
    "time": "the time, or 'order' where there is none and rows are in order",
    "rating": "the rating",
    "domain": "the domain",
}
DUPLICATES = ("keep", "event", "pair")
INSTEAD_OF_QUOTE = "\N{DOUBLE PRIME}"
_FORMATS = (
    "ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, amazon-2014, amazon-2018, amazon-2023, "
    "csv, jsonl, parquet, inter, sequences"
)
_EXAMPLES = """  recbole-scale prepare ml-20m --raw ml-20m.zip --out dataset/ml-20m --filter paper --expect paper
  recbole-scale prepare amazon-2023 --raw Books.csv.gz Video_Games.csv.gz --out dataset/mix --user_core 5
  recbole-scale prepare csv --raw log.csv --user uid --item sku --time ts --out dataset/shop
"""


def parser() -> CommandParser:
    """Return the command's arguments."""
    made = CommandParser(
        "recbole-scale prepare", "Turn published raw files, or your own log, into a RecBole atomic file.", _EXAMPLES
    )
    made.add_argument("format", nargs="?", metavar="FORMAT", help=_FORMATS)
    made.add_argument(
        "--raw", nargs="+", required=True, metavar="PATH", help="raw files; MovieLens also as zip or folder"
    )
    made.add_argument("--out", required=True, metavar="dataset/NAME", help="folder; the file in it is NAME.inter")
    own = made.add_argument_group(
        "your own columns",
        "of csv, jsonl, parquet and inter files: by name, by number with --no_header, a.b inside a JSON object",
    )
    for role, text in COLUMNS.items():
        own.add_argument(f"--{role}", metavar="COL", help=text)
    own.add_argument("--no_user_column", action="store_true", help="sequences: lines start with an item")
    add_reading(own)
    kept = made.add_argument_group("filters")
    kept.add_argument("--filter", choices=("paper",), help="the paper's filters; the options below then add to them")
    kept.add_argument("--duplicates", choices=DUPLICATES, help="drop repeated (user, item, time) or (user, item)")
    kept.add_argument("--session_gap", type=_seconds, metavar="30m", help="cut users into sessions at longer pauses")
    kept.add_argument("--min_rating", type=float, help="drop rows rated lower")
    for name in ("user_core", "item_core", "drop_earliest", "drop_latest"):
        kept.add_argument(f"--{name}", type=int, metavar="N")
    made.add_argument(
        "--expect", choices=("paper", "readme"), help="compare with published counts; exit 1 if they differ"
    )
    made.add_argument("--overwrite", action="store_true", help="replace an atomic file that was not made here")
    return made


# options of how files are written, without the encoding, which is a setting of atomic files too
READING = ("delimiter", "no_header", "quote", "time_format", "time_unit", "where", "id_quotes", "bad_rows")


def add_reading(group: Any) -> None:
    """Options of how files are written, which ``recbole-scale study`` has as well."""
    add = group.add_argument
    add("--delimiter", type=str, help="one character, or '::'; sniffed when not given")
    add("--no_header", action="store_true", help="the csv file has no header line")
    add("--quote", default="double", choices=("double", "none"), help="none: quotes are characters")
    add("--encoding", metavar="NAME", help="of the files: latin-1, cp1252, gb18030 (default: UTF-8)")
    add("--time_format", metavar="FORM", help="of times that are text: '%%d/%%m/%%Y %%H:%%M'")
    add("--time_unit", default="auto", choices=("auto", "s", "ms", "us", "ns"), help="of numeric times")
    add(
        "--where", nargs="+", default=[], action="extend", metavar="COL=VALUE",
        help="keep rows whose column has the value",
    )  # fmt: skip
    add(
        "--id_quotes", default="refuse", choices=("refuse", "replace"),
        help=f"double quotes in ids, which break an atomic file: replace writes {INSTEAD_OF_QUOTE} for them",
    )  # fmt: skip
    add("--bad_rows", default="error", choices=("error", "drop"), help="stop at one, or drop and count")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found or float(found[1]) <= 0:
        raise UserError(f"--session_gap {text} is no time; write 1800, 30m, 1h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
