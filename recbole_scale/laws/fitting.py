"""Robust fit of a constant plus power laws, for many resamples at once; nothing here knows what is being fitted.

A law with K power terms is, in logs, ``log f = logsumexp(e, a_1 - s_1 u_1, ..., a_K - s_K u_K)``: a log-sum-exp of
forms that are linear in ``theta = (e, a_1, s_1, ..., a_K, s_K)``. ``u_k`` runs from 0 at the smallest value of axis k
to 1 at the largest one, so that every parameter is of order one whatever the units, and a fit in other units is the
same fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3  # Huber's corner on log residuals, as in Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3)
STEEPEST = 30.0  # s = alpha * log(x_max / x_min): the power term falls by e^30 over the data, a step and no curve
FLATTEST = 0.01  # ... and by 1 % over the data
NOTHING = 14.0  # a term e^-14 (1e-6) of the smallest loss is no term
_STEPS, _FEW_STEPS = 200, 50  # of Newton, for a fit that must be exact and for a resample
_CHUNK = 2_000_000  # numbers held at once by the largest temporary array


@dataclass(frozen=True)
class Axes:
    """Where the scaled coordinates lie: ``u = (log x - start) / span``, one entry per axis."""

    start: Array  # [K]
    span: Array  # [K]

    @classmethod
    def of(cls, logs: Array) -> Axes:
        """Axes that map the data, ``logs`` [n, K], onto 0..1."""
        start = logs.min(axis=0)
        return cls(start, logs.max(axis=0) - start)

    def forms(self, logs: Array) -> Array:
        """Matrix of the linear forms at ``logs`` [n, K]: [n, K + 1, 2 K + 1], to be multiplied with theta."""
        rows, axes = logs.shape
        forms = np.zeros((rows, axes + 1, 2 * axes + 1))
        forms[:, 0, 0] = 1.0
        for axis in range(axes):
            forms[:, axis + 1, 2 * axis + 1] = 1.0
            forms[:, axis + 1, 2 * axis + 2] = -(logs[:, axis] - self.start[axis]) / self.span[axis]
        return forms


def log_law(theta: Array, forms: Array) -> Array:
    """Log of the law: ``theta`` [B, P] at the rows of ``forms`` [n, K + 1, P] gives [B, n]."""
    return _log_law_and_shares(theta, forms)[0]


def gradient(theta: Array, forms: Array) -> Array:
    """Gradient [n, P] of the log of one law, ``theta`` [P], in its parameters."""
    return np.asarray(_slope(_log_law_and_shares(theta[None], forms)[1], _coordinates(forms))[0])


def log_law_of_each(theta: Array, forms: Array) -> Array:
    """Log of the law for several ``theta`` [B, S, P] of each data set: [B, S, n]."""
    return log_law(theta.reshape(-1, theta.shape[2]), forms).reshape(*theta.shape[:2], len(forms))


def fit_batch(
    forms: Array,
    y: Array,
    *,
    limits: tuple[float, float],
    starts: int,
    grid: int,
    near: Array | None = None,
    tolerance: float = 1e-11,
    floorless: bool = False,
) -> tuple[Array, Array]:
    """Fit B data sets that share their sizes: scan the exponents, polish the best of the scan, keep the lowest.

    With the exponents fixed the law is linear in its other parameters, so that each point of the scan is a small
    nonnegative least squares problem with a closed answer and no start has to be guessed.

    Args:
        forms: [n, K + 1, P], from :meth:`Axes.forms`
        y: [B, n], log of the losses
        limits: lowest and highest admitted log E; infinite unless the quantity has limits of its own
        starts: how many of the best points of the scan are polished
        grid: exponents tried per axis
        near: [P], one more point to choose the starts from, such as the fit of the data that these are resamples of
        tolerance: step at which a fit has arrived, in scaled parameters
        floorless: keep E at its lowest, a law without E

    Returns:
        theta [B, P] and the summed Huber loss [B] in units of delta^2.
    """
    exponents = _exponent_grid(forms.shape[1] - 1, grid)
    lower, upper = _bounds(y, limits, forms.shape[1] - 1)
    if floorless:
        upper[:, 0] = lower[:, 0]
    theta = np.empty((len(y), forms.shape[2]))
    objective = np.empty(len(y))
    chunk = max(1, _CHUNK // (len(exponents) * forms.shape[0] * forms.shape[1]))
    for begin in range(0, len(y), chunk):
        part = slice(begin, begin + chunk)
        tried = _scan(forms, y[part], exponents, lower[part], min(starts, len(exponents)))
        if near is not None:
            tried = np.concatenate([tried, np.broadcast_to(near, (len(tried), 1, len(near)))], axis=1)
            keep = min(starts, tried.shape[1])
            value = _objective(log_law_of_each(tried, forms), y[part, None])
            best_few = np.argsort(value, axis=1)[:, :keep, None]
            tried = np.take_along_axis(tried, best_few, axis=1)
        keep = tried.shape[1]
        data = [np.repeat(rows[part], keep, axis=0) for rows in (y, lower, upper)]
        starts_of_all = tried.reshape(-1, tried.shape[-1])
        polished, value = polish(forms, data[0], starts_of_all, data[1], data[2], tolerance)
        best = value.reshape(-1, keep).argmin(axis=1)
        pick = np.arange(len(best)) * keep + best
        theta[part], objective[part] = polished[pick], value[pick]
    return theta, objective


def polish(forms: Array, y: Array, theta: Array, lower: Array, upper: Array, tolerance: float) -> tuple[Array, Array]:
    """Minimise the summed Huber loss from ``theta`` [B, P] within bounds; each data set on its own.

    Newton steps with the exact Hessian, damped towards the reweighted least-squares step (which always descends), so
    that both the quadratic and the absolute-value side of Huber's loss are followed quickly. Parameters held by a
    bound stay out of the step.
    """
    theta = np.clip(theta, lower, upper)
    damping = np.ones(len(theta))
    value = _objective(log_law(theta, forms), y)
    going = np.arange(len(theta))
    steps = _STEPS if tolerance < 1e-8 else _FEW_STEPS
    for _ in range(steps):
        step = _newton_step(forms, y[going], theta[going], damping[going], lower[going], upper[going])
        tried = np.clip(theta[going] + step, lower[going], upper[going])
        reached = _objective(log_law(tried, forms), y[going])
        better = reached < value[going]
        moved = np.abs(tried - theta[going]).max(axis=1)
        theta[going[better]], value[going[better]] = tried[better], reached[better]
        damping[going] *= np.where(better, 0.2, 6.0)
        going = going[(moved > tolerance) & (damping[going] < 1e12)]
        if not len(going):
            break
    return theta, value


def _log_law_and_shares(theta: Array, forms: Array) -> tuple[Array, list[Array]]:
    """Log of the law [B, n] and the share of every term in it, K + 1 times [B, n]."""
    u = _coordinates(forms)
    terms = [np.broadcast_to(theta[:, :1], (len(theta), len(u)))]
    terms += [theta[:, [1 + 2 * k]] - theta[:, [2 + 2 * k]] * u[:, k] for k in range(u.shape[1])]
    top = terms[0]
    for term in terms[1:]:
        top = np.maximum(top, term)
    shares = [np.exp(term - top) for term in terms]
    total = sum(shares[1:], shares[0])
    for share in shares:
        share /= total
    return top + np.log(total), shares


def _coordinates(forms: Array) -> Array:
    """The scaled log sizes [n, K] that :meth:`Axes.forms` was made from."""
    return -np.stack([forms[:, k, 2 * k] for k in range(1, forms.shape[1])], axis=-1)


def _slope(shares: list[Array], u: Array) -> Array:
    """Gradient of the log law in theta: [B, n, P]."""
    columns = [shares[0]]
    for k, share in enumerate(shares[1:]):
        columns += [share, -share * u[:, k]]
    return np.stack(columns, axis=-1)


def _objective(log_prediction: Array, y: Array) -> Array:
    """Summed Huber loss of the log residuals in units of delta^2, over the last axis."""
    size = np.abs(y - log_prediction) / DELTA
    return np.asarray(np.where(size <= 1.0, 0.5 * size**2, size - 0.5).sum(axis=-1))


def _newton_step(forms: Array, y: Array, theta: Array, damping: Array, lower: Array, upper: Array) -> Array:
    """Damped Newton step [B, P], zero along parameters that a bound holds.

    With shares p_k of the terms and forms A_k: grad log f = g = sum_k p_k A_k, and Hess log f = sum_k p_k A_k A_k' -
    g g'.
    """
    log_f, shares = _log_law_and_shares(theta, forms)
    u = _coordinates(forms)
    slope = _slope(shares, u)
    residual = (y - log_f) / DELTA
    pull = np.clip(residual, -1.0, 1.0) / DELTA
    inside = (np.abs(residual) <= 1.0) / DELTA**2
    majorant = 1.0 / np.maximum(np.abs(residual), 1.0) / DELTA**2
    gradient = -np.einsum("bn,bnp->bp", pull, slope)
    hessian = _gram(inside + pull, slope)
    hessian[:, 0, 0] -= np.einsum("bn,bn->b", pull, shares[0])
    for k, share in enumerate(shares[1:]):
        moments = (pull * share) @ np.stack([np.ones(len(u)), -u[:, k], u[:, k] ** 2], axis=1)  # [B, 3]
        place = slice(1 + 2 * k, 3 + 2 * k)
        hessian[:, place, place] -= moments[:, [[0, 1], [1, 2]]]
    descent = _gram(majorant, slope)
    size = np.einsum("bpp->bp", descent)
    eye = np.eye(theta.shape[1])
    ridge = eye * (1e-9 * size + 1e-12 * size.max(axis=1, keepdims=True) + 1e-30)[:, None, :]
    held = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    free = ~held
    matrix = (hessian + damping[:, None, None] * (descent + ridge)) * (free[:, :, None] & free[:, None, :])
    matrix += eye * held[:, None, :] + ridge  # two terms of one exponent make it singular, however small the damping
    step = -np.linalg.solve(matrix, (gradient * free)[..., None])[..., 0]
    # Where the Hessian is too indefinite for its damping the step may climb; the objective then rejects it and
    # damping grows.
    return np.clip(np.nan_to_num(step), -4.0, 4.0)


def _gram(weights: Array, slope: Array) -> Array:
    """sum_n w_n g_n g_n' for every data set: [B, P, P]."""
    return np.matmul((weights[..., None] * slope).transpose(0, 2, 1), slope)


