"""A law of repeated data: L(N, U, epochs) with the effective data of Muennighoff et al., arXiv 2305.16264, equation 5.

A log is fixed and epochs are what one can buy: ``D' = U + U r (1 - exp(-(epochs - 1) / r))`` with U unique interactions
and r the number of repeats after which more of them bring next to nothing; L = E + (n0 / N)^alpha + (d0 / D')^beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws import fitting
from recbole_scale.laws.fit import NORMAL, percentiles
from recbole_scale.laws.fitting import Array, Axes
from recbole_scale.laws.noise import Noise, Residuals, noise_of
from recbole_scale.laws.observations import Observations

MOST_REPEATS = 200.0
_REPEATS = np.geomspace(0.5, MOST_REPEATS, 36)  # scanned; between two of them a parabola tells
_EDGE = 0.025  # share of the resamples at an end of that grid from which on r is not known
_STARTS, _GRID, _GRID_RESAMPLE = 3, 10, 5

Fits = dict[int, tuple[Array, Array]]  # by place in the grid: theta [B, 5] and the Huber loss [B]


@dataclass(frozen=True)
class RepeatedLaw:
    """The fitted law; ``repeats`` is r, and ``draws`` holds the constants of every resample in the order of names."""

    E: float
    n0: float
    alpha: float
    d0: float
    beta: float
    repeats: float
    draws: Array  # [R, 6]
    noise: Noise  # of the resamples
    seen: Observations

    @property
    def identified(self) -> bool:
        """Whether the rows tell after how many repeats more bring nothing."""
        at_end = (self.draws[:, 5] <= _REPEATS[0]) | (self.draws[:, 5] >= _REPEATS[-1])
        return bool(len(self.draws)) and float(at_end.mean()) <= _EDGE

    def constants(self) -> dict[str, float]:
        """The constants by name."""
        return {name: float(getattr(self, name)) for name in ("E", "n0", "alpha", "d0", "beta", "repeats")}

    def bands(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Band of every constant."""
        low, high = percentiles(self.draws, level)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(self.constants())}

    def predict(self, n: ArrayLike, unique: ArrayLike, epochs: ArrayLike) -> Any:
        """Loss of ``n`` parameters on ``unique`` interactions seen ``epochs`` times, broadcast together."""
        return _value(np.array(list(self.constants().values())), n, unique, epochs)

    def interval(
        self, n: ArrayLike, unique: ArrayLike, epochs: ArrayLike, level: float = 0.95, *, new_run: int = 0
    ) -> tuple[Any, Any]:
        """Lower and upper end of the band of the law; ``new_run`` adds the errors of the mean of so many new runs."""
        values = np.log(np.array([_value(one, n, unique, epochs) for one in self.draws]))
        if new_run and len(values):
            sizes = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(epochs, dtype=np.float64))
            places = self.seen.places(np.log(np.stack([one.reshape(-1) for one in sizes], axis=1)))
            spread = self.noise.of_new_runs(places, new_run).reshape(values.shape)
            values = np.concatenate([values + quantile * spread for quantile in NORMAL])
        return percentiles(np.exp(values), level)


def effective_data(unique: ArrayLike, epochs: ArrayLike, repeats: float) -> Array:
    """Interactions that count as new among ``unique`` ones seen ``epochs`` times; fewer than one epoch is a part."""
    unique, epochs = np.asarray(unique, dtype=np.float64), np.asarray(epochs, dtype=np.float64)
    again = np.maximum(epochs - 1.0, 0.0)
    return np.asarray(unique * (np.minimum(epochs, 1.0) - repeats * np.expm1(-again / repeats)))


