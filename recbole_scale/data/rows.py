"""The interaction table that RecBole's loaders and samplers ask for, over histories: rows exist only when indexed."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_scale.data.histories import Histories, Split, ragged_ranges
from recbole_scale.errors import UserError


class SplitDataset(Protocol):
    """What rows need of a data set: histories, their split, and RecBole's names of the columns."""

    config: Any
    histories: Histories
    split: Split
    max_item_list_len: int
    uid_field: str
    iid_field: str
    item_list_length_field: str


class HistoryRows:
    """RecBole's interaction table (user, target, items before it, their number), made when it is indexed.

    The rows of ``phase`` of a split data set, one user after the other: by id, or as ``order`` (indices [U]) says.
    """

    def __init__(self, dataset: SplitDataset, phase: str, order: np.ndarray | None = None) -> None:
        self._histories = dataset.histories
        self._ascending = dataset.split.ranges(dataset.histories, phase)
        self._order = order
        self._positions = self._ascending if order is None else self._ascending.in_order(order)
        self._max_length = dataset.max_item_list_len
        self._user, self._item = dataset.uid_field, dataset.iid_field
        self._list = dataset.iid_field + dataset.config["LIST_SUFFIX"]
        self._length = dataset.item_list_length_field

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, field: str) -> bool:
        return field in self.columns

    @property
    def columns(self) -> list[str]:
        """Names of the fields of a row."""
        return [self._user, self._item, self._list, self._length]

    def sort(self, by: Any, ascending: bool = True) -> None:
        """RecBole's sampled evaluation sorts rows by user; a user's rows are in the order of time from the start."""
        if by != self._user or not ascending:
            raise UserError(f"rows are kept in the order of users and time, and cannot be sorted by {by}")
        self._positions, self._order = self._ascending, None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self._column(index)
        if isinstance(index, torch.Tensor):
            index = index.numpy()
        positions = np.atleast_1d(self._positions[index])
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
            raise KeyError(field)
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
            np.add.at(counts, self._histories.users, self._ascending.counts)  # ready-made rows repeat users
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
