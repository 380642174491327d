"""Exact times for RecBole's own tables: the order of their rows, and ``eval_args.split: {TS: ...}`` as one time line.

RecBole sorts float32 times, and its own TS splits validation per user, so that training sees what comes after it.
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
        split, sequential = arguments["split"] or {}, isinstance(self, SequentialDataset)
        if self.benchmark_filename_list is not None or not ("TS" in split or arguments["order"] == "TO"):
            return original(self)
        if self.time_field not in self.inter_feat:
            raise UserError(
                f"eval_args go by time, but '{self.dataset_name}' is read without '{self.time_field}'; "
                "name it in load_col"
            )
        if on_time_line(split, arguments["group_by"]) and (sequential or "TS" in split):
            return _built(self, next(iter(split.values())), sequential)
        _sort_by_time(self)
        return original(self)

    Dataset.build = build


def _sort_by_time(dataset: Dataset) -> None:
    """Rows by exact time, equal ones as in the file; RecBole's stable sort by rounded times leaves them so."""
    frame, time = dataset.inter_feat, dataset.time_field
    if frame[time].dtype != object:  # discretised times are pairs
        order = np.argsort(frame[time].to_numpy(), kind="stable")
        dataset.inter_feat = frame.iloc[order].reset_index(drop=True)


def _built(dataset: Dataset, value: Any, sequential: bool) -> list[Any]:
    """Train, valid and test data sets; a target's part is that of its exact time."""
    frame = dataset.inter_feat
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
