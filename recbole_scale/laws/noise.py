"""What sets runs apart from a law: the noise of runs, which may differ by size, and an error of each size's own.

Runs of one size share how well that size was tuned, and no number of seeds averages that out. With r_i the log residual
of a run at size k, ``r_i = s_k + e_i``, ``s_k`` has standard deviation tau and ``e_i`` sigma_i, log-linear in log size.
Both are known only from few residuals, so a law's bands use draws from their posterior: the likelihood of the residuals
with the constants of the law integrated out (restricted likelihood, linearised at the fit) on a grid of tau / sigma and
of the slope of log sigma, with sigma itself integrated in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recbole_scale.laws.fitting import Array

_RATIOS = np.concatenate([[0.0], np.geomspace(0.1, 30.0, 16)])  # tau / sigma in the middle of the sizes
# Prior: the share of ladders whose sizes have no error of their own, and the scale of its half-Cauchy ratio in the
# others. Residuals of few sizes tell little, so this decides much. Both were chosen by coverage (docs/scaling.md); with
# one size to spare more is laid on an error, for else ladders that have one are covered in about 80 %.
_ABSENT, _RATIO_SCALE = 0.4, 2.0
_ABSENT_ONE_SPARE, _RATIO_SCALE_ONE_SPARE = 0.3, 5.0
_TERM = 3  # constants that the sizes must fix
_SLOPE_SD = 3.5  # prior of the slope; sigma of results/ml-1m falls by a factor of 17 over the sizes, a slope of -2.9
_EXACT = 1e-10  # residuals of that size are arithmetic


@dataclass(frozen=True)
class Noise:
    """R draws of how far runs and sizes lie off a law, as standard deviations of log loss."""

    sigma: Array  # [R] of a run in the middle of the sizes
    slope: Array  # [R, K] of log sigma along each axis, from its smallest to its largest size
    tau: Array  # [R] of a size
    evidence: float  # largest log likelihood, for a comparison of forms

    def of_runs(self, places: Array) -> Array:
        """Standard deviation of runs at scaled ``places`` [n, K]: [R, n]; beyond the sizes it is that of the end."""
        return np.asarray(self.sigma[:, None] * np.exp(self.slope @ (np.clip(places, 0.0, 1.0) - 0.5).T))

    def of_new_runs(self, places: Array, runs: int) -> Array:
        """Standard deviation of the mean of new runs of one size, at scaled ``places`` [n, K]: [R, n]."""
        return np.asarray(np.hypot(self.of_runs(places) / np.sqrt(runs), self.tau[:, None]))


@dataclass(frozen=True)
class Residuals:
    """What a law leaves over, by run."""

    values: Array  # [n] log residuals
    gradient: Array  # [n, P] of the log law in its constants
    places: Array  # [n, K] scaled log sizes, 0 to 1
    sizes: NDArray[np.intp]  # [n] the size of every run as a number from 0

    @classmethod
    def of(
        cls, rows: Array, gradient: Array, places: Array, sizes: NDArray[np.intp], groups: NDArray[np.intp]
    ) -> Residuals:
        """Means over the rows of every run, ``groups`` [n] from 0."""
        _, first = np.unique(groups, return_index=True)
        means = np.bincount(groups, rows) / np.bincount(groups)
        return cls(means, gradient[first], places[first], sizes[first])


def noise_of(residuals: Residuals, count: int, rng: np.random.Generator) -> Noise:
    """Draw ``count`` times from the posterior of the noise."""
    ratio, slope, log_v, log_a, rest = _scan(residuals)
    spare = max(len(residuals.values) - residuals.gradient.shape[1], 1)
    few = int(residuals.sizes.max()) + 1 <= _TERM + 1
    absent, scale = (_ABSENT_ONE_SPARE, _RATIO_SCALE_ONE_SPARE) if few else (_ABSENT, _RATIO_SCALE)
    slab = _RATIOS[1:] / scale
    slab /= 1.0 + slab**2  # half-Cauchy, as density per step of the logarithm
    share = np.concatenate([[absent], (1.0 - absent) * slab / slab.sum()])
    prior = np.log(share)[np.searchsorted(_RATIOS, ratio)]
    prior -= 0.5 * (slope**2).sum(axis=1) / _SLOPE_SD**2
    posterior = prior - 0.5 * log_v - 0.5 * log_a - 0.5 * spare * np.log(rest)
    weights = np.exp(posterior - posterior.max())
    drawn = rng.choice(len(ratio), count, p=weights / weights.sum())
    # the rarest one in a thousand is cut: with one spare run its width knows no bounds, and no 95 % band sees it
    chi2 = np.maximum(rng.chisquare(spare, count), scipy.stats.chi2.ppf(1e-3, spare))
    sigma = np.sqrt(rest[drawn] / chi2)
    return Noise(sigma, slope[drawn], ratio[drawn] * sigma, _best(log_v, rest, len(residuals.values)))


def likelihood_of(residuals: Residuals) -> float:
    """Largest log likelihood of the residuals of a law, for a comparison of forms on the same runs."""
    _, _, log_v, _, rest = _scan(residuals)
    return _best(log_v, rest, len(residuals.values))


def _best(log_v: Array, rest: Array, runs: int) -> float:
    return float((-0.5 * log_v - 0.5 * runs * np.log(rest / runs)).max())


def _scan(residuals: Residuals) -> tuple[Array, ...]:
    """Ratio, slopes, log|V|, log|X'V^-1 X| and the weighted rest of squares at every point of the grid."""
    axes = residuals.places.shape[1]
    steps = np.linspace(-6.0, 6.0, 31 if axes == 1 else 13)
    cells = np.array(list(product(_RATIOS, *[steps] * axes)))
    ratio, slope = cells[:, 0], cells[:, 1:]
    log_sd = slope @ (residuals.places - 0.5).T  # [G, n]
    member = np.eye(int(residuals.sizes.max()) + 1)[residuals.sizes]
    return ratio, slope, *_likelihood(residuals.values, residuals.gradient, log_sd, ratio, member)


