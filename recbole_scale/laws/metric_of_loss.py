"""A ranking metric as a function of the loss, pooled over sizes, data and epochs: one curve in the place of many laws.

``logit(m) = a - b * loss``: a model that halves the odds of a miss does so whether width, data or epochs bought it. How
far the runs lie off one curve is in the band, an error of each size's own included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.noise import Residuals, noise_of

_FEWEST = 4


@dataclass(frozen=True)
class MetricOfLoss:
    """logit(metric) = a - b * loss."""

    a: float
    b: float
    spread: float  # standard deviation of the runs around the curve, in logits
    lines: Array  # [R, 2] (a, b) of the resamples
    errors: Array  # [R] of one more run, in logits

    def predict(self, loss: ArrayLike) -> Any:
        """The metric at a loss in nats."""
        return _expit(self.a - self.b * np.asarray(loss, dtype=np.float64))

    def interval(self, loss: ArrayLike, level: float = 0.95, *, new_run: bool = False) -> tuple[Any, Any]:
        """Lower and upper end of the band of the curve, or of one more run."""
        loss = np.asarray(loss, dtype=np.float64)
        logits = self.lines[:, :1] - self.lines[:, 1:] * loss.reshape(1, -1)
        if new_run:
            logits = logits + self.errors[:, None]
        low, high = percentiles(_expit(logits), level)
        return low.reshape(loss.shape)[()], high.reshape(loss.shape)[()]


def fit_metric_of_loss(
    loss: ArrayLike, metric: ArrayLike, sizes: Sequence[Any] | None = None, *, resamples: int = 1000, seed: int = 0
) -> MetricOfLoss:
    """Fit the curve by least squares in logits.

    Args:
        loss, metric: [n] loss in nats and a metric strictly between 0 and 1
        sizes: [n] label of the size of each run, which may have an error of its own; None: every run is a size
        resamples, seed: behind the bands

    Raises:
        UserError: fewer than 4 runs, a metric outside (0, 1), or losses that are all the same.
    """
    x, m = np.asarray(loss, dtype=np.float64), np.asarray(metric, dtype=np.float64)
    if x.shape != m.shape or x.ndim != 1 or len(x) < _FEWEST:
        raise UserError(f"a metric as a function of the loss needs at least {_FEWEST} runs with both")
    if not (np.isfinite(x).all() and (m > 0).all() and (m < 1).all()):
        raise UserError("a metric as a function of the loss needs finite losses and values between 0 and 1")
    if np.ptp(x) == 0:
        raise UserError("a metric as a function of the loss needs different losses")
    labels = range(len(x)) if sizes is None else [repr(size) for size in sizes]
    codes = np.unique(np.asarray(list(labels)), return_inverse=True)[1].reshape(-1)
    y, columns = np.log(m / (1 - m)), np.column_stack([np.ones_like(x), -x])
    inverse = np.linalg.pinv(columns)
    line = inverse @ y
    rest = y - columns @ line
    rng = np.random.default_rng(seed)
    places = ((x - x.min()) / np.ptp(x))[:, None]
    residuals = Residuals(rest, columns, places, codes)
    noise = noise_of(residuals, resamples, rng)
    by_size, by_run = noise.errors(residuals, rng.standard_normal((resamples, len(x))), rng)
    drawn = columns @ line + by_size[:, codes] + by_run
    spread = float(np.sqrt((rest**2).sum() / (len(x) - 2)))
    return MetricOfLoss(float(line[0]), float(line[1]), spread, drawn @ inverse.T,
                        np.hypot(noise.sigma, noise.tau) * rng.standard_normal(resamples))  # fmt: skip


def _expit(logits: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-logits))
