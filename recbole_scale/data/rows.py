"""The interaction table that RecBole's loaders and samplers ask for, over histories: rows exist only when indexed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_scale.data.histories import Histories, Positions, ragged_ranges
from recbole_scale.data.splits import Split
from recbole_scale.interfaces import RunConfig


class SplitDataset(Protocol):
    """What rows need of a data set: histories, their split, and RecBole's names of the columns."""

    config: RunConfig
    histories: Histories
    split: Split
    max_item_list_len: int
    uid_field: str
    iid_field: str
    item_list_length_field: str


class HistoryRows:
    """RecBole's interaction table (user, target, items before it, their number), made when it is indexed.

    The rows of ``phase`` of a split data set, one user after the other: by id, or as ``order`` (indices [U]) says; of
    the users ``drawn`` (indices [n], ascending) alone where they are given.
    Whatever else is asked of it (``interaction``, ``numpy()``, ``shuffle()``, a list column) makes the whole table.
    """

    _table: Any = None  # RecBole's, once somebody has asked for what only that has

    def __init__(
        self, dataset: SplitDataset, phase: str, order: np.ndarray | None = None, drawn: np.ndarray | None = None
    ) -> None:
        self._histories, self._split, self._phase = dataset.histories, dataset.split, phase
        self._drawn, self._order = drawn, drawn if order is None else order
        if order is not None and drawn is not None:
            kept = np.zeros(len(order), dtype=bool)
            kept[drawn] = True
            self._order = order[kept[order]]
        self._max_length = dataset.max_item_list_len
        self._user, self._item = dataset.uid_field, dataset.iid_field
        self._list = dataset.iid_field + dataset.config["LIST_SUFFIX"]
        self._length = dataset.item_list_length_field
        self._time, self._times = dataset.config["TIME_FIELD"], getattr(dataset, "times", None)

    @cached_property
    def _positions(self) -> Positions:
        found = self._split.ranges(self._histories, self._phase)
        return found if self._order is None else found.in_order(self._order)

    def __len__(self) -> int:
        return len(self._positions) if self._table is None else len(self._table)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getattr__(self, name: str) -> Any:
        """What rows on demand do not have, the table has."""
        if name.startswith("_") or name not in [*dir(Interaction), "interaction", "length"]:
            raise AttributeError(f"rows have no attribute '{name}'")
        return getattr(self.table(), name)

    def table(self) -> Any:
        """RecBole's interaction table, all rows written out, times with them: O(rows x length)."""
        if self._table is None:
            positions = self._positions[:]
            table = self.at(positions)
            if self._times is not None:
                start = positions - table[self._length].numpy()
                column = np.arange(self._max_length)
                index = np.minimum(start[:, None] + column, max(len(self._times) - 1, 0))
                before = np.where(column < table[self._length].numpy()[:, None], self._times[index], 0)
                table.update(Interaction({self._time: torch.from_numpy(self._times[positions].astype(np.float32))}))
                lists = torch.from_numpy(before.astype(np.float32))
                table.update(Interaction({self._time + self._list.removeprefix(self._item): lists}))
            self._table = table
        return self._table

    def __contains__(self, field: str) -> bool:
        return field in self.columns

    @property
    def columns(self) -> list[str]:
        """Names of the fields of a row."""
        if self._table is not None:
            return list(self._table.columns)
        return [self._user, self._item, self._list, self._length]

    def sort(self, by: Any, ascending: bool = True) -> None:
        """RecBole's sampled evaluation sorts rows by user; a user's rows are in the order of time from the start."""
        if by != self._user or not ascending or self._table is not None:
            self.table().sort(by=by, ascending=ascending)
            return
        self._order = self._drawn
        vars(self).pop("_positions", None)

    def __getitem__(self, index: Any) -> Any:
        if self._table is not None:
            return self._table[index]
        if isinstance(index, str):
            return self._column(index)
        if isinstance(index, torch.Tensor):
            index = index.numpy()
        return self.at(np.atleast_1d(self._positions[index]))

    def at(self, positions: np.ndarray) -> Any:
        """Rows of the targets at some positions of the histories, [n]."""
        rows, length = self._histories.inputs_before(positions, self._max_length)
        return Interaction(
            {
                self._user: torch.from_numpy(self._users(positions)),
                self._item: torch.from_numpy(self._histories.items[positions].astype(np.int64)),
                self._list: torch.from_numpy(rows),
                self._length: torch.from_numpy(length),
            }
        )

    def _column(self, field: str) -> torch.Tensor:
        if field not in (self._user, self._item):
            return self.table()[field]
        if field == self._user:
            users = self._histories.users if self._order is None else self._histories.users[self._order]
            values = np.repeat(users, self._positions.counts)
        else:
            values = self._histories.items[self._positions[:]]
        return torch.from_numpy(values.astype(np.int64))

    def counts(self, field: str) -> np.ndarray:
        """How many rows have each id (0, 1, ...) of the user or item field."""
        if field == self._user:
            counts = np.zeros(int(self._histories.users.max(initial=0)) + 1, dtype=np.int64)
            users = self._histories.users if self._order is None else self._histories.users[self._order]
            np.add.at(counts, users, self._positions.counts)  # ready-made rows repeat users
            return counts
        return np.bincount(self._histories.items[self._positions[:]])

    def _users(self, positions: np.ndarray) -> np.ndarray:
        return self._histories.users[self._histories.owner(positions)].astype(np.int64)

    def seen_before(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Every earlier item of the rows' users but the target itself: (row number, item id), each [n]."""
        positions = self._positions[index]
        start = self._histories.offsets[self._histories.owner(positions)]
        row = np.repeat(np.arange(len(positions)), positions - start)
        items = self._histories.items[ragged_ranges(start, positions - start)].astype(np.int64)
        others = items != self._histories.items[positions][row]
        return torch.from_numpy(row[others]), torch.from_numpy(items[others])
