"""RecBole's filters of interactions, vectorised: the same rows in the same order, without a Python object per row.

Plain numpy and pandas on whole columns; nothing here knows RecBole. (:mod:`filters` has the filters of raw files.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

Interval = tuple[str, float, float, str]  # bracket, low, high, bracket, such as ("[", 5, inf, ")")


@dataclass(frozen=True)
class LogFilters:
    """RecBole's settings of the same meaning; None and () filter nothing.

    ``keep`` (``rm_dup_inter``): "first" or "last" of a user's interactions with one item. ``values``
    (``val_interval``): intervals for float fields. ``user_counts``, ``item_counts``: intervals for the interactions of
    a user or an item, applied until nothing more is dropped.
    """

    keep: str | None = None
    values: tuple[tuple[str, tuple[Interval, ...]], ...] = ()
    user_counts: tuple[Interval, ...] = ()
    item_counts: tuple[Interval, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the filters as JSON has them; infinities as text."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(value) if isinstance(value, float) else value


def kept_rows(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, floats: dict[str, np.ndarray], filters: LogFilters
) -> np.ndarray | None:
    """Rows that stay, in the order in which RecBole leaves them; None when all stay where they are.

    Args:
        user: codes of users from 0, [R].
        item: codes of items from 0, [R].
        time: exact times, [R].
        floats: columns that ``filters.values`` names, each [R].
        filters: what to drop.
    """
    rows: np.ndarray | None = None
    if filters.keep is not None:
        # RecBole sorts the whole file by time here, and not stably: only the same call gives the same rows
        rows = np.argsort(time, kind="quicksort")
        pair = user[rows].astype(np.int64) * (int(item.max()) + 1) + item[rows]
        rows = rows[~pd.Series(pair).duplicated(keep=filters.keep).to_numpy()]  # type: ignore[arg-type]
    for field, intervals in filters.values:
        values = floats[field]
        rows = _narrow(rows, within(values if rows is None else values[rows], intervals))
    return _drop_by_counts(user, item, rows, filters)


def within(values: np.ndarray, intervals: tuple[Interval, ...]) -> np.ndarray:
    """Whether each value lies in one of the intervals; a missing value lies in none."""
    inside = np.zeros(len(values), dtype=bool)
    for left, low, high, right in intervals:
        above = values >= low if left == "[" else values > low
        inside |= above & (values <= high if right == "]" else values < high)
    return inside


def _drop_by_counts(
    user: np.ndarray, item: np.ndarray, rows: np.ndarray | None, filters: LogFilters
) -> np.ndarray | None:
    """Drop users and items by their counts, both at once in every round as RecBole does, until a round drops none."""
    if not filters.user_counts and not filters.item_counts:
        return rows
    if rows is not None:
        user, item = user[rows], item[rows]
    while True:
        bad_user, bad_item = _outside(user, filters.user_counts), _outside(item, filters.item_counts)
        if not bad_user.any() and not bad_item.any():
            return rows
        keep = ~(bad_user[user] | bad_item[item])
        user, item, rows = user[keep], item[keep], _narrow(rows, keep)


def _outside(codes: np.ndarray, intervals: tuple[Interval, ...]) -> np.ndarray:
    """Whether each id that still occurs does so too rarely or too often, [ids]."""
    counts = np.bincount(codes)
    return (counts > 0) & ~within(counts, intervals) if intervals else np.zeros(len(counts), dtype=bool)


def _narrow(rows: np.ndarray | None, keep: np.ndarray) -> np.ndarray | None:
    if keep.all():
        return rows
    return np.flatnonzero(keep) if rows is None else rows[keep]
