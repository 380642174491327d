"""The best size for a budget, read off finished runs: a parabola in log N at equal training FLOPs.

Hoffmann et al., arXiv 2203.15556, section 3.2, but only between schedules that were finished at each size: in the
middle of a run the learning rate has not come down, and its loss is no loss of that budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.fitting import Array

_LEAST = 3  # sizes that a budget must cover


@dataclass(frozen=True)
class Optimum:
    """The best size at one budget; ``n`` and its band are nan where the parabola has no valley between the sizes."""

    flops: float
    sizes: int
    n: float
    lower: float
    upper: float
    inside: float  # share of the resamples whose valley lies between the sizes


def isoflop_optima(
    n: ArrayLike,
    flops: ArrayLike,
    loss: ArrayLike,
    budgets: ArrayLike,
    *,
    noise: float,
    resamples: int = 400,
    seed: int = 0,
) -> list[Optimum]:
    """The best size at every budget that at least 3 sizes have finished schedules on both sides of.

    Args:
        n, flops, loss: [m] size, training FLOPs (softmax included) and loss of finished runs
        budgets: FLOPs to compare at
        noise: standard deviation of log loss of a run, from a law's residuals
        resamples, seed: of the band

    Raises:
        UserError: no budget is covered.
    """
    sizes, costs, losses = (np.asarray(column, dtype=np.float64) for column in (n, flops, loss))
    rng = np.random.default_rng(seed)
    noisy = np.log(losses) + noise * np.vstack([np.zeros(len(losses)), rng.standard_normal((resamples, len(losses)))])
    found = []
    for budget in np.atleast_1d(np.asarray(budgets, dtype=np.float64)):
        ladder, values = _at_budget(sizes, np.log(costs), noisy, float(np.log(budget)))
        if len(ladder) < _LEAST:
            continue
        valley = _valleys(np.log(ladder), values)
        inside = np.isfinite(valley[1:])
        bands = percentiles(valley[1:][inside], 0.95) if inside.mean() > 0.5 else (np.nan, np.nan)
        best = float(np.exp(valley[0])) if np.isfinite(valley[0]) else float("nan")
        low, high = (float(np.exp(end)) for end in bands)
        found.append(Optimum(float(budget), len(ladder), best, low, high, float(inside.mean())))
    if not found:
        raise UserError(f"no budget lies between finished schedules of {_LEAST} or more sizes")
    return found


def curve_noise(n: ArrayLike, flops: ArrayLike, loss: ArrayLike) -> float:
    """Standard deviation of log loss of runs around a parabola in log FLOPs for each size; 0 where none is left over.

    Args:
        n, flops, loss: [m] size, training FLOPs and loss of finished runs
    """
    sizes, costs, values = (np.asarray(column, dtype=np.float64) for column in (n, flops, loss))
    square, spare = 0.0, 0
    for size in np.unique(sizes):
        x, y = np.log(costs[sizes == size]), np.log(values[sizes == size])
        degree = min(2, len(np.unique(x)) - 1)
        fitted = np.polyval(np.polyfit(x - x.mean(), y, degree), x - x.mean())
        square, spare = square + float(((y - fitted) ** 2).sum()), spare + len(x) - degree - 1
    return float(np.sqrt(square / spare)) if spare else 0.0


def _at_budget(sizes: Array, costs: Array, values: Array, budget: float) -> tuple[Array, Array]:
    """Sizes whose runs lie on both sides of the budget, and their log loss there for every resample [R, s]."""
    ladder, columns = [], []
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        places = np.unique(costs[rows])
        if not places[0] <= budget <= places[-1] or len(places) < 2:
            continue
        means = np.stack([values[:, rows[costs[rows] == place]].mean(axis=1) for place in places], axis=1)
        right = int(np.clip(np.searchsorted(places, budget), 1, len(places) - 1))
        share = (budget - places[right - 1]) / (places[right] - places[right - 1])
        ladder.append(size)
        columns.append((1 - share) * means[:, right - 1] + share * means[:, right])
    return np.array(ladder), np.array(columns).T


def _valleys(log_n: Array, values: Array) -> Array:
    """log N of the lowest point of each parabola [R]; nan where it is not a valley between the sizes."""
    centred = log_n - log_n.mean()
    bend, slope, _ = np.linalg.lstsq(np.vander(centred, 3), values.T, rcond=None)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(bend > 0, -slope / (2 * bend), np.nan)
    outside = ~((place >= centred.min()) & (place <= centred.max()))
    return np.asarray(np.where(outside, np.nan, place + log_n.mean()))
