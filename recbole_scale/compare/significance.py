"""Is one model better than another on the same users? Paired bootstrap over users, Holm's correction. Plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Mean difference over users, its 95 % interval, and the two-sided p-value before correction."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(difference: np.ndarray, samples: int = 10_000, seed: int = 0) -> Difference:
    """Resample users and look at the mean of their differences.

    The interval is the percentile interval; p is how often a resampled mean lies as far from the observed one as that
    lies from 0 (Efron and Tibshirani 1993, chapter 16), never below 1 / (samples + 1). Users are resampled, training
    seeds are not: with few seeds, look at the standard deviation over seeds too.

    Args:
        difference: metric of one model minus that of the other, one value a user, [U].
        samples: number of resamples.
        seed: of the resampling.
    """
    difference = np.asarray(difference, dtype=np.float64)
    rng, n_users = np.random.default_rng(seed), len(difference)
    mean = float(difference.mean())
    nonzero = difference[difference != 0]  # users on whom both do the same add nothing to a resample's sum
    counts = rng.binomial(n_users, len(nonzero) / n_users, samples)  # how many of a resample's users are among these
    sums = np.zeros(samples)
    for index in np.flatnonzero(counts):
        sums[index] = nonzero[rng.integers(0, len(nonzero), counts[index])].sum()
    means = sums / n_users
    low, high = np.quantile(means, [0.025, 0.975])
    further = np.count_nonzero(np.abs(means - mean) >= abs(mean) - 1e-15)
    return Difference(mean, float(low), float(high), (1 + further) / (samples + 1))


def by_user(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """One value a user [U] with the mean of all rows [n], for resampling whole users; a user's rows are no strangers.

    Where users have several rows, the mean of a resample of users is a ratio of two sums; this is its linear part.
    """
    _, number, rows = np.unique(user, return_inverse=True, return_counts=True)
    if len(rows) == len(values):
        return values
    mean = values.mean()
    return mean + (np.bincount(number, values) - mean * rows) * len(rows) / len(values)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for being looked at together (Holm 1979, step down), in the order given."""
    n, largest = len(p_values), 0.0
    adjusted = [0.0] * n
    for place, index in enumerate(sorted(range(n), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (n - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def ndcg_at(rank: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each row [n] with one held-out item at ``rank`` (1 is best, 0: not in the list)."""
    found = (rank > 0) & (rank <= k)
    return np.where(found, 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)


def hit_at(rank: np.ndarray, k: int) -> np.ndarray:
    """HR@k of each row [n] (see :func:`ndcg_at`)."""
    return ((rank > 0) & (rank <= k)).astype(np.float64)
