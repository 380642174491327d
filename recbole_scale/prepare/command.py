"""From published raw files, or a user's own log, to a RecBole atomic file with a data card beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError, nearest
from recbole_scale.files import whole_files
from recbole_scale.prepare.card import card_bytes, differences, expected_counts, format_table, statistics
from recbole_scale.prepare.columns import Interactions
from recbole_scale.prepare.filters import HELD_OUT, PAPER_FILTERS, Filters, apply_filters, core_counts
from recbole_scale.prepare.options import COLUMNS, INSTEAD_OF_QUOTE, parser
from recbole_scale.prepare.readers import FORMATS, FileRead, Options, Raw, read_raw
from recbole_scale.prepare.sources import sha256_of
from recbole_scale.prepare.writing import target_in, write_interactions
from recbole_scale.text import counted

CORES_TO_TRY = (5, 10, 15, 20, 25, 30)


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
    if not len(read.log):
        told = "; ".join(f"{rows:,} dropped: {reason}" for reason, rows in read.dropped.items())
        raise UserError(f"no row of the files is left ({told})")
    if filters is None:
        filters = default_filters(format_name)
    log, dropped = apply_filters(read.log, filters)
    stats = statistics(log)
    card = _card(format_name, folder.name, read, options, filters, dropped, stats)
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
    name: str,
    dataset: str,
    read: Raw,
    options: Options | None,
    filters: Filters,
    dropped: dict[str, int],
    stats: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": dataset,
        "format": name,
        "source": FORMATS[name].publisher,
        "licence": FORMATS[name].licence,
        "files": [_file_entry(file) for file in read.files],
        "options": asdict(options or Options()),
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
        print(f"read     {counted(file['rows'], 'row', 12)} from {file['file']}")
    if card["replaced_quotes"]:
        print(f"note     {card['replaced_quotes']:>12,} ids with a double quote: it is written {INSTEAD_OF_QUOTE}")
    for reason, rows in card["dropped"].items():
        print(f"dropped  {counted(rows, 'row', 12)}: {reason}")
    print(f"kept     {counted(card['statistics']['interactions'], 'row', 12)} in {target}")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when ``--expect`` finds a difference. Raises UserError for mistakes."""
    given = parser().parse_args(argv)
    given.format = given.format or _last_word(given)
    if given.format not in FORMATS:
        raise UserError(
            f"there is no format '{given.format}'{nearest(given.format, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    filters = paper_filters(given.format) if given.filter else default_filters(given.format)
    changes = {entry.name: getattr(given, entry.name) for entry in fields(Filters)}
    filters = replace(filters, **{name: value for name, value in changes.items() if value is not None})
    done = prepare(
        given.format, given.raw, given.out, reading(given, given.format), filters, given.expect, given.overwrite
    )
    _print_next(done.path.parent)
    return 1 if done.differs else 0


def _last_word(given: argparse.Namespace) -> str:
    """The format where it stands behind the values of a list: ``--raw log.csv csv``."""
    for words in (given.raw, given.where):
        if len(words) > 1 and words[-1] in FORMATS and not Path(words[-1]).exists():
            return str(words.pop())
    raise UserError(f"the format of the raw files comes first: recbole-scale prepare FORMAT --raw {given.raw[0]} ...; "
                    f"formats are {', '.join(FORMATS)}")  # fmt: skip


_OF_FORMATS = {
    "encoding": ("csv", "jsonl", "inter", "sequences"), "time_format": ("csv", "jsonl", "parquet", "inter"),
    "delimiter": ("csv", "sequences"), "no_header": ("csv",), "quote": ("csv",), "no_user_column": ("sequences",),
}  # fmt: skip


def reading(given: argparse.Namespace, form: str) -> Options:
    """How the files are read, by the options that were given; raises UserError where these are not for ``form``."""
    named: dict[str, Any] = {role: getattr(given, role, None) for role in COLUMNS}
    columns: dict[str, str] = {role: name for role, name in named.items() if name is not None}
    if (columns or given.where) and not FORMATS[form].own_columns:
        name = next(iter(columns), "where")
        raise UserError(f"--{name} is for csv, jsonl, parquet and inter; {form} has fixed columns")
    if "session" in columns:
        if "user" in columns:
            raise UserError("--session takes the place of --user: a sequence is a session's; give one of them")
        columns = {"user": columns.pop("session"), **columns}
    for role, other in (("item", "user"), ("time", "user"), ("time", "item")):
        if columns.get(role) == columns.get(other) is not None:
            raise UserError(f"--{other} and --{role} are the same column, '{columns[role]}'; each needs its own")
    if form in ("csv", "jsonl", "parquet"):
        for role in ("user", "item", "time"):
            if role not in columns:
                hint = ", or --time order where the rows are in order" if role == "time" else ""
                raise UserError(f"{form} needs --{role} COL: the {role} column of your file{hint}")
    for option, known in _OF_FORMATS.items():
        if getattr(given, option, None) not in (None, False, "double") and form not in known:
            raise UserError(f"--{option} is for {', '.join(known)}; not for {form}")
    delimiter = "\t" if given.delimiter in ("\\t", "tab") else given.delimiter
    return Options(
        columns=columns,
        delimiter=delimiter,
        header=not given.no_header,
        user_column=not getattr(given, "no_user_column", False),
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
    for text in (part.strip() for entry in texts for part in entry.split(",")):
        name, equals, value = text.partition("=")
        column = name if equals else column
        if not column:
            raise UserError(f"--where {text} is not of the form COL=VALUE, such as event=purchase")
        kept.setdefault(column, []).append(value if equals else text)
    return kept
