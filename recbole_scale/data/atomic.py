"""Reads RecBole's atomic files (``field:type`` header, one interaction a line) fast, and says where a bad line is.

Quotation marks are ordinary characters here: a stray one in an item id must not swallow the lines after it.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recbole_scale.data.coded import Coded
from recbole_scale.errors import UserError, nearest

PADDING = "[PAD]"  # RecBole's name of id 0
TYPES = ("token", "float", "token_seq", "float_seq")
BLOCK_BYTES = (
    8 << 20
)  # each block has a dictionary of its own: small blocks repeat it, large ones hold much text at once


UTF8 = "utf-8-sig"  # UTF-8, whose byte order mark is none of the text


def encoding_of(config: Any) -> str:
    """How a data set's atomic files are encoded, by its setting."""
    name = config["encoding"] or "utf-8"
    return UTF8 if codecs.lookup(name).name == "utf-8" else str(name)


def read_header(path: str | os.PathLike[str], separator: str = "\t", encoding: str = UTF8) -> dict[str, str]:
    """Fields of an atomic file in order, each with its type.

    Raises:
        UserError: the file is missing, empty, not text, or a column is not ``name:type``.
    """
    check_file(path)
    try:
        if encoding == UTF8:  # one line of bytes: text is decoded in blocks, which hold faults of later lines
            with open(path, "rb") as raw:
                line = raw.readline().decode(encoding)
        else:
            with open(path, encoding=encoding, newline="\n") as file:
                line = file.readline()
    except UnicodeError as failure:
        name = encoding.removesuffix("-sig").upper()
        raise UserError(f"{path}, line 1: not {name} text") from failure
    if not (line := line.rstrip("\r\n")):
        raise UserError(f"{path}, line 1: the header is missing (expected user_id:token, item_id:token, ...)")
    fields: dict[str, str] = {}
    for number, column in enumerate(line.split(separator), 1):
        name, colon, kind = column.partition(":")
        if not colon or not name:
            tip = _separator_tip(line, separator)
            raise UserError(f"{path}, line 1, column {number}: '{column[:60]}' is not name:type{tip}")
        if kind not in TYPES:
            tip = _separator_tip(line, separator)
            raise UserError(f"{path}, line 1, column {number}: type '{kind[:60]}' is none of {', '.join(TYPES)}{tip}")
        if name in fields:
            raise UserError(f"{path}, line 1, column {number}: field '{name}' stands twice")
        fields[name] = kind
    return fields


def _separator_tip(line: str, separator: str) -> str:
    """What to do when the header is one of another separator, or of a plain table."""
    for name, other in (("commas", ","), ("tabs", "\t"), ("semicolons", ";"), ("bars", "|"), ("blanks", " ")):
        if other != separator and all(column.partition(":")[2] in TYPES for column in line.split(other)):
            shown = repr(other).replace("'", '"') if other == "\t" else f"'{other}'"
            return f"; columns seem to be separated by {name}, set field_separator: {shown}"
    if ":" not in line:
        return "; recbole-scale prepare csv makes such a file of a table without types"
    return ""


def with_kinds(path: str | os.PathLike[str], fields: dict[str, str], ids: Iterable[str], time: str) -> dict[str, str]:
    """The fields with ``time`` as a number, whatever the header calls it: text would be sorted as text, or not at all.

    Raises:
        UserError: a user or item (``ids``) is no token, or the time is a list.
    """
    for number, (name, kind) in enumerate(fields.items(), 1):
        if name in ids and kind != "token":
            raise UserError(
                f"{path}, line 1, column {number}: {name} must be a token, not a {kind}; write {name}:token"
            )
        if name == time and kind not in ("float", "token"):
            raise UserError(f"{path}, line 1, column {number}: the time {name} must be a float; write {name}:float")
    return {name: "float" if name == time else kind for name, kind in fields.items()}


