"""Time and coverage of the law fit: ``python benchmarks/laws.py [--draws 200] [--first 1000] [--design TEXT]``.

Coverage is the share of noisy draws whose 95 % band holds the truth: the law at the smallest and largest fitted size
and at 8 and 64 times the largest one, and a new run (with noise and a tuning error of its own) at three of them. The
goal is 90 to 99 % where the fitted form is the true one, and at least 80 % at 8 times the largest size where it is not.
Truth and noise are those of results/ml-1m unless the name of the design says otherwise. The law of repeated data has
tables of its own: benchmarks/laws_repeated.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_scale.laws.loss import JointLaw, PowerLaw, fit_joint_law, fit_power_law

Curve = Callable[[np.ndarray], np.ndarray]
SIZES = 12.0 * np.array([2 * 16**2, 2 * 32**2, 2 * 64**2, 4 * 64**2, 4 * 128**2, 8 * 128**2])
RUNS = [3, 3, 3, 1, 2, 1]
FACTORS = (1.0, 8.0, 64.0)  # of the largest size
GOAL, WRONG_FORM_GOAL = (90, 99), 80


def one_term(x: np.ndarray) -> np.ndarray:
    """The law of results/ml-1m."""
    return 5.757 + (1459.5 / x) ** 0.5786


def two_terms(x: np.ndarray) -> np.ndarray:
    """A fast and a slow power term, which one term fits within the noise."""
    return 5.30 + (1400 / x) ** 0.75 + 0.50 * (1e5 / x) ** 0.12


def in_all_parameters(x: np.ndarray) -> np.ndarray:
    """A power law in all parameters: blocks and 3,417 items and 50 positions of the width."""
    width = np.sqrt(x / (12 * np.interp(np.log(x), np.log(SIZES), [2, 2, 2, 4, 4, 8])))
    return 5.757 + (29_000 / (x + 3467 * width)) ** 1.04


def even(x: np.ndarray) -> np.ndarray:
    """Noise of 0.1 % at every size."""
    return np.full(len(x), 0.001)


def measured(x: np.ndarray) -> np.ndarray:
    """Noise of 0.35 % at the smallest size, falling to 0.02 % at the largest and staying there."""
    return np.exp(np.interp(np.log(x), np.log(SIZES[[0, -1]]), np.log([0.0035, 0.0002])))


@dataclass(frozen=True)
class Design:
    """Sizes, runs per size, the true law, and the standard deviations of log loss of a run and of a size."""

    name: str
    noise: Curve = even
    tuning: float = 0.0
    truth: Curve = one_term
    sizes: tuple[float, ...] = tuple(SIZES)
    runs: tuple[int, ...] = tuple(RUNS)
    tail: float = np.inf  # degrees of freedom of Student's t that the noise of runs follows
    right_form: bool = True


FOUR = tuple(SIZES[[0, 2, 3, 5]])
DESIGNS = (
    Design("even noise 0.1 %"),
    Design("noise as measured", measured),
    Design("even, tuning 0.2 %", tuning=0.002),
    Design("measured, tuning 0.2 %", measured, 0.002),
    Design("two terms, measured", measured, truth=two_terms, right_form=False),
    Design("two terms, both errors", measured, 0.002, two_terms, right_form=False),
    Design("all parameters, measured", measured, truth=in_all_parameters, right_form=False),
    Design("4 sizes x 3, even", sizes=FOUR, runs=(3,) * 4),
    Design("4 sizes x 3, both errors", measured, 0.002, sizes=FOUR, runs=(3,) * 4),
    Design("4 sizes x 1, even", sizes=FOUR, runs=(1,) * 4),
    Design("heavy tails (t, 3 df)", tail=3.0),
)


@dataclass(frozen=True)
class Grid:
    """A grid in size and data with one run a cell; ``slope`` is of log noise along size and along data."""

    name: str
    slope: tuple[float, float] = (0.0, 0.0)
    scatter: float = 0.0  # standard deviation of log noise between cells
    tuning: float = 0.0
    points: int = 5
    right_form: bool = True


GRIDS = (
    Grid("grid 5 x 5, even 0.2 %"),
    Grid("grid 5 x 5, falls with n", (-2.9, 0.0)),
    Grid("grid 5 x 5, falls with d", (0.0, -2.9)),
    Grid("grid 5 x 5, any cell", scatter=0.8),
    Grid("grid 5 x 5, tuning 0.2 %", tuning=0.002),
)


def joint(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """True joint law of the grids."""
    return 4.0 + (6.8e5 / n) ** 0.2 + (3e5 / d) ** 0.3


def draw_ladder(design: Design, draw: int, resamples: int) -> tuple[PowerLaw, tuple[np.ndarray, ...], np.ndarray]:
    """A law fitted to one noisy draw, the sizes it is asked for, and the log of a new run there."""
    rng = np.random.default_rng(draw)
    x = np.repeat(design.sizes, design.runs)
    of_size = np.repeat(design.tuning * rng.standard_normal(len(design.sizes)), design.runs)
    scale = rng.standard_normal(len(x)) if np.isinf(design.tail) else rng.standard_t(design.tail, len(x))
    loss = design.truth(x) * np.exp(of_size + design.noise(x) * scale)
    asked = np.array([design.sizes[0], *(factor * design.sizes[-1] for factor in FACTORS)])
    new = np.log(design.truth(asked)) + design.tuning * rng.standard_normal(4)
    new += design.noise(asked) * (rng.standard_normal(4) if np.isinf(design.tail) else rng.standard_t(design.tail, 4))
    return fit_power_law(x, loss, resamples=resamples, seed=draw), (asked,), new


def draw_grid(grid: Grid, draw: int, resamples: int) -> tuple[JointLaw, tuple[np.ndarray, ...], np.ndarray]:
    """The same of a joint law, asked for at the smallest cell, the largest, and at 8 and 64 times its n."""
    rng = np.random.default_rng(draw)
    ladder, amounts = np.geomspace(1e4, 1e8, grid.points), np.geomspace(1e5, 1e7, grid.points)
    n, d = (axis.ravel() for axis in np.meshgrid(ladder, amounts))
    asked = (np.array([n.min(), *(factor * n.max() for factor in FACTORS)]), np.array([d.min(), *[d.max()] * 3]))

    def noise(n: np.ndarray, d: np.ndarray) -> np.ndarray:
        places = np.stack([np.log(n / 1e4) / np.log(1e4), np.log(d / 1e5) / np.log(1e2)])
        cells = grid.scatter * rng.standard_normal(len(n))
        return 0.002 * np.exp(np.array(grid.slope) @ (np.clip(places, 0, 1) - 0.5) + cells)

    of_size = grid.tuning * rng.standard_normal(grid.points)[np.searchsorted(ladder, n)]
    loss = joint(n, d) * np.exp(of_size + noise(n, d) * rng.standard_normal(len(n)))
    new = np.log(joint(*asked)) + grid.tuning * rng.standard_normal(4) + noise(*asked) * rng.standard_normal(4)
    return fit_joint_law(n, d, loss, resamples=resamples, seed=draw), asked, new


def coverage(design: Design | Grid, draws: range, resamples: int) -> list[str]:
    """Coverage in percent, the median width of the law's band at 8 times the largest size, and the verdict."""
    hits, widths, known = [], [], 0
    for draw in draws:
        simulate: Any = draw_grid if isinstance(design, Grid) else draw_ladder
        law, asked, new = simulate(design, draw, resamples)
        truth = joint(*asked) if isinstance(design, Grid) else design.truth(*asked)
        lower, upper = law.interval(*asked)
        new_lower, new_upper = law.interval(*asked, new_run=True)
        inside = (np.log(new_lower) <= new) & (new <= np.log(new_upper))
        hits.append(np.concatenate([(lower <= truth) & (truth <= upper), inside[[0, 2, 3]]]))
        widths.append((upper[2] - lower[2]) / truth[2])
        known += law.identified
    shares = 100 * np.mean(hits, axis=0)
    met = ((shares >= GOAL[0]) & (shares <= GOAL[1])).all() if design.right_form else shares[2] >= WRONG_FORM_GOAL
    numbers = [f"{share:.1f}" for share in shares]
    verdict = "met" if met else "NOT MET"
    return [design.name, *numbers, f"{100 * np.median(widths):.2f} %", f"{100 * known / len(draws):.0f} %", verdict]


