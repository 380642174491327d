"""Resampled data sets for the bands of a law: errors drawn from the noise seen, and those of the runs themselves.

Every resample draws how large the noise of runs and the error of a size are (:mod:`recbole_scale.laws.noise`), then
errors of that size around the fitted law: a parametric bootstrap that knows how little a few runs tell of noise. With
five times as many runs as constants some of the resamples take what every run itself leaves over, with a random sign
(a wild bootstrap, Liu 1988; scaled by leverage as HC3, MacKinnon and White 1985), which trusts the runs' spread
wherever it lies. Redrawing the rows would do so too, but of 25 cells it often loses one that holds the law at its end:
bands on a grid whose noise falls with size were three times as wide as its errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_scale.laws.fitting import Array
from recbole_scale.laws.noise import Noise, Residuals, noise_of

RUNS_PER_CONSTANT = 5  # from here on the errors of runs are those seen, too
WILD = 0.3  # share of the resamples that take those
_HIGHEST = 0.9  # leverage


@dataclass(frozen=True)
class Errors:
    """R draws of the errors of n rows."""

    noise: Noise
    sizes: Array  # [R, n] error of the row's size
    runs: Array  # [R, n] error of its run and of the row within it


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
    many = runs >= RUNS_PER_CONSTANT * of_runs.gradient.shape[1]
    shape = _standardised(of_runs, noise) if many else None
    by_size, by_run = noise.errors(of_runs, _signed(shape, (count, runs), rng), rng)
    within = np.zeros((count, rows))
    if rows > runs:
        rest = (residuals - of_runs.values[groups]) * np.sqrt(rows / (rows - runs))
        within = rng.choice(rest, (count, rows)) * rng.choice([-1.0, 1.0], (count, rows))
    if many:
        wild = rng.random(count) < WILD
        by_run[wild] = _own_errors(of_runs) * rng.choice([-1.0, 1.0], (int(wild.sum()), runs))
    return Errors(noise, by_size[:, of_runs.sizes[groups]], by_run[:, groups] + within)


def _own_errors(of_runs: Residuals) -> Array:
    """What every run leaves over [n], larger by as much as the law has bent towards it."""
    leverage = (np.linalg.qr(of_runs.gradient)[0] ** 2).sum(axis=1)
    return np.asarray(of_runs.values / (1.0 - np.minimum(leverage, _HIGHEST)))


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
