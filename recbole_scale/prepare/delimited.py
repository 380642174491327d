"""Delimited text (csv, tsv, ``::`` and atomic files) to batches of checked columns; pyarrow does the splitting."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recbole_scale.errors import UserError, nearest
from recbole_scale.prepare.columns import LogBuilder
from recbole_scale.prepare.sources import BYTE_ORDER_MARK, Block, text_blocks

DELIMITERS = (",", "\t", ";", "|", "::", " ")
HEAD_BYTES = 1 << 20
SNIFFED_LINES = 50
SPOKEN = {"\t": "a tab", " ": "a space"}


@dataclass(frozen=True)
class Layout:
    """How a file's columns are found: by ``order`` (no header), or by ``names``: role -> name in the header.

    With ``header=False`` the names are column numbers from 1. ``delimiter=None`` is sniffed from the first line.
    ``quoted``: double quotes may enclose values. ``typed``: header names carry a type, ``user_id:token``.
    """

    delimiter: str | None
    order: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    quoted: bool = False
    typed: bool = False
    encoding: str | None = None


@dataclass(frozen=True)
class Plan:
    """A layout met with a file: ``places`` role -> column index from 0, ``labels`` role -> what messages call it."""

    delimiter: str
    width: int
    places: Mapping[str, int]
    labels: Mapping[str, str]
    quoted: str  # the delimiter where values may be quoted, else ''
    header: bool = True


def read_delimited(path: Path, names: Sequence[str], layout: Layout, builder: LogBuilder) -> None:
    """Read one file into ``builder``; ``names`` are the members looked for in a zip or folder.

    Raises UserError naming file, line and column. Memory: about two blocks of text besides the builder's columns.
    """
    plan, begun = _planned(path, names, layout), False
    if plan is None:
        return
    for block in text_blocks(path, names, plan.quoted, encoding=layout.encoding):
        if not begun:
            first, behind = _first_line(block)
            if not first:
                continue
            begun = True
            block = behind if layout.names and layout.header else block
        _add_block(block, plan, builder)


def _planned(path: Path, names: Sequence[str], layout: Layout) -> Plan | None:
    """The plan of a file by its first lines; None where it is empty."""
    for block in text_blocks(path, names, block_bytes=HEAD_BYTES, encoding=layout.encoding):
        lines = [line for line in block.data.decode("utf-8").replace("\r", "\n").split("\n") if line]
        if lines:
            return plan_columns(lines[0], layout, block.source, lines[:SNIFFED_LINES])
    return None


def _first_line(block: Block) -> tuple[str, Block]:
    """Return the first line that is not blank ('' when all are) and the block behind it."""
    data = block.data
    start = len(data) - len(data.lstrip(b"\r\n"))
    ends = [end for end in (data.find(b"\n", start), data.find(b"\r", start)) if end >= 0]
    end = min(ends, default=len(data))
    after = end + (2 if data[end : end + 2] == b"\r\n" else 1)
    line = data[start:end].decode("utf-8")
    return line, replace(block, data=data[after:], first_line=block.first_line + data.count(b"\n", 0, after))


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """Split one line as the reader will."""
    if not quoted or delimiter == "::":
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as failure:
        raise UserError(f"a line of {len(line):,} characters, '{line[:40]}...', is no row ({failure})") from failure


def plan_columns(line: str, layout: Layout, source: str, lines: Sequence[str] = ()) -> Plan:
    """Match a layout with a file's first line; raise UserError naming the nearest column or a better delimiter."""
    delimiter = layout.delimiter or _sniff(line, layout, lines)
    quoted = delimiter if layout.quoted and len(delimiter) == 1 else ""
    if len(delimiter) != 1 and delimiter != "::":
        raise UserError(f"a delimiter is one character or '::', not '{delimiter}'")
    fields = split_line(line, delimiter, layout.quoted)
    if layout.order:
        if len(fields) != len(layout.order):
            raise _wrong_width(source, fields, len(layout.order), delimiter, line)
        places = {role: index for index, role in enumerate(layout.order)}
        return Plan(delimiter, len(fields), places, {role: role for role in places}, quoted)
    if layout.typed:
        untyped = [name for name in fields if ":" not in name]
        if untyped:
            raise UserError(f"{source} line 1, column '{untyped[0]}': an atomic file's header reads 'name:type'")
        fields = [name.split(":")[0] for name in fields]
    place_of = _place_by_name if layout.header else _place_by_number
    places = {role: place_of(role, name, fields, source, delimiter, line) for role, name in layout.names.items()}
    return Plan(delimiter, len(fields), places, dict(layout.names), quoted, layout.header)


def _sniff(line: str, layout: Layout, lines: Sequence[str]) -> str:
    """Return the delimiter at which the most of the wanted columns appear, then the most fields.

    Without a header: the first, from tab to blank, that gives each of ``lines`` the same columns, the wanted among
    them; words in a column must not make blanks the delimiter.
    """
    if not layout.header and not layout.order:
        wanted = [int(name) for name in layout.names.values() if name.isdecimal()]
        for delimiter in ("\t", *DELIMITERS):
            widths = {len(split_line(one, delimiter, layout.quoted)) for one in lines or [line]}
            if len(widths) == 1 and widths.pop() >= max([2, *wanted]):
                return delimiter

    def found(delimiter: str) -> tuple[int, int]:
        fields = [name.strip() for name in split_line(line, delimiter, layout.quoted)]
        return (sum(name.strip() in fields for name in layout.names.values()) if layout.header else 0, len(fields))

    return max(DELIMITERS, key=found)


