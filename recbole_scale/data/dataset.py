"""RecBole's view of our histories: a dataset whose rows are built on demand, and the loader of training windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_scale.data.atomic import read_atomic, read_header
from recbole_scale.data.histories import Histories, Split, split_histories
from recbole_scale.data.windows import (
    TARGET_LIST,
    Windows,
    batch_windows,
    cut_windows,
    gather_windows,
    padding_share,
)
from recbole_scale.errors import UserError, nearest


class HistoryRows:
    """RecBole's interaction table (user, target, items before it, their number), made when it is indexed."""

    def __init__(self, dataset: HistoryDataset, positions: np.ndarray) -> None:
        self._histories = dataset.histories
        self._positions = positions
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
        """RecBole's sampled evaluation sorts rows by user; they are in that order from the start."""
        if by != self._user or not ascending:
            raise UserError(f"rows are kept in the order of users and time, and cannot be sorted by {by}")

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
        values = self._users(self._positions) if field == self._user else self._histories.items[self._positions]
        return torch.from_numpy(values.astype(np.int64))

    def _users(self, positions: np.ndarray) -> np.ndarray:
        return self._histories.users[self._histories.owner(positions)].astype(np.int64)

    def seen_before(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Every earlier item of the rows' users but the target itself: (row number, item id), each [n]."""
        positions = self._positions[index]
        start = self._histories.offsets[self._histories.owner(positions)]
        pairs = [(row, self._histories.items[s:p]) for row, (s, p) in enumerate(zip(start, positions, strict=True))]
        target = self._histories.items[positions]
        pairs = [(row, items[items != target[row]]) for row, items in pairs]
        rows = np.concatenate([np.full(len(items), row, dtype=np.int64) for row, items in pairs])
        return torch.from_numpy(rows), torch.from_numpy(np.concatenate([i for _, i in pairs]).astype(np.int64))


class HistoryDataset(SequentialDataset):
    """A RecBole sequential dataset of ids only, kept as histories; rows equal RecBole's, but exist only when asked for.

    Reading, filtering and remapping are RecBole's. ``build`` returns train, valid and test views of one set of
    histories, so that memory is O(interactions).
    """

    histories: Histories
    split: Split
    phase: str
    inter_feat: Any  # a DataFrame until ``build``, HistoryRows after

    def build(self) -> list[HistoryDataset]:
        """Sort by exact time, split each user's history, and return the train, valid and test views."""
        if self.benchmark_filename_list is not None:
            raise UserError("ScaledSASRec reads one .inter file and splits it itself; benchmark_filename is not taken")
        if self.config["eval_args"]["order"] != "TO":
            raise UserError("a sequential model needs eval_args.order: TO (time order)")
        self._check_time()
        frame = self.inter_feat
        self.histories = Histories.from_columns(
            frame[self.uid_field].to_numpy(), frame[self.iid_field].to_numpy(), frame[self.time_field].to_numpy()
        )
        self.split = split_histories(self.histories.lengths, self.config["eval_args"]["split"])
        self._aug_presets()
        everything = np.concatenate([self.split.targets(self.histories, p) for p in ("train", "valid", "test")])
        self.inter_feat = HistoryRows(self, np.sort(everything))
        return [self._view(phase) for phase in ("train", "valid", "test")]

    def _check_time(self) -> None:
        if self.time_field is None or self.time_field not in self.inter_feat:
            raise UserError(
                f"data set '{self.dataset_name}' has no time column: TIME_FIELD is '{self.time_field}', the columns "
                f"read are {', '.join(self.inter_feat)}{nearest(str(self.time_field), self.inter_feat)}"
            )

    def _aug_presets(self) -> None:
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.set_field_property(list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _view(self, phase: str) -> HistoryDataset:
        view: HistoryDataset = self.copy(HistoryRows(self, self.split.targets(self.histories, phase)))
        view.phase = phase
        return view

    def counter(self, field: str) -> Counter:
        """How often each id of ``field`` occurs, as RecBole counts: over the rows' targets."""
        values = self.inter_feat[field]
        values = values.to_numpy() if isinstance(values, pd.Series) else values.numpy()
        ids, counts = np.unique(values, return_counts=True)
        return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))

    @property
    def avg_actions_of_users(self) -> float:
        """Mean number of interactions (rows, after ``build``) per user."""
        return len(self.inter_feat) / max(len(self.user_counter), 1)

    @property
    def avg_actions_of_items(self) -> float:
        """Mean number of interactions (rows, after ``build``) per item."""
        return len(self.inter_feat) / max(len(self.item_counter), 1)


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
        self.windows: Windows = cut_windows(histories.offsets[:-1], split.train_end, self.max_length, self.stride, rng)
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
    """RecBole's full-ranking loader; with ``mask_history: True`` it also hands out the items to leave out."""

    def collate_fn(self, index: Any) -> Any:
        """One batch of rows, as RecBole's, with (row, item) pairs of the whole history when it is masked."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        if not self.config["mask_history"]:
            return interaction, None, positive_u, positive_i
        return interaction, self._dataset.inter_feat.seen_before(np.asarray(index)), positive_u, positive_i


def load_interactions(dataset: Any, path: str, source: Any, columns: list[str]) -> pd.DataFrame:
    """Read an atomic file for a RecBole dataset and note the fields' types there, as RecBole's own reader does.

    Lines with an empty user or item, or a time that is not a finite number, are errors with line and column.
    """
    separator = dataset.config["field_separator"]
    fields = read_header(path, separator)
    required = tuple(f for f in (dataset.uid_field, dataset.iid_field, dataset.time_field) if f in columns)
    frame = read_atomic(path, columns, separator, required)
    for name in columns:
        kind = FeatureType(fields[name])
        dataset.field2source[name] = source
        dataset.field2type[name] = kind
        dataset.field2seqlen[name] = 1
        if kind == FeatureType.FLOAT:
            dataset.field2bucketnum[name] = 2
    return frame
