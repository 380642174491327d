"""Saturating laws of ranking metrics in model size, for metrics between 0 and 1 that grow: HR, recall, NDCG, MRR.

Two forms, and each is the power law of another quantity, so that one fit serves all:

* ``hill``: ``m(x) = limit / (1 + (x0 / x)^alpha)``, since ``1 / m`` is a power law with ``E = 1 / limit >= 1``. It
  stays between 0 and ``limit`` at every size; at ``x0`` half of the limit is reached. The default.
* ``miss``: ``m(x) = limit - (x0 / x)^alpha``, since ``1 - m``, the share missed, is a power law with ``E = 1 -
  limit``. It falls below 0 at sizes far below the data and is then given as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError, nearest
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.loss import RESAMPLES, PowerLaw, power_law_of
from recbole_scale.laws.observations import Observations

FORMS = ("hill", "miss")
_HELD = 1e-6  # of the log of a limit: so near to the highest mean, it lies there because it must
_WORDS = {
    "the loss does not fall": "the metric does not rise",
    "the 95 % band of E reaches 0": "the 95 % band of the limit reaches 1",
    "the 95 % band of E": "the 95 % band of the limit",
}


@dataclass(frozen=True)
class MetricLaw:
    """A saturating law of a metric between 0 and 1; ``limit`` is what it tends to as x grows."""

    form: str
    limit: float
    x0: float
    alpha: float
    inner: PowerLaw = field(repr=False)  # of 1 / m (hill) or of 1 - m (miss)
    held: bool = False  # whether the limit would lie below the highest mean measured, and is held there

    @property
    def identified(self) -> bool:
        """Whether the data fix the constants."""
        return self.inner.identified

    @property
    def message(self) -> str:
        """One sentence: 'identified', or 'not identified' and why."""
        message = self.inner.message
        for ours, theirs in _WORDS.items():
            message = message.replace(ours, theirs)
        return f"{message}; the limit is held at the highest mean measured" if self.held else message

    def predict(self, x: ArrayLike) -> Any:
        """Metric at size ``x``, in its shape."""
        return _metric(self.form, self.inner.predict(x))

    def interval(self, x: ArrayLike, level: float = 0.95, *, new_run: int = 0) -> tuple[Any, Any]:
        """Lower and upper end of the band at ``x``; see :meth:`recbole_scale.laws.loss.PowerLaw.interval`."""
        upper, lower = self.inner.interval(x, level, new_run=new_run)  # a larger 1 / m or 1 - m is a smaller m
        return _metric(self.form, lower), _metric(self.form, upper)

    def draws(self, x: ArrayLike) -> Array:
        """The law of every resample at ``x``: [R, *shape]."""
        return np.asarray(_metric(self.form, self.inner.fit.draws(x)))

    def bands(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Band of ``limit``, ``x0`` and ``alpha`` at probability ``level``; nan without resamples."""
        draws = self.inner.fit.constants(self.inner.fit.replicates)
        lower, upper = percentiles(np.stack(_constants(self.form, *draws.T), axis=-1), level)
        names = ("limit", "x0", "alpha")
        return {name: (float(low), float(high)) for name, low, high in zip(names, lower, upper, strict=True)}

    def widened(self, factor: float) -> MetricLaw:
        """The same law with bands ``factor`` times as wide; see :meth:`recbole_scale.laws.loss.Law.widened`."""
        return replace(self, inner=self.inner.widened(factor))

    def constants(self) -> dict[str, float]:
        """The fitted constants by name."""
        return {"limit": self.limit, "x0": self.x0, "alpha": self.alpha}


def fit_metric_law(
    x: ArrayLike,
    value: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    form: str = "hill",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MetricLaw:
    """Fit a saturating law to a metric that grows with size.

    Args:
        x: [n] parameters or interactions, at least 3 different ones
        value: [n] metric, strictly between 0 and 1
        groups, resamples, seed: as in :func:`recbole_scale.laws.loss.fit_power_law`
        form: "hill" or "miss", see the module

    Raises:
        UserError: a value outside (0, 1), an unknown form, or what :func:`fit_power_law` refuses
    """
    if form not in FORMS:
        raise UserError(f"there is no metric law '{form}', only {' and '.join(FORMS)}{nearest(form, FORMS)}")
    seen = Observations.check({"x": x}, {"value": value}, groups)
    values = np.exp(seen.y)
    if values.max() >= 1.0:
        raise UserError(f"a metric law needs values below 1, but one of them is {values.max():g}")
    floor = 0.0 if form == "hill" else -np.inf  # 1 / limit >= 1
    turned = Observations.check(
        {"x": np.exp(seen.logs[:, 0])},
        {"value": 1.0 / values if form == "hill" else 1.0 - values},
        [int(group) for group in seen.groups],
    )
    # the limit cannot lie below what a size has reached on average
    best = min(float(turned.y[turned.sizes == size].mean()) for size in np.unique(turned.sizes))
    inner = power_law_of(turned, floor=floor, ceiling=best, resamples=resamples, seed=seed)
    limit, x0, alpha = _constants(form, np.float64(inner.E), np.float64(inner.x0), np.float64(inner.alpha))
    return MetricLaw(form, float(limit), float(x0), float(alpha), inner, bool(inner.fit.theta[0] >= best - _HELD))


def _metric(form: str, quantity: Any) -> Any:
    """The metric whose 1 / m or 1 - m is ``quantity``."""
    if form == "hill":  # bands of 1 / m are widened in its logarithm, which knows no 1
        return 1.0 / np.maximum(quantity, 1.0)
    return np.clip(1.0 - quantity, 0.0, 1.0)


def _constants(form: str, E: Any, x0: Any, alpha: Any) -> tuple[Array, Array, Array]:
    """(limit, x0, alpha) of the metric from the constants of its power law."""
    if form == "miss":
        return 1.0 - E, x0, alpha
    limit = 1.0 / np.maximum(E, 1.0)  # a vanishing E was given as 0
    return limit, x0 * limit ** (1.0 / alpha), alpha
