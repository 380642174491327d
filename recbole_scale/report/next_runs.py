"""What would sharpen the estimate next: runs whose outcome narrows the band of a prediction most, and what is missing.

The gain of further runs is that of optimal design for a linearised law: with J the gradient of log L in (log E, a,
alpha) at the runs, their noise s and weak priors, cov = (J'J / s^2 + P)^-1, and a run at g changes it to
(cov^-1 + g g' / s^2)^-1. It ranks designs; it is no band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_scale.fit.lengths import doublings, length_sentences
from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import Ends, SizeMean
from recbole_scale.fit.study import MISFIT, Answer, estimate_flops
from recbole_scale.fit.tables import curve_of, decays_late, distinct, number, whole_data
from recbole_scale.fit.tries import planned_epochs
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.text import counted, show_count

MORE_RUNS = 3
PRIOR_SD = np.array([0.5, 5.0, 0.5])  # of log E, a = alpha log x0, alpha: wide, so that data decide
_LEAST_NOISE = 1e-4  # of log loss
_FALLING = 0.005  # nats gained in the last epoch that say a run was stopped early


@dataclass(frozen=True)
class Step:
    """Further runs, and the 95 % half-width (nats) of the linearised prediction before and after them."""

    what: str
    n: float
    before: float
    after: float
    flops: float | None
    hours: float | None


def next_runs(found: Answer, target: float, runs: int = MORE_RUNS) -> list[Step]:
    """``runs`` more runs at every size, at a quarter of the smallest and at four times the largest, best first."""
    x, rows = found.question.x, found.choice.fitted
    sizes = sorted({float(row[x]) for row in rows})
    noise = run_noise(found.law)
    before = half_width(found.law, [float(row[x]) for row in rows], target, noise)
    steps = []
    for n in [sizes[0] / 4, *sizes, sizes[-1] * 4]:
        known = sum(1 for row in rows if row[x] == n)
        what = (
            f"{counted(runs, 'more seed')} at {show_count(n)}"
            if known
            else f"{counted(runs, 'seed')} at a new size, {show_count(n)}"
        )
        after = half_width(found.law, [float(row[x]) for row in rows] + [n] * runs, target, noise)
        flops = estimate_flops(rows, x, n)
        total = None if flops is None else runs * flops
        steps.append(Step(what, n, before, after, total, _hours(rows, total)))
    return sorted(steps, key=lambda step: step.after)


def half_width(law: PowerLaw, sizes: Sequence[float], target: float, noise: float) -> float:
    """1.96 standard deviations (nats) of the linearised law at ``target`` from runs at ``sizes``."""
    gradient = log_gradient(law, np.asarray(sizes, dtype=np.float64))
    precision = gradient.T @ gradient / noise**2 + np.diag(PRIOR_SD**-2.0)
    at = log_gradient(law, np.array([target]))[0]
    return float(1.96 * np.sqrt(at @ np.linalg.solve(precision, at)) * law.predict(target))


def log_gradient(law: PowerLaw, sizes: Any) -> Any:
    """Gradient [n, 3] of log L in (log E, a, alpha), with L = E + exp(a - alpha log N) and a = alpha log x0."""
    power = np.power(law.x0 / sizes, law.alpha)
    loss = law.E + power
    return np.stack([law.E / loss, power / loss, -power * np.log(sizes) / loss], axis=1)


def run_noise(law: PowerLaw) -> float:
    """Standard deviation of the log residuals, with three constants taken off the count."""
    spare = max(len(law.residuals) - 3, 1)
    return max(float(np.sqrt((law.residuals**2).sum() / spare)), _LEAST_NOISE)


def advice(sizes: Sequence[SizeMean], ends: Ends, ladder: Sequence[Row], found: Answer | None) -> list[str]:
    """Sentences on what else is missing, the most telling first."""
    said = []
    fitted = set() if found is None else {float(row[found.question.x]) for row in found.choice.fitted}
    beyond = [size for size in sizes if size.n > ends.best.n and size.n in fitted]
    if ends.over_the_top and beyond:
        names = ",".join(show_count(size.n) for size in beyond)
        said.append(f"The law was fitted past the best size, where it cannot hold: --holdout {names} leaves that out.")
    if len(sizes) < 4:
        said.append(f"Train more sizes: {len(sizes)} are there, a law needs 3, and a fourth to be judged by.")
    single = [size for size in sizes if size.runs == 1]
    if single:
        said.append(f"One seed only at {_sizes(single)}: nothing tells their noise there; two more seeds each would.")
    repeated = [size for size in sizes if size.runs > 1]
    if repeated:
        widest = max(repeated, key=lambda size: size.sd / size.loss)
        said.append(
            f"Seeds differ most at {show_count(widest.n)}: a standard deviation of {widest.sd:.4f} nats "
            f"({100 * widest.sd / widest.loss:.2f} % of the loss) over {widest.runs} runs."
        )
    falling = [size.n for size in sizes if _still_falling(whole_data(ladder), size.n)]
    if falling:
        said.append(
            f"At {', '.join(map(show_count, falling))} the valid loss still fell in the last epoch by over "
            f"{_FALLING:g} nats: longer runs may lower it, and a law fitted to it may be too pessimistic there."
        )
    said += convergence(whole_data(ladder), sizes)
    over = [size for size in sizes if size.overfits_after is not None]
    if over:
        said.append(
            f"Overfitting at {_sizes(over)}, where the valid loss rises after epoch "
            f"{min(size.overfits_after or 0 for size in over)}: more data or dropout helps there, not more size."
        )
    if len(distinct(ladder, "unique_interactions")) < 3:
        said.append(
            "Data: a law in D needs three or more amounts of data; recbole-scale sweep --fractions 0.1 0.25 0.5 1."
        )
    if found is not None and found.law.lack_of_fit < MISFIT:
        said.append("Sizes miss the law by more than seed noise: tune each size alike before adding seeds.")
    return said


def convergence(rows: Sequence[Row], sizes: Sequence[SizeMean]) -> list[str]:
    """Whether the schedules were long enough, a sentence for each size that tells."""
    wanted = {size.n for size in sizes}
    found = length_sentences([one for one in doublings(rows) if one.n in wanted])
    if found or not rows:
        return found
    longest = int(max(map(planned_epochs, rows)))
    if not longest:
        return []
    return [f"Whether {longest} epochs are enough is not known: no size was trained for twice as many as well."]


def _still_falling(rows: Sequence[Row], n: float) -> bool:
    drops = []
    for row in rows:
        own = row.get("n_blocks") == n and not decays_late(row)
        _, losses = curve_of(row) if own else (None, [])
        if len(losses) > 1:
            drops.append(losses[-2] - losses[-1])
    return bool(drops) and float(np.median(drops)) > _FALLING


def _sizes(sizes: Sequence[SizeMean]) -> str:
    return ", ".join(show_count(size.n) for size in sizes)


def _hours(rows: Sequence[Row], flops: float | None) -> float | None:
    """Hours for ``flops`` at the rate of the largest run: small ones spend much of their time on other things."""
    timed = [
        row for row in rows if number(row, "flops_total") and number(row, "seconds_train") and row["seconds_train"]
    ]
    if flops is None or not timed:
        return None
    largest = max(timed, key=lambda row: float(row["flops_total"]))
    return float(flops / (largest["flops_total"] / largest["seconds_train"]) / 3600)
