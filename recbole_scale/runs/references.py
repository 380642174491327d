"""Losses that need no model, to measure a run's against: uniform guessing, popularity, and the last item alone."""

from __future__ import annotations

import numpy as np

from recbole_scale.interfaces import DataSet
from recbole_scale.runs.records import RunRow

SMOOTHING = 1.0  # added to every item's count, so that an item no training row holds is possible
WEIGHTS = np.geomspace(1.0, 1e5, 21)  # pairs that popularity counts for beside those seen; the best on valid is taken
_STEP = 1 << 24  # interactions looked at together


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
    # item ids count from 1; positions before each user's cut are what training sees
    place = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], histories.lengths)
    seen = place < np.repeat(split.train_counts, histories.lengths)
    counts = split.item_counts(histories, items)[1:] + SMOOTHING
    share = np.concatenate([[0.0], counts / counts.sum()])
    known["popularity_nll"] = _loss(share[histories.items[test]])
    asked = np.concatenate([valid, test])
    asked = asked[place[asked] > 0]  # what follows nothing has no last item
    of_valid = len(valid) - int((place[valid] == 0).sum())
    pairs, of_last = _pairs(histories.items, seen & (place > 0), asked, items + 1)
    mixed = (pairs + WEIGHTS[:, None] * share[histories.items[asked]]) / (of_last + WEIGHTS[:, None])  # [W, n]
    losses = [_loss(one[:of_valid] if of_valid else one) for one in mixed]
    if of_valid < len(asked):
        known["markov_nll"] = _loss(mixed[int(np.argmin(losses)), of_valid:])
    return known


def _loss(chances: np.ndarray) -> float:
    return float(-np.log(chances).mean())


def _pairs(items: np.ndarray, inside: np.ndarray, asked: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How often the items at ``asked`` follow the one before them in training, and how often that has a follower."""
    wanted, at = np.unique(items[asked - 1].astype(np.int64) * width + items[asked], return_inverse=True)
    found, last = np.zeros(len(wanted)), np.zeros(width)
    for begin in range(0, len(items), _STEP):
        here = begin + np.flatnonzero(inside[begin : begin + _STEP])
        codes = items[here - 1].astype(np.int64) * width + items[here]
        near = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
        found += np.bincount(near[wanted[near] == codes], minlength=len(wanted))
        last += np.bincount(items[here - 1], minlength=width)
    return found[at], last[items[asked - 1]]
