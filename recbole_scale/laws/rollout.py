"""Judge a law by what it has not seen: fit the small sizes, predict the larger ones, compare with the runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.laws.observations import MIN_SIZES

_TWO_SIDED = 1.96  # standard deviations in half of a 95 % band
_AS_EXPECTED = 4.0


class Curve(Protocol):
    """What is judged: a power law or a metric law."""

    @property
    def identified(self) -> bool:
        """Whether the rows it was fitted to fix its constants."""

    def predict(self, x: ArrayLike) -> Any:
        """Value at ``x``."""

    def interval(self, x: ArrayLike, level: float = 0.95, *, new_run: int = 0) -> tuple[Any, Any]:
        """Band at ``x``."""


@dataclass(frozen=True)
class Judgement:
    """One held-out size: what the law said, and what the runs gave."""

    sizes_fitted: int
    largest_fitted: float
    x: float
    predicted: float
    lower: float  # 95 % band of the mean of as many runs; nan where the fitted rows leave none
    upper: float
    observed: float  # mean over the runs at x
    runs: int
    signed_error: float  # predicted / observed - 1: above 0 where the law promised too high a value
    identified: bool
    no_change: float  # what one expects who knows no law: the mean of the largest fitted size
    straight: float  # ... or who draws a straight line in log x through the fitted sizes

    @property
    def covered(self) -> bool | None:
        """Whether the band holds the observed mean; None without a band."""
        return None if np.isnan(self.lower) else self.lower <= self.observed <= self.upper

    @property
    def tells(self) -> bool | None:
        """Whether the band excludes "no change", so that it could fail where size did nothing; None without one."""
        return None if np.isnan(self.lower) else not self.lower <= self.no_change <= self.upper

    def skill(self, other: float) -> float:
        """1 - error of the law / error of ``other`` (``no_change``, ``straight``): above 0 where the law is nearer."""
        miss = abs(other - self.observed)
        return 1.0 - abs(self.predicted - self.observed) / miss if miss > 0 else float("nan")


def judge(
    law: Curve, x: ArrayLike, value: ArrayLike, *, fitted_x: ArrayLike, fitted_value: ArrayLike
) -> list[Judgement]:
    """Compare ``law`` with runs it has not seen, one judgement per size of ``x`` [n] with measured ``value`` [n].

    ``fitted_x`` and ``fitted_value`` are the rows that the law was fitted to.
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(value, dtype=np.float64)
    known, seen = np.asarray(fitted_x, dtype=np.float64), np.asarray(fitted_value, dtype=np.float64)
    ladder = np.unique(known)
    means = np.array([seen[known == size].mean() for size in ladder])
    line = np.polyfit(np.log(ladder), means, 1)
    judgements = []
    for size in np.unique(sizes):
        runs = values[sizes == size]
        observed = float(runs.mean())
        predicted, (lower, upper) = float(law.predict(size)), law.interval(size, new_run=len(runs))
        judgements.append(
            Judgement(
                len(ladder),
                float(ladder[-1]),
                float(size),
                predicted,
                float(lower),
                float(upper),
                observed,
                len(runs),
                predicted / observed - 1.0,
                law.identified,
                float(means[-1]),
                float(np.polyval(line, np.log(size))),
            )
        )
    return judgements


def widening(judgements: Sequence[Judgement]) -> float:
    """How much wider than resampling makes them bands must be to hold what was held out; 1 where they do.

    The root mean square of the errors in standard deviations of their bands, with a few more judgements that are just
    as they should be: a handful of errors, each window sharing its rows with the next, tells little of a spread.
    """
    scores = [
        (one.predicted - one.observed) / ((one.upper - one.lower) / (2 * _TWO_SIDED))
        for one in judgements
        if one.covered is not None and one.upper > one.lower
    ]
    return max(1.0, float(np.sqrt((np.square(scores).sum() + _AS_EXPECTED) / (len(scores) + _AS_EXPECTED))))


def rollout(
    x: ArrayLike,
    value: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    fit: Callable[..., Curve] = fit_power_law,
    resamples: int = 200,
    seed: int = 0,
) -> list[Judgement]:
    """Fit the k smallest sizes for k = 3, 4, ... and predict every larger one each time (an expanding window).

    Args:
        x, value, groups: [n] as in :func:`recbole_scale.laws.loss.fit_power_law`
        fit: the law to judge, called as ``fit(x, value, groups, resamples=, seed=)``; ``fit_metric_law`` serves too
        resamples, seed: of each window's band

    Raises:
        UserError: fewer than 4 sizes, so that no window leaves one out, or what ``fit`` refuses
    """
    fit(x, value, groups, resamples=0)  # refuses bad rows in its own words before any window is cut
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(value, dtype=np.float64)
    ladder = np.unique(sizes)
    if len(ladder) <= MIN_SIZES:
        raise UserError(f"a rollout needs at least {MIN_SIZES + 1} sizes, to fit {MIN_SIZES} and judge the next one")
    judgements = []
    for count in range(MIN_SIZES, len(ladder)):
        seen = sizes <= ladder[count - 1]
        runs = None if groups is None else [group for group, kept in zip(groups, seen, strict=True) if kept]
        law = fit(sizes[seen], values[seen], runs, resamples=resamples, seed=seed)
        judgements += judge(law, sizes[~seen], values[~seen], fitted_x=sizes[seen], fitted_value=values[seen])
    return judgements
