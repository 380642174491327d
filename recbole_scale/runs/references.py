"""Losses that need no model, to measure a run's against: uniform guessing, popularity, and the last item alone."""

from __future__ import annotations

import numpy as np

from recbole_scale.data.histories import Positions
from recbole_scale.interfaces import DataSet
from recbole_scale.runs.records import RunRow

SMOOTHING = 1.0  # added to every item's count, so that an item no training row holds is possible
WEIGHTS = np.geomspace(1.0, 1e5, 21)  # pairs that popularity counts for beside those seen; the best on valid is taken
_STEP = 1 << 22  # interactions looked at together


def reference_losses(dataset: DataSet) -> RunRow:
    """Columns ``uniform_nll``, ``popularity_nll`` and ``markov_nll``, nats per test interaction.

    Popularity: items in proportion to their training interactions plus one, the first of each user included. Markov:
    what followed the last item in training, mixed with popularity (Dirichlet prior, its weight by the valid loss).
    None for a data set that is not kept as histories, or where the test rows are none.
    """
    items = int(dataset.item_num) - 1
    known: RunRow = {"uniform_nll": float(np.log(items)), "popularity_nll": None, "markov_nll": None}
    histories, split = getattr(dataset, "histories", None), getattr(dataset, "split", None)
    if histories is None or split is None:
        return known
    test, valid = (split.targets(histories, phase) for phase in ("test", "valid"))
    if not len(test):
        return known
    counts = split.item_counts(histories, items)[1:] + SMOOTHING
    share = np.concatenate([[0.0], counts / counts.sum()])
    known["popularity_nll"] = _loss(share[histories.items[test]])
    asked = np.concatenate([valid, test])
    pairs, of_last = _pairs(histories.items, split.ranges(histories, "train"), asked, items + 1)

    def mixed(weight: float, part: slice) -> float:
        return _loss((pairs[part] + weight * share[histories.items[asked[part]]]) / (of_last[part] + weight))

    best = min(WEIGHTS, key=lambda weight: mixed(weight, slice(len(valid) or None)))
    known["markov_nll"] = mixed(best, slice(len(valid), None))
    return known


def _loss(chances: np.ndarray) -> float:
    return float(-np.log(chances).mean())


def _pairs(items: np.ndarray, trained: Positions, asked: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How often the items at ``asked`` follow the one before them in training, and how often that has a follower."""
    wanted, at = np.unique(items[asked - 1].astype(np.int64) * width + items[asked], return_inverse=True)
    found, last = np.zeros(len(wanted)), np.zeros(width)
    for begin in range(0, len(trained), _STEP):
        here = trained[np.arange(begin, min(begin + _STEP, len(trained)))]
        codes = items[here - 1].astype(np.int64) * width + items[here]
        near = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
        found += np.bincount(near[wanted[near] == codes], minlength=len(wanted))
        last += np.bincount(items[here - 1], minlength=width)
    return found[at], last[items[asked - 1]]
