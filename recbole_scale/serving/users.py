"""Whose lists are wanted: every user of the data set, a file of histories, or a frame; in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_scale.data.atomic import encoding_of, read_coded, read_header, with_kinds
from recbole_scale.data.histories import ragged_ranges, time_order
from recbole_scale.errors import UserError
from recbole_scale.prepare.sequences import first_words, items_in_order, split_words
from recbole_scale.prepare.sources import text_blocks
from recbole_scale.serving.trained import Trained
from recbole_scale.text import counted


@dataclass
class Chunk:
    """Some users' histories: raw ids ``user`` [n], numbers ``number`` [n] (0: not in training), flat items, offsets."""

    user: Any
    number: np.ndarray
    items: np.ndarray
    offsets: np.ndarray


@dataclass
class Summary:
    """What was written and what was left out."""

    users: int = 0
    rows: int = 0
    users_without_items: int = 0
    unknown_users: int = 0
    unknown_items: int = 0
    unknown_in_catalogue: int = 0

    def __str__(self) -> str:
        text = f"{counted(self.users, 'user')}, {counted(self.rows, 'row')}"
        for count, what in (
            (self.unknown_items, "interactions with items the model does not know, left out"),
            (self.users_without_items, "users without a known item, left out"),
            (self.unknown_users, "users who were not in training"),
            (self.unknown_in_catalogue, "items to choose from that the model does not know"),
        ):
            text += f"; {count:,} {what}" if count else ""
        return text


def all_users(trained: Trained, size: int) -> Iterator[Chunk]:
    """Every user of the data set."""
    histories = trained.histories
    if histories is None:
        raise UserError(
            f"the data of '{trained.config['dataset']}' holds no histories of its users; --users takes a file of them"
        )
    for start in range(0, len(histories.users), size):
        number = histories.users[start : start + size].astype(np.int64)
        offsets = histories.offsets[start : start + len(number) + 1]
        yield Chunk(
            trained.user_texts.take(pa.array(number)),
            number,
            histories.items[offsets[0] : offsets[-1]],
            offsets - offsets[0],
        )


