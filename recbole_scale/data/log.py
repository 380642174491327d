"""From an atomic file to histories in one pass, or from the cache of an earlier one; nothing here knows RecBole.

Ids are RecBole's: 1, 2, ... by first appearance among the rows that the filters leave; 0 is padding.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_scale.data.atomic import UTF8, read_coded, read_header, with_kinds
from recbole_scale.data.cache import cache_path, content_digest, read_cache, write_cache
from recbole_scale.data.coded import Coded
from recbole_scale.data.histories import Histories, in_time_order, sort_by_time
from recbole_scale.data.recbole_filters import LogFilters, kept_rows
from recbole_scale.data.texts import joined
from recbole_scale.data.time_units import check_units
from recbole_scale.errors import UserError

DTYPES: dict[str, np.dtype[Any]] = {
    "items": np.dtype("<i4"),
    "times": np.dtype("<f8"),
    "offsets": np.dtype("<i8"),
    "user_ends": np.dtype("<i8"),
    "item_ends": np.dtype("<i8"),
    "user_text": np.dtype("u1"),
    "item_text": np.dtype("u1"),
}


@dataclass(frozen=True)
class Recipe:
    """What is read from which file: names of the user, item and time columns, filters, ``bad_rows``, encoding."""

    path: Path
    user: str
    item: str
    time: str
    separator: str = "\t"
    filters: LogFilters = field(default_factory=LogFilters)
    bad_rows: str | None = "refuse"
    encoding: str = UTF8

    def settings(self) -> dict[str, Any]:
        """Return what a cache depends on, the file's bytes apart."""
        names = {"user": self.user, "item": self.item, "time": self.time, "separator": self.separator}
        lenient = {"bad_rows": self.bad_rows} if self.bad_rows == "as_recbole" else {}
        other = {"encoding": self.encoding} if self.encoding != UTF8 else {}
        return {**names, "filters": self.filters.plain(), **lenient, **other}


@dataclass(frozen=True)
class Log:
    """A log that was read: histories (user ``u`` is row ``u - 1``), exact times of their items, and names of the ids.

    ``times`` is float64 [R]; ``users`` and ``items`` are the names of ids 1, 2, ..., pyarrow strings; ``digest`` is the
    source's, where the cache asked for it.
    """

    histories: Histories
    times: np.ndarray
    users: pa.Array
    items: pa.Array
    digest: str | None = None


def load_log(recipe: Recipe, use_cache: bool = True) -> Log:
    """Read, filter and sort a log, or take it from the cache beside the file; a cache is made where it can be.

    Raises:
        UserError: naming file, line and column of the first malformed row, or that the filters leave nothing.
    """
    path = cache_path(recipe.path, recipe.settings())
    writable = os.access(path.parent, os.W_OK)
    if not use_cache or not (writable or path.exists()):
        if use_cache:
            getLogger().info(f"no cache: {path.parent} cannot be written, so {recipe.path.name} is read at every start")
        return read_log(recipe)
    before = _state(recipe.path)
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(content_digest, recipe.path)  # beside the check of the cache's own bytes
        stored, digest = read_cache(path, DTYPES), hashing.result()
    key = {"source": {"size": before[0], "sha256": digest}, "settings": recipe.settings()}
    if stored is not None and stored[0] == key:
        log = _from_arrays(stored[1])
        if log is not None:
            return replace(log, digest=digest)
    log = read_log(recipe)
    if _state(recipe.path) != before:  # a file that grew meanwhile is not what was hashed
        return log
    if writable:
        try:
            write_cache(path, key, _to_arrays(log))
        except UserError as failure:
            getLogger().info(f"no cache: {failure}; the run goes on without it")
    return replace(log, digest=digest)


