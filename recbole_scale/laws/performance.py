"""A second form for ranking metrics: the Performance Law of Shen et al., arXiv 2412.00430, along one axis.

``m(x) = b + w (k log u - u^k / 2)`` with ``u = x / x_mid``. For k below 0 it grows with the logarithm of the size and
knows no limit; for k above 0 it peaks at ``u^k = 2`` and falls, which is their decay for models too large for the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fitting import Array

_EXPONENTS = np.concatenate([-np.geomspace(3.0, 0.02, 60), np.geomspace(0.02, 3.0, 60)])


@dataclass(frozen=True)
class PerformanceLaw:
    """The fitted form."""

    b: float
    w: float
    k: float
    middle: float
    error: float  # root mean square of the residuals

    def predict(self, x: ArrayLike) -> Any:
        """The metric at size ``x``."""
        u = np.log(np.asarray(x, dtype=np.float64) / self.middle)
        return self.b + self.w * _shape(u, self.k)

    @property
    def peak(self) -> float | None:
        """Size at which the metric is best; None where it grows on."""
        if self.k <= 0 or self.w <= 0:
            return None
        return float(self.middle * 2.0 ** (1.0 / self.k))


def fit_performance_law(x: ArrayLike, value: ArrayLike) -> PerformanceLaw:
    """Least squares: k is scanned, w and b follow.

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
    tried = []
    for k in _EXPONENTS:
        columns = np.column_stack([np.ones_like(u), _shape(u, k)])
        line, *_ = np.linalg.lstsq(columns, values, rcond=None)
        tried.append((float(((values - columns @ line) ** 2).mean()), float(line[0]), float(line[1]), float(k)))
    square, b, w, k = min(tried)
    return PerformanceLaw(b, w, k, middle, float(np.sqrt(square)))


def _shape(log_u: Array, k: float) -> Array:
    return np.asarray(k * log_u - 0.5 * np.exp(np.clip(k * log_u, -700.0, 700.0)))