def file_users(trained: Trained, path: Path, size: int, summary: Summary) -> Iterator[Chunk]:
    """Users of a file: an atomic file (it has a ``name:type`` header; read whole), or one user a line (read in blocks).

    Raises:
        UserError: the file is missing or a line is bad.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; --users takes 'all' or a file")
    with open(path, "rb") as file:
        first = file.readline().decode("utf-8-sig", errors="replace").strip()
    if ":token" in first:
        parts = _atomic_users(trained, path)
    elif "," in first and not first.replace(", ", ",").count(" "):
        parts = iter([_csv_users(trained, path, first.split(","))])
    else:
        parts = _line_users(trained, path)
    for user, item, counts in parts:
        yield from chunks_of(trained, user, item, counts, size, summary)


def chunks_of(
    trained: Trained, user: Any, item: np.ndarray, counts: np.ndarray, size: int, summary: Summary
) -> Iterator[Chunk]:
    """Users ``user`` [n] with ``counts`` [n] items each, of which those that the model does not know (0) go."""
    number = pc.fill_null(pc.index_in(user, value_set=trained.user_texts), 0).to_numpy(zero_copy_only=False)
    number = number.astype(np.int64)
    keep = item > 0
    summary.unknown_items += int((~keep).sum())
    owner = np.repeat(np.arange(len(counts)), counts)[keep]
    offsets = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(counts)))]
    items = item[keep]
    for start in range(0, len(counts), size):
        end = min(start + size, len(counts))
        part = offsets[start : end + 1]
        yield Chunk(user[start:end], number[start:end], items[part[0] : part[-1]], part - part[0])


def _csv_users(trained: Trained, path: Path, columns: list[str]) -> tuple[Any, np.ndarray, np.ndarray]:
    """A file with commas, read where its header names the data set's columns.

    Raises:
        UserError: it does not, or a value is missing.
    """
    names = [name.strip() for name in columns]
    dataset = trained.dataset
    for name in (dataset.uid_field, dataset.iid_field):
        if name not in names:
            raise UserError(
                f"{path}, line 1: columns seem to be separated by commas, and none is '{name}'; name user and item "
                f"{dataset.uid_field} and {dataset.iid_field}, or give one user a line: user item item"
            )
    for name in (dataset.uid_field, dataset.iid_field, dataset.time_field):
        if names.count(name) > 1:
            raise UserError(f"{path}, line 1: there are two columns '{name}'; rename one")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as failure:  # bytes of another encoding, or more columns further down
        raise UserError(f"{path} cannot be read as UTF-8 text with commas ({str(failure).strip()[:200]})") from failure
    if len(frame.columns) != len(names) or not isinstance(frame.index, pd.RangeIndex):  # pandas shifts them
        raise UserError(f"{path}: its rows have more columns than its header, which has {len(names)}")
    frame.columns = pd.Index(names)
    return frame_users(trained, frame)


def frame_users(trained: Trained, frame: pd.DataFrame) -> tuple[Any, np.ndarray, np.ndarray]:
    """Users, item numbers and counts of rows of interactions, by time where there is one, else as they stand."""
    dataset = trained.dataset
    user, names = pd.factorize(frame[dataset.uid_field].astype(str))
    if dataset.time_field in frame:
        time = pd.to_numeric(frame[dataset.time_field], errors="coerce").to_numpy(float)
        if not np.isfinite(time).all():
            row = int(np.flatnonzero(~np.isfinite(time))[0])
            value = frame[dataset.time_field].iloc[row]
            raise UserError(f"row {row + 1} of the users' interactions: the time {value!r} is not a number")
    else:
        time = np.zeros(len(frame))
    order = time_order(user, time)
    items = pa.array(frame[dataset.iid_field].astype(str).tolist(), pa.string())
    counts = np.bincount(user, minlength=len(names))
    return pa.array(list(names), pa.string()), numbers_of(trained, items)[order], counts


def numbers_of(trained: Trained, texts: Any) -> np.ndarray:
    """Numbers of raw item ids, 0 for those the model does not know, int64 [n]."""
    found = pc.index_in(texts.cast(pa.string()), value_set=trained.item_texts)
    return np.asarray(pc.fill_null(found, 0).to_numpy(zero_copy_only=False)).astype(np.int64)


def _line_users(trained: Trained, path: Path) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """``user item item ...`` a line, items in order."""
    for block in text_blocks(path):
        lines = pa.array(block.data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        lines = lines.filter(pc.not_equal(pc.utf8_trim_whitespace(lines), ""))
        if not len(lines):
            continue
        words = split_words(lines, None)
        items, row_of, _ = items_in_order(words, skip=1)
        yield first_words(words), numbers_of(trained, items), np.bincount(row_of, minlength=len(lines))


def _atomic_users(trained: Trained, path: Path) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    dataset, config = trained.dataset, trained.config
    separator = config["field_separator"]
    fields = read_header(path, separator, encoding_of(config))
    names = [dataset.uid_field, dataset.iid_field, *([dataset.time_field] if dataset.time_field in fields else [])]
    fields = with_kinds(path, fields, names[:2], dataset.time_field)
    user, item, *time = read_coded(path, names, separator, tuple(names), fields, None, encoding_of(config)).values()
    order = time_order(user.codes, time[0] if time else np.zeros(len(user.codes)))  # type: ignore[union-attr, arg-type]
    counts = np.bincount(user.codes, minlength=len(user.texts))  # type: ignore[union-attr]
    numbers = numbers_of(trained, item.texts)[item.codes[order]]  # type: ignore[union-attr]
    yield user.texts, numbers, counts  # type: ignore[union-attr]


def with_items(chunk: Chunk, summary: Summary) -> Chunk:
    """The users of a chunk who have items left."""
    counts = np.diff(chunk.offsets)
    kept = np.flatnonzero(counts)
    if len(kept) == len(counts):
        return chunk
    summary.users_without_items += len(counts) - len(kept)
    items = chunk.items[ragged_ranges(chunk.offsets[kept], counts[kept])]
    return Chunk(chunk.user.take(pa.array(kept)), chunk.number[kept], items, np.r_[0, np.cumsum(counts[kept])])
