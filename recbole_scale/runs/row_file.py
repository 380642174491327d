"""Files of rows: one JSON object a line. A row is whole or absent, whoever writes and whoever is killed.

Reading believes nothing: a line that is no object, no UTF-8, or holds a value of another kind than its column's is
named in one sentence.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from recbole_scale.errors import UserError

LARGEST = 2**63 - 1  # of a whole number
DEEPEST = 40  # lists and objects inside each other
MOST_BYTES = 2**29  # of a file that is read

Row = dict[str, Any]


def append_lines(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Iterable[str],
    unless: Callable[[list[Row]], bool] | None = None,
) -> bool:
    """Add rows to a file of rows, all or none, safe against other writers and against being killed.

    The lines go out in one ``write`` under an exclusive lock and are synced. A last line that lacks its newline gets
    it; one that an earlier writer, killed half way, has torn is cut off.

    Args:
        path: the file; it and its folder are made where they are missing.
        rows: values by column; a column a row lacks is null.
        columns: all columns, in order.
        unless: asked with the rows there are, under the lock; when it says yes nothing is added.

    Returns:
        whether the rows were added.

    Raises:
        UserError: the disk is full (the file is put back to what it was), or the file is none of such rows (it is left
            as it is).
    """
    columns = list(columns)
    text = [json.dumps(_plain({k: row.get(k) for k in columns}), allow_nan=False) for row in rows]
    lines = "".join(line + "\n" for line in text).encode()
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # /dev/null, /dev/stdout, a pipe
                os.write(descriptor, lines)
                return True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end, before = _end_of_rows(descriptor, path, columns[0])
            if unless is not None and unless(read_lines(path)):
                return False
            _write_at(descriptor, end, before + lines)
            return True
        finally:
            os.close(descriptor)
    except OSError as failure:
        raise UserError(f"the run's row could not be added to {path} ({(failure.strerror or '').lower()})") from failure


def check_appendable(path: str | os.PathLike[str], columns: Iterable[str]) -> None:
    """Find out before the work that a row could not be added: a file of something else, or one not to be written.

    Raises:
        UserError: as :func:`append_lines`.
    """
    target = Path(path).absolute()
    there = next(place for place in (target, *target.parents) if place.exists())
    fault = errno.EISDIR if target.is_dir() else errno.ENOTDIR if there.is_file() and there != target else errno.EACCES
    try:
        if not os.access(there, os.W_OK) or fault != errno.EACCES:
            raise OSError(fault, os.strerror(fault))
        if target.is_file():
            with open(target, "rb") as file:
                _end_of_rows(file.fileno(), Path(path), next(iter(columns)))
    except OSError as failure:
        raise UserError(f"the run's row could not be added to {path} ({(failure.strerror or '').lower()})") from failure


def _write_at(descriptor: int, end: int, data: bytes) -> None:
    """Write at the end of the whole rows and sync; a file that cannot take it is put back to what it was."""
    size = os.fstat(descriptor).st_size
    torn = os.pread(descriptor, size - end, end)
    os.ftruncate(descriptor, end)
    try:
        if os.pwrite(descriptor, data, end) != len(data):
            raise OSError(28, "no space left on device")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        with suppress(OSError):
            os.pwrite(descriptor, torn, end)
        raise


def _end_of_rows(descriptor: int, path: Path, first_column: str) -> tuple[int, bytes]:
    """Where the next row goes, and what must come before it: nothing, or the newline that the last row lacks.

    Raises:
        UserError: this is no file of such rows.
    """
    size = os.fstat(descriptor).st_size
    opening = f'{{"{first_column}": '.encode()
    end = _after_last_newline(descriptor, size)
    if end:
        head = _first_line(descriptor, end)
        if not isinstance(row := _parsed(head), dict) or first_column not in row:
            raise UserError(f"{path} holds something else than rows of runs; nothing was added to it")
    last = os.pread(descriptor, size - end, end).removeprefix(codecs.BOM_UTF8)
    if isinstance(row := _parsed(last), dict) and first_column in row:
        return size, b"\n"
    if last and not (last.startswith(opening) or opening.startswith(last)):
        raise UserError(f"the last line of {path} is no row; nothing was added to it")
    return end, b""


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_line(descriptor: int, end: int) -> bytes:
    line = b""
    while len(line) < end and b"\n" not in line:
        line += os.pread(descriptor, 65536, len(line))
    return line.partition(b"\n")[0]


def _after_last_newline(descriptor: int, end: int) -> int:
    """Offset just after the last newline, 0 where there is none."""
    while end > 0:
        begin = max(0, end - 65536)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _plain(value: Any) -> Any:
    """Numbers, strings and containers that JSON knows; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def read_lines(path: str | os.PathLike[str], kinds: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a file; a last line that a killed writer has torn is passed over, empty lines too.

    Args:
        path: the file.
        kinds: of columns, see :data:`KINDS`; a column that is not named may hold anything, any may be null.

    Raises:
        UserError: no such file, or a line that is no row, by its number.
    """
    try:
        with open(path, "rb") as file:
            content = bytearray()  # piece by piece: a read of the most there may be takes that memory at once
            while len(content) <= MOST_BYTES and (piece := file.read(1 << 16)):
                content += piece
    except OSError as failure:
        if isinstance(failure, FileNotFoundError):
            raise UserError(f"there is no results file {path}") from failure
        raise UserError(f"the results file {path} cannot be read ({(failure.strerror or '').lower()})") from failure
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is longer than the {MOST_BYTES:,} bytes that a results file may have")
    lines = bytes(content).removeprefix(codecs.BOM_UTF8).split(b"\n")  # which Windows' editors put before a text
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(parsed_object(line, kinds or {}))
        except (ValueError, RecursionError) as failure:
            if number == len(lines) and isinstance(failure, json.JSONDecodeError):
                break  # without a newline, and torn
            raise UserError(f"{path}, line {number}: not a row ({_why(failure)})") from failure
    return rows


def _why(failure: Exception) -> str:
    if isinstance(failure, json.JSONDecodeError):
        return failure.msg
    if isinstance(failure, UnicodeDecodeError):
        return "not UTF-8"
    return "lists inside lists without end" if isinstance(failure, RecursionError) else str(failure)[:200]


def parsed_object(line: bytes, kinds: Mapping[str, str]) -> Row:
    """A JSON object whose values are of ``kinds`` or null; anything else is a ValueError or a RecursionError."""
    text = line.decode("utf-8")
    row = json.loads(text, parse_int=_whole_number, parse_float=_number, parse_constant=lambda name: None)
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    _check_plain(row, 0)
    check_kinds(row, kinds)
    return row


def check_kinds(row: Row, kinds: Mapping[str, str]) -> None:
    """Refuse values of other kinds with a ValueError; null is of every kind."""
    for name, kind in kinds.items():
        value = row.get(name)
        if value is not None and not KINDS[kind](value):
            raise ValueError(f"{name} is {_shown(value)}, but must be {kind}")


def _whole_number(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > LARGEST:
        raise ValueError(f"the number {_shown(text)} is too large")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_shown(text)} is too large")
    return value


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what no program could show or write again: half surrogates, and endless nesting."""
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a text that is no Unicode") from None
    elif isinstance(value, dict):
        for name, part in value.items():
            _check_plain(name, depth + 1)
            _check_plain(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            _check_plain(part, depth + 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and float(value).is_integer()


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(part is None or _is_number(part) for part in value.values())


def _is_history(value: Any) -> bool:
    plain = (str, int, float, bool, dict, list, type(None))
    return isinstance(value, list) and all(
        isinstance(one, dict) and all(isinstance(part, plain) for part in one.values())
        and all(part is None or _is_number(part) for name, part in one.items() if name.startswith(("epoch", "train_")))
        for one in value
    )  # fmt: skip


KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "a number": _is_number,
    "a whole number of 0 or more": _is_count,
    "numbers by name": _are_numbers,
    "a list of objects": _is_history,
    "an object": lambda value: isinstance(value, dict),
    "a list": lambda value: isinstance(value, list),
    "true or false": lambda value: isinstance(value, bool),
}