def read_log(recipe: Recipe) -> Log:
    """As :func:`load_log`, from the atomic file."""
    needed = [recipe.user, recipe.item, recipe.time]
    values = [name for name, _ in recipe.filters.values]
    header = read_header(recipe.path, recipe.separator, recipe.encoding)
    fields = with_kinds(recipe.path, header, (recipe.user, recipe.item), recipe.time)
    wanted = list(dict.fromkeys(needed + values))
    columns = read_coded(recipe.path, wanted, recipe.separator, tuple(needed), fields, recipe.bad_rows, recipe.encoding)
    user, item, time = (columns.pop(name) for name in needed)
    assert isinstance(user, Coded) and isinstance(item, Coded) and isinstance(time, np.ndarray)
    check_units(recipe.path, time)
    floats = {recipe.time: time} | {name: v for name, v in columns.items() if isinstance(v, np.ndarray)}
    rows = kept_rows(user.codes, item.codes, time, floats, recipe.filters)
    del columns, floats
    if rows is not None:
        user, item, time = user.take(rows), item.take(rows), time[rows]
        del rows
        if len(time) == 0:
            raise UserError(
                f"{recipe.path}: the filters leave nothing, the data is empty; {_described(recipe.filters)}"
            )
    users, items = _by_first_appearance(user), _by_first_appearance(item)
    owners, item_ids, names = users.codes, items.codes + np.int32(1), (users.texts, items.texts)
    del user, item, users, items  # what is large goes as soon as it can
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners))])
    if not in_time_order(owners, time):
        time = np.require(time, requirements="W")  # arrow's own memory cannot be written
        sort_by_time(owners, time, item_ids)
    histories = Histories(item_ids, np.arange(1, len(offsets), dtype=np.int32), offsets)
    return Log(histories, time, *names)


def _by_first_appearance(column: Coded) -> Coded:
    """Number the texts that occur by the row in which they come first."""
    found = pd.unique(column.codes)
    if len(found) == len(column.texts) and bool((found[1:] > found[:-1]).all()):
        return column
    number = np.zeros(len(column.texts), dtype=np.int32)
    number[found] = np.arange(len(found), dtype=np.int32)
    return Coded(number[column.codes], column.texts.take(pa.array(found)))


def _described(filters: LogFilters) -> str:
    names = {"keep": "rm_dup_inter", "values": "val_interval"}
    names |= {"user_counts": "user_inter_num_interval", "item_counts": "item_inter_num_interval"}
    return "; ".join(f"look at {names[name]}" for name, value in filters.plain().items() if value)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


# To and from a cache's arrays -----------------------------------------------------------------------------------------


def _to_arrays(log: Log) -> dict[str, np.ndarray]:
    user_text, user_ends = joined(log.users)
    item_text, item_ends = joined(log.items)
    arrays = {"items": log.histories.items, "times": log.times, "offsets": log.histories.offsets}
    arrays |= {"user_ends": user_ends, "item_ends": item_ends, "user_text": user_text, "item_text": item_text}
    return {name: np.ascontiguousarray(arrays[name], dtype) for name, dtype in DTYPES.items()}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Log | None:
    """The log in a cache's arrays, or None where they contradict each other."""
    items, offsets = arrays["items"], arrays["offsets"]
    users = _texts(arrays["user_ends"], arrays["user_text"])
    names = _texts(arrays["item_ends"], arrays["item_text"])
    agree = (
        users is not None
        and names is not None
        and len(offsets) == len(users) + 1
        and offsets[0] == 0
        and bool((np.diff(offsets) > 0).all())
        and offsets[-1] == len(items) == len(arrays["times"])
        and items.min() >= 1
        and items.max() == len(names)
    )
    if not agree:
        return None
    histories = Histories(items, np.arange(1, len(offsets), dtype=np.int32), offsets)
    return Log(histories, arrays["times"], users, names)


def _texts(ends: np.ndarray, text: np.ndarray) -> pa.Array | None:
    """Pyarrow strings, or None where the ends do not rise to the end of the bytes."""
    if ends[0] < 1 or not (np.diff(ends) > 0).all() or ends[-1] != len(text):
        return None
    places = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int64))
    found = pa.LargeStringArray.from_buffers(len(ends), places, pa.py_buffer(text.tobytes()))
    try:
        found.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return found
