"""From published raw files, or a user's own log, to a RecBole atomic file with a data card beside it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from recbole_scale.arguments import CommandParser
from recbole_scale.errors import UserError, nearest
from recbole_scale.files import whole_files
from recbole_scale.prepare.card import card_bytes, differences, expected_counts, format_table, statistics
from recbole_scale.prepare.columns import INSTEAD_OF_QUOTE, Interactions
from recbole_scale.prepare.filters import DUPLICATES, HELD_OUT, PAPER_FILTERS, Filters, apply_filters, core_counts
from recbole_scale.prepare.readers import FORMATS, FileRead, Options, Raw, read_raw
from recbole_scale.prepare.sources import sha256_of
from recbole_scale.prepare.writing import target_in, write_interactions

COLUMNS = {
    "user": "whose sequence a row belongs to",
    "session": "in place of --user: sequences are sessions",
    "item": "the item",
    "time": "the time, or 'order' where there is none and rows are in order",
    "rating": "the rating",
    "domain": "the domain",
}
CORES_TO_TRY = (5, 10, 15, 20, 25, 30)
_EXAMPLES = """  recbole-scale prepare ml-20m --raw ml-20m.zip --out dataset/ml-20m --filter paper --expect paper
  recbole-scale prepare amazon-2023 --raw Books.csv.gz Video_Games.csv.gz --out dataset/mix --user_core 5
  recbole-scale prepare csv --raw log.csv --user uid --item sku --time ts --out dataset/shop
"""


@dataclass(frozen=True)
class Prepared:
    """What was written: the atomic file, its card as a dict, and the lines where it differs from published counts."""

    path: Path
    card: dict[str, Any]
    differs: list[str]


def prepare(
    format_name: str,
    raw: Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
    filters: Filters | None = None,
    expect: str | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Read raw files, filter them and write ``out/NAME.inter`` with ``NAME.json`` beside it; print what was done.

    Args: ``format_name`` of FORMATS; ``raw`` files (a zip or folder for MovieLens); ``out`` the data set's folder,
    whose name is the data set's; ``expect`` "paper" or "readme" compares with published counts.
    Both files appear whole or not at all. Memory: about 26 bytes a row, as much again while sorting, and the ids.
    Raises UserError for every mistake in the arguments or the files.
    """
    folder = Path(out)
    target = target_in(folder)
    expected = expected_counts(expect, format_name) if expect else None
    _check_target(target, raw, overwrite)
    read = read_raw(format_name, raw, options)
    if filters is None:
        filters = default_filters(format_name)
    log, dropped = apply_filters(read.log, filters)
    stats = statistics(log)
    card = _card(format_name, folder.name, read, filters, dropped, stats)
    with whole_files(target, target.with_suffix(".json")) as (data_file, card_file):
        write_interactions(data_file, log)
        card["sha256"] = data_file.sha256()
        card_file.write(card_bytes(card))
    _print_account(card, target)
    differs = differences(stats, expected) if expected is not None else []
    if expected is not None:
        _print_comparison(differs, expect or "", read.log, filters)
    return Prepared(target, card, differs)


def default_filters(format_name: str) -> Filters:
    """Return what is filtered when the user says nothing: repeats across Amazon's domain files, else nothing."""
    return Filters(duplicates="event" if FORMATS[format_name].domains else "keep")


def paper_filters(format_name: str) -> Filters:
    """Return the paper's filters for its two data sets; raises UserError for other formats."""
    if format_name not in PAPER_FILTERS:
        raise UserError(f"the paper has no filters for {format_name}; it used {', '.join(PAPER_FILTERS)}")
    return PAPER_FILTERS[format_name]


def _check_target(target: Path, raw: Sequence[str | Path], overwrite: bool) -> None:
    if any(Path(path).resolve() == target.resolve() for path in raw):
        raise UserError(f"--out would replace the raw file '{target}'; choose another folder")
    if target.exists() and not target.with_suffix(".json").exists() and not overwrite:
        raise UserError(f"'{target}' exists and was not made here; choose another --out, or say --overwrite")


def _card(
    name: str, dataset: str, read: Raw, filters: Filters, dropped: dict[str, int], stats: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": dataset,
        "format": name,
        "source": FORMATS[name].publisher,
        "licence": FORMATS[name].licence,
        "files": [_file_entry(file) for file in read.files],
        "filters": asdict(filters),
        "rows_read": sum(file.rows for file in read.files),
        "dropped": {**read.dropped, **dropped},
        "replaced_quotes": read.replaced,
        "statistics": stats,
    }


def _file_entry(file: FileRead) -> dict[str, Any]:
    path = Path(file.path)
    digest = {"sha256": sha256_of(path)} if path.is_file() else {}
    return {"file": path.name, "rows": file.rows, **({"domain": file.domain} if file.domain else {}), **digest}


def _print_account(card: dict[str, Any], target: Path) -> None:
    for file in card["files"]:
        print(f"read     {file['rows']:>12,} rows from {file['file']}")
    if card["replaced_quotes"]:
        print(f"note     {card['replaced_quotes']:>12,} ids with a double quote: it is written {INSTEAD_OF_QUOTE}")
    for reason, rows in card["dropped"].items():
        print(f"dropped  {rows:>12,} rows: {reason}")
    print(f"kept     {card['statistics']['interactions']:>12,} rows in {target}")
    print(format_table(card["statistics"]))


def _print_next(folder: Path) -> None:
    where = "" if folder.parent == Path("dataset") else f" --data_path {folder.parent}"
    named = f"--dataset {folder.name}{where}"
    print(f"next     recbole-scale study {named} --hours 1, or run_recbole {named}")


