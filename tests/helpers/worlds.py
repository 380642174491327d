"""Rows of four made-up worlds whose answer is known: bigger pays, it does not, nothing is learnt, nobody can know.

Nothing is trained: losses and HR@10 lie on a known curve of N, with the noise of a seed and of a shape on top.
"""

from __future__ import annotations

import math

import numpy as np
from study_rows_made import ITEMS, made_row

LADDER = ((2, 16), (2, 32), (2, 64), (4, 64), (4, 128), (8, 128))
FEW = ((2, 32), (2, 64), (4, 64))


def hits_that_pay(n: float) -> float:
    """HR@10 that grows by 5 to 10 in 1,000 with each doubling, far beyond the ladder."""
    return 0.40 / (1 + (2e4 / n) ** 0.25)


def hits_that_do_not(n: float) -> float:
    """HR@10 that is all there at the largest sizes."""
    return 0.21 / (1 + (2e3 / n) ** 1.2)


def world(name: str, seed: int) -> list[dict]:
    """Rows of one world: ``pays``, ``does not``, ``nothing learnt`` or ``cannot be known``."""
    rng = np.random.default_rng([seed, len(name)])
    if name == "pays":
        return _rows(rng, LADDER, hits_that_pay, lambda n: 5.0 + (900.0 / n) ** 0.25, 0.003)
    if name == "does not":
        return _rows(rng, LADDER, hits_that_do_not, lambda n: 5.6 + (900.0 / n) ** 1.2, 0.003, spread=0.008)
    if name == "nothing learnt":
        return _rows(rng, LADDER, lambda n: 10 / ITEMS, lambda n: math.log(ITEMS), 0.0005, spread=0.3)
    assert name == "cannot be known"
    return _rows(rng, FEW, hits_that_pay, lambda n: 5.0 + (900.0 / n) ** 0.25, 0.012, seeds=(1, 2), spread=0.05)


def _rows(rng, shapes, hits, loss, noise, seeds=(1, 2, 3), spread=0.01) -> list[dict]:
    """``noise``: of a run's log loss; ``spread``: of its log HR@10."""
    found = []
    for shape in shapes:
        n = 12 * shape[0] * shape[1] ** 2
        for seed in seeds:
            nll = loss(n) * math.exp(noise * rng.standard_normal())
            hit = hits(n) * math.exp(spread * rng.standard_normal())
            tests = {"recall@10": hit, "ndcg@10": 0.5 * hit}
            found.append(made_row(shape, seed, test_nll=nll, best_valid_nll=nll - 0.05, test_metrics=tests,
                                  n_items=ITEMS, n_users=6040))  # fmt: skip
    return found
