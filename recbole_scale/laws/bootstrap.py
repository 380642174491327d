"""Resampled data sets for the bands of a law: errors redrawn from the noise seen, and whole runs redrawn where many.

Every resample draws how large the noise of runs and the error of a size are (:mod:`recbole_scale.laws.noise`), then
errors of that size around the fitted law: a parametric bootstrap that knows how little a few runs tell of noise. With
four times as many runs as constants some of the resamples redraw the runs themselves, which trusts their spread
wherever it lies; they too get an error of each size, for redrawing runs keeps the sizes' errors as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_scale.laws.fitting import Array
from recbole_scale.laws.noise import Noise, Residuals, noise_of

RUNS_PER_CONSTANT = 4  # from here on runs are redrawn as well
_ROUNDS = 50  # rounds of redrawing runs before a design is taken to have too few sizes for it


@dataclass(frozen=True)
class Errors:
    """R draws of the errors of n rows."""

    noise: Noise
    sizes: Array  # [R, n] error of the row's size
    runs: Array  # [R, n] error of its run and of the row within it
    weights: Array  # [at most R, n] how often redrawn runs count


def draw_errors(
    residuals: Array, of_runs: Residuals, groups: NDArray[np.intp], count: int, rng: np.random.Generator
) -> Errors:
    """Draw the errors of ``count`` resamples.

    Args:
        residuals: [n], log residuals of the rows
        of_runs: the same by run
        groups: [n], the run of each row as a number from 0; rows of a run stay together
        count, rng: how many, and where they come from
    """
    rows, runs = len(residuals), len(of_runs.values)
    noise = noise_of(of_runs, count, rng)
    constants = of_runs.gradient.shape[1]
    many = runs >= RUNS_PER_CONSTANT * constants
    shape = _standardised(of_runs, noise) if many else None
    by_run = noise.of_runs(of_runs.places) * _signed(shape, (count, runs), rng)
    within = np.zeros((count, rows))
    if rows > runs:
        rest = (residuals - of_runs.values[groups]) * np.sqrt(rows / (rows - runs))
        within = rng.choice(rest, (count, rows)) * rng.choice([-1.0, 1.0], (count, rows))
    by_size = noise.tau[:, None] * rng.standard_normal((count, int(of_runs.sizes.max()) + 1))
    weights = _redraw_runs(of_runs.places, constants, count if many else 0, rng)[:, groups]
    return Errors(noise, by_size[:, of_runs.sizes[groups]], by_run[:, groups] + within, weights)


def _standardised(of_runs: Residuals, noise: Noise) -> Array:
    """Residuals of the runs over their typical size, with mean square 1: how heavy the tails of the noise are."""
    typical = np.median(noise.of_runs(of_runs.places), axis=0)
    scaled = of_runs.values / np.maximum(typical, 1e-300)
    return np.asarray(scaled / max(float(np.sqrt((scaled**2).mean())), 1e-300))


def _signed(shape: Array | None, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Standard normal numbers, or some of ``shape`` with a random sign."""
    if shape is None:
        return rng.standard_normal(size)
    return np.asarray(rng.choice(shape, size) * rng.choice([-1.0, 1.0], size))


def _redraw_runs(places: Array, constants: int, count: int, rng: np.random.Generator) -> Array:
    """How often each run counts [at most count, runs] in resamples with replacement that can still carry a law."""
    runs = len(places)
    members = [np.unique(axis, return_inverse=True)[1] for axis in places.T]
    cells = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    kept: list[Array] = [np.empty((0, runs))]
    for _ in range(_ROUNDS):
        missing = count - sum(map(len, kept))
        if missing <= 0:
            break
        # fewer than there are, for the constants fitted to them: least squares of all would be too sure by as much
        weights = rng.multinomial(runs - constants, np.full(runs, 1.0 / runs), missing).astype(np.float64)
        enough = _distinct(weights, cells) >= constants
        for axis in members:
            enough &= _distinct(weights, axis) >= 3
        kept.append(weights[enough])
    return np.concatenate(kept)


def _distinct(weights: Array, codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of distinct codes among the rows each resample holds: [R]."""
    table = np.eye(int(codes.max()) + 1)[codes]
    return np.asarray((weights @ table > 0).sum(axis=1))