def read_atomic(
    path: str | os.PathLike[str],
    columns: list[str],
    separator: str = "\t",
    required: tuple[str, ...] = (),
    fields: dict[str, str] | None = None,
    bad_rows: str | None = None,
    encoding: str = UTF8,
) -> pd.DataFrame:
    """Read some columns of an atomic file: tokens as str, floats as float64.

    Args:
        path: the file.
        columns: fields to read, in any order.
        separator: one character between columns.
        required: fields that no line may leave empty; a float among them must be finite, a token not ``[PAD]``.
        fields: all fields of the file with the type to read them as (default: the header's).
        bad_rows: the setting of this name, where there is one: "as_recbole" cuts lines with more columns than the
            header and leaves out those with an empty required token, with one warning that counts both.
        encoding: of the file, as :func:`encoding_of` gives it.

    Raises:
        UserError: naming file, line and column of the first thing that is wrong.
    """
    coded = read_coded(path, columns, separator, required, fields, bad_rows, encoding)
    return pd.DataFrame({name: _texts(v) if isinstance(v, Coded) else v for name, v in coded.items()})


def read_coded(
    path: str | os.PathLike[str],
    columns: list[str],
    separator: str = "\t",
    required: tuple[str, ...] = (),
    fields: dict[str, str] | None = None,
    bad_rows: str | None = None,
    encoding: str = UTF8,
) -> dict[str, Coded | np.ndarray]:
    """As :func:`read_atomic`, with tokens as int32 codes over their distinct texts, in order of first appearance.

    Memory is 4 bytes a token, 8 a float, and the distinct texts.
    """
    fields = fields or read_header(path, separator, encoding)
    for name in columns:
        if name not in fields:
            raise UserError(f"{path}, line 1: there is no column '{name}'{nearest(name, fields)}")

    lenient, cut = bad_rows == "as_recbole", 0

    def fault(otherwise: object) -> UserError:
        told = first_bad_line(path, fields, columns, separator, required, bad_rows, encoding)
        return UserError(told or f"{path}: {otherwise}")

    try:
        try:
            table = _read_table(path, fields, columns, separator, encoding)
        except pa.ArrowInvalid:
            if not lenient:
                raise
            narrow, cut = _cut_to_header(path, len(fields), separator, encoding)
            table = _read_table(narrow, fields, columns, separator)
    except (pa.ArrowInvalid, UnicodeError) as failure:
        raise fault(
            f"not {encoding.removesuffix('-sig')} text" if isinstance(failure, UnicodeError) else failure
        ) from failure
    rows = table.num_rows
    if lenient:
        table = _with_ids(table, [f"{name}:token" for name in required if fields[name] == "token"])
        if cut or len(table) < rows:
            getLogger().warning(
                f"{path}: {cut} lines with more columns than the header are cut, {rows - len(table)} lines without "
                "a user or item left out (bad_rows: as_recbole)"
            )
    if table.num_rows == 0:
        raise UserError(f"{path}: the file has a header and no rows")
    coded: dict[str, Coded | np.ndarray] = {}
    for name in columns:
        column = table.column(f"{name}:{fields[name]}")
        table = table.drop([f"{name}:{fields[name]}"])  # its memory goes before the next column's copy is made
        values = column.to_numpy() if fields[name] == "float" else _coded(column)
        if name in required:
            whole = np.isfinite(values).all() if isinstance(values, np.ndarray) else not _has_unfit(values)
            if not whole:
                raise fault(f"'{name}' is empty")
        coded[name] = values
        del column
        pa.default_memory_pool().release_unused()  # it would keep what the table took, a GB of a large log
    return coded


def _cut_to_header(
    path: str | os.PathLike[str], width: int, separator: str, encoding: str
) -> tuple[pa.BufferReader, int]:
    """The file's text, in UTF-8, with every line cut to ``width`` columns, and how many lines had more."""
    lines, cut = [], 0
    with open(path, encoding=encoding, errors="surrogateescape", newline="\n") as file:
        for line in file:
            parts = line.rstrip("\r\n").split(separator)
            cut += len(parts) > width
            lines.append(separator.join(parts[:width]))
    return pa.BufferReader("\n".join([*lines, ""]).encode("utf-8", "surrogateescape")), cut


def _with_ids(table: pa.Table, names: list[str]) -> pa.Table:
    """The rows whose columns ``names`` are not empty; the empty text leaves their dictionaries too."""
    for name in names:
        texts = table.column(name).cast(pa.string())
        there = pc.not_equal(texts, "")
        table = table.filter(there).set_column(
            table.column_names.index(name), name, texts.filter(there).dictionary_encode()
        )
    return table


