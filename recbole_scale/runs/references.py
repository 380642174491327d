"""Losses that need no model, to measure a run's against: uniform guessing and popularity."""

from __future__ import annotations

import numpy as np

from recbole_scale.interfaces import DataSet
from recbole_scale.runs.records import RunRow

SMOOTHING = 1.0  # added to every item's count, so that an item no training row holds is possible


def reference_losses(dataset: DataSet) -> RunRow:
    """Columns ``uniform_nll`` and ``popularity_nll``, nats per test interaction.

    Popularity: items in proportion to their training interactions plus one, the first of each user included. None for
    a data set that is not kept as histories, or where the test rows are none.
    """
    items = int(dataset.item_num) - 1
    known: RunRow = {"uniform_nll": float(np.log(items)), "popularity_nll": None}
    histories, split = getattr(dataset, "histories", None), getattr(dataset, "split", None)
    if histories is None or split is None:
        return known
    targets = histories.items[split.targets(histories, "test")]
    if not len(targets):
        return known
    counts = split.item_counts(histories, items)[1:] + SMOOTHING
    known["popularity_nll"] = float(np.log(counts.sum()) - np.log(counts[targets - 1]).mean())
    return known
