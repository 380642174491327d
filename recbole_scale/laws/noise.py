"""What sets runs apart from a law: the noise of runs, which may differ by size, and an error of each size's own.

Runs of one size share how well that size was tuned, and no number of seeds averages that out. With r_i the log residual
of a run at size k, ``r_i = s_k + e_i``, ``s_k`` has standard deviation tau and ``e_i`` sigma_i, log-linear in log size.
Both are known only from few residuals, so a law's bands use draws from their posterior: the likelihood of the residuals
with the constants of the law integrated out (restricted likelihood, linearised at the fit) on a grid of tau / sigma and
of the slope of log sigma, with sigma itself integrated in closed form.

The means of sizes may also lie nearer to the law than their runs' spread lets expect (by a factor ``calm`` below 1).
No ladder is made so, but some look so by chance. A prior that ends at tau = 0 answers that no band is narrower than the
spread of runs makes it, and a 95 % band then holds the truth in 99 to 100 % where sizes have no error of their own. One
that goes on beyond, flat in the logarithm, makes the band that of Student's t for the means of sizes, which is 95 %
whatever tau is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.special
from numpy.typing import NDArray

from recbole_scale.laws.fitting import Array

_RATIOS = np.concatenate([[0.0], np.geomspace(0.1, 30.0, 16)])  # tau / sigma in the middle of the sizes
_CALM = np.geomspace(0.05, 0.9, 8)  # factors by which the means of sizes may lie nearer to the law than runs say
# Prior: the weight of those factors, and in what is left that of no error of a size and the scale of the half-Cauchy
# ratio of the others. Residuals of few sizes tell little, so this decides much. All were chosen by coverage
# (docs/scaling.md). With one size to spare the ratio must be admitted to be large, for its estimate knows no bounds; on
# a grid every size has several cells, and so less of an error of its own, but few sizes again tell little of it.
_LADDER, _ONE_SPARE = (0.4, 0.3, 2.0), (0.55, 0.05, 10.0)
_GRID, _FEW_ON_GRID = (0.35, 0.55, 2.0), (0.42, 0.05, 4.0)
_TERM = 3  # constants that the sizes must fix
_SLOPE_SD = 3.5  # prior of the slope; sigma of results/ml-1m falls by a factor of 17 over the sizes, a slope of -2.9
_EXACT = 1e-10  # residuals of that size are arithmetic


@dataclass(frozen=True)
class Noise:
    """R draws of how far runs and sizes lie off a law, as standard deviations of log loss."""

    sigma: Array  # [R] of a run in the middle of the sizes
    slope: Array  # [R, K] of log sigma along each axis, from its smallest to its largest size
    tau: Array  # [R] of a size
    calm: Array  # [R] factor on what the noise of runs does to the mean of a size
    evidence: float  # largest log likelihood, for a comparison of forms

    def of_runs(self, places: Array) -> Array:
        """Standard deviation of runs at scaled ``places`` [n, K]: [R, n]; beyond the sizes it is that of the end."""
        return np.asarray(self.sigma[:, None] * np.exp(self.slope @ (np.clip(places, 0.0, 1.0) - 0.5).T))

    def errors(self, residuals: Residuals, normal: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Errors of every size [R, m] and of every run [R, n], the latter from ``normal`` [R, n] of variance 1."""
        members = np.eye(int(residuals.sizes.max()) + 1)[residuals.sizes]  # [n, m]
        sd = self.of_runs(residuals.places)
        of_runs, weight = sd * normal, sd**-2.0
        means = (of_runs * weight) @ members / (weight @ members)
        of_runs = of_runs - (1.0 - self.calm[:, None]) * means[:, residuals.sizes]
        return self.tau[:, None] * rng.standard_normal((len(self.tau), members.shape[1])), of_runs

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
    level, slope, log_v, log_a, rest = _scan(residuals)
    spare = max(len(residuals.values) - residuals.gradient.shape[1], 1)
    posterior = np.log(_prior(residuals))[level] - 0.5 * (slope**2).sum(axis=1) / _SLOPE_SD**2
    posterior += -0.5 * log_v - 0.5 * log_a - 0.5 * spare * np.log(rest)
    weights = np.exp(posterior - posterior.max())
    drawn = rng.choice(len(level), count, p=weights / weights.sum())
    # the rarest one in a thousand is cut: with one spare run its width knows no bounds, and no 95 % band sees it
    chi2 = np.maximum(rng.chisquare(spare, count), scipy.special.chdtri(spare, 0.999))
    sigma = np.sqrt(rest[drawn] / chi2)
    calm, ratio = _levels(residuals).T[:, level[drawn]]
    return Noise(sigma, slope[drawn], ratio * sigma, calm, _best(log_v, rest, len(residuals.values)))


