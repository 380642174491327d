"""What every law shares: checked observations, the fit with its resamples, and predictions with bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from recbole_scale.errors import UserError
from recbole_scale.laws import fitting
from recbole_scale.laws.bootstrap import Resamples, resample
from recbole_scale.laws.fitting import Array, Axes

MIN_SIZES = 3
MIN_RESAMPLES = 80  # below that the ends of a 95 % band rest on two resamples each
WIDEST = 5.0  # a 95 % band of an exponent that spans more than this factor tells next to nothing of the constants
_POLISHED, _POLISHED_RESAMPLE = 8, 2  # best points of the scan polished; one sufficed in every trial
_AT_EDGE = 1.01  # an exponent this close to the end of the scan has run into it
_NO_SHARE = float(np.log(1e5))  # a power term this far below E at the smallest size says nothing of its exponent


@dataclass(frozen=True)
class Observations:
    """Checked rows in an order that does not depend on the caller's, so that the bands do not either."""

    logs: Array  # [n, K] log of the sizes
    y: Array  # [n] log of the losses
    groups: NDArray[np.intp]  # [n] run of each row, from 0
    order: NDArray[np.intp]  # row i here is row order[i] of the caller

    @classmethod
    def check(
        cls, axes: dict[str, ArrayLike], target: dict[str, ArrayLike], groups: Sequence[Any] | None
    ) -> Observations:
        """Build from named columns; raises :class:`UserError` with one sentence on the first thing wrong."""
        columns = {name: _column(name, values) for name, values in (axes | target).items()}
        first = next(iter(columns))
        for name, column in columns.items():
            if len(column) != len(columns[first]):
                raise UserError(f"{name} has {len(column)} rows but {first} has {len(columns[first])}")
        for name in axes:
            sizes = np.unique(columns[name])
            if len(sizes) < MIN_SIZES:
                shown = ", ".join(f"{size:g}" for size in sizes)
                raise UserError(f"a law needs at least {MIN_SIZES} different sizes, but {name} holds only {shown}")
        (y,) = (np.log(columns[name]) for name in target)
        logs = np.stack([np.log(columns[name]) for name in axes], axis=1)
        labels = np.array([repr(index) for index in range(len(y))] if groups is None else [repr(g) for g in groups])
        if len(labels) != len(y):
            raise UserError(f"groups has {len(labels)} rows but {first} has {len(y)}")
        order = np.lexsort((labels, y, *logs.T[::-1]))
        if groups is None:
            return cls(logs[order], y[order], np.arange(len(y)), order)
        _, place, codes = np.unique(labels[order], return_index=True, return_inverse=True)
        return cls(logs[order], y[order], np.argsort(np.argsort(place))[codes.reshape(-1)], order)


@dataclass(frozen=True)
class Fit:
    """A fitted law in scaled parameters, with its resamples."""

    axes: Axes
    theta: Array  # [P]
    replicates: Array  # [R, P]
    noise: Array  # [R] log residual of one more run
    residuals: Array  # [n] log(loss / law), in the caller's order
    least: float  # log E below which there is no E
    huber: float  # summed Huber loss in units of delta^2
    lack_of_fit: float  # probability of sizes so far off the law if only the spread between their runs did it; or nan
    reasons: tuple[str, ...]  # why the constants are not identified, as codes

    @classmethod
    def to(cls, seen: Observations, *, floor: float, resamples: int, seed: int) -> Fit:
        """Fit a law with one power term per axis; ``floor`` is the lowest log E there can be."""
        if resamples and resamples < MIN_RESAMPLES:
            raise UserError(f"a 95 % band needs at least {MIN_RESAMPLES} resamples (or 0 for no band), not {resamples}")
        axes = Axes.of(seen.logs)
        forms = axes.forms(seen.logs)
        ones = np.ones((1, len(seen.y)))
        grid = 48 if forms.shape[1] == 2 else 14
        theta, huber = fitting.fit_batch(forms, seen.y[None], ones, floor=floor, starts=_POLISHED, grid=grid)
        fitted = fitting.log_law(theta, forms)[0]
        drawn = Resamples.none(len(seen.y))
        spare = int(seen.groups.max()) + 1 - forms.shape[2]  # runs beyond the number of constants
        if spare > 0 and resamples:
            drawn = resample(seen.y, fitted, seen.groups, seen.logs, forms.shape[2], resamples, seed)
        replicates, _ = fitting.fit_batch(
            forms,
            drawn.y,
            drawn.weights,
            floor=floor,
            starts=_POLISHED_RESAMPLE,
            grid=24 if forms.shape[1] == 2 else 10,
        )
        residuals = np.empty_like(seen.y)
        residuals[seen.order] = seen.y - fitted
        least = max(float(seen.y.min()) - fitting.NOTHING, floor)
        reasons = _reasons(theta[0], replicates, seen.logs, least)
        if not len(replicates):
            reasons = ("no_band" if spare <= 0 else "not_judged", *reasons)
        lack = _lack_of_fit(seen.y - fitted, seen.logs, forms.shape[2])
        return cls(axes, theta[0], replicates, drawn.noise, residuals, least, float(huber[0]), lack, reasons)

    def constants(self, theta: Array) -> Array:
        """(E, x0_1, alpha_1, ...) in the caller's units for ``theta`` [..., P]; a vanishing E is given as 0."""
        out = np.empty_like(theta)
        out[..., 0] = np.where(theta[..., 0] <= self.least + 1e-9, 0.0, np.exp(theta[..., 0]))
        out[..., 2::2] = theta[..., 2::2] / self.axes.span
        # a law that is all but flat has an x0 beyond any float; kept finite so that bands of it can be taken
        out[..., 1::2] = np.exp(np.clip(self.axes.start + theta[..., 1::2] / out[..., 2::2], -700.0, 700.0))
        return out

    def predict(self, *sizes: ArrayLike) -> Any:
        """The law at ``sizes`` (one array per axis, broadcast together), in their shape."""
        logs, shape = _log_sizes(sizes)
        return np.exp(fitting.log_law(self.theta[None], self.axes.forms(logs))[0]).reshape(shape)[()]

    def draws(self, *sizes: ArrayLike, new_run: bool = False) -> Array:
        """The law of every resample at ``sizes``: [R, *shape]; ``new_run`` adds the noise of a single run."""
        logs, shape = _log_sizes(sizes)
        values = fitting.log_law(self.replicates, self.axes.forms(logs))
        if new_run:
            values = values + self.noise[:, None]
        return np.exp(values).reshape(len(values), *shape)