def _place_by_name(role: str, name: str, fields: list[str], source: str, delimiter: str, line: str) -> int:
    if name not in fields:  # "user, item, time" is how people write a header
        fields = [field.strip() for field in fields]
    if fields.count(name) == 1:
        return fields.index(name)
    where = f"{source} line 1"
    if fields.count(name) > 1:
        raise UserError(f"{where}: the header has two columns '{name}'; rename one")
    if line.lstrip()[:1] in ("{", "["):
        raise UserError(f"{where}: this is JSON; name the format jsonl in place of csv")
    others = [other for other in DELIMITERS if other != delimiter and name in split_line(line, other, True)]
    hint = f"; the columns are split at {_spoken(others[0])}" if others else nearest(name, fields)
    shown = ", ".join(fields)[:120]
    raise UserError(f"{where}: no column '{name}' for {role} when split at {_spoken(delimiter)} ({shown}){hint}")


def _place_by_number(role: str, name: str, fields: list[str], source: str, delimiter: str, line: str) -> int:
    if name.isdecimal() and 1 <= int(name) <= len(fields):
        return int(name) - 1
    raise UserError(
        f"{source} line 1: '{name}' for {role} is no column number from 1 to {len(fields)}; a file without a header "
        f"has numbered columns, split here at {_spoken(delimiter)}"
    )


def _wrong_width(source: str, fields: list[str], width: int, delimiter: str, line: str) -> UserError:
    better = [other for other in DELIMITERS if len(line.split(other)) == width]
    hint = f"; split at {_spoken(better[0])} it would have {width}" if better else ""
    return UserError(
        f"{source} line 1, column {min(len(fields), width)}: {len(fields)} columns when split at "
        f"{_spoken(delimiter)}, and the format has {width}{hint}"
    )


def _spoken(delimiter: str) -> str:
    return SPOKEN.get(delimiter, f"'{delimiter}'")


def _add_block(block: Block, plan: Plan, builder: LogBuilder) -> None:
    if not block.data.strip(b"\r\n"):
        return
    table, misfits = _parse(block, plan)
    if misfits:
        builder.rows_read += len(misfits)
        reason = f"the line does not have {plan.width} columns when split at {_spoken(plan.delimiter)}"
        builder.problems.meet(reason, len(misfits), lambda: _place_of_text(block, misfits[0], plan))
    stray = _between_colons(table) if plan.delimiter == "::" else None
    if stray is not None:
        builder.rows_read += int(stray.sum())
        row = int(stray.argmax())
        builder.problems.meet(
            "the columns are not split at '::'",
            int(stray.sum()),
            lambda: f"{block.source} line {block.line_of(row, plan.quoted)}",
        )
        table = table.filter(pa.array(~stray))
    step = 2 if plan.delimiter == "::" else 1
    batch = {role: table.column(f"f{place * step}").combine_chunks() for role, place in plan.places.items()}
    builder.add(block.source, batch, lambda row: f"line {block.line_of(row, plan.quoted)}", plan.labels, plan.header)


def _parse(block: Block, plan: Plan) -> tuple[pa.Table, list[Any]]:
    """Return (table of texts f0, f1, ...; the rows with another number of columns)."""
    misfits: list[Any] = []

    def put_aside(row: Any) -> str:
        misfits.append(row)
        return "skip"

    # '::' is read as two ':' around an empty column, for pyarrow splits at one character
    double = plan.delimiter == "::"
    names = [f"f{index}" for index in range(2 * plan.width - 1 if double else plan.width)]
    wanted = names if double else [names[place] for place in dict.fromkeys(plan.places.values())]
    # pyarrow takes a byte order mark off any buffer it is given; only the file's own start may lose one
    data = b"\n" + block.data if block.data.startswith(BYTE_ORDER_MARK) else block.data
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            pa.csv.ParseOptions(
                delimiter=plan.delimiter[0],
                quote_char='"' if plan.quoted else False,
                newlines_in_values=bool(plan.quoted),
                invalid_row_handler=put_aside,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as fault:
        raise UserError(f"{block.source} near line {block.first_line}: {str(fault).splitlines()[0]}") from fault
    return table, misfits


def _place_of_text(block: Block, misfit: Any, plan: Plan) -> str:
    """Find a misfit row's line by its text, and name the first column that is missing or too many."""
    text, start = misfit.text.encode(), 0
    while (start := block.data.find(text, start)) > 0 and block.data[start - 1 : start] not in (b"\n", b"\r"):
        start += 1
    step = 2 if plan.delimiter == "::" else 1
    have = (misfit.actual_columns + step - 1) // step
    line = block.first_line + block.data.count(b"\n", 0, max(start, 0))
    return f"{block.source} line {line}, column {plan.width + 1 if have > plan.width else have}"


def _between_colons(table: pa.Table) -> np.ndarray | None:
    """Return the rows in which something stands between the two colons of a '::', or None."""
    stray = np.zeros(table.num_rows, dtype=bool)
    for index in range(1, table.num_columns, 2):
        stray |= pc.not_equal(table.column(index), "").to_numpy()
    return stray if stray.any() else None
