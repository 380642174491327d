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

from recbole_scale.data.time_units import as_time
from recbole_scale.errors import UserError
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


@dataclass(frozen=True)
class Split:
    """Where each user's history is cut: train up to ``train_end``, then valid up to ``valid_end``, then test.

    Counts are per user, int64 [U]. A user's first interaction is no target. Users outside ``trains``
    (a mask [U]; None: all) are evaluated but not trained on.
    """

    train_end: np.ndarray
    valid_end: np.ndarray
    trains: np.ndarray | None = None

    @property
    def train_counts(self) -> np.ndarray:
        """Interactions of each user that training sees, int64 [U]: 0 for users it leaves out."""
        return self.train_end if self.trains is None else np.where(self.trains, self.train_end, 0)

    def ranges(self, histories: Histories, phase: str) -> Positions:
        """Positions that are targets in ``phase`` ("train", "valid", "test" or "all"), ascending."""
        lengths = histories.lengths
        first = np.minimum(1, lengths)
        begin, end = {
            "train": (first, np.maximum(self.train_counts, first)),
            "valid": (np.maximum(self.train_end, first), np.maximum(self.valid_end, first)),
            "test": (np.maximum(self.valid_end, first), lengths),
            "all": (first, lengths),
        }[phase]
        return Positions(histories.offsets[:-1] + begin, np.cumsum(end - begin))

    def targets(self, histories: Histories, phase: str) -> np.ndarray:
        """As :meth:`ranges`, every position written out, int64 [n]."""
        return self.ranges(histories, phase)[:]

    def counted(self, histories: Histories) -> np.ndarray:
        """Positions of the training part, by which items are popular; users outside ``trains`` included, int64 [n]."""
        return ragged_ranges(histories.offsets[:-1], self.train_end)

    def item_counts(self, histories: Histories, n_items: int, everybody: bool = False) -> np.ndarray:
        """Times each item occurs in the training part, of the users who train or of ``everybody``, int64 [V + 1]."""
        seen = self.counted(histories)
        if self.trains is not None and not everybody:
            seen = seen[self.trains[histories.owner(seen)]]
        return np.bincount(histories.items[seen], minlength=n_items + 1)


