"""From ranks to metrics with 95 % intervals: a bootstrap over users, the same resamples for every model and setting.

Because the resamples are shared, ratios of two estimates of the same users (gain of a larger model, degradation under
noise) are paired, and their intervals are those of the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import gammaln

from recbole_scale.challenges.options import RESAMPLES

CUTOFFS = (5, 10, 50)


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its resampled values [S], and how many cases it is of."""

    value: float
    samples: np.ndarray
    n: int
    draw_error: float | None = None  # standard error of the value over the draws of what was drawn at random

    def interval(self) -> tuple[float, float]:
        """Percentiles 2.5 and 97.5 of the resamples."""
        return percentiles(self.samples)

    def relative_to(self, other: Estimate) -> Estimate:
        """``self / other - 1``, NaN where the other is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.append(self.samples, self.value) / np.append(other.samples, other.value) - 1.0
        ratios[~np.isfinite(ratios)] = np.nan
        return Estimate(float(ratios[-1]), ratios[:-1], self.n)


def percentiles(samples: np.ndarray) -> tuple[float, float]:
    """95 % of the samples lie between; NaN where there are none."""
    known = samples[np.isfinite(samples)]
    if not len(known):
        return float("nan"), float("nan")
    lower, upper = np.percentile(known, [2.5, 97.5])
    return float(lower), float(upper)


def case_metrics(rank: np.ndarray, nll: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of single cases, each [n]: hr@k and ndcg@k of one target, mrr over the whole list, nll in nats."""
    found: dict[str, np.ndarray] = {}
    for k in CUTOFFS:
        found[f"hr@{k}"] = (rank <= k).astype(np.float64)
    for k in CUTOFFS:
        found[f"ndcg@{k}"] = np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)
    return found | {"mrr": 1.0 / rank, "nll": nll}


def resampled_users(n_users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is drawn, float64 [s, U], in parts of all ``resamples``; a function of the arguments."""
    rng = np.random.default_rng([seed, n_users])
    step = max(1, (1 << 19) // max(n_users, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n_users, (rows, n_users)) + n_users * np.arange(rows)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=rows * n_users).reshape(rows, n_users).astype(np.float64)


def estimate(
    metrics: dict[str, np.ndarray],
    user: np.ndarray,
    top: np.ndarray | None = None,
    n_items: int = 0,
    resamples: int = RESAMPLES,
    seed: int = 0,
    fewest: int | None = None,
) -> dict[str, Estimate]:
    """Mean of each metric over the cases, and Coverage@k of the lists ``top``, each with resamples over users.

    Coverage@k is the share of all items that are in some case's list. A resample holds fewer distinct users than the
    data and so covers fewer items whatever the model does; its resamples are moved so that their mean is the value.
    More lists cover more, so groups of different size are compared by the share that ``fewest`` of the lists, drawn
    without replacement, cover on average (``coverage@k_rarefied``; Hurlbert 1971).

    Args:
        metrics: values of single cases, each [n].
        user: id of each case's user, [n]; a user's cases are drawn together.
        top: best items of each case, [n, k].
        n_items: V.
        resamples: S.
        seed: of the resamples.
        fewest: cases of the smallest group that these are compared with; None: with no other.
    """
    _, number, cases_of = np.unique(user, return_inverse=True, return_counts=True)
    columns = list(metrics.values())
    sums = np.array([np.bincount(number, column, len(cases_of)) for column in columns]).reshape(-1, len(cases_of)).T
    holds = _lists_of_users(top, number, len(cases_of), n_items) if top is not None else None
    means, covered, rarefied = [], [], []
    for weight in resampled_users(len(cases_of), resamples, seed):
        means.append(weight @ sums / (weight @ cases_of)[:, None])
        if holds is not None:
            lists = holds @ weight.T  # [V, s] lists that hold an item
            covered.append((lists > 0).mean(axis=0))
            if fewest is not None:
                sizes = (weight @ cases_of).astype(np.int64)
                rarefied.append([rarefy(one, size, fewest) for one, size in zip(lists.T, sizes, strict=True)])
    drawn = np.concatenate(means)
    found = {name: Estimate(float(columns[i].mean()), drawn[:, i], len(user)) for i, name in enumerate(metrics)}
    if top is not None and holds is not None:
        name, every = f"coverage@{top.shape[1]}", np.asarray(holds.sum(axis=1)).reshape(-1)
        found[name] = _moved(float((every > 0).mean()), np.concatenate(covered), len(user))
        if fewest is not None:
            value = rarefy(every, len(user), fewest)
            found[f"{name}_rarefied"] = _moved(value, np.concatenate(rarefied), len(user))
    return found


def _moved(value: float, samples: np.ndarray, n: int) -> Estimate:
    """A share with its resamples moved so that their mean is the value."""
    return Estimate(value, (samples - samples.mean() + value).clip(0.0, 1.0), n)


def rarefy(lists: np.ndarray, n: int, fewest: int) -> float:
    """Mean share of the items that ``fewest`` of ``n`` lists cover; ``lists`` [V] of them hold each item."""
    some = min(fewest, n)
    spared = n - np.arange(n + 1)  # lists without an item, by how many hold it
    with np.errstate(invalid="ignore"):
        missed = gammaln(spared + 1) - gammaln(spared - some + 1) + gammaln(n - some + 1) - gammaln(n + 1)
    chance = 1.0 - np.where(spared >= some, np.exp(missed), 0.0)
    return float(chance[np.rint(lists).astype(np.int64)].mean())


def _lists_of_users(top: np.ndarray, number: np.ndarray, n_users: int, n_items: int) -> sparse.csr_matrix:
    """Which users' lists hold an item, 0 or more, float32 [V, U]."""
    users = np.repeat(number, top.shape[1])
    ones = np.ones(len(users), dtype=np.float32)
    return sparse.csr_matrix((ones, (top.reshape(-1) - 1, users)), shape=(n_items, n_users))