def _read_table(
    path: object, fields: dict[str, str], columns: list[str], separator: str, encoding: str = UTF8
) -> pa.Table:
    texts = pa.dictionary(pa.int32(), pa.string())
    types = {
        f"{name}:{kind}": pa.float64() if kind == "float" and name in columns else texts
        for name, kind in fields.items()
    }
    return pacsv.read_csv(
        path,
        read_options=pacsv.ReadOptions(
            column_names=list(types),
            skip_rows=1,
            block_size=BLOCK_BYTES,
            encoding="utf8" if encoding == UTF8 else encoding,
        ),
        parse_options=pacsv.ParseOptions(delimiter=separator, quote_char=False, escape_char=False),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            include_columns=[f"{name}:{fields[name]}" for name in columns],
            null_values=[""],
            strings_can_be_null=False,
        ),
    )


def _coded(column: pa.ChunkedArray) -> Coded:
    chunks = column.unify_dictionaries().chunks
    return Coded(np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), chunks[-1].dictionary)


def _has_unfit(column: Coded) -> bool:
    return bool(pc.any(pc.is_in(column.texts, value_set=pa.array(["", PADDING]))).as_py())


def _texts(column: Coded) -> np.ndarray:
    """Strings, of which each distinct one is a single object: that saves most of the memory of ids."""
    return column.texts.to_numpy(zero_copy_only=False)[column.codes]


def first_bad_line(
    path: str | os.PathLike[str],
    fields: dict[str, str],
    columns: list[str],
    separator: str,
    required: tuple[str, ...] = (),
    bad_rows: str | None = None,
    encoding: str = UTF8,
) -> str:
    """Find the first malformed line the slow way; runs only after the fast way has failed.

    ``bad_rows``: with "as_recbole" more columns than the header has are no fault, nor is an empty required token; with
    "refuse" it is said that there is the former.
    """
    lenient = bad_rows == "as_recbole"
    hint = "; bad_rows: as_recbole reads such lines as RecBole does" if bad_rows == "refuse" else ""
    # bytes that are no UTF-8 become lone surrogates, which no sound text holds
    errors = "surrogateescape" if encoding == UTF8 else "replace"
    with open(path, encoding=encoding, errors=errors, newline="\n") as file:
        next(file)
        for number, line in enumerate(file, 2):
            values = line.rstrip("\r\n").split(separator)
            if values == [""]:
                continue
            values = values[: len(fields)] if lenient else values
            values += [""] * (0 if required else len(fields) - len(values))  # features may leave the last out
            if len(values) != len(fields):
                told = f"{path}, line {number}: {len(values)} columns where the header has {len(fields)}"
                return told + hint * (len(values) > len(fields))
            for at, (name, kind) in enumerate(fields.items()):
                empty_id = values[at] == "" and kind == "token" and name in required
                if name not in columns or (lenient and empty_id):
                    continue
                if fault := _fault(values[at], kind, name in required, encoding):
                    return f"{path}, line {number}, column {at + 1} ({name}): {fault}{hint * empty_id}"
    return ""


def _fault(value: str, kind: str, required: bool, encoding: str) -> str:
    if any("\ud800" <= letter <= "\udfff" or (letter == "\ufffd" and encoding != UTF8) for letter in value):
        return f"not {'UTF-8' if encoding == UTF8 else encoding} text"
    if required and value.strip() == "":
        return "the value is empty"
    if required and kind == "token" and value == PADDING:
        return f"'{PADDING}' is RecBole's name of the padding and cannot be an id; rename it"
    if kind != "float" or value.strip() == "":
        return ""
    try:
        number = float(value)
    except ValueError:
        return f"'{value[:60]}' is not a number"
    return f"'{value[:60]}' is not a finite number" if required and not np.isfinite(number) else ""


PACKAGED = "ml-100k"  # comes with RecBole


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
        there = sorted(p.name for p in folder.iterdir() if p.suffix != ".cache")
        raise UserError(f"there is no file {path}{nearest(path.name, there)}")
    if folder.parent.is_dir():
        there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
        raise UserError(f"there is no data set folder {folder}{nearest(folder.name, [*there, PACKAGED])}")
    close = nearest(folder.name, [PACKAGED])
    raise UserError(f"there is no data set folder {folder}{close or f'; data_path is {folder.parent}'}")
