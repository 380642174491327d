"""The ``sequences`` format: one user a line, items in order; pyarrow splits, numpy counts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_scale.errors import UserError
from recbole_scale.prepare.columns import LogBuilder
from recbole_scale.prepare.sources import text_blocks


def read_sequences(
    path: Path, delimiter: str | None, user_column: bool, builder: LogBuilder, encoding: str | None = None
) -> None:
    """Read one user a line into ``builder``, split at white space (or ``delimiter``); time counts 1, 2, 3 ... a user.

    ``user_column``: the first word is the user; without it the line number is. Raises UserError with the line of a
    user without items, of a bad id, or of a user met before.
    """
    seen: list[Any] = []
    places: list[np.ndarray] = []
    for block in text_blocks(path, encoding=encoding):
        lines = pa.array(block.data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        numbers = np.flatnonzero(pc.not_equal(pc.utf8_trim_whitespace(lines), "").to_numpy(zero_copy_only=False))
        lines = lines.take(pa.array(numbers))
        numbers = numbers + block.first_line
        words = split_words(lines, delimiter)
        users = first_words(words) if user_column else pa.array(numbers).cast(pa.string())
        items, row_of, order = items_in_order(words, skip=int(user_column))
        _refuse_users_without_items(block.source, users, row_of, numbers, builder)
        seen.append(users)
        places.append(numbers)
        batch = {"user": users.take(pa.array(row_of)), "item": items, "time": pa.array(order)}
        where = numbers[row_of]
        builder.add(block.source, batch, partial(_line_of, where), {})
    _refuse_repeated_users(path, seen, places)


def _line_of(lines: np.ndarray, row: int) -> str:
    return f"line {lines[row]}"


def split_words(lines: Any, delimiter: str | None) -> Any:
    """Return a pyarrow list array: the words of each line."""
    if delimiter is None:
        return pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
    return pc.split_pattern(lines, pattern=delimiter)


def first_words(words: Any) -> Any:
    return words.values.take(words.offsets[:-1])


def items_in_order(words: Any, skip: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return (items, line index from 0, order from 1), each [interactions], leaving out ``skip`` words a line."""
    offsets = words.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets) - skip
    row_of = np.repeat(np.arange(len(counts)), counts)
    order = np.arange(1, counts.sum() + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.ones(len(words.values), dtype=bool)
    if skip:
        mask[offsets[:-1]] = False
    return words.values.filter(pa.array(mask)), row_of, order


def _refuse_users_without_items(
    source: str, users: Any, row_of: np.ndarray, numbers: np.ndarray, builder: LogBuilder
) -> None:
    empty = np.bincount(row_of, minlength=len(users)) == 0
    if empty.any():
        first = int(empty.argmax())
        builder.rows_read += int(empty.sum())
        where = f"{source} line {numbers[first]}, column 2"
        builder.problems.meet("the line names a user and no items", int(empty.sum()), lambda: where)


def _refuse_repeated_users(path: Path, users: list[Any], numbers: list[np.ndarray]) -> None:
    column = pa.chunked_array(users, pa.string()).combine_chunks().dictionary_encode()
    codes = column.indices.to_numpy()
    repeated = np.bincount(codes, minlength=1) > 1
    if repeated.any():
        code = codes[repeated[codes]][0]
        lines = np.concatenate(numbers)[codes == code]
        raise UserError(
            f"{path} line {lines[1]}, column 1: user '{column.dictionary[int(code)]}' already has line {lines[0]}; "
            "join the two lines in order"
        )
