"""What every law shares: checked observations, the fit with its resamples, and predictions with bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from recbole_scale.errors import UserError
from recbole_scale.laws import fitting
from recbole_scale.laws.bootstrap import Errors, draw_errors
from recbole_scale.laws.fitting import Array, Axes
from recbole_scale.laws.noise import Residuals, likelihood_of

MIN_SIZES = 3
MIN_RESAMPLES = 80  # below that the ends of a 95 % band rest on two resamples each
WIDEST = 5.0  # a 95 % band of an exponent that spans more than this factor tells next to nothing of the constants
TWO_TERMS, NO_FLOOR, OTHER_COUNT = "two power terms", "E = 0", "another count of size"
Count = Callable[[Array], Array]
_SHARE = {TWO_TERMS: 0.25, NO_FLOOR: 1 / 6, OTHER_COUNT: 1 / 6}  # of the resamples, where a form is not ruled out
_REFUTED = 3.0  # log likelihood that a form must lie below the law to be ruled out
_EXACT, _ARRIVED = 1e-11, 1e-6  # steps at which a fit is done: of the law, and of what is drawn around it
_POLISHED = 3  # best points of the scan polished; one sufficed in every trial
_GRID, _GRID_RESAMPLE = {1: 48, 2: 14, 3: 7}, {1: 12, 2: 6, 3: 4}  # exponents tried per axis, by number of axes
REDRAWN = 0.3  # share of the resamples that redraw runs, where there are enough
_NORMAL = scipy.stats.norm.ppf((np.arange(15) + 0.5) / 15)  # the errors of one run, in place of random ones
_AT_EDGE = 1.01  # an exponent this close to the end of the scan has run into it
_NO_SHARE = float(np.log(1e5))  # a power term this far below E at the smallest size says nothing of its exponent


@dataclass(frozen=True)
class Observations:
    """Checked rows in an order that does not depend on the caller's, so that the bands do not either."""

    logs: Array  # [n, K] log of the sizes
    y: Array  # [n] log of the losses
    groups: NDArray[np.intp]  # [n] run of each row, from 0
    order: NDArray[np.intp]  # row i here is row order[i] of the caller

    @property
    def sizes(self) -> NDArray[np.intp]:
        """[n] the size of each row as a number from 0; on a grid the first axis is the one that is tuned."""
        return np.unique(self.logs[:, 0], return_inverse=True)[1].reshape(-1)

    def places(self, logs: Array) -> Array:
        """``logs`` [m, K] scaled so that these rows span 0 to 1."""
        start = self.logs.min(axis=0)
        return (logs - start) / (self.logs.max(axis=0) - start)

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
class Form:
    """One form of a law, fitted: a power term along each of ``columns``, with an E or without."""

    name: str
    columns: tuple[int, ...]
    axes: Axes
    theta: Array  # [P]
    replicates: Array  # [r, P] of its resamples
    drawn: slice  # which of the resamples they are
    count: Count | None = None  # another count of size in log x, where the power term falls along that

    def log_law(self, theta: Array, logs: Array) -> Array:
        """Log of the law of ``theta`` [B, P] at ``logs`` [n, K]: [B, n]."""
        return fitting.log_law(theta, self.axes.forms(along(logs, self.columns, self.count)))


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
        if resamples and resamples < MIN_RESAMPLES:
            raise UserError(f"a 95 % band needs at least {MIN_RESAMPLES} resamples (or 0 for no band), not {resamples}")
        main = tuple(range(seen.logs.shape[1]))
        limits = floor, ceiling
        form, huber = _fit_form("", seen, main, limits)
        fitted = form.log_law(form.theta[None], seen.logs)[0]
        spare = int(seen.groups.max()) + 1 - len(form.theta)  # runs beyond the number of constants
        errors: Errors | None = None
        forms: tuple[Form, ...] = (form,)
        if spare > 0 and resamples:
            errors, forms = _resample(seen, form, fitted, limits, resamples, np.random.default_rng(seed), other_count)
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
            values = np.concatenate([values + quantile * spread for quantile in _NORMAL])
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


def along(logs: Array, columns: Sequence[int], count: Count | None) -> Array:
    """Log of the size that each power term falls along: [n, len(columns)]."""
    return logs[:, list(columns)] if count is None else np.column_stack([count(logs[:, 0]), logs[:, columns[1:]]])