def timings() -> None:
    """Print what a fit and its 1,000 resamples take on one core: processor time, best of three."""
    rng = np.random.default_rng(0)
    x = np.repeat(SIZES, RUNS)
    loss = one_term(x) * np.exp(0.001 * rng.standard_normal(len(x)))
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 1e8, 16), np.geomspace(1e5, 1e7, 15)))
    both = joint(n, d) * np.exp(0.002 * rng.standard_normal(len(n)))
    many = np.repeat(np.geomspace(1e4, 1e8, 12), 20)
    alone = (4 + (6.8e5 / many) ** 0.2) * np.exp(0.002 * rng.standard_normal(len(many)))
    rows: tuple[tuple[str, float, Callable[[], object]], ...] = (
        ("power law, 13 runs: fit", 0.1, lambda: fit_power_law(x, loss, resamples=0)),
        ("power law, 13 runs: fit and 1,000 resamples", 5.0, lambda: fit_power_law(x, loss)),
        ("power law, 240 runs: fit and 1,000 resamples", 5.0, lambda: fit_power_law(many, alone)),
        ("joint law, 240 runs: fit and 1,000 resamples", 5.0, lambda: fit_joint_law(n, d, both)),
    )
    print(f"{'processor time, best of 3':<46}{'s':>8}{'goal':>8}")
    for name, goal, work in rows:
        times = []
        for _ in range(3):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        print(f"{name:<46}{min(times):>8.3f}{goal:>8g}  {'met' if min(times) < goal else 'NOT MET'}")


def options_of(what: str | None) -> argparse.Namespace:
    """Draws, resamples and designs from the command line; ``what`` is the text of its help."""
    parser = argparse.ArgumentParser(
        description=what, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--draws", type=int, default=200, help="noisy data sets per design (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first of them (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=400, help="resamples per band (default: %(default)s)")
    parser.add_argument("--design", default="", help="only designs whose name holds this")
    return parser.parse_args()


def main() -> None:
    """Print both tables."""
    options = options_of(__doc__)
    if not options.design:
        timings()
    draws = range(options.first, options.first + options.draws)
    print(
        f"\ncoverage of the 95 % band in percent, draws {draws[0]} to {draws[-1]}; goal {GOAL[0]} to {GOAL[1]}; "
        f"where the form is wrong (*) at least {WRONG_FORM_GOAL} for the law at 8x"
    )
    print(f"{'':<26}{'law at':>32}{'a new run at':>24}")
    head = ["smallest", "largest", "8x", "64x", "smallest", "8x", "64x", "width 8x", "ident.", "goal"]
    print(f"{'design':<26}" + "".join(f"{title:>9}" for title in head))
    for design in (*DESIGNS, *GRIDS):
        if options.design in design.name:
            name, *cells = coverage(design, draws, options.resamples)
            star = "" if design.right_form else " *"
            print(f"{name + star:<26}" + "".join(f"{cell:>9}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
