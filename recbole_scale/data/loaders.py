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
from recbole.data.transform import construct_transform

from recbole_scale.data.dataset import HistoryDataset
from recbole_scale.data.ready_made import RowSplit
from recbole_scale.data.windows import (
    TARGET_LIST,
    TARGET_PLACES,
    Windows,
    batch_windows,
    cut_windows,
    deal,
    fixed_widths,
    gather_windows,
    padding_share,
    widths_of,
)
from recbole_scale.errors import UserError
from recbole_scale.interfaces import DataSet, RunConfig


class WindowDataLoader:
    """Training batches of windows under a token budget; every interaction but a user's first is a target once a pass.

    A pass is a function of (seed, epoch) alone, so that a resumed run sees the same batches.
    ``train_batch_size`` counts positions, RecBole's rows: one prediction each. For ``compile: graphs`` batches have a
    few shapes only, each of one width and one number of rows, padded with empty rows where windows run out.
    """

    def __init__(self, config: RunConfig, dataset: HistoryDataset, sampler: Any = None, shuffle: bool = True) -> None:
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
        self.widths = fixed_widths(self.max_length) if config["compile"] == "graphs" else None
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
        self.batches = batch_windows(self.windows, self.token_budget, rng, self.widths)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Interaction]:
        return (self.batch(step) for step in range(len(self)))

    def batch(self, step: int) -> Interaction:
        """Batch ``step`` of the epoch: item list and target list [B, T], and where the M targets lie in the latter."""
        return self._gather(self.batches[step], self._shape(self.batches[step]))

    def _shape(self, index: np.ndarray, pieces: int = 1, world: int = 1) -> tuple[int, int]:
        """Rows and width of what one of ``world`` processes is given at once of batch ``index``, at most."""
        width = int(widths_of(self.windows.length[index].max(), self.widths))
        rows = len(index) if self.widths is None else max(1, self.token_budget // width)
        return -(-rows // (pieces * world)), width

    def _gather(self, index: np.ndarray, shape: tuple[int, int] | None) -> Interaction:
        inputs, targets = gather_windows(self._dataset.histories.items, self.windows, index, shape)
        made = {self.item_list: inputs, TARGET_LIST: targets, TARGET_PLACES: np.flatnonzero(targets)}
        return Interaction({name: torch.from_numpy(array) for name, array in made.items()})

    def parts(self, step: int, pieces: int = 1, rank: int = 0, world: int = 1) -> list[tuple[Interaction, float]]:
        """What process ``rank`` of ``world`` trains of batch ``step``: its windows of each of ``pieces``, with weights.

        A mean over the targets of a part times its weight, summed over parts and averaged over processes, is the mean
        over the batch's targets. A process without windows in a piece repeats one of them with weight 0, so that all
        go through equally many parts. No other process's windows are built.
        """
        index = self.batches[step]
        counts = self._counts(step)
        shape = None if self.widths is None else self._shape(index, pieces, world)
        found = []
        for piece in np.array_split(np.arange(len(index)), min(pieces, len(index))):
            mine = piece[deal(counts[piece], rank, world)]
            weight = int(counts[mine].sum()) * world / int(counts.sum())
            found.append((self._gather(index[mine if len(mine) else piece[:1]], shape), weight))
        return found

    def _counts(self, step: int) -> np.ndarray:
        index = self.batches[step]
        return self.windows.length[index] - self.windows.context[index]

    def count(self, step: int) -> int:
        """Counted targets of batch ``step``."""
        return int(self._counts(step).sum())

    @property
    def n_targets(self) -> int:
        """Training targets of a pass; the same for every epoch."""
        return self.windows.n_targets

    @property
    def padding(self) -> float:
        """Share of this epoch's positions that is padding, 0..1."""
        return padding_share(self.windows, map(self._shape, self.batches))


class HistoryEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full-ranking loader over histories; its batches know what their users had before (``seen``)."""

    _first, _every = 0, 1  # batches of this process: all

    def __init__(self, config: RunConfig, dataset: DataSet, sampler: Any, shuffle: bool = False) -> None:
        """As RecBole's constructors, which would write out a list of all row numbers, twice."""
        self.shuffle, self.config, self._dataset, self._sampler = False, config, dataset, sampler
        self.uid_field, self.iid_field, self.is_sequential = dataset.uid_field, dataset.iid_field, True
        self.model, self.transform = None, construct_transform(config)
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self.sample_size = len(dataset)
        self._init_batch_size_and_step()
        if not config["single_spec"]:
            self.step: int = max(1, config["eval_batch_size"] // config["world_size"])
        rows: Any = range(self.sample_size)
        torch.utils.data.DataLoader.__init__(
            self, rows, batch_size=self.step, collate_fn=self.collate_fn, generator=self.generator
        )

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
