"""Reads RecBole's atomic files (``field:type`` header, one interaction a line) fast, and says where a bad line is.

Quotation marks are ordinary characters here: a stray one in an item id must not swallow the lines after it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from recbole_scale.errors import UserError, nearest

TYPES = ("token", "float", "token_seq", "float_seq")


def read_header(path: str | os.PathLike[str], separator: str = "\t") -> dict[str, str]:
    """Fields of an atomic file in order, each with its type.

    Raises:
        UserError: the file is missing, empty, not text, or a column is not ``name:type``.
    """
    check_file(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = file.readline().rstrip("\r\n")
    except UnicodeDecodeError as failure:
        raise UserError(f"{path}, line 1: not UTF-8 text") from failure
    if not line:
        raise UserError(f"{path}, line 1: the header is missing (expected user_id:token, item_id:token, ...)")
    fields: dict[str, str] = {}
    for number, column in enumerate(line.split(separator), 1):
        name, colon, kind = column.partition(":")
        if not colon or not name:
            tip = "; columns seem to be separated by commas, set field_separator: ','" if "," in column else ""
            raise UserError(f"{path}, line 1, column {number}: '{column[:60]}' is not name:type{tip}")
        if kind not in TYPES:
            raise UserError(f"{path}, line 1, column {number}: type '{kind}' is none of {', '.join(TYPES)}")
        if name in fields:
            raise UserError(f"{path}, line 1, column {number}: field '{name}' stands twice")
        fields[name] = kind
    return fields


def read_atomic(
    path: str | os.PathLike[str], columns: list[str], separator: str = "\t", required: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read some columns of an atomic file: tokens as str, floats as float64.

    Args:
        path: the file.
        columns: fields to read, in any order.
        separator: one character between columns.
        required: fields that no line may leave empty; a float among them must be finite.

    Raises:
        UserError: naming file, line and column of the first thing that is wrong.
    """
    fields = read_header(path, separator)
    for name in columns:
        if name not in fields:
            raise UserError(f"{path}, line 1: there is no column '{name}'{nearest(name, fields)}")
    types = {
        f"{name}:{kind}": pa.float64() if kind == "float" and name in columns else pa.string()
        for name, kind in fields.items()
    }
    wanted = [f"{name}:{fields[name]}" for name in columns]
    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=list(types), skip_rows=1),
            parse_options=pacsv.ParseOptions(delimiter=separator, quote_char=False, escape_char=False),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=wanted, null_values=[""], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as failure:
        raise UserError(_first_bad_line(path, fields, columns, separator) or f"{path}: {failure}") from failure
    frame = pd.DataFrame({name: _column(table.column(f"{name}:{fields[name]}")) for name in columns})
    for name in required:
        bad = ~np.isfinite(frame[name]) if fields[name] == "float" else frame[name].to_numpy() == ""
        if bad.any():
            raise UserError(_first_bad_line(path, fields, columns, separator, required) or f"{path}: '{name}' is empty")
    if frame.empty:
        raise UserError(f"{path}: the file has a header and no rows")
    return frame


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """Strings share one object per distinct value, which saves most of the memory of ids."""
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode().combine_chunks()
        return encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy()]
    return column.to_numpy()


def _first_bad_line(
    path: str | os.PathLike[str],
    fields: dict[str, str],
    columns: list[str],
    separator: str,
    required: tuple[str, ...] = (),
) -> str:
    """Find the first malformed line the slow way; runs only after the fast way has failed."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        next(file)
        for number, line in enumerate(file, 2):
            values = line.rstrip("\r\n").split(separator)
            if values == [""]:
                continue
            if len(values) != len(fields):
                return f"{path}, line {number}: {len(values)} columns where the header has {len(fields)}"
            for at, (name, kind) in enumerate(fields.items()):
                fault = _fault(values[at], kind, name in required) if name in columns else ""
                if fault:
                    return f"{path}, line {number}, column {at + 1} ({name}): {fault}"
    return ""


def _fault(value: str, kind: str, required: bool) -> str:
    if "�" in value:
        return "not UTF-8 text"
    if required and value.strip() == "":
        return "the value is empty"
    if kind != "float" or value.strip() == "":
        return ""
    try:
        number = float(value)
    except ValueError:
        return f"'{value[:60]}' is not a number"
    return f"'{value[:60]}' is not a finite number" if required and not np.isfinite(number) else ""


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is not there, naming the nearest thing that is.

    Raises:
        UserError: the file, its folder, or the folder of data sets is missing.
    """
    path = Path(path)
    if path.is_file():
        return
    folder = path.parent
    if folder.is_dir():
        there = sorted(p.name for p in folder.iterdir())
        raise UserError(f"there is no file {path}{nearest(path.name, there)}")
    if folder.parent.is_dir():
        there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
        raise UserError(f"there is no data set folder {folder}{nearest(folder.name, there)}")
    raise UserError(f"there is no data set folder {folder}; data_path is {folder.parent}")
