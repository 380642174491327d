"""A second form for ranking metrics: the Performance Law of Shen et al., arXiv 2412.00430, along one axis.

``m(x) = b + w (k log u - u^k / 2)`` with ``u = x / x_mid``. For w below 0 it grows on, with k below 0 as the logarithm
of the size; for w above 0 it peaks at ``u^k = 2`` and falls, which is their decay for models too large for the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fitting import Array

_CONSTANTS = 3
_EXPONENTS = np.concatenate([-np.geomspace(3.0, 0.02, 60), np.geomspace(0.02, 3.0, 60)])


@dataclass(frozen=True)
class PerformanceLaw:
    """The fitted form."""

    b: float
    w: float
    k: float
    middle: float
    error: float  # root mean square of the residuals
    peaks: Array  # [R] size at which the law of every resample is best, inf where it grows on

    def predict(self, x: ArrayLike) -> Any:
        """The metric at size ``x``."""
        u = np.log(np.asarray(x, dtype=np.float64) / self.middle)
        return self.b + self.w * _shape(u, self.k)

    @property
    def peak(self) -> float | None:
        """Size at which the metric is best; None where it grows on."""
        peak = float(_peaks(np.array([self.w]), np.array([self.k]), self.middle)[0])
        return peak if np.isfinite(peak) else None

    @property
    def peak_band(self) -> tuple[float, float]:
        """95 % band of the peak, inf where the curve may grow on."""
        low, high = np.quantile(self.peaks, [0.025, 0.975], method="nearest")  # between inf and inf there is nothing
        return float(low), float(high)


def fit_performance_law(x: ArrayLike, value: ArrayLike, *, resamples: int = 400, seed: int = 0) -> PerformanceLaw:
    """Least squares: k is scanned, w and b follow.

    Args:
        x, value: [n] sizes and the metric
        resamples, seed: behind the peaks; the means of sizes are redrawn with the errors that the fit leaves them

    Raises:
        UserError: fewer than 4 different sizes, or columns that do not match.
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if sizes.shape != values.shape or sizes.ndim != 1 or not (np.isfinite(values).all() and (sizes > 0).all()):
        raise UserError("a performance law needs two lists of finite numbers of equal length, sizes above 0")
    if len(np.unique(sizes)) < 4:
        raise UserError("a performance law has 3 constants and a fourth size to be judged by: 4 sizes at least")
    middle = float(np.exp(np.log(sizes).mean()))
    u = np.log(sizes / middle)
    square, b, w, k = (one[0] for one in _least_squares(u, values[None]))
    fitted = b + w * _shape(u, k)
    # several runs of a size share what sets it off the curve: of sizes one knows only their means
    _, codes, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    means = np.bincount(codes, values - fitted) / counts
    rng, spare = np.random.default_rng(seed), len(counts) - _CONSTANTS
    sd = np.sqrt((means**2).sum() / rng.chisquare(spare, resamples))
    errors = sd[:, None] * rng.standard_normal((resamples, len(counts)))
    _, _, w_drawn, k_drawn = _least_squares(u, fitted + errors[:, codes])
    return PerformanceLaw(
        float(b), float(w), float(k), middle, float(np.sqrt(square)), _peaks(w_drawn, k_drawn, middle)
    )


def _least_squares(u: Array, values: Array) -> tuple[Array, Array, Array, Array]:
    """Mean square, b, w and k [R] of the best curve through each of ``values`` [R, n]."""
    tried = []
    for k in _EXPONENTS:
        columns = np.column_stack([np.ones_like(u), _shape(u, k)])
        b, w = np.linalg.lstsq(columns, values.T, rcond=None)[0]
        square = ((values.T - columns @ np.stack([b, w])) ** 2).mean(axis=0)
        tried.append((square, b, w, np.full(len(b), k)))
    best, rows = np.argmin([one[0] for one in tried], axis=0), np.arange(len(values))
    square, b, w, k = (np.stack(column)[best, rows] for column in zip(*tried, strict=True))
    return square, b, w, k


def _peaks(w: Array, k: Array, middle: float) -> Array:
    """Sizes of the peaks, inf where the curve grows on: with w below 0 that place is its lowest."""
    return np.asarray(np.where(w > 0, middle * 2.0 ** (1.0 / k), np.inf))


def _shape(log_u: Array, k: float) -> Array:
    return np.asarray(k * log_u - 0.5 * np.exp(np.clip(k * log_u, -700.0, 700.0)))
