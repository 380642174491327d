"""What every law shares: the fit with its resamples, and predictions with bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws import fitting
from recbole_scale.laws.bootstrap import Errors
from recbole_scale.laws.fitting import Array, Axes
from recbole_scale.laws.forms import Form, fit_form, resample
from recbole_scale.laws.observations import Observations

MOST_RESAMPLES = 100_000  # beyond that only memory and time are spent
MIN_RESAMPLES = 80  # below that the ends of a 95 % band rest on two resamples each
WIDEST = 5.0  # a 95 % band of an exponent that spans more than this factor tells next to nothing of the constants
NORMAL = scipy.special.ndtri((np.arange(41) + 0.5) / 41)  # errors of one run, for random ones; fewer cut its tails
_AT_EDGE = 1.01  # an exponent this close to the end of the scan has run into it
_NO_SHARE = float(np.log(1e5))  # a power term this far below E at the smallest size says nothing of its exponent


def check_resamples(resamples: int) -> None:
    """A :class:`UserError` unless so many give a band (0: none is asked for)."""
    if resamples and not MIN_RESAMPLES <= resamples <= MOST_RESAMPLES:
        raise UserError(
            f"a 95 % band needs at least {MIN_RESAMPLES} resamples and at most {MOST_RESAMPLES:,} (or 0 for no band), "
            f"not {resamples}"
        )


@dataclass(frozen=True)
class Fit:
    """A fitted law in scaled parameters, with the resamples of it and of the forms it might have had instead."""

    seen: Observations
    forms: tuple[Form, ...]  # the law itself first
    errors: Errors | None  # of the resamples; None without a band
    residuals: Array  # [n] log(loss / law), in the caller's order
    least: float  # log E below which there is no E
    huber: float  # summed Huber loss in units of delta^2
    lack_of_fit: float  # probability of sizes so far off the law if only the spread between their runs did it; or nan
    reasons: tuple[str, ...]  # why the constants are not identified, as codes
    widening: float = 1.0  # of every band, after a rollout

    @classmethod
    def to(
        cls,
        seen: Observations,
        *,
        floor: float,
        resamples: int,
        seed: int,
        ceiling: float = np.inf,
        other_count: ArrayLike | None = None,
    ) -> Fit:
        """Fit a law with one power term per axis.

        Args:
            seen: the rows
            floor, ceiling: the lowest and the highest log E there can be
            resamples, seed: how many, and the seed of their draws; 0 for no band
            other_count: [n] another count of size for the first axis, in the caller's order; a law in it is one of
                the forms
        """
        check_resamples(resamples)
        main = tuple(range(seen.logs.shape[1]))
        limits = floor, ceiling
        form, huber = fit_form("", seen, main, limits)
        fitted = form.log_law(form.theta[None], seen.logs)[0]
        spare = int(seen.groups.max()) + 1 - len(form.theta)  # runs beyond the number of constants
        errors: Errors | None = None
        forms: tuple[Form, ...] = (form,)
        if spare > 0 and resamples:
            errors, forms = resample(seen, form, fitted, limits, resamples, np.random.default_rng(seed), other_count)
        residuals = np.empty_like(seen.y)
        residuals[seen.order] = seen.y - fitted
        # resamples differ a little in how low E can be
        least = floor if np.isfinite(floor) else float(seen.y.min()) - fitting.NOTHING + 1.0
        reasons = _reasons(form.theta, forms[0].replicates, seen, least)
        if errors is None:
            reasons = ("no_band" if spare <= 0 else "not_judged", *reasons)
        lack = _lack_of_fit(seen.y - fitted, seen.logs, len(form.theta))
        return cls(seen, forms, errors, residuals, least, huber, lack, reasons)

    @property
    def axes(self) -> Axes:
        """Where the scaled coordinates of the law lie."""
        return self.forms[0].axes

    @property
    def theta(self) -> Array:
        """[P] the law in scaled parameters."""
        return self.forms[0].theta

    @property
    def replicates(self) -> Array:
        """[r, P] resamples of the law in its own form."""
        return self.forms[0].replicates

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
        return np.exp(self.forms[0].log_law(self.theta[None], logs)[0]).reshape(shape)[()]

    def draws(self, *sizes: ArrayLike, new_run: int = 0) -> Array:
        """The law of every resample, in every form, at ``sizes``: [R, *shape].

        ``new_run`` adds the errors that the mean of so many runs of a new size would have, several to every resample.
        """
        logs, shape = _log_sizes(sizes)
        if self.errors is None:
            return np.empty((0, *shape))
        values = np.concatenate([form.log_law(form.replicates, logs) for form in self.forms])
        if new_run:
            spread = self.errors.noise.of_new_runs(self.seen.places(logs), int(new_run))
            values = np.concatenate([values + quantile * spread for quantile in NORMAL])
        if self.widening != 1.0:
            centre = self.forms[0].log_law(self.theta[None], logs)
            values = centre + self.widening * (values - centre)
        return np.exp(values).reshape(len(values), *shape)

    def interval(self, *sizes: ArrayLike, level: float = 0.95, new_run: int = 0) -> tuple[Any, Any]:
        """Lower and upper end of the band at ``sizes``; see :meth:`draws`."""
        return percentiles(self.draws(*sizes, new_run=new_run), level)

    def width(self, *sizes: float) -> dict[str, float]:
        """Share of the band of the law at one size that each source has: noise of runs, errors of sizes, form.

        Of the squared width: what the other forms add to that of the law's own, and the rest by the linearised fit.
        """
        if self.errors is None:
            return {}
        logs, _ = _log_sizes(sizes)
        values = [form.log_law(form.replicates, logs) for form in self.forms]
        own, every = (
            float(np.subtract(*np.quantile(some, (0.975, 0.025)))) for some in (values[0], np.concatenate(values))
        )
        form = max(0.0, 1.0 - (own / every) ** 2) if every > 0 else 0.0
        slopes = fitting.gradient(self.theta, self.axes.forms(self.seen.logs))
        at = fitting.gradient(self.theta, self.axes.forms(logs))[0]
        pull = np.linalg.pinv(slopes, rcond=1e-6).T @ at  # [n] of each row on the prediction
        noise = self.errors.noise
        by_run = np.bincount(self.seen.groups, pull)
        _, first = np.unique(self.seen.groups, return_index=True)
        of_runs = float((by_run**2 * noise.of_runs(self.seen.places(self.seen.logs[first])) ** 2).sum(axis=1).mean())
        of_sizes = float((np.bincount(self.seen.sizes, pull) ** 2).sum() * (noise.tau**2).mean())
        total = max(of_runs + of_sizes, 1e-300)
        return {"noise": (1 - form) * of_runs / total, "size": (1 - form) * of_sizes / total, "form": form}


def percentiles(draws: Array, level: float) -> tuple[Any, Any]:
    """Lower and upper end of the central ``level`` of ``draws`` [R, ...]; nan where there are no draws."""
    if not 0.0 < level < 1.0:
        raise UserError(f"level is a probability between 0 and 1, not {level}")
    if not len(draws):
        return np.full(draws.shape[1:], np.nan)[()], np.full(draws.shape[1:], np.nan)[()]
    lower, upper = np.quantile(draws, [(1.0 - level) / 2, (1.0 + level) / 2], axis=0)
    return lower, upper


def _log_sizes(sizes: tuple[ArrayLike, ...]) -> tuple[Array, tuple[int, ...]]:
    """Log of the broadcast sizes [n, K] and their common shape."""
    arrays = np.broadcast_arrays(*(np.asarray(size, dtype=np.float64) for size in sizes))
    if not all(np.all(np.isfinite(array) & (array > 0)) for array in arrays):
        raise UserError("a law can be read only at finite sizes above 0")
    return np.log(np.stack([array.reshape(-1) for array in arrays], axis=1)), arrays[0].shape


def _reasons(theta: Array, replicates: Array, seen: Observations, least: float) -> tuple[str, ...]:
    """Why the constants are not identified, as codes; empty when they are."""
    found, logs = [], seen.logs
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
    E_lower, E_upper = np.exp(np.quantile(cases[:, 0], (0.025, 0.975)))
    if E_upper - E_lower > np.ptp(np.exp(seen.y)) and not found:
        found.append("unknown_floor")
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
    return float(scipy.special.fdtrc(between, within, (outer + rounding) / (inner + rounding)))
