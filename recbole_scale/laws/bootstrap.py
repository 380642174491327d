"""Resampled data sets for the bands of a law: whole runs redrawn, and residuals redrawn, in equal parts.

Redrawing runs trusts the spread seen at each size and allows it to differ between sizes, but with few runs it sees
too little of it. Redrawing residuals pools the spread over all sizes and corrects for the fitted constants. Bands of
both kept their coverage best over the designs of benchmarks/laws.py. Where most sizes have a single run, redrawing runs
would lose sizes instead of showing their spread, so there residuals alone are redrawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from recbole_scale.laws.fitting import Array

RUNS_PER_SIZE = 2  # on average, for runs to be redrawn as well
_ROUNDS = 50  # rounds of redrawing runs before a design is taken to have too few sizes for it


@dataclass(frozen=True)
class Resamples:
    """R data sets with the sizes of the original one."""

    y: Array  # [R, n] log of the losses
    weights: Array  # [R, n] how often each row counts
    noise: Array  # [R] log residual that one more run would add

    @classmethod
    def none(cls, rows: int) -> Resamples:
        """No resamples at all, for a fit that leaves nothing to estimate the noise from."""
        return cls(np.empty((0, rows)), np.empty((0, rows)), np.empty(0))


def resample(
    y: Array, fitted: Array, groups: NDArray[np.intp], logs: Array, parameters: int, count: int, seed: int
) -> Resamples:
    """Draw ``count`` data sets: half by runs and half by residuals, or all by residuals with few runs per size.

    Args:
        y, fitted: [n], log of the losses and of the law there
        groups: [n], the run of each row as a number from 0; rows of a run stay together
        logs: [n, K], log of the sizes, to keep a resample from losing them
        parameters: constants of the law; there must be more runs than that
        count, seed: how many data sets, and the seed of the draws
    """
    rng = np.random.default_rng(seed)
    repeated = int(groups.max()) + 1 >= RUNS_PER_SIZE * len(np.unique(logs, axis=0))
    by_run = _redraw_runs(groups, logs, parameters, count // 2 if repeated else 0, rng)
    residuals, noise = _redraw_residuals(y - fitted, groups, parameters, count, rng)
    rest = count - len(by_run)  # more than one half when too few resamples by runs kept enough sizes
    data = np.concatenate([np.broadcast_to(y, by_run.shape), fitted + residuals[:rest]])
    return Resamples(data, np.concatenate([by_run, np.ones((rest, len(y)))]), noise)


def _redraw_runs(groups: NDArray[np.intp], logs: Array, parameters: int, count: int, rng: np.random.Generator) -> Array:
    """Weights [at most count, n] of resamples with replacement that can still carry a law."""
    runs = int(groups.max()) + 1
    members = [np.unique(axis, return_inverse=True)[1] for axis in logs.T]
    cells = np.unique(logs, axis=0, return_inverse=True)[1].reshape(-1)
    kept: list[Array] = []
    for _ in range(_ROUNDS):
        drawn = rng.integers(0, runs, size=(count, runs))
        times = np.zeros((count, runs))
        np.add.at(times, (np.arange(count)[:, None], drawn), 1.0)
        weights = times[:, groups]
        enough = _distinct(weights, cells) >= parameters
        for axis in members:
            enough &= _distinct(weights, axis) >= 3
        kept.append(weights[enough])
        if sum(map(len, kept)) >= count:
            break
    return np.concatenate(kept)[:count]


def _distinct(weights: Array, codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of distinct codes among the rows each resample holds: [R]."""
    table = np.eye(int(codes.max()) + 1)[codes]
    return np.asarray((weights @ table > 0).sum(axis=1))


def _redraw_residuals(
    residuals: Array, groups: NDArray[np.intp], parameters: int, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Residuals for ``count`` data sets [count, n] and for one more run in each [count].

    A residual is its run's mean plus a remainder; both are drawn from all runs, with a random sign, and widened for
    the constants that were fitted to them. Each data set also draws how wide the noise itself is (sqrt(df /
    chi2_df)), because that is known from only df residuals: for a linear law this turns normal bands into Student's,
    which matters with four to ten runs.
    """
    runs, rows = int(groups.max()) + 1, len(residuals)
    means = np.bincount(groups, residuals) / np.bincount(groups)
    rest = residuals - means[groups]
    spare = runs - parameters
    # the rarest one in a thousand is cut: with one spare run its width knows no bounds, and no 95 % band sees it
    drawn = np.maximum(rng.chisquare(spare, count), scipy.stats.chi2.ppf(1e-3, spare))
    width = np.sqrt(runs / spare) * np.sqrt(spare / drawn)
    run_part = width[:, None] * rng.choice(means, (count, runs + 1)) * rng.choice([-1.0, 1.0], (count, runs + 1))
    row_part = np.zeros((count, rows + 1))
    if rows > runs:
        row_part = rng.choice(rest, (count, rows + 1)) * rng.choice([-1.0, 1.0], (count, rows + 1))
        row_part *= np.sqrt(rows / (rows - runs))
    return run_part[:, groups] + row_part[:, :rows], run_part[:, runs] + row_part[:, rows]
