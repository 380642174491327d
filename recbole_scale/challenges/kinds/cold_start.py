"""Cold-start users: histories cut to their last few items, and users whose histories really are short.

Source: arXiv 2311.11351, challenge "cold-start users".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.options import LENGTHS
from recbole_scale.errors import UserError


def make_cases(base: Cases, lengths: tuple[int, ...] = LENGTHS) -> list[Cases]:
    """Sets "last" (the same long enough histories, cut to each length), "all" and "short" (whole histories by length).

    "last" at every length holds the cases whose history has at least ``max(lengths)`` items, so that the curve over
    lengths compares like with like. "short" at length L holds the cases whose whole history is no longer than L and
    longer than the next smaller length: other users at every length. "all" holds every user at every length, with the
    last min(length, L) items: what "last" says of long histories alone, said of the users there are.

    Args:
        base: cases of the data set's own split.
        lengths: rising.

    Raises:
        UserError: no history is long enough.
    """
    longest = max(lengths)
    enough = base.lengths >= longest
    if not enough.any():
        raise UserError(
            f"cold_start needs histories of at least {longest} items, but the longest before a test item has "
            f"{int(base.lengths.max(initial=0))}; --lengths takes shorter ones"
        )
    long = replace(base.take(enough), dropped={f"history shorter than {longest}": int((~enough).sum())})
    sets = [long.last(length).named("cold_start", "last", length) for length in lengths]
    sets += [base.last(length).named("cold_start", "all", length) for length in lengths]
    bins = np.searchsorted(lengths, base.lengths)  # number of lengths that are too short to hold the history
    short = {length: base.take(bins == number) for number, length in enumerate(lengths) if (bins == number).any()}
    fewest = min(map(len, short.values()), default=None)
    return sets + [
        replace(cases, fewest=fewest).named("cold_start", "short", length) for length, cases in short.items()
    ]
