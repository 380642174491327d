"""Histories of users as one sorted item array and offsets: memory is O(interactions), nothing is padded or repeated.

A *position* is an index into the flat item array. Plain numpy; nothing here knows RecBole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from recbole_scale.interfaces import KnownIds

ROWS_AT_ONCE = 1 << 22  # that are sorted by time
TEXTS_AT_ONCE = 1 << 16  # that are hashed


@dataclass(frozen=True)
class Histories:
    """Each user's items in time order.

    Attributes:
        items: item ids (1..V) of all users, one user after the other, int32 [R].
        users: id of each user, ascending, int32 [U].
        offsets: user ``u`` owns positions ``offsets[u]`` to ``offsets[u + 1]``, int64 [U + 1].
    """

    items: np.ndarray
    users: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_columns(cls, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> Histories:
        """Sort interactions [R] by user and exact time; equal times keep the order of the file."""
        order = time_order(user, time)
        sorted_user = np.asarray(user)[order]
        starts = np.flatnonzero(np.r_[True, sorted_user[1:] != sorted_user[:-1]]) if len(order) else np.zeros(0, int)
        return cls(
            items=np.asarray(item)[order].astype(np.int32),
            users=sorted_user[starts].astype(np.int32),
            offsets=np.r_[starts, len(order)].astype(np.int64),
        )

    @property
    def lengths(self) -> np.ndarray:
        """Interactions of each user, int64 [U]."""
        return np.diff(self.offsets)

    def owner(self, positions: np.ndarray) -> np.ndarray:
        """Index (0..U-1) of the user who owns each position [n]."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def inputs_before(self, positions: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Items before each position, at most ``max_length`` of them, oldest first, padded with 0 on the right.

        Returns:
            item ids int64 [n, max_length] and true lengths int64 [n]: RecBole's row of that target.
        """
        start = self.offsets[self.owner(positions)]
        length = np.minimum(positions - start, max_length)
        return gather_padded(self.items, positions - length, length, max_length), length


def time_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Stable order [R] by (user, time): equal times keep the order of the file.

    Rows that lie user by user are sorted a block of users at a time, which takes the memory of a block.
    """
    order = np.empty(len(user), dtype=np.int64)
    for start, part in _orders(np.asarray(user), np.asarray(time)):
        order[start : start + len(part)] = start + part
    return order


def sort_by_time(user: np.ndarray, time: np.ndarray, item: np.ndarray) -> None:
    """Put times and items [R] in the order of :func:`time_order` where they lie; ``user`` stays as it is."""
    for start, part in _orders(user, time):
        block = slice(start, start + len(part))
        item[block] = item[block][part]
        time[block] = time[block][part]


def _orders(user: np.ndarray, time: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Where a block of users begins, and the order of its rows from there; one block unless rows lie user by user."""
    if len(user) <= ROWS_AT_ONCE or not (user[1:] >= user[:-1]).all():
        yield 0, _order_of_all(user, time)
        return
    cuts = np.unique(np.searchsorted(user, user[::ROWS_AT_ONCE]))  # each where a user begins
    for start, end in pairwise([*cuts.tolist(), len(user)]):
        yield start, _order_of_all(user[start:end], time[start:end])


def _order_of_all(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    if len(user) and np.isfinite(low := time.min()) and np.isfinite(high := time.max()):
        span, users = int(high) - int(low) + 1, int(user.max()) - int(user.min()) + 1
        if span * users < 2**62 and low > -(2**62) and high < 2**62 and (time == np.floor(time)).all():
            # whole numbers in one key of 8 bytes sort in half the time of two keys; float64 would round time - low
            key = (user.astype(np.int64) - int(user.min())) * span + (time.astype(np.int64) - int(low))
            return np.argsort(key, kind="stable")
    return np.lexsort((time, user))


def in_time_order(user: np.ndarray, time: np.ndarray) -> bool:
    """Whether rows [R] are sorted by user and, within a user, by time, as many published logs are."""
    step = np.diff(user)
    return bool((step >= 0).all() and ((time[1:] >= time[:-1]) | (step > 0)).all())


def gather_padded(flat: np.ndarray, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """Rows ``flat[start : start + length]`` as int64 [n, width], padded with 0 on the right."""
    column = np.arange(width)
    index = np.minimum(start[:, None] + column, len(flat) - 1)  # the overrun is masked below
    return np.where(column < length[:, None], flat[index], 0).astype(np.int64)


@dataclass(frozen=True)
class Positions:
    """Ascending positions, a range for each user: memory is O(users), not O(positions).

    Attributes:
        start: first position of each user's range, int64 [U].
        ends: positions in this user's range and all before it, int64 [U].
    """

    start: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def counts(self) -> np.ndarray:
        """Positions of each user, int64 [U]."""
        return np.diff(self.ends, prepend=0)

    def in_order(self, order: np.ndarray) -> Positions:
        """The same ranges, those of user ``order[0]`` first, and so on; no longer ascending."""
        return Positions(self.start[order], np.cumsum(self.counts[order]))

    def __getitem__(self, index: Any) -> np.ndarray:
        """Positions by their number: an int, a slice, a mask or an index array, as numpy takes them."""
        if isinstance(index, slice) and index == slice(None):
            return ragged_ranges(self.start, self.counts)
        number = np.arange(len(self), dtype=np.int64)[index] if _needs_all(index) else np.asarray(index, dtype=np.int64)
        owner = np.searchsorted(self.ends, number, side="right")
        before = np.where(owner > 0, self.ends[owner - 1], 0)
        return self.start[owner] + number - before


def _needs_all(index: Any) -> bool:
    """Slices, masks and numbers from the end count what is there."""
    if isinstance(index, slice):
        return True
    index = np.asarray(index)
    return index.dtype.kind != "i" or bool((index < 0).any())


def ragged_ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Concatenate ``range(start[i], start[i] + count[i])`` for all i, int64."""
    total = int(count.sum())
    skipped = np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + np.arange(total, dtype=np.int64) - skipped


class HistoryData(KnownIds, Protocol):
    """A data set that is kept as histories."""

    histories: Histories


def data_fingerprint(dataset: HistoryData) -> str:
    """Sixteen hex digits that name the data a run sees: users, items and every history's order.

    ``dataset`` has ``histories`` and RecBole's ``field2id_token``. Of ready-made rows it is also each row's part.
    """
    digest = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        tokens = dataset.field2id_token[field]
        for start in range(0, len(tokens), TEXTS_AT_ONCE):
            piece = "\n".join(map(str, tokens[start : start + TEXTS_AT_ONCE]))
            digest.update(("\n" * (start > 0) + piece).encode())
    for array in (dataset.histories.items, dataset.histories.users, dataset.histories.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    if (phase := getattr(getattr(dataset, "split", None), "phase", None)) is not None:
        digest.update(phase.tobytes())
    return digest.hexdigest()[:16]
