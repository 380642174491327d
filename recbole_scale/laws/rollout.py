"""Judge a law by what it has not seen: fit the small sizes, predict the larger ones, compare with the runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import MIN_SIZES
from recbole_scale.laws.loss import fit_power_law


class Curve(Protocol):
    """What is judged: a power law or a metric law."""

    @property
    def identified(self) -> bool:
        """Whether the rows it was fitted to fix its constants."""

    def predict(self, x: ArrayLike) -> Any:
        """Value at ``x``."""

    def interval(self, x: ArrayLike, level: float = 0.95, *, new_run: bool = False) -> tuple[Any, Any]:
        """Band at ``x``."""


@dataclass(frozen=True)
class Judgement:
    """One held-out size: what the law said, and what the runs gave."""

    sizes_fitted: int
    largest_fitted: float
    x: float
    predicted: float
    lower: float  # 95 % band of a single run; nan where the fitted rows leave none
    upper: float
    observed: float  # mean over the runs at x
    runs: int
    signed_error: float  # predicted / observed - 1: above 0 where the law promised too high a value
    identified: bool

    @property
    def covered(self) -> bool | None:
        """Whether the band holds the observed mean; None without a band."""
        return None if np.isnan(self.lower) else self.lower <= self.observed <= self.upper


def judge(law: Curve, x: ArrayLike, value: ArrayLike, *, sizes_fitted: int, largest_fitted: float) -> list[Judgement]:
    """Compare ``law`` with runs it has not seen, one judgement per size of ``x`` [n] with measured ``value`` [n]."""
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(value, dtype=np.float64)
    judgements = []
    for size in np.unique(sizes):
        runs = values[sizes == size]
        predicted, (lower, upper) = float(law.predict(size)), law.interval(size, new_run=True)
        judgements.append(
            Judgement(
                sizes_fitted,
                largest_fitted,
                float(size),
                predicted,
                float(lower),
                float(upper),
                float(runs.mean()),
                len(runs),
                predicted / float(runs.mean()) - 1.0,
                law.identified,
            )
        )
    return judgements


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
        judgements += judge(
            law, sizes[~seen], values[~seen], sizes_fitted=count, largest_fitted=float(ladder[count - 1])
        )
    return judgements
