"""How to spend a budget: the size and the data that give the lowest loss for a number of FLOPs, from a joint law.

Hoffmann et al., arXiv 2203.15556, section 3.3, for any cost per interaction: in recommendation the softmax over the
items and the attention make it more than 6 N, and far more for small models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.loss import JointLaw

Cost = Callable[[Array], Array]
_SMALLEST, _LARGEST, _STEP = 1e2, 1e14, 0.02  # sizes searched, and their distance in log n
_DRAWS = 200  # resamples carried through the search; ends of a 95 % band need no more


@dataclass(frozen=True)
class ComputeOptimal:
    """The best split of every budget; arrays are in the shape of ``flops``, bands are (lower, upper) at 95 %."""

    flops: Array
    n: Array
    d: Array
    loss: Array
    n_band: tuple[Array, Array]
    d_band: tuple[Array, Array]
    extrapolates: Array  # bool: n or d lies outside the rows the law was fitted to
    epochs: float  # how often each of the d interactions is seen


def compute_optimal(
    law: JointLaw, flops: ArrayLike, flops_per_interaction: Cost | float, *, epochs: float = 1.0
) -> ComputeOptimal:
    """Return N(C), D(C) and the loss there, with C = flops_per_interaction(n) * d * epochs.

    Args:
        law: the joint law in parameters and interactions
        flops: training budgets C, above 0
        flops_per_interaction: training FLOPs of one interaction as a function of an array of sizes, or k for k * n
        epochs: how often each interaction is seen; the law's d counts it once

    Raises:
        UserError: a budget or cost that is not above 0, or an optimum outside sizes of 100 to 1e14 parameters
    """
    budgets = np.asarray(flops, dtype=np.float64)
    log_n = np.arange(np.log(_SMALLEST), np.log(_LARGEST), _STEP)
    if not (np.isfinite(epochs) and epochs > 0):
        raise UserError(f"epochs must be a finite number above 0, not {epochs}")
    if not np.all(np.isfinite(budgets) & (budgets > 0)):
        raise UserError("a budget must be a finite number of FLOPs above 0")
    log_cost = np.log(_cost(flops_per_interaction, np.exp(log_n))) + np.log(epochs)
    best = [_search(law, law.fit.theta[None], log_n, np.log(c) - log_cost) for c in budgets.reshape(-1)]
    some = law.fit.replicates[:: max(1, len(law.fit.replicates) // _DRAWS)]
    drawn = [_search(law, some, log_n, np.log(c) - log_cost, strict=False) for c in budgets.reshape(-1)]

    def shaped(values: list[Any]) -> Array:
        return np.asarray(np.array(values, dtype=np.float64).reshape(budgets.shape))

    n, d = (shaped([np.exp(pair[axis][0]) for pair in best]) for axis in (0, 1))
    n_band, d_band = (percentiles(np.exp(np.array([pair[axis] for pair in drawn]).T), 0.95) for axis in (0, 1))
    low, high = np.exp(law.fit.axes.start), np.exp(law.fit.axes.start + law.fit.axes.span)
    outside = (n < low[0]) | (n > high[0]) | (d < low[1]) | (d > high[1])
    return ComputeOptimal(
        budgets,
        n,
        d,
        np.asarray(law.predict(n, d)),
        (shaped(list(n_band[0])), shaped(list(n_band[1]))),
        (shaped(list(d_band[0])), shaped(list(d_band[1]))),
        outside,
        epochs,
    )


def _cost(flops_per_interaction: Cost | float, n: Array) -> Array:
    """Cost of one interaction at every size searched, checked."""
    cost = np.asarray(
        flops_per_interaction(n) if callable(flops_per_interaction) else flops_per_interaction * n, dtype=np.float64
    )
    if cost.shape != n.shape or not np.all(np.isfinite(cost) & (cost > 0)):
        raise UserError("flops_per_interaction must give a finite number above 0 for every size in an array of sizes")
    return cost


def _search(law: JointLaw, theta: Array, log_n: Array, log_d: Array, strict: bool = True) -> tuple[Array, Array]:
    """log n and log d of the lowest loss along one budget, for every theta [B, P].

    Only the two power terms matter, and their sum is smooth in log n: the grid finds the valley, a parabola its floor.
    """
    axes = law.fit.axes
    slope = theta[:, 2::2] / axes.span
    terms = [
        np.exp(theta[:, [1 + 2 * k]] - slope[:, [k]] * (logs - axes.start[k])) for k, logs in ((0, log_n), (1, log_d))
    ]
    excess = terms[0] + terms[1]
    place = excess.argmin(axis=1)
    inside = (place > 0) & (place < len(log_n) - 1)
    if strict and not inside.all():
        raise UserError(f"the best size for this budget lies outside {_SMALLEST:g} to {_LARGEST:g} parameters")
    centre = np.clip(place, 1, len(log_n) - 2)
    rows = np.arange(len(theta))
    left, middle, right = (excess[rows, centre + shift] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(inside & (bend > 0), 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
    at = log_n[place] + shift * _STEP
    return at, np.interp(at, log_n, log_d)