def fit_repeated_law(
    n: ArrayLike,
    unique: ArrayLike,
    epochs: ArrayLike,
    loss: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> RepeatedLaw:
    """Fit the law to finished runs; r is scanned, the rest is fitted as a joint law for each.

    Args:
        n, unique, epochs, loss: [m] parameters, unique interactions, epochs of the schedule, loss in nats
        groups: [m] label of the run of a row
        resamples, seed: as in :func:`recbole_scale.laws.loss.fit_power_law`

    Raises:
        UserError: fewer than 3 different epochs or sizes, or no more runs than the 6 constants.
    """
    seen = Observations.check({"n": n, "epochs": epochs}, {"loss": loss}, groups)
    amounts = np.asarray(unique, dtype=np.float64)
    if amounts.shape != (len(seen.y),) or not np.all(np.isfinite(amounts) & (amounts > 0)):
        raise UserError("unique must be a list of numbers above 0, one for each row")
    amounts = amounts[seen.order]
    runs = int(seen.groups.max()) + 1
    if runs <= 6:
        raise UserError(f"a law of repeated data has 6 constants, but there are only {runs} runs")
    all_logs = [
        np.column_stack([seen.logs[:, 0], np.log(effective_data(amounts, np.exp(seen.logs[:, 1]), r))])
        for r in _REPEATS
    ]
    fits = {k: _fit(logs, seen.y[None], _GRID) for k, logs in enumerate(all_logs)}
    constants = _between(fits, all_logs, 0)
    fitted = np.log(_value(constants, np.exp(seen.logs[:, 0]), amounts, np.exp(seen.logs[:, 1])))
    rng = np.random.default_rng(seed)
    slopes = _slopes(constants, np.exp(seen.logs[:, 0]), amounts, np.exp(seen.logs[:, 1]))
    left = Residuals.of(seen.y - fitted, slopes, seen.places(seen.logs), seen.sizes, seen.groups)
    noise = noise_of(left, max(resamples, 1), rng)
    by_size, by_run = noise.errors(left, rng.standard_normal((len(noise.tau), runs)), rng)
    drawn = (fitted + by_size[:, seen.sizes] + by_run[:, seen.groups])[:resamples]
    few = _GRID_RESAMPLE
    tried = {k: _fit(logs, drawn, few, fits[k][0][0]) for k, logs in enumerate(all_logs)} if resamples else {}
    draws = np.array([_between(tried, all_logs, i) for i in range(len(drawn))])
    E, n0, alpha, d0, beta, repeats = map(float, constants)
    return RepeatedLaw(E, n0, alpha, d0, beta, repeats, draws.reshape(-1, 6), noise, seen)


def _between(tried: Fits, all_logs: Sequence[Array], row: int) -> Array:
    """(E, n0, alpha, d0, beta, r) of data set ``row`` at the lowest point of the scan, by a parabola in log r."""
    k = min(sorted(tried), key=lambda k: tried[k][1][row])
    here = _constants(tried[k][0][row], all_logs[k], _REPEATS[k])
    if k in (0, len(all_logs) - 1):
        return here
    left, middle, right = (float(tried[one][1][row]) for one in (k - 1, k, k + 1))
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    to = k + (1 if shift > 0 else -1)
    there = _constants(tried[to][0][row], all_logs[to], _REPEATS[to])
    share = abs(shift)
    return np.exp((1 - share) * np.log(np.maximum(here, 1e-300)) + share * np.log(np.maximum(there, 1e-300)))


def _fit(logs: Array, y: Array, grid: int, near: Array | None = None) -> tuple[Array, Array]:
    forms, starts = Axes.of(logs).forms(logs), _STARTS if near is None else 1
    return fitting.fit_batch(forms, y, limits=(-np.inf, np.inf), starts=starts, grid=grid, near=near, tolerance=1e-6)


def _slopes(constants: Array, n: Array, unique: Array, epochs: Array) -> Array:
    """Gradient [m, 6] of the log of the law in the logs of its constants."""
    steps = 1e-4 * np.eye(len(constants))
    ends = [[np.log(_value(constants * np.exp(sign * one), n, unique, epochs)) for sign in (1, -1)] for one in steps]
    return np.stack([(more - less) / 2e-4 for more, less in ends], axis=1)


def _constants(theta: Array, logs: Array, repeats: float) -> Array:
    """(E, n0, alpha, d0, beta, r) of scaled parameters."""
    axes = Axes.of(logs)
    slope = theta[2::2] / axes.span
    scale = np.exp(np.clip(axes.start + theta[1::2] / slope, -700.0, 700.0))
    return np.array([np.exp(theta[0]), scale[0], slope[0], scale[1], slope[1], repeats])


def _value(constants: Array, n: ArrayLike, unique: ArrayLike, epochs: ArrayLike) -> Any:
    E, n0, alpha, d0, beta, repeats = constants
    data = effective_data(unique, epochs, float(repeats))
    return E + (n0 / np.asarray(n, dtype=np.float64)) ** alpha + (d0 / data) ** beta