def _levels(residuals: Residuals) -> Array:
    """Pairs of ``calm`` and tau / sigma [L, 2], from the means of sizes nearest to the law to those farthest off."""
    repeated = len(residuals.sizes) > int(residuals.sizes.max()) + 1  # else the runs are the means of sizes
    calm = [(calm, 0.0) for calm in _CALM] if repeated else []
    return np.array([*calm, *((1.0, ratio) for ratio in _RATIOS)])


def _prior(residuals: Residuals) -> Array:
    """Probability of every level: [L]."""
    few = int(residuals.sizes.max()) + 1 <= _TERM + 1
    ladder = residuals.places.shape[1] == 1
    calm, absent, scale = (_ONE_SPARE if few else _LADDER) if ladder else _FEW_ON_GRID if few else _GRID
    slab = _RATIOS[1:] / scale
    slab /= 1.0 + slab**2  # half-Cauchy, as density per step of the logarithm
    share = np.concatenate([[absent], (1.0 - absent) * slab / slab.sum()])
    if len(_levels(residuals)) == len(share):
        return share
    return np.concatenate([np.full(len(_CALM), calm / len(_CALM)), (1.0 - calm) * share])


def likelihood_of(residuals: Residuals) -> float:
    """Largest log likelihood of the residuals of a law, for a comparison of forms on the same runs."""
    _, _, log_v, _, rest = _scan(residuals)
    return _best(log_v, rest, len(residuals.values))


def _best(log_v: Array, rest: Array, runs: int) -> float:
    return float((-0.5 * log_v - 0.5 * runs * np.log(rest / runs)).max())


def _scan(residuals: Residuals) -> tuple[NDArray[np.intp], Array, Array, Array, Array]:
    """Level, slopes, log|V|, log|X'V^-1 X| and the weighted rest of squares at every point of the grid."""
    axes = residuals.places.shape[1]
    steps = np.linspace(-6.0, 6.0, 31 if axes == 1 else 13)
    levels = _levels(residuals)
    cells = np.array(list(product(range(len(levels)), *[steps] * axes)))
    level, slope = cells[:, 0].astype(np.intp), cells[:, 1:]
    log_sd = slope @ (residuals.places - 0.5).T  # [G, n]
    member = np.eye(int(residuals.sizes.max()) + 1)[residuals.sizes]
    return level, slope, *_likelihood(residuals.values, residuals.gradient, log_sd, levels[level], member)


def _likelihood(r: Array, X: Array, log_sd: Array, levels: Array, member: Array) -> tuple[Array, Array, Array]:
    """log|V|, log|X'V^-1 X| and the weighted rest of squares at every point of the grid, with sigma = 1.

    V = diag(sd^2) + c Z Z' is inverted by blocks (Sherman and Morrison); the mean of a size has the variance of its
    runs' times ``factor``.
    """
    weight = np.exp(-2.0 * log_sd)  # [G, n]
    columns = np.concatenate([X, r[:, None]], axis=1)  # [n, P + 1]
    total = weight @ member  # [G, m]
    pairs = np.einsum("ip,iq->ipq", columns, columns).reshape(len(r), -1)
    gram = (weight @ pairs).reshape(len(weight), columns.shape[1], columns.shape[1])
    sums = np.einsum("gi,im,ip->gmp", weight, member, columns, optimize=True)
    factor = levels[:, :1] ** 2 + levels[:, 1:] ** 2 * total
    shrink = (1.0 - 1.0 / factor) / total
    gram = gram - np.einsum("gm,gmp,gmq->gpq", shrink, sums, sums, optimize=True)
    A, c, square = gram[:, :-1, :-1], gram[:, :-1, -1], gram[:, -1, -1]
    scale = np.sqrt(np.einsum("gpp->gp", A).mean(axis=0)) + 1e-30
    A = A / (scale[:, None] * scale) + 1e-9 * np.eye(A.shape[1])
    c = c / scale
    rest = square - np.einsum("gp,gp->g", c, np.linalg.solve(A, c[..., None])[..., 0])
    log_v = 2.0 * log_sd.sum(axis=1) + np.log(factor).sum(axis=1)
    return log_v, np.linalg.slogdet(A)[1], np.maximum(rest, len(r) * _EXACT**2)
