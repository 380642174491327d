"""Time and coverage of the law fit: ``python benchmarks/laws.py [--draws 200]``.

Coverage is the share of noisy draws whose 95 % band holds the truth that made them: at the smallest and largest
fitted size, at 829M, and for the constants. The noise is that of the runs; a law that is wrong at 829M is a question
for the rollout instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recbole_scale.laws.loss import fit_joint_law, fit_power_law

E, X0, ALPHA = 4.9, 6.8e5, 0.121  # the paper's constants on MovieLens-20M
PAPER_SIZES = np.array([98_304, 786_432, 1_572_864, 9_437_184, 75_497_472, 829_440_000.0])
TARGET = 829_440_000.0
Noise = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Design:
    """Sizes, runs per size, and the log noise of a run."""

    name: str
    sizes: np.ndarray
    seeds: int | list[int]
    noise: Noise


def normal(width: float) -> Noise:
    """Gaussian noise of one width at every size."""
    return lambda rng, rows: width * rng.standard_normal(rows)


def uneven(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Noise that falls from 0.3 % at the smallest size to 0.05 % at the largest."""
    return np.linspace(0.003, 0.0005, rows) * rng.standard_normal(rows)


def heavy(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom: now and then a run goes wrong."""
    return 0.001 * rng.standard_t(3, rows)


SEVEN = np.geomspace(98_304, 9.8e7, 7)
DESIGNS = (
    Design("7 sizes x 3, 0.2 %", SEVEN, 3, normal(0.002)),
    Design("paper's 6 x 3, 0.2 %", PAPER_SIZES, 3, normal(0.002)),
    Design("paper's 6 x 1, 0.2 %", PAPER_SIZES, 1, normal(0.002)),
    Design("paper's 4 x 3, 0.2 %", PAPER_SIZES[:4], 3, normal(0.002)),
    Design("paper's 4 x 1, 0.2 %", PAPER_SIZES[:4], 1, normal(0.002)),
    Design("7 x 3 but 1 at top 2", SEVEN, [3, 3, 3, 3, 3, 1, 1], normal(0.002)),
    Design("7 x 3, uneven noise", SEVEN, 3, uneven),
    Design("7 x 3, heavy tails", SEVEN, 3, heavy),
)


def law(x: np.ndarray) -> np.ndarray:
    """The truth."""
    return E + (X0 / x) ** ALPHA


def best_of(runs: int, work: Callable[[], object]) -> float:
    """Shortest wall-clock time of ``work``, s."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def timings() -> None:
    """Print what a fit and its 1,000 resamples take."""
    rng = np.random.default_rng(0)
    x = np.repeat(SEVEN, 3)
    loss = law(x) * np.exp(normal(0.002)(rng, len(x)))
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 1e8, 6), np.geomspace(1e5, 1e7, 4)))
    joint = (4 + (6.8e5 / n) ** 0.2 + (3e5 / d) ** 0.3) * np.exp(normal(0.002)(rng, len(n)))
    rows = (
        ("power law, 21 rows: fit", 0.1, lambda: fit_power_law(x, loss, resamples=0)),
        ("power law, 21 rows: fit and 1,000 resamples", 10.0, lambda: fit_power_law(x, loss, resamples=1000)),
        ("joint law, 24 rows: fit", None, lambda: fit_joint_law(n, d, joint, resamples=0)),
        ("joint law, 24 rows: fit and 1,000 resamples", 10.0, lambda: fit_joint_law(n, d, joint, resamples=1000)),
    )
    print(f"{'time, best of 5':<46}{'s':>8}{'goal':>8}")
    for name, goal, work in rows:
        seconds = best_of(5, work)
        verdict = "" if goal is None else f"{goal:>8g}  {'met' if seconds < goal else 'NOT MET'}"
        print(f"{name:<46}{seconds:>8.3f}{verdict}")


def coverage(design: Design, draws: int, resamples: int) -> list[str]:
    """Coverage in percent at three sizes and for the constants, median width at the target, share identified."""
    x = np.repeat(design.sizes, design.seeds)
    asked = np.array([design.sizes[0], design.sizes[-1], TARGET])
    truth = np.append(law(asked), [E, X0, ALPHA])
    hits, widths, identified = [], [], 0
    for draw in range(draws):
        loss = law(x) * np.exp(design.noise(np.random.default_rng(draw), len(x)))
        fitted = fit_power_law(x, loss, resamples=resamples, seed=draw)
        ends = np.concatenate([np.stack(fitted.interval(asked), axis=1), list(fitted.bands().values())])
        hits.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
        widths.append((ends[2, 1] - ends[2, 0]) / truth[2])
        identified += fitted.identified
    shares = 100 * np.mean(hits, axis=0)
    verdict = "met" if ((shares >= 90) & (shares <= 99)).all() else "NOT MET"
    numbers = [f"{share:.1f}" for share in shares]
    return [design.name, *numbers, f"{100 * np.median(widths):.2f} %", f"{100 * identified / draws:.0f} %", verdict]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="noisy data sets per design (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=400, help="resamples per band (default: %(default)s)")
    options = parser.parse_args()
    timings()
    print(f"\ncoverage of the 95 % band in percent, {options.draws} draws; goal 90 to 99 everywhere")
    head = ["design", "smallest", "largest", "829M", "E", "x0", "alpha", "width", "ident.", "goal"]
    print(f"{head[0]:<22}" + "".join(f"{title:>9}" for title in head[1:]))
    for design in DESIGNS:
        row = coverage(design, options.draws, options.resamples)
        print(f"{row[0]:<22}" + "".join(f"{cell:>9}" for cell in row[1:]), flush=True)


if __name__ == "__main__":
    main()
