"""Ready-made splits (``benchmark_filename``): each row of RecBole's files, its items and its target, as it stands.

A row is kept as a short history of its own whose last item alone is a target, so that windows, ranking and masking are
those of a whole log. Rows of RecBole's own models stay RecBole's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_scale.data.histories import Histories, Positions
from recbole_scale.data.splits import Split
from recbole_scale.data.windows import Windows
from recbole_scale.errors import UserError
from recbole_scale.interfaces import DataSet

PHASES = ("train", "valid", "test")


@dataclass(frozen=True)
class RowSplit(Split):
    """Histories that are rows: the last item of each is a target of its ``phase`` [rows] (0 train, 1 valid, 2 test)."""

    phase: np.ndarray | None = None

    def ranges(self, histories: Histories, phase: str) -> Positions:
        """Positions of the targets of a part, ascending."""
        assert self.phase is not None
        wanted = np.ones(len(self.phase), bool) if phase == "all" else self.phase == PHASES.index(phase)
        if phase == "train" and self.trains is not None:
            wanted &= self.trains
        return Positions(histories.offsets[1:] - 1, np.cumsum(wanted.astype(np.int64)))

    def counted(self, histories: Histories) -> np.ndarray:
        """Positions of the training rows' targets: what stands before them is mostly another row's target."""
        return histories.offsets[1:][self.train_end > 0] - 1

    def windows(self, histories: Histories, max_length: int, rng: np.random.Generator | None) -> Windows:
        """One window a training row, of its last ``max_length`` items, that counts its target."""
        last = self.ranges(histories, "train")[:]
        last = last if rng is None else rng.permutation(last)
        start = np.maximum(histories.offsets[histories.owner(last)], last - max_length)
        return Windows(start, last - start, last - start - 1)


def rows_of(dataset: DataSet) -> tuple[Histories, RowSplit]:
    """Histories and split of the rows that RecBole has read for ``dataset``.

    Raises:
        UserError: there are no lists of items, three files, or rows with items.
    """
    frame, field = dataset.inter_feat, dataset.iid_field + dataset.config["LIST_SUFFIX"]
    if field not in frame or len(dataset.file_size_list) != 3:
        raise UserError(
            f"benchmark_filename: '{dataset.dataset_name}' must be three files (train, valid, test) with the columns "
            f"{dataset.uid_field}:token, {field}:token_seq, {dataset.iid_field}:token"
        )
    lists = frame[field].to_numpy()
    length = np.array([len(one) for one in lists], dtype=np.int64)
    if not length.all():
        raise UserError(f"benchmark_filename: row {int(length.argmin()) + 1} of '{dataset.dataset_name}' has no items")
    offsets = np.r_[0, np.cumsum(length + 1)]
    items = np.empty(offsets[-1], dtype=np.int32)
    is_target = np.zeros(offsets[-1], dtype=bool)
    is_target[offsets[1:] - 1] = True
    items[is_target] = frame[dataset.iid_field].to_numpy()
    items[~is_target] = np.concatenate(lists)
    histories = Histories(items, frame[dataset.uid_field].to_numpy().astype(np.int32), offsets)
    phase = np.repeat(np.arange(3), dataset.file_size_list)
    ends = np.where(phase == 0, length + 1, 0)
    return histories, RowSplit(ends, ends, None, phase)