def ragged_ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Concatenate ``range(start[i], start[i] + count[i])`` for all i, int64."""
    total = int(count.sum())
    skipped = np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + np.arange(total, dtype=np.int64) - skipped


def split_histories(
    histories: Histories, split: dict[str, Any] | None, group_by: object = "user", times: np.ndarray | None = None
) -> Split:
    """Cut histories as RecBole cuts its rows (a row is a target with what came before it).

    Args:
        histories: what is cut.
        split: RecBole's ``eval_args.split``: ``{"LS": "valid_and_test" | "valid_only" | "test_only"}``;
            ``{"RS": [train, valid, test]}``, shares of each user's rows; or ``{"TS": [t1, t2]}``, one time line for
            all: training ends before t1, validation before t2. Times are numbers in the unit of the data, or dates.
            ``{"TS": [train, valid, test]}`` are shares of the rows in time order, equal times on one side.
        group_by: RecBole's ``eval_args.group_by``; with None, RS cuts the time line as TS does.
        times: exact times of the items, [R]; for TS.

    Raises:
        UserError: another rule, or one that leaves nothing to train on or to test.
    """
    if group_by not in (None, "none", "None", "user"):
        raise UserError(f"eval_args.group_by is '{group_by}', but must be user or None")
    entry: tuple[str, Any] = next(iter((split or {}).items()), ("", None))
    rule, value = entry
    rows = np.maximum(histories.lengths - 1, 0)
    if rule == "LS" and value in ("valid_and_test", "valid_only", "test_only"):
        held_out = np.minimum(2 if value == "valid_and_test" else 1, np.maximum(rows - 1, 0))
        n_test = {"valid_and_test": np.minimum(held_out, 1), "valid_only": 0 * held_out, "test_only": held_out}[value]
        return Split(histories.lengths - held_out, histories.lengths - n_test)
    if on_time_line(split, group_by):
        if times is None:
            raise UserError(f"eval_args.split {split} cuts the time line, and these histories have no times")
        targets = np.ones(len(times), dtype=bool)
        targets[histories.offsets[:-1][histories.lengths > 0]] = False
        cuts = time_cuts(times[targets], value)
        before = [np.r_[0, np.cumsum(times < cut)][histories.offsets] for cut in cuts]
        return Split(np.diff(before[0]), np.diff(before[1]))
    if rule == "RS" and _is_shares(value):
        train, valid = _ratio_counts(rows, [float(part) for part in value])
        first = np.minimum(histories.lengths, 1)
        return Split(first + train, first + train + valid)
    raise UserError(
        f"eval_args.split is {split}, but must be {{'LS': 'valid_and_test'}} (leave-one-out), "
        "{'RS': [0.8, 0.1, 0.1]} (each user's rows) or {'TS': [t1, t2]} (one time line for all)"
    )


def on_time_line(split: dict[str, Any] | None, group_by: object) -> bool:
    """Whether ``eval_args`` cut one time line for all users: TS, or RS without groups."""
    rule = next(iter(split or {}), "")
    return rule == "TS" or (rule == "RS" and group_by in (None, "none", "None"))


def split_in_words(split: dict[str, Any] | None, group_by: object = "user") -> str:
    """How ``eval_args`` cut, as a caption says it."""
    if not split:
        return "Ready-made split"
    rule, value = next(iter(split.items()))
    if on_time_line(split, group_by):
        cuts = "shares" if _is_shares(value) else "times"
        return f"One time line for all users, cut at {cuts} {', '.join(map(str, value))}, in exact time order"
    if rule == "LS":
        which = {"valid_only": " (valid only)", "test_only": " (test only)"}.get(value, "")
        return f"Leave-one-out{which} in exact time order"
    return f"Each user's rows split {', '.join(map(str, value))} in exact time order"


def _is_shares(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in value) and value[0] > 0


def time_cuts(times: np.ndarray, value: Any) -> tuple[float, float]:
    """The times at which validation and test begin, from ``eval_args.split``'s value of TS.

    Args:
        times: exact times of all targets, [n].
        value: two times (numbers or dates), or three shares of the targets in time order.

    Raises:
        UserError: another value, or nothing left before the first cut or after the last.
    """
    shares = _is_shares(value)
    if shares:
        train, valid = (int(count[0]) for count in _ratio_counts(np.array([len(times)]), [float(v) for v in value]))
        ordered = np.r_[np.sort(times), np.inf]
        first, last = float(ordered[train]), float(ordered[train + valid])
    elif isinstance(value, list | tuple) and len(value) == 2:
        first, last = (as_time(part, times) for part in value)
    else:
        raise UserError(
            f"eval_args.split TS is {value!r}, but must be two times [t1, t2] or three shares [0.8, 0.1, 0.1]"
        )
    low, high = (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)
    if not low < first <= last or (last > high and not shares):
        raise UserError(
            f"eval_args.split TS {value} leaves nothing to train on or nothing to test: the times of the targets run "
            f"from {low:.0f} to {high:.0f}"
        )
    return first, last


def _ratio_counts(rows: np.ndarray, ratios: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """RecBole's rounding of per-user ratios, computed once per distinct number of rows."""
    ratios = [part / sum(ratios) for part in ratios]
    distinct, inverse = np.unique(rows, return_inverse=True)
    counts = np.zeros((len(distinct), 3), dtype=np.int64)
    for i, total in enumerate(distinct.tolist()):
        count = [int(part * total) for part in ratios]
        count[0] = total - sum(count[1:])
        for part in (2, 1):  # give the last parts one row each while train keeps at least one
            if count[0] <= 1:
                break
            if 0 < ratios[part] * total < 1:
                count[part] += 1
                count[0] -= 1
        counts[i] = count
    return counts[inverse, 0], counts[inverse, 1]


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
