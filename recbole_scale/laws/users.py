"""The floor of a law for the population that the test users are a sample of: users are redrawn beside runs.

A law's own bands hold on its test users, since all runs are tested on the same ones. Redrawing users moves all runs at
once, and so what the law tends to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recbole_scale.errors import UserError
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.fitting import Array, fit_batch
from recbole_scale.laws.loss import PowerLaw

_PART = 1 << 22  # numbers drawn at once


@dataclass(frozen=True)
class Population:
    """E with the 95 % bands of its runs, of its users, and of both together, nats."""

    users: int
    E: float
    of_runs: tuple[float, float]
    of_users: tuple[float, float]
    of_both: tuple[float, float]


def population_floor(
    law: PowerLaw, loss_of_rows: ArrayLike, users: ArrayLike | None = None, *, resamples: int = 400, seed: int = 0
) -> Population:
    """E of ``law`` for all users, from the losses of those tested.

    Args:
        law: fitted with resamples, to runs that were all tested on these rows
        loss_of_rows: [n, T] loss of each test row in each run, nats; runs in the order in which the law was given them
        users: [T] the user of each test row, whose rows are drawn together; None: every row is a user
        resamples, seed: of the users

    Raises:
        UserError: another number of runs, a loss that is no number, or a law without a band.
    """
    losses = np.asarray(loss_of_rows, dtype=np.float64)
    seen, form = law.fit.seen, law.fit.forms[0]
    if losses.ndim != 2 or len(losses) != len(seen.y):
        raise UserError(f"losses of users are of shape {losses.shape}, but the law has {len(seen.y)} runs")
    if not np.isfinite(losses).all():
        raise UserError("the loss of some user is no finite number")
    if not len(law.fit.replicates):
        raise UserError("the law has no band, so nothing can be said of other users either")
    rng = np.random.default_rng(seed)
    names, member, rows_of = np.unique(
        np.arange(losses.shape[1]) if users is None else np.asarray(users), return_inverse=True, return_counts=True
    )
    if len(member) != losses.shape[1]:
        raise UserError(f"there are {len(member)} users of rows, but {losses.shape[1]} rows")
    count = len(names)
    sums = np.array([np.bincount(member, one, count) for one in losses]).T  # [U, n]
    step, drawn = max(1, _PART // count), []
    for begin in range(0, resamples, step):
        times = rng.multinomial(count, np.full(count, 1.0 / count), min(step, resamples - begin))
        drawn.append(times @ sums / (times @ rows_of)[:, None])
    # what the draws move is what counts: the runs stay as far off the law as they are
    y = seen.y + np.log(np.concatenate(drawn) / losses.mean(axis=1))[:, seen.order]  # [S, n]
    theta, _ = fit_batch(
        form.axes.forms(seen.logs), y, limits=(-np.inf, np.inf), starts=1, grid=12, near=law.fit.theta,
        tolerance=1e-6,
    )  # fmt: skip
    by_users = law.fit.constants(theta)[:, 0]
    by_runs = law.fit.constants(law.fit.replicates)[:, 0]
    both = by_users + rng.choice(by_runs - law.E, len(by_users))
    of_runs, of_users, of_both = (_band(draws) for draws in (by_runs, by_users, np.maximum(both, 0.0)))
    return Population(count, law.E, of_runs, of_users, of_both)


def _band(draws: Array) -> tuple[float, float]:
    lower, upper = percentiles(draws, 0.95)
    return float(lower), float(upper)