def _exponent_grid(axes: int, points: int) -> Array:
    """Every combination of scaled exponents to scan: [G, K]."""
    one = np.geomspace(FLATTEST, STEEPEST, points)
    return np.array(list(product(one, repeat=axes)))


def _bounds(y: Array, limits: tuple[float, float], axes: int) -> tuple[Array, Array]:
    """Lower and upper bounds of theta, [B, P] each; a term may vanish but not exceed the largest loss twofold."""
    none = y.min(axis=1) - NOTHING
    most = y.max(axis=1) + np.log(2.0)
    lower = np.empty((len(y), 1 + 2 * axes))
    upper = np.empty_like(lower)
    lower[:, 0] = np.maximum(none, limits[0])
    upper[:, 0] = np.maximum(np.minimum(most, limits[1]), lower[:, 0])
    lower[:, 1::2], upper[:, 1::2] = none[:, None], most[:, None]
    lower[:, 2::2], upper[:, 2::2] = FLATTEST, STEEPEST
    return lower, upper


@np.errstate(over="ignore", invalid="ignore")  # losses drawn from noise of hundreds in logs
def _scan(forms: Array, y: Array, exponents: Array, lower: Array, keep: int) -> Array:
    """The ``keep`` best points of the exponent scan for every data set: [B, keep, P]."""
    decay = np.exp(-exponents[:, None, :] * _coordinates(forms)[None])  # [G, n, K]
    columns = np.concatenate([np.ones((*decay.shape[:2], 1)), decay], axis=2)  # [G, n, K + 1]
    loss = np.exp(y)
    least = np.exp(lower[:, [0, *range(1, lower.shape[1], 2)]])  # [B, K + 1]
    scale = _nonnegative(columns, loss, loss**-2.0, least)  # [B, G, K + 1]
    predicted = np.einsum("bgk,gnk->bgn", scale, columns)
    value = _objective(np.log(predicted), y[:, None])
    best = np.argsort(value, axis=1)[:, :keep]
    theta = np.empty((len(y), best.shape[1], lower.shape[1]))
    chosen = np.log(np.take_along_axis(scale, best[..., None], axis=1))
    theta[..., 0], theta[..., 1::2], theta[..., 2::2] = chosen[..., 0], chosen[..., 1:], exponents[best]
    return theta


