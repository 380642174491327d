"""JSON lines to batches of checked columns: pyarrow for whole blocks, ``json.loads`` a line where one has a fault."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from recbole_scale.errors import UserError, shown
from recbole_scale.prepare.columns import FAULT, WHERE, Locate, LogBuilder
from recbole_scale.prepare.sources import Block, text_blocks

TYPES = {"rating": pa.float64(), "time": pa.int64()}  # all else is text
PARSE_BYTES = 4 << 20  # pyarrow parses pieces of this size side by side; a longer line takes the slow way
EXACT = 2**53  # whole numbers below it are exact as floats
NULL_BEHIND_OBJECT = re.compile(rb"\}[ \t\r]*n")


def read_json_lines(path: Path, fields: Mapping[str, str], builder: LogBuilder, encoding: str | None = None) -> None:
    """Read one file of JSON objects, one a line, into ``builder``; ``fields``: role -> the object's field.

    A field ``a.b`` is field b of the object in a; where a is a list of objects, each of them is a row. A file that is
    one array of objects is read whole. Text is parsed as JSON or refused; a Python literal is never evaluated. Raises
    UserError with file, line, field.
    """
    nested, first = any("." in name for name in fields.values()), True
    for block in text_blocks(path, encoding=encoding):
        if first and block.data.lstrip()[:1] == b"[":
            _read_array(path, fields, builder, encoding)
            return
        first = False
        batch = None if nested else _parse_block(block, fields)
        if batch is not None:
            builder.add(block.source, batch, partial(_nth_line, block.first_line), fields)
        else:
            _add_line_by_line(block, fields, builder)


def _nth_line(first: int, row: int) -> str:
    return f"line {first + row}"


def _parse_block(block: Block, fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return role -> array, or None when a line is not one JSON object with fields of the usual types."""
    schema = pa.schema([(name, _type_of(role, name, block.data)) for role, name in fields.items()])
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    starts = block.data.startswith(b"{") + block.data.count(b"\n{")
    # pyarrow 26 ends the process on a bare 'null' where an object should start, so such a block never reaches it
    if starts != lines or NULL_BEHIND_OBJECT.search(block.data):
        return None
    try:
        table = pa.json.read_json(
            pa.BufferReader(block.data),
            pa.json.ReadOptions(block_size=PARSE_BYTES),
            pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != lines:  # blank lines, or two objects on one
        return None
    return {role: _texts(table.column(name), role) for role, name in fields.items()}


def _texts(column: Any, role: str) -> Any:
    column = column.combine_chunks()
    return column if role == "time" and pa.types.is_integer(column.type) else column.cast(pa.string())


def _add_line_by_line(block: Block, fields: Mapping[str, str], builder: LogBuilder) -> None:
    rows: list[dict[str, Any]] = []  # by role
    lines: list[int] = []
    for number, line in enumerate(block.data.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        values, reason = _parse_line(line)
        if reason:
            builder.rows_read += 1
            builder.problems.meet(reason, 1, partial("{} line {}, column 1".format, block.source, number))
            continue
        found = rows_of(values, fields)
        rows += found
        lines += [number] * len(found)
    _add_rows(block.source, rows, lambda row: f"line {lines[row]}", fields, builder)


def _add_rows(
    source: str, rows: list[dict[str, Any]], locate: Locate, fields: Mapping[str, str], builder: LogBuilder
) -> None:
    batch = {role: pa.array([_plain(row[role], role) for row in rows], pa.string()) for role in fields}
    ids = [role for role in fields if role not in TYPES and not role.startswith(WHERE)]
    batch |= {FAULT + role: pa.array([_fault(row[role]) for row in rows], pa.string()) for role in ids}
    builder.add(source, batch, locate, fields)


def _read_array(path: Path, fields: Mapping[str, str], builder: LogBuilder, encoding: str | None) -> None:
    """A file that is one JSON array of objects; memory is that of the whole file."""
    blocks = list(text_blocks(path, encoding=encoding))
    try:
        values = json.loads(b"".join(block.data for block in blocks).decode())
    except (ValueError, RecursionError) as fault:
        where = f" line {fault.lineno}" if isinstance(fault, json.JSONDecodeError) else ""
        raise UserError(f"{path}{where}: the file begins as a JSON array and is none ({fault})") from fault
    rows, numbers = [], []
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            builder.rows_read += 1
            builder.problems.meet("is not a JSON object", 1, partial("{} object {}".format, path, number))
            continue
        found = rows_of(value, fields)
        rows += found
        numbers += [number] * len(found)
    _add_rows(str(path), rows, lambda row: f"object {numbers[row]}", fields, builder)


def rows_of(value: dict[str, Any], fields: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows (role -> value) of one object: one, or one for each object of the list that dotted fields go through."""
    paths = {role: _split(value, name) for role, name in fields.items()}
    spread = {path[0] for path in paths.values() if len(path) > 1 and isinstance(value.get(path[0]), list)}
    if len(spread) != 1:
        return [{role: _walk(value, path) for role, path in paths.items()}]
    name = spread.pop()
    inside = [part if isinstance(part, dict) else {} for part in value[name]]
    return [
        {role: _walk(part, path[1:]) if path[0] == name else _walk(value, path) for role, path in paths.items()}
        for part in inside
    ]


def _split(value: dict[str, Any], name: str) -> list[str]:
    return [name] if name in value else name.split(".")


def _walk(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _type_of(role: str, name: str, data: bytes) -> pa.DataType:
    """Times are whole numbers unless the first one is text; anything else is for the slow way."""
    if role == "time" and re.search(rb'"' + re.escape(json.dumps(name)[1:-1].encode()) + rb'"\s*:\s*"', data[:65536]):
        return pa.string()
    return TYPES.get(role, pa.string())


def _parse_line(line: bytes) -> tuple[dict[str, Any], str]:
    """Return (object, '') or ({}, why the line is refused)."""
    try:
        value = json.loads(line.decode())  # from bytes, json would take a byte order mark off any line
    except (ValueError, RecursionError) as fault:
        if line.lstrip().startswith((b"{'", b"{u'")):
            return {}, "the line is a Python literal, not JSON, and is never evaluated: use the publisher's strict JSON"
        what = fault.msg if isinstance(fault, json.JSONDecodeError) else type(fault).__name__
        return {}, f"the line is not JSON ({what})"
    return (value, "") if isinstance(value, dict) else ({}, "the line is not a JSON object")


def _plain(value: Any, role: str) -> str | None:
    """A JSON value as the block reader would give it, None where it is absent; what is no text or number, as it is
    shown."""
    if role == "rating" and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return str(pa.scalar(float(value)).cast(pa.string()).as_py())
        except OverflowError:
            return shown(value)
    if value is None or isinstance(value, str):
        return None if value is None else value.encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and role != "time" and value.is_integer() and abs(value) < EXACT:
        return str(int(value))  # pandas makes 3.0 of 3 where one value of the column is missing
    return str(value) if isinstance(value, float) else shown(value)


def _fault(value: Any) -> str | None:
    """Why a JSON value is no id; None where it is one, or absent."""
    if isinstance(value, str):
        surrogates = value.encode("utf-8", "replace").decode() != value
        return "is half of a letter, which no UTF-8 file can hold" if surrogates else None
    if isinstance(value, float):
        exact = value.is_integer() and abs(value) < EXACT
        return None if exact else "is no whole number, or too large to be exact, and so no id; write it as text"
    if isinstance(value, int) and not isinstance(value, bool):
        return None if abs(value) < 10**40 else "is too long for an id"  # refused by str() past 4,300 digits
    return None if value is None else "is no text or whole number, and so no id"
