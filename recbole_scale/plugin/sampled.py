"""Rankings of sequential models among sampled items, a row at a time."""

from __future__ import annotations

import numpy as np
from recbole.data.dataloader import NegSampleEvalDataLoader


class RowByRowLoader(NegSampleEvalDataLoader):
    """RecBole's loader for uniN and popN, each held-out row ranked by itself, as the full ranking does it.

    RecBole puts all rows of a user into one list. Where a user has several (RS, TS), each has another history: scores
    of one item after different histories then stand for each other, and a target drawn for another row loses its own.
    With one row a user (LS) the batches are RecBole's.
    """

    def _init_batch_size_and_step(self) -> None:
        if self.neg_sample_args["sample_num"] != "none":
            rows = len(self._dataset)
            self.uid_list, self.uid2items_num = np.arange(rows), np.ones(rows, np.int64)
            self.uid2index = np.array([slice(row, row + 1) for row in range(rows)], dtype=object)
            self.sample_size = rows
        super()._init_batch_size_and_step()