def _nonnegative(columns: Array, target: Array, weights: Array, least: Array) -> Array:
    """Weighted least squares with every coefficient at or above ``least``: [B, G, K + 1].

    So few coefficients have so few sets of active bounds that trying them all is exact and runs for all data sets at
    once.
    """
    groups, rows, terms = columns.shape
    pairs = np.einsum("gni,gnj->ngij", columns, columns).reshape(rows, -1)
    gram = (weights @ pairs).reshape(-1, groups, terms, terms)
    shifted = np.einsum("bgij,bj->bgi", gram, least)
    right = np.einsum("bn,gni->bgi", weights * target, columns) - shifted
    best = np.zeros((len(target), groups, terms))
    lowest = np.zeros((len(target), groups))
    for count in range(1, terms + 1):
        for free in combinations(range(terms), count):
            index = np.array(free)
            block = gram[:, :, index[:, None], index]
            ridge = 1e-13 * np.trace(block, axis1=2, axis2=3)[..., None, None] * np.eye(count)
            some = np.linalg.solve(block + ridge, right[:, :, index, None])[..., 0]
            gain = -0.5 * np.einsum("bgi,bgi->bg", some, right[:, :, index])
            wins = (some >= 0).all(axis=2) & (gain < lowest)
            lowest[wins] = gain[wins]
            best[wins] = 0.0
            best[np.ix_(*map(np.arange, best.shape[:2]), index)] = np.where(wins[..., None], some, best[:, :, index])
    return best + least[:, None]
