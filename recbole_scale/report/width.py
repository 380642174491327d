"""Where the width of a band comes from: the noise of the runs at each size, and what no run tells.

With the linearised law of :mod:`recbole_scale.report.next_runs`, a prediction is a weighted sum of the log losses of
the runs; its variance is the sum of the squared weights times the noise of a run, plus the part of the weak priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_scale.fit.study import Answer
from recbole_scale.report.next_runs import PRIOR_SD, log_gradient, run_noise


@dataclass(frozen=True)
class Source:
    """A share of the variance of a prediction: that of the runs of size ``n``, or of what no run tells (None)."""

    n: float | None
    runs: int
    share: float


def sources(found: Answer, target: float) -> list[Source]:
    """Shares of the variance at ``target``, smallest size first; they add up to 1."""
    sizes = np.array([float(row[found.question.x]) for row in found.choice.fitted])
    noise = run_noise(found.law)
    gradient = log_gradient(found.law, sizes)
    precision = gradient.T @ gradient / noise**2 + np.diag(PRIOR_SD**-2.0)
    at = np.linalg.solve(precision, log_gradient(found.law, np.array([target]))[0])
    by_run = (gradient @ at) ** 2 / noise**2
    prior = float((at**2 / PRIOR_SD**2).sum())
    total = float(by_run.sum()) + prior
    groups = [(float(n), by_run[sizes == n]) for n in np.unique(sizes)]
    parts = [Source(n, len(group), float(group.sum()) / total) for n, group in groups]
    return [*parts, Source(None, 0, prior / total)]
