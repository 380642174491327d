"""The loaders RecBole is given: training windows under a token budget, and full ranking of valid and test rows."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction

from recbole_scale.data.dataset import HistoryDataset
from recbole_scale.data.ready_made import RowSplit
from recbole_scale.data.windows import (
    TARGET_LIST,
    Windows,
    batch_windows,
    cut_windows,
    gather_windows,
    padding_share,
)
from recbole_scale.errors import UserError


class WindowDataLoader:
    """Training batches of windows under a token budget; every interaction but a user's first is a target once a pass.

    A pass is a function of (seed, epoch) alone, so that a resumed run sees the same batches.
    ``train_batch_size`` counts positions, RecBole's rows: one prediction each.
    """

    def __init__(self, config: Any, dataset: HistoryDataset, sampler: Any = None, shuffle: bool = True) -> None:
        self.config = config
        self.shuffle = shuffle
        self._dataset = self.dataset = dataset
        self.max_length = int(config["MAX_ITEM_LIST_LENGTH"])
        self.stride = int(config["window_stride"] or self.max_length)
        if not 1 <= self.stride <= self.max_length:
            raise UserError(
                f"window_stride is {self.stride}, but must lie in 1..{self.max_length} (MAX_ITEM_LIST_LENGTH)"
            )
        self.token_budget = int(config["train_batch_size"])
        self.item_list = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Cut and batch the windows of one epoch."""
        if getattr(self, "epoch", None) == epoch:
            return
        self.epoch = epoch
        histories, split = self._dataset.histories, self._dataset.split
        rng = np.random.default_rng([int(self.config["seed"]), epoch]) if self.shuffle else None
        if isinstance(split, RowSplit):
            self.windows: Windows = split.windows(histories, self.max_length, rng)
        else:
            self.windows = cut_windows(histories.offsets[:-1], split.train_counts, self.max_length, self.stride, rng)
        self.batches = batch_windows(self.windows, self.token_budget, rng)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Interaction]:
        return (self.batch(step) for step in range(len(self)))

    def batch(self, step: int) -> Interaction:
        """Batch ``step`` of the epoch: item list [B, T] and target list [B, T]."""
        inputs, targets = gather_windows(self._dataset.histories.items, self.windows, self.batches[step])
        return Interaction({self.item_list: torch.from_numpy(inputs), TARGET_LIST: torch.from_numpy(targets)})

    def count(self, step: int) -> int:
        """Counted targets of batch ``step``."""
        index = self.batches[step]
        return int((self.windows.length[index] - self.windows.context[index]).sum())

    @property
    def n_targets(self) -> int:
        """Training targets of a pass; the same for every epoch."""
        return self.windows.n_targets

    @property
    def padding(self) -> float:
        """Share of this epoch's positions that is padding, 0..1."""
        return padding_share(self.windows, self.batches)


class HistoryEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full-ranking loader over histories; its batches know what their users had before (``seen``)."""

    _first, _every = 0, 1  # batches of this process: all

    def collate_fn(self, index: Any) -> Any:
        """One batch of rows, as RecBole's, with (row, item) pairs of the whole history when it is masked."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        interaction.seen = partial(self._dataset.inter_feat.seen_before, np.asarray(index))
        masked = interaction.seen() if self.config["mask_history"] else None
        return interaction, masked, positive_u, positive_i

    def shard(self, rank: int, world_size: int) -> HistoryEvalDataLoader:
        """A loader of every ``world_size``-th batch from batch ``rank`` on; each batch holds the same rows as here."""
        part = copy(self)
        part._first, part._every = rank, world_size
        return part

    def __bool__(self) -> bool:
        # by the rows of all processes: one without a batch must still join the others' gathering
        return self.sample_size > 0

    def __len__(self) -> int:
        return len(range(self._first * self.step, self.sample_size, self._every * self.step))

    def __iter__(self) -> Iterator[Any]:
        for start in range(self._first * self.step, self.sample_size, self._every * self.step):
            yield self.collate_fn(np.arange(start, min(start + self.step, self.sample_size)))
