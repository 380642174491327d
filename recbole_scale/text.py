"""How counts, durations and tables are written and read (98.3K, 829M, 12 min), and what metrics are called."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def parse_count(text: str) -> float | None:
    """Read a count such as 829M, 98.3K or 1e6; None for anything else."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([KMBT]?)", text.strip(), flags=re.IGNORECASE)
    value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    return value if 0.0 < value < math.inf else None


def show_count(value: float, billion: str = "B") -> str:
    """Write a count in three digits, as 98.3K or 829M; beyond 1000T as a power of ten. FLOPs have G for a billion."""
    if value >= 1e15:
        return f"{value:.3g}"
    for unit in ("T", "B", "M", "K"):
        if value >= 0.9995 * _UNITS[unit]:
            return f"{value / _UNITS[unit]:.3g}{billion if unit == 'B' else unit}"
    return f"{value:.3g}"


def show_reach(value: float) -> str:
    """A count that a law gives, or that it is beyond anything one could train."""
    if value > 1e13:
        return "more than 10T"
    return show_count(value) if value >= 100 else "less than 100"


def counted(count: int, what: str, width: int = 0) -> str:
    """A count and what is counted: ``1 run``, ``2 runs``, ``1,000 runs``; ``width``: letters of the count."""
    return f"{count:>{width},} {what}{'s' * (count != 1)}"


def span(counts: Collection[int]) -> str:
    """Counts as 3, or as 1 to 3 where they differ."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min or 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def milliseconds(value: float) -> str:
    """Milliseconds as 0.82 ms, 16.5 ms or 1,650 ms."""
    return f"{value:.3g} ms" if value < 999.5 else f"{value:,.0f} ms"


def text_table(
    rows: Sequence[Sequence[str]],
    left: Collection[int] = (0,),
    indent: str = "",
    width: float = math.inf,
    heads: int = 1,
) -> str:
    """Rows as lines of aligned columns: those numbered in ``left`` to the left, all others to the right.

    A table wider than ``width`` letters becomes several, one below the other, each with the first ``heads`` columns.
    """
    from tabulate import tabulate  # RecBole prints its tables with it

    widths = [max(len(row[at]) for row in rows) + 2 for at in range(len(rows[0]))]
    room = width - len(indent) + 2 - sum(widths[:heads])
    parts: list[list[int]] = [[]]
    for at in range(heads, len(widths)):
        if parts[-1] and sum(widths[i] for i in parts[-1]) + widths[at] > room:
            parts.append([])
        parts[-1].append(at)
    texts = []
    for part in parts:
        shown = [*range(heads), *part]
        cells = [[row[at] for at in shown] for row in rows]
        sides = ["left" if at in left else "right" for at in shown]
        text = tabulate(cells, tablefmt="plain", colalign=sides, disable_numparse=True)
        texts.append("\n".join((indent + line).rstrip() for line in text.split("\n")))
    return "\n\n".join(texts)


_METRICS = {
    "recall": "HR", "hit": "HR", "itemcoverage": "ItemCoverage", "coverage": "Coverage", "nll_se": "NLL's se",
    "precision": "Precision", "averagepopularity": "AveragePopularity", "giniindex": "GiniIndex",
    "logloss": "LogLoss", "shannonentropy": "ShannonEntropy", "tailpercentage": "TailPercentage",
}  # fmt: skip


def metric_name(key: str, one_held_out: bool = True) -> str:
    """What a metric's key is called for the reader: ``HR@10`` for ``recall@10``, ``NLL`` for ``nll``.

    With one held-out item a user, which is what our rows hold, RecBole's Recall and Hit are the same number; the paper
    and this package call it HR. With more Recall is another number, as a trajectory's ``recall@window``, and stays
    Recall.
    """
    name, at, k = key.lower().partition("@")
    recall = name == "recall" and (k == "window" or not one_held_out)
    return ("Recall" if recall else _METRICS.get(name, name.upper())) + at + k
