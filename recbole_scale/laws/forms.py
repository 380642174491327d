"""The forms a law might have, each fitted to the rows and to its share of the resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws import fitting
from recbole_scale.laws.bootstrap import Errors, draw_errors
from recbole_scale.laws.fitting import Array, Axes
from recbole_scale.laws.noise import Residuals, likelihood_of
from recbole_scale.laws.observations import Observations, column_of

TWO_TERMS, NO_FLOOR, OTHER_COUNT = "two power terms", "E = 0", "another count of size"
Count = Callable[[Array], Array]
_SHARE = {TWO_TERMS: 0.2, NO_FLOOR: 0.1, OTHER_COUNT: 0.1}  # of the resamples, where a form is not ruled out
_REFUTED = 3.0  # log likelihood that a form must lie below the law to be ruled out
_EXACT, _ARRIVED = 1e-11, 1e-6  # steps at which a fit is done: of the law, and of what is drawn around it
_POLISHED = 3  # best points of the scan polished; one sufficed in every trial
_GRID, _GRID_RESAMPLE = {1: 48, 2: 14, 3: 7}, {1: 12, 2: 6, 3: 4}  # exponents tried per axis, by number of axes


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


def along(logs: Array, columns: Sequence[int], count: Count | None) -> Array:
    """Log of the size that each power term falls along: [n, len(columns)]."""
    return logs[:, list(columns)] if count is None else np.column_stack([count(logs[:, 0]), logs[:, columns[1:]]])


def fit_form(
    name: str, seen: Observations, columns: tuple[int, ...], limits: tuple[float, float], count: Count | None = None
) -> tuple[Form, float]:
    """A form fitted to the rows, without resamples, and its summed Huber loss."""
    logs = along(seen.logs, columns, count)
    axes = Axes.of(logs)
    theta, huber = fitting.fit_batch(
        axes.forms(logs),
        seen.y[None],
        limits=limits,
        starts=_POLISHED,
        tolerance=_ARRIVED if name else _EXACT,
        grid=_GRID[len(columns)],
        floorless=name == NO_FLOOR,
    )
    return Form(name, columns, axes, theta[0], np.empty((0, theta.shape[1])), slice(0), count), float(huber[0])


def resample(
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
        replicates, _ = fitting.fit_batch(
            one.axes.forms(along(seen.logs, one.columns, one.count)),
            y,
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
        found.append(fit_form(TWO_TERMS, seen, (0, *main), limits)[0])
    rivals: list[tuple[str, Count | None]] = [(NO_FLOOR, None)] if not np.isfinite(limits[0]) else []
    if other_count is not None:
        rivals.append((OTHER_COUNT, _count(seen, other_count)))
    for name, count in rivals:
        rival = fit_form(name, seen, main, limits, count)[0]
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
    other = column_of("other_count", values)[seen.order]
    if len(other) != len(seen.y):
        raise UserError(f"other_count has {len(other)} rows but there are {len(seen.y)}")
    middle = float(seen.logs[:, 0].mean())

    def parts(log_x: Array) -> Array:
        return np.stack([np.exp(log_x - middle), np.exp(0.5 * (log_x - middle)), np.ones_like(log_x)], axis=1)

    mix, _ = scipy.optimize.nnls(parts(seen.logs[:, 0]) / other[:, None], np.ones(len(other)))
    return lambda log_x: np.log(parts(log_x) @ mix)
