"""The one shape of all challenges: named sets of cases (user, history, target or targets, group). Plain numpy.

A *ragged* array is a flat array with offsets: row ``i`` owns places ``offsets[i]`` to ``offsets[i + 1]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from recbole_scale.data.histories import Histories, gather_padded, ragged_ranges
from recbole_scale.data.splits import Split


@dataclass(frozen=True)
class Cases:
    """One set of cases; every case is scored by itself.

    Attributes:
        challenge: name of the challenge.
        setting: what is special about this set ("diff", "delete"), one curve or bar colour of a figure.
        level: the setting's strength (noise ratio, history length), None where it has none.
        case: number of the case among the data set's test rows, int64 [n]; equal numbers are the same case.
        user: id of each case's user, int64 [n].
        items: histories, oldest item first, ragged int32.
        offsets: case ``i`` has history ``items[offsets[i]:offsets[i + 1]]``, int64 [n + 1].
        target: the held-out item, or items in time order, int64 [n, W].
        groups: names of groupings, each with a label per case [n]: every grouping partitions the cases.
        seed: seed of what was drawn at random, else None; sets that differ in the seed alone are averaged.
        dropped: cases left out, counted by reason.
        fewest: cases of the smallest set that Coverage is compared with, where sets hold different cases.
    """

    challenge: str
    setting: str
    level: float | None
    case: np.ndarray
    user: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    target: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    fewest: int | None = None

    def __len__(self) -> int:
        return len(self.case)

    @property
    def lengths(self) -> np.ndarray:
        """Items of each history, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> np.ndarray:
        """Case (0..n-1) of each item of the flat array, int64 [R]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def history(self, index: int) -> np.ndarray:
        """History of one case."""
        return self.items[self.offsets[index] : self.offsets[index + 1]]

    def take(self, index: np.ndarray) -> Cases:
        """Some cases, by index or mask [n]."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        count = self.lengths[index]
        return replace(
            self,
            case=self.case[index],
            user=self.user[index],
            items=self.items[ragged_ranges(self.offsets[:-1][index], count)],
            offsets=ends_of(count),
            target=self.target[index],
            groups={name: labels[index] for name, labels in self.groups.items()},
        )

    def last(self, length: int | np.ndarray) -> Cases:
        """The same cases with the last ``length`` items of each history, one number or one a case [n]."""
        count = np.minimum(self.lengths, length)
        return replace(self, items=self.items[ragged_ranges(self.offsets[1:] - count, count)], offsets=ends_of(count))

    def keep_items(self, kept: np.ndarray) -> Cases:
        """The same cases without some items of their histories; ``kept`` is a mask [R]."""
        return replace(self, items=self.items[kept], offsets=np.r_[0, np.cumsum(kept)][self.offsets])

    def named(self, challenge: str, setting: str, level: float | None = None) -> Cases:
        """The same cases under another name."""
        return replace(self, challenge=challenge, setting=setting, level=level)

    def padded(self, index: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The last ``width`` items of some histories, padded with 0 on the right.

        Returns:
            item ids int64 [B, width] and true lengths int64 [B]: RecBole's rows.
        """
        ends = self.offsets[1:][index]
        length = np.minimum(ends - self.offsets[:-1][index], width)
        return gather_padded(self.items, ends - length, length, width), length


def ends_of(count: np.ndarray) -> np.ndarray:
    """Offsets [n + 1] of a ragged array with ``count`` [n] places a row."""
    return np.r_[0, np.cumsum(count)].astype(np.int64)


def leave_one_out(histories: Histories, split: Split, phase: str = "test") -> Cases:
    """Cases of a data set's own split: each held-out interaction with everything of its user before it."""
    positions = split.targets(histories, phase)
    owner = histories.owner(positions)
    start = histories.offsets[owner]
    return Cases(
        challenge="overall",
        setting="test",
        level=None,
        case=np.arange(len(positions)),
        user=histories.users[owner].astype(np.int64),
        items=histories.items[ragged_ranges(start, positions - start)],
        offsets=ends_of(positions - start),
        target=histories.items[positions].astype(np.int64)[:, None],
    )
