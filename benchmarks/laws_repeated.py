"""Coverage of the law of repeated data: ``python benchmarks/laws_repeated.py [--draws 200] [--first 1000]``.

As benchmarks/laws.py, whose noise it takes. The first table: the number of repeats that the law fits, and the law at
the largest cell, at twice its epochs, at 8 times its size and at 8 times its unique interactions. The second: what it
says of training lengths, as fit and the page print it: the law and one new run at the largest size after a length that
it was not trained for, and at 8 times it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from laws import GOAL, SIZES, WRONG_FORM_GOAL, joint, measured, options_of

from recbole_scale.laws.repeated import effective_data, fit_repeated_law


@dataclass(frozen=True)
class Repeated:
    """Sizes, two amounts of unique data and four numbers of epochs, one run each; ``repeats`` is the true r."""

    name: str
    slope: float = 0.0  # of log noise along size
    tuning: float = 0.0
    repeats: float = 8.0


REPEATED = (
    Repeated("repeated 4 x 2 x 4, even"),
    Repeated("repeated, both errors", -2.9, 0.002),
)


def draw_repeated(design: Repeated, draw: int, resamples: int) -> tuple[np.ndarray, float, bool]:
    """Whether the bands of one noisy draw hold r and the law at four places; the width at twice the epochs."""
    rng = np.random.default_rng(draw)
    sizes = np.geomspace(1e4, 1e6, 4)
    n, unique, epochs = (axis.ravel() for axis in np.meshgrid(sizes, [1e5, 1e6], [1.0, 3.0, 10.0, 30.0]))

    def truth(n: np.ndarray, unique: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        return joint(n, effective_data(unique, epochs, design.repeats))

    noise = 0.002 * np.exp(design.slope * (np.log(n / 1e4) / np.log(1e2) - 0.5))
    of_size = design.tuning * rng.standard_normal(len(sizes))[np.searchsorted(sizes, n)]
    loss = truth(n, unique, epochs) * np.exp(of_size + noise * rng.standard_normal(len(n)))
    law = fit_repeated_law(n, unique, epochs, loss, resamples=resamples, seed=draw)
    asked = np.array([[1e6, 1e6, 30.0], [1e6, 1e6, 60.0], [8e6, 1e6, 30.0], [1e6, 8e6, 30.0]]).T
    lower, upper = law.interval(*asked)
    low, high = law.bands()["repeats"]
    hits = [low <= design.repeats <= high, *((lower <= truth(*asked)) & (truth(*asked) <= upper))]
    return np.array(hits), float((upper - lower)[1] / truth(*asked)[1]), law.identified


def every_length(n: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """The law of size and repeated data of results/ml-1m/tuned.jsonl."""
    return 5.711 + (1657 / n) ** 0.704 + (1.102e6 / effective_data(np.array(INTERACTIONS), epochs, 20.8)) ** 1.5


def each_length(n: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """The same rows with a law of size for each length, which one of size and repeated data cannot follow."""
    E, n0, alpha = np.array([[OF_LENGTH[one] for one in epochs]]).T[..., 0]
    return np.asarray(E + (n0 / n) ** alpha)


INTERACTIONS = 982_089  # of ML-1M
OF_LENGTH = {6: (5.806, 1376, 0.662), 12: (5.743, 1650, 0.677), 24: (5.735, 1860, 0.749)}


@dataclass(frozen=True)
class Lengths:
    """Five sizes of three seeds after 6 and 12 epochs; only the smallest ``longest`` of them after 24 too."""

    name: str
    tuning: float = 0.0
    longest: int = 4
    truth: Callable[[np.ndarray, np.ndarray], np.ndarray] = every_length
    right_form: bool = True


LENGTHS = (
    Lengths("lengths, noise as measured"),
    Lengths("lengths, both errors", 0.002),
    Lengths("lengths, 24 at 2 of 5, both", 0.002, 2),
    Lengths("lengths, a law for each", truth=each_length, right_form=False),
)


def draw_lengths(design: Lengths, draw: int, resamples: int) -> tuple[np.ndarray, float]:
    """Whether the bands of one noisy draw hold the law and a new run at three places; the width for a run at 8x."""
    rng = np.random.default_rng(draw)
    sizes = SIZES[:5]
    cells = [(n, epochs) for k, n in enumerate(sizes) for epochs in (6, 12, 24) if epochs < 24 or k < design.longest]
    n, epochs = np.repeat(np.array(cells), 3, axis=0).T
    of_size = design.tuning * rng.standard_normal(len(sizes))[np.searchsorted(sizes, n)]
    loss = design.truth(n, epochs) * np.exp(of_size + measured(n) * rng.standard_normal(len(n)))
    law = fit_repeated_law(n, np.full(len(n), INTERACTIONS), epochs, loss, resamples=resamples, seed=draw)
    asked = sizes[-1] * np.array([1, 8, 8]), np.array([24, 12, 24])
    truth = design.truth(*asked)
    new = truth * np.exp(design.tuning * rng.standard_normal(3) + measured(asked[0]) * rng.standard_normal(3))
    hits = []
    for value, runs in ((truth, 0), (new, 1)):
        lower, upper = law.interval(asked[0], INTERACTIONS, asked[1], new_run=runs)
        hits.append((lower <= value) & (value <= upper))
    return np.concatenate(hits), float((upper - lower)[2] / truth[2])


def length_table(designs: Sequence[Lengths], draws: range, resamples: int) -> None:
    """Print the coverage of predictions by training length."""
    print(f"\n{'lengths':<29}{'law at':>27}{'a new run at':>27}")
    head = ["24", "8x n, 12", "8x n, 24"] * 2 + ["width 8x", "goal"]
    print(f"{'design':<29}" + "".join(f"{title:>9}" for title in head))
    for design in designs:
        hits, widths = zip(*(draw_lengths(design, draw, resamples) for draw in draws), strict=True)
        shares = 100 * np.mean(hits, axis=0)
        low, high = GOAL if design.right_form else (WRONG_FORM_GOAL, 100)
        met = "met" if ((shares >= low) & (shares <= high)).all() else "NOT MET"
        cells = [*(f"{share:.1f}" for share in shares), f"{100 * np.median(widths):.2f} %", met]
        name = design.name + ("" if design.right_form else " *")
        print(f"{name:<29}" + "".join(f"{cell:>9}" for cell in cells), flush=True)


def repeated_table(designs: Sequence[Repeated], draws: range, resamples: int) -> None:
    """Print the coverage of the law of repeated data."""
    print(f"\n{'law of repeated data':<26}" + "".join(f"{title:>9}" for title in
          ("repeats", "largest", "2x ep.", "8x n", "8x data", "width 2x", "ident.", "goal")))  # fmt: skip
    for design in designs:
        hits, widths, known = zip(*(draw_repeated(design, draw, resamples) for draw in draws), strict=True)
        shares = 100 * np.mean(hits, axis=0)
        met = "met" if ((shares >= GOAL[0]) & (shares <= GOAL[1])).all() else "NOT MET"
        cells = [
            *(f"{share:.1f}" for share in shares),
            f"{100 * np.median(widths):.2f} %",
            f"{100 * np.mean(known):.0f} %",
        ]
        print(f"{design.name:<26}" + "".join(f"{cell:>9}" for cell in [*cells, met]), flush=True)


def main() -> None:
    """Print both tables."""
    options = options_of(__doc__)
    draws = range(options.first, options.first + options.draws)
    print(
        f"coverage of the 95 % band in percent, draws {draws[0]} to {draws[-1]}; goal {GOAL[0]} to {GOAL[1]}; "
        f"where the form is wrong (*) at least {WRONG_FORM_GOAL}"
    )
    if chosen := [design for design in REPEATED if options.design in design.name]:
        repeated_table(chosen, draws, options.resamples)
    if lengths := [design for design in LENGTHS if options.design in design.name]:
        length_table(lengths, draws, options.resamples)


if __name__ == "__main__":
    main()
