"""Parts of the figures: how each model looks, grouped bars, lines with whiskers, legends.

ScaledSASRec goes from light to dark as it grows; other models have colours of their own, hatched bars, broken lines and
open markers, so that baselines stand apart in print and for the colour-blind. Whiskers are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from recbole_scale.fit.rows import Row

OTHERS = ("#D55E00", "#E69F00", "#CC79A7", "#999999")  # of Okabe and Ito, those not near viridis
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("////", "....", "xxxx", "\\\\\\\\")


@dataclass(frozen=True)
class Look:
    """How one model is drawn; ``place`` is its number among all models of the figure, from the left."""

    place: int
    models: int
    colour: Any
    marker: str
    hatch: str
    line: str

    @property
    def face(self) -> Any:
        """Inside of a marker: open for models that are no ScaledSASRec."""
        return "white" if self.hatch else self.colour


def looks_of(rows: Iterable[Row]) -> dict[str, Look]:
    """The look of each model of a figure, the same in all its panels; models in the order in which they come."""
    ours = {row["label"]: row["n_blocks"] is not None for row in rows}
    shades = iter(matplotlib.colormaps["viridis"](np.linspace(0.78, 0.05, max(sum(ours.values()), 2))))
    found: dict[str, Look] = {}
    other = 0
    for place, (label, own) in enumerate(ours.items()):
        marker = MARKERS[place % len(MARKERS)]
        if own:
            found[label] = Look(place, len(ours), next(shades), marker, "", "-")
        else:
            colour, hatch = OTHERS[other % len(OTHERS)], HATCHES[other % len(HATCHES)]
            found[label] = Look(place, len(ours), colour, marker, hatch, "--")
            other += 1
    return found


def panels_of(count: int, columns: int) -> tuple[Figure, list[Any]]:
    """A figure with ``count`` panels in rows of ``columns``."""
    lines = -(-count // columns)
    figure = Figure(figsize=(3.5 * columns + 0.4, 2.5 * lines + 0.7), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).reshape(-1))
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels:
        panel.grid(True, axis="y", color="#666666", alpha=0.2, linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, panels[:count]


def bars(panel: Any, rows: Sequence[Row], looks: dict[str, Look], at: Sequence[Any], column: str) -> None:
    """Grouped bars with whiskers: one group per entry of ``at``, one bar per model."""
    for label, look in looks.items():
        cells = {row[column]: row for row in rows if row["label"] == label}
        there = [(place, cells[value]) for place, value in enumerate(at) if value in cells]
        width = 0.8 / look.models
        x = [place + (look.place - (look.models - 1) / 2) * width for place, _ in there]
        y = np.array([row["value"] for _, row in there])
        colours = {"facecolor": "white", "edgecolor": look.colour} if look.hatch else {"facecolor": look.colour}
        panel.bar(x, y, 0.92 * width, hatch=look.hatch, linewidth=0.8, label=label, **colours)
        for colour, width, cap in (("white", 1.6, 0.0), ("#222222", 0.7, 1.5)):  # a halo, for whiskers in dark bars
            _whiskers(panel, x, y, [row for _, row in there], "", colour, width, cap)


def lines(panel: Any, rows: Sequence[Row], looks: dict[str, Look], kind: str = "value", column: str = "level") -> None:
    """A line per model over a column of numbers; models stand a little beside each other, so that whiskers can be seen.

    Args:
        panel: axes.
        rows: the points; those without a value are left out.
        looks: of all models.
        kind: value, change or gain.
        column: the horizontal axis.
    """
    places = sorted({row[column] for row in rows})
    gap = min(np.diff(places), default=1.0)
    for label, look in looks.items():
        cells = [row for row in rows if row["label"] == label and row[kind] is not None]
        cells.sort(key=lambda row: row[column])
        if not cells:
            continue
        beside = (look.place - (look.models - 1) / 2) * gap * min(0.1, 0.5 / look.models)
        x = [row[column] + beside for row in cells]
        y = np.array([row[kind] for row in cells])
        panel.plot(
            x, y, look.line, color=look.colour, marker=look.marker, markersize=4, markerfacecolor=look.face,
            linewidth=1.2, label=label,
        )  # fmt: skip
        _whiskers(panel, x, y, cells, "" if kind == "value" else f"{kind}_", look.colour)
    panel.set_xticks(places)


def _whiskers(
    panel: Any,
    x: Sequence[float],
    y: np.ndarray,
    cells: Sequence[Row],
    kind: str,
    colour: Any,
    width: float = 0.8,
    cap: float = 1.5,
) -> None:
    """Intervals around the points (x, y); ``kind`` is the beginning of their columns' names."""
    ends = np.array([[row[f"{kind}lower"], row[f"{kind}upper"]] for row in cells], dtype=float).reshape(-1, 2)
    reach = np.abs(np.stack([y - ends[:, 0], ends[:, 1] - y]))
    panel.errorbar(x, y, reach, fmt="none", ecolor=colour, elinewidth=width, capthick=width, capsize=cap)


def gains(panel: Any, rows: Sequence[Row], looks: dict[str, Look], at: Sequence[Any], column: str, name: str) -> None:
    """Lines of the gain over the smallest model, which has none itself, over the entries of ``at``."""
    placed = [{**row, "place": at.index(row[column])} for row in rows if row[column] in at]
    lines(panel, placed, looks, "gain", "place")
    panel.set_xlim(-0.4, len(at) - 0.6)
    panel.set_visible(len(looks) > 1)
    percent(panel, name)


def ticks(panel: Any, names: Sequence[str], counts: Sequence[int]) -> None:
    """Names below each other's counts of cases; slanted where they would run into each other."""
    if len(names) * max(map(len, names), default=0) > 36:
        shown = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)]
        panel.set_xticks(range(len(names)), shown, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    else:
        panel.set_xticks(range(len(names)), [f"{name}\n{count:,}" for name, count in zip(names, counts, strict=True)])


def percent(panel: Any, name: str) -> None:
    """A vertical axis in percent with a line at none."""
    panel.axhline(0.0, color="#000000", linewidth=0.8)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_ylabel(name)


def with_legend(figure: Figure, rows: Sequence[Row], looks: dict[str, Look]) -> Figure:
    """The figure with all its models above it, and what data they were scored on."""
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [label for label in looks if label in handles]
    figure.legend(
        [handles[name] for name in names], names, loc="outside upper center", ncols=min(len(names), 4), frameon=False,
        fontsize=8, title=f"{rows[0]['dataset']}; whiskers: 95 % over users", title_fontsize=8,
    )  # fmt: skip
    return figure
