"""Where histories are cut into train, valid and test, as RecBole's ``eval_args`` say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_scale.data.histories import Histories, Positions, ragged_ranges
from recbole_scale.data.time_units import as_time
from recbole_scale.errors import UserError


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
