"""One time line for RecBole's own tables: its build with ``eval_args.split: {TS: ...}`` cut at exact times.

RecBole's own TS splits validation per user at rounded times, so that training sees what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_scale.data.splits import on_time_line, time_cuts
from recbole_scale.errors import UserError


def install() -> None:
    """Replace RecBole's build; its other splits go on as they are."""
    original: Callable[[Any], list[Any]] = Dataset.build

    def build(self: Any) -> list[Any]:
        arguments = self.config["eval_args"]
        split, sequential = arguments["split"], isinstance(self, SequentialDataset)
        wanted = isinstance(split, dict) and on_time_line(split, arguments["group_by"])
        if not wanted or not (sequential or "TS" in split) or self.benchmark_filename_list is not None:
            return original(self)
        return _built(self, next(iter(split.values())), sequential)

    Dataset.build = build


def _built(dataset: Dataset, value: Any, sequential: bool) -> list[Any]:
    """Train, valid and test data sets; a target's part is that of its exact time."""
    frame = dataset.inter_feat
    if dataset.time_field not in frame:
        raise UserError(
            f"eval_args.split TS cuts the time line, but '{dataset.dataset_name}' is read without "
            f"'{dataset.time_field}'; name it in load_col"
        )
    times = frame[dataset.time_field].to_numpy()
    if sequential:  # RecBole makes a row of every interaction but a user's first, by user and time
        users = frame[dataset.uid_field].to_numpy()
        order = np.lexsort((times, users))
        users, times = users[order], times[order]
        times = times[np.r_[False, users[1:] == users[:-1]]]
    cuts = time_cuts(times, value)
    dataset._change_feat_format()
    dataset._drop_unused_col()
    order = np.argsort(times, kind="stable")
    ends = np.searchsorted(times[order], cuts)
    return [dataset.copy(dataset.inter_feat[part]) for part in np.split(order, ends)]