def _likelihood(r: Array, X: Array, log_sd: Array, ratio: Array, member: Array) -> tuple[Array, Array, Array]:
    """log|V|, log|X'V^-1 X| and the weighted rest of squares at every point of the grid, with sigma = 1.

    V = diag(sd^2) + ratio^2 Z Z' is inverted by blocks (Sherman and Morrison).
    """
    weight = np.exp(-2.0 * log_sd)  # [G, n]
    columns = np.concatenate([X, r[:, None]], axis=1)  # [n, P + 1]
    total = weight @ member  # [G, m]
    pairs = np.einsum("ip,iq->ipq", columns, columns).reshape(len(r), -1)
    gram = (weight @ pairs).reshape(len(weight), columns.shape[1], columns.shape[1])
    sums = np.einsum("gi,im,ip->gmp", weight, member, columns, optimize=True)
    shrink = ratio[:, None] ** 2 / (1.0 + ratio[:, None] ** 2 * total)
    gram = gram - np.einsum("gm,gmp,gmq->gpq", shrink, sums, sums, optimize=True)
    A, c, square = gram[:, :-1, :-1], gram[:, :-1, -1], gram[:, -1, -1]
    scale = np.sqrt(np.einsum("gpp->gp", A).mean(axis=0)) + 1e-30
    A = A / (scale[:, None] * scale) + 1e-9 * np.eye(A.shape[1])
    c = c / scale
    rest = square - np.einsum("gp,gp->g", c, np.linalg.solve(A, c[..., None])[..., 0])
    log_v = 2.0 * log_sd.sum(axis=1) + np.log1p(ratio[:, None] ** 2 * total).sum(axis=1)
    return log_v, np.linalg.slogdet(A)[1], np.maximum(rest, len(r) * _EXACT**2)
