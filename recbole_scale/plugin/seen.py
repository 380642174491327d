"""What each user had before an evaluated row, so that a ranking can leave it out, for any RecBole data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from torch import Tensor

from recbole_scale.data.histories import ragged_ranges
from recbole_scale.interfaces import Batch

Pairs = tuple[Tensor, Tensor]  # (row, item), each [n]


class SeenItems:
    """Items of each user in the parts of a split before an evaluated one.

    Args:
        earlier: the built data sets of those parts.
        n_users: users, padding included.
    """

    def __init__(self, earlier: list[Any], n_users: int) -> None:
        users, items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part in earlier:
            rows, user, item = part.inter_feat, part.uid_field, part.iid_field
            columns = [rows[item].numpy()]
            if (lists := item + part.config["LIST_SUFFIX"]) in rows.columns:
                columns.append(rows[lists][:, 0].numpy())  # a user's very first item is nobody's target
            for column in columns:
                users.append(rows[user].numpy())
                items.append(column)
        user = np.concatenate(users)
        self._items = np.concatenate(items)[np.argsort(user, kind="stable")]
        self._ends = np.cumsum(np.bincount(user, minlength=n_users))

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, item) of everything that ``users`` [B] had."""
        start = np.where(users > 0, self._ends[users - 1], 0)
        count = self._ends[users] - start
        return np.repeat(np.arange(len(users)), count), self._items[ragged_ranges(start, count)]


def note_earlier_parts(built: list[Any]) -> None:
    """Tell the valid and test parts of a split which parts came before them."""
    for place, part in enumerate(built[1:], 1):
        part.earlier_parts = list(built[:place])


def seen_pairs(dataset: Dataset, interaction: Batch) -> Callable[[], Pairs] | None:
    """What gives the (row, item) pairs that the users of a batch had before its rows; None where nothing says."""
    earlier = getattr(dataset, "earlier_parts", None)
    if earlier is None:
        return None

    def pairs() -> Pairs:
        if getattr(dataset, "seen_items", None) is None:
            dataset.seen_items = SeenItems(earlier, dataset.user_num)
        row, item = dataset.seen_items.of(interaction[dataset.uid_field].numpy())
        lists = dataset.iid_field + dataset.config["LIST_SUFFIX"]
        if lists in interaction.columns:  # rows of the same part too: what this one was given
            own_row, place = interaction[lists].numpy().nonzero()
            row, item = np.r_[row, own_row], np.r_[item, interaction[lists].numpy()[own_row, place]]
        return torch.from_numpy(row), torch.from_numpy(item)

    return pairs