def _fit_form(
    name: str, seen: Observations, columns: tuple[int, ...], limits: tuple[float, float], count: Count | None = None
) -> tuple[Form, float]:
    """A form fitted to the rows, without resamples, and its summed Huber loss."""
    logs = along(seen.logs, columns, count)
    axes = Axes.of(logs)
    theta, huber = fitting.fit_batch(
        axes.forms(logs),
        seen.y[None],
        np.ones((1, len(seen.y))),
        limits=limits,
        starts=_POLISHED,
        tolerance=_ARRIVED if name else _EXACT,
        grid=_GRID[len(columns)],
        floorless=name == NO_FLOOR,
    )
    return Form(name, columns, axes, theta[0], np.empty((0, theta.shape[1])), slice(0), count), float(huber[0])


def _resample(
    seen: Observations,
    form: Form,
    fitted: Array,
    limits: tuple[float, float],
    resamples: int,
    rng: np.random.Generator,
    other_count: ArrayLike | None,
) -> tuple[Errors, tuple[Form, ...]]:
    """Refit the law to most of the resamples, and each form it might have had to its share of them."""
    residuals = seen.y - fitted
    errors = draw_errors(residuals, _by_run(seen, form, residuals), seen.groups, resamples, rng)
    others = _other_forms(seen, limits, errors.noise.evidence, other_count)
    counts = [round(_SHARE[other.name] * resamples) for other in others]
    filled, begin = [], 0
    for one, number in zip((form, *others), (resamples - sum(counts), *counts), strict=True):
        part = slice(begin, begin + number)
        errors_of = errors.sizes[part] + errors.runs[part]
        y = one.log_law(one.theta[None], seen.logs) + errors_of
        weights = np.ones_like(y)
        if one is form:
            redrawn = errors.weights[: round(REDRAWN * number)]
            weights[: len(redrawn)] = redrawn
            y[: len(redrawn)] = seen.y + errors.sizes[: len(redrawn)]
        replicates, _ = fitting.fit_batch(
            one.axes.forms(along(seen.logs, one.columns, one.count)),
            y,
            weights,
            limits=limits,
            starts=1,
            grid=_GRID_RESAMPLE[len(one.columns)],
            near=one.theta,
            tolerance=_ARRIVED,
            floorless=one.name == NO_FLOOR,
        )
        filled.append(replace(one, replicates=replicates, drawn=part))
        begin += number
    return errors, tuple(filled)


def _other_forms(
    seen: Observations, limits: tuple[float, float], evidence: float, other_count: ArrayLike | None
) -> list[Form]:
    """The forms the law might have had: two power terms in size, no E, another count of size.

    Two terms hold the law itself and bend further, so only too few sizes or runs rule them out. The others are kept as
    long as their likelihood is not clearly below that of the law.
    """
    main = tuple(range(seen.logs.shape[1]))
    found = []
    sizes, runs = len(np.unique(seen.logs[:, 0])), int(seen.groups.max()) + 1
    if sizes >= len(main) + 4 and runs > 2 * len(main) + 3:
        found.append(_fit_form(TWO_TERMS, seen, (0, *main), limits)[0])
    rivals: list[tuple[str, Count | None]] = [(NO_FLOOR, None)] if not np.isfinite(limits[0]) else []
    if other_count is not None:
        rivals.append((OTHER_COUNT, _count(seen, other_count)))
    for name, count in rivals:
        rival = _fit_form(name, seen, main, limits, count)[0]
        residuals = seen.y - rival.log_law(rival.theta[None], seen.logs)[0]
        if likelihood_of(_by_run(seen, rival, residuals)) > evidence - _REFUTED:
            found.append(rival)
    return found


def _by_run(seen: Observations, form: Form, residuals: Array) -> Residuals:
    """What a form leaves over, by run; a constant that is not free has no gradient."""
    slopes = fitting.gradient(form.theta, form.axes.forms(along(seen.logs, form.columns, form.count)))
    free = slopes[:, 1:] if form.name == NO_FLOOR else slopes
    return Residuals.of(residuals, free, seen.places(seen.logs), seen.sizes, seen.groups)


def _count(seen: Observations, values: ArrayLike) -> Count:
    """Another count of size as a function of log x: a nonnegative mix of x, its root and a constant.

    Weights of a Transformer grow with the square of the width, its embeddings with the width.
    """
    other = _column("other_count", values)[seen.order]
    if len(other) != len(seen.y):
        raise UserError(f"other_count has {len(other)} rows but there are {len(seen.y)}")
    middle = float(seen.logs[:, 0].mean())

    def parts(log_x: Array) -> Array:
        return np.stack([np.exp(log_x - middle), np.exp(0.5 * (log_x - middle)), np.ones_like(log_x)], axis=1)

    mix, _ = scipy.optimize.nnls(parts(seen.logs[:, 0]) / other[:, None], np.ones(len(other)))
    return lambda log_x: np.log(parts(log_x) @ mix)


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
    return float(scipy.stats.f.sf((outer + rounding) / (inner + rounding), between, within))