def percentiles(draws: Array, level: float) -> tuple[Any, Any]:
    """Lower and upper end of the central ``level`` of ``draws`` [R, ...]; nan where there are no draws."""
    if not 0.0 < level < 1.0:
        raise UserError(f"level is a probability between 0 and 1, not {level}")
    if not len(draws):
        return np.full(draws.shape[1:], np.nan)[()], np.full(draws.shape[1:], np.nan)[()]
    lower, upper = np.quantile(draws, [(1.0 - level) / 2, (1.0 + level) / 2], axis=0)
    return lower, upper


def _column(name: str, values: ArrayLike) -> Array:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers") from None
    if column.ndim != 1 or not len(column):
        raise UserError(f"{name} must be a list of at least one number, not of shape {column.shape}")
    for row, value in enumerate(column):
        if not np.isfinite(value) or value <= 0.0:
            raise UserError(f"row {row} of {name} is {value:g}, but every row must be a finite number above 0")
    return column


def _log_sizes(sizes: tuple[ArrayLike, ...]) -> tuple[Array, tuple[int, ...]]:
    """Log of the broadcast sizes [n, K] and their common shape."""
    arrays = np.broadcast_arrays(*(np.asarray(size, dtype=np.float64) for size in sizes))
    if not all(np.all(np.isfinite(array) & (array > 0)) for array in arrays):
        raise UserError("a law can be read only at finite sizes above 0")
    return np.log(np.stack([array.reshape(-1) for array in arrays], axis=1)), arrays[0].shape


def _reasons(theta: Array, replicates: Array, logs: Array, least: float) -> tuple[str, ...]:
    """Why the constants are not identified, as codes; empty when they are."""
    found = []
    if logs.shape[1] > 1 and abs(np.asarray(np.corrcoef(logs.T))[0, 1]) > 0.99:
        found.append("one_line")
    if np.any(theta[1::2] < theta[0] - _NO_SHARE):
        found.append("flat")
    cases = replicates if len(replicates) else theta[None]
    exponents = cases[:, 2::2]
    edge = (exponents <= fitting.FLATTEST * _AT_EDGE) | (exponents >= fitting.STEEPEST / _AT_EDGE)
    if edge.any(axis=1).mean() > 0.025 and "flat" not in found:
        found.append("edge")
    lower, upper = np.quantile(exponents, (0.025, 0.975), axis=0)
    if np.any(upper > WIDEST * lower) and not found:
        found.append("wide")
    if (cases[:, 0] <= least + 1e-9).mean() > 0.025:
        found.append("floor")
    return tuple(found)


def _lack_of_fit(residuals: Array, logs: Array, parameters: int) -> float:
    """F test of the mean residuals of the sizes against the spread within sizes; nan without repeated sizes."""
    sizes, codes = np.unique(logs, axis=0, return_inverse=True)
    codes, between, within = codes.reshape(-1), len(sizes) - parameters, len(residuals) - len(sizes)
    if between < 1 or within < 1:
        return float("nan")
    counts = np.bincount(codes)
    means = np.bincount(codes, residuals) / counts
    inner = float(((residuals - means[codes]) ** 2).sum()) / within
    outer = float((counts * means**2).sum()) / between
    rounding = 1e-20  # residuals of 1e-10 and less are arithmetic
    return float(scipy.stats.f.sf((outer + rounding) / (inner + rounding), between, within))
