"""Whether schedules were long enough: runs of E epochs against runs of 2 E, each with its own schedule.

A small drop in the last epoch tells nothing, for the learning rate ends near 0 however long the schedule is; nor does a
large one where it falls in the last epochs alone (wsd).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from recbole_scale.fit.rows import Row
from recbole_scale.fit.tables import by_size
from recbole_scale.fit.tries import planned_epochs, setting_of
from recbole_scale.text import show_count

ENOUGH = 0.005  # nats of valid loss that twice the epochs may win where a schedule is called long enough


@dataclass(frozen=True)
class Doubling:
    """What twice the epochs have won at one size, as the mean over pairs of runs of one seed and setting."""

    n: float
    epochs: float  # of the shorter runs
    won: float  # nats of valid loss
    error: float  # half of its 95 % band; nan with one pair
    pairs: int

    @property
    def enough(self) -> bool | None:
        """Whether ``epochs`` were enough; None where the band of what was won holds the least that counts."""
        if not math.isnan(self.error) and abs(self.won - ENOUGH) <= self.error:
            return None
        return self.won <= ENOUGH


def doublings(rows: Sequence[Row]) -> list[Doubling]:
    """Every number of epochs of each size that was run twice as long as well, by size and epochs."""
    found = []
    for n, group in by_size(rows, "best_valid_nll").items():
        lengths: dict[float, dict[str, dict[object, float]]] = {}
        for row in group:
            if planned_epochs(row) > 0:
                settings = lengths.setdefault(planned_epochs(row), {})
                settings.setdefault(setting_of(row, "epochs"), {})[row.get("seed")] = float(row["best_valid_nll"])
        for epochs in sorted(lengths):
            if 2 * epochs in lengths:
                found.append(_doubling(n, epochs, lengths[epochs], lengths[2 * epochs]))
    return found


def _doubling(
    n: float, epochs: float, short: dict[str, dict[object, float]], long: dict[str, dict[object, float]]
) -> Doubling:
    """The best setting that both lengths have, by the longer runs; else the best of either."""
    both = [name for name in long if name in short]
    if both:
        best = min(both, key=lambda name: _mean(long[name]))
        one, two = short[best], long[best]
    else:
        one, two = (min(runs.values(), key=_mean) for runs in (short, long))
    won = [one[seed] - two[seed] for seed in one if seed in two] or [_mean(one) - _mean(two)]
    pairs = len(won)
    error = float("nan")
    if pairs > 1:
        error = float(-scipy.special.stdtrit(pairs - 1, 0.025) * np.std(won, ddof=1) / np.sqrt(pairs))
    return Doubling(n, epochs, float(np.mean(won)), error, pairs)


def _mean(runs: dict[object, float]) -> float:
    return float(np.mean(list(runs.values())))


def length_sentences(found: Sequence[Doubling]) -> list[str]:
    """What the longest doubling of each size says."""
    told = []
    for one in {one.n: one for one in found}.values():
        error = "" if math.isnan(one.error) else f" ± {one.error:.3f}"
        what = f"{'lower' if one.won >= 0 else 'raise'} the valid loss by {abs(one.won):.3f}{error} nats"
        short, long = f"{one.epochs:g}", f"{2 * one.epochs:g}"
        verdict = {
            True: f"{short} are enough",
            False: f"{short} are not enough, and whether {long} are is not known",
            None: f"whether {short} are enough cannot be told",
        }[one.enough]
        told.append(f"At {show_count(one.n)}, {long} epochs {what} against {short}: {verdict}.")
    return told