def _print_comparison(differs: list[str], expect: str, log: Interactions, filters: Filters) -> None:
    if not differs:
        print(f"counts equal the published ones ({expect})")
        return
    print(f"counts differ from the published ones ({expect}):")
    for line in differs:
        print(f"  {line}")
    if expect == "paper" and filters.drop_latest:
        print(f"  (which {HELD_OUT} rows a user the paper left out is our reading; --drop_earliest is the other one)")
    if expect == "paper" and filters.user_core > 1:
        print("  (the paper does not state its core; the counts at others, before and less the rows held out:)")
        before, _ = apply_filters(log, replace(filters, user_core=0, item_core=0, drop_latest=0, drop_earliest=0))
        for row in core_counts(before, CORES_TO_TRY, HELD_OUT):
            print("  " + ", ".join(f"{name} {value:,}" for name, value in row.items()))


def parser() -> CommandParser:
    """Return the command's arguments."""
    made = CommandParser(
        "recbole-scale prepare", "Turn published raw files, or your own log, into a RecBole atomic file.", _EXAMPLES
    )
    made.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))
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
    own.add_argument("--delimiter", help="one character, or '::'; sniffed when not given")
    own.add_argument("--no_header", action="store_true", help="the csv file has no header line")
    own.add_argument("--no_user_column", action="store_true", help="sequences: lines start with an item")
    own.add_argument("--quote", default="double", choices=("double", "none"), help="none: quotes are characters")
    own.add_argument(
        "--encoding", metavar="NAME", help="of csv and jsonl files: latin-1, cp1252, gb18030 (default: UTF-8)"
    )
    own.add_argument("--time_format", metavar="FORM", help="of times that are text: '%%m/%%d/%%Y %%I:%%M:%%S %%p'")
    made.add_argument(
        "--id_quotes",
        default="refuse",
        choices=("refuse", "replace"),
        help=f"double quotes in ids, which break an atomic file: replace writes {INSTEAD_OF_QUOTE} for them",
    )
    own.add_argument(
        "--where",
        nargs="+",
        default=[],
        action="extend",
        metavar="COL=VALUE",
        help="keep rows whose column has the value",
    )
    own.add_argument("--time_unit", default="auto", choices=("auto", "s", "ms", "us", "ns"), help="of numeric times")
    made.add_argument("--bad_rows", default="error", choices=("error", "drop"), help="stop at one, or drop and count")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when ``--expect`` finds a difference. Raises UserError for mistakes."""
    given = parser().parse_args(argv)
    if given.format not in FORMATS:
        raise UserError(
            f"there is no format '{given.format}'{nearest(given.format, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    filters = paper_filters(given.format) if given.filter else default_filters(given.format)
    changes = {entry.name: getattr(given, entry.name) for entry in fields(Filters)}
    filters = replace(filters, **{name: value for name, value in changes.items() if value is not None})
    done = prepare(given.format, given.raw, given.out, _options(given), filters, given.expect, given.overwrite)
    _print_next(done.path.parent)
    return 1 if done.differs else 0


def _options(given: argparse.Namespace) -> Options:
    columns = {role: getattr(given, role) for role in COLUMNS}
    columns = {role: name for role, name in columns.items() if name is not None}
    if (columns or given.where) and not FORMATS[given.format].own_columns:
        name = next(iter(columns), "where")
        raise UserError(f"--{name} is for csv, jsonl, parquet and inter; {given.format} has fixed columns")
    if "session" in columns:
        if "user" in columns:
            raise UserError("--session takes the place of --user: a sequence is a session's; give one of them")
        columns = {"user": columns.pop("session"), **columns}
    if given.format in ("csv", "jsonl", "parquet"):
        for role in ("user", "item", "time"):
            if role not in columns:
                hint = ", or --time order where the rows are in order" if role == "time" else ""
                raise UserError(f"{given.format} needs --{role} COL: the {role} column of your file{hint}")
    for option, known in (("encoding", ("csv", "jsonl")), ("time_format", ("csv", "jsonl", "parquet", "inter"))):
        if getattr(given, option) is not None and given.format not in known:
            raise UserError(f"--{option} is for {', '.join(known)}; not for {given.format}")
    if given.delimiter is not None and given.format not in ("csv", "sequences"):
        raise UserError(f"--delimiter is for csv and sequences; {given.format} has its own")
    delimiter = "\t" if given.delimiter in ("\\t", "tab") else given.delimiter
    return Options(
        columns=columns,
        delimiter=delimiter,
        header=not given.no_header,
        user_column=not given.no_user_column,
        time_unit=given.time_unit,
        bad_rows=given.bad_rows,
        quote=given.quote == "double",
        id_quotes=given.id_quotes,
        encoding=given.encoding,
        time_format=given.time_format,
        where=_wheres(given.where),
    )


def _wheres(texts: Sequence[str]) -> dict[str, list[str]]:
    """Values to keep by column, from COL=VALUE; a column given again, or values between commas, keep any of them."""
    kept: dict[str, list[str]] = {}
    column = ""
    for text in (part for entry in texts for part in entry.split(",")):
        name, equals, value = text.partition("=")
        column = name if equals else column
        if not column:
            raise UserError(f"--where {text} is not of the form COL=VALUE, such as event=purchase")
        kept.setdefault(column, []).append(value if equals else text)
    return kept


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found or float(found[1]) <= 0:
        raise UserError(f"--session_gap {text} is no time; write 1800, 30m, 1h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
