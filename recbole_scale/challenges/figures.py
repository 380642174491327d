"""One figure per challenge in the paper's layout, as PNG and PDF; drawn from rows of the table alone.

Colours of Okabe and Ito; markers and hatches tell the same without colour. Whiskers and bands are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

Row = dict[str, Any]
COLOURS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}
_NAMES = {"hr": "HR", "ndcg": "NDCG", "coverage": "Coverage", "recall": "Recall"}


def save_figures(rows: Sequence[Row], label: Callable[[Row], str], out: Path, metric: str = "ndcg@10") -> list[str]:
    """Draw every challenge that has rows.

    Args:
        rows: of the table, one data set's.
        label: short name of a row's model; models are drawn in the order in which they come.
        out: folder.
        metric: the main metric.

    Returns:
        names of the files written to ``out``.
    """
    drawers = {
        "long_tail": long_tail_figure,
        "cold_start": cold_start_figure,
        "multi_domain": multi_domain_figure,
        "robustness": robustness_figure,
        "trajectory": trajectory_figure,
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(_STYLE):
        for challenge, draw in drawers.items():
            mine = [{**row, "label": label(row)} for row in rows if row["challenge"] == challenge]
            if not mine:
                continue
            figure = draw(mine, metric)
            for suffix in ("png", "pdf"):
                figure.savefig(out / f"{challenge}.{suffix}", dpi=200)
                written.append(f"{challenge}.{suffix}")
    return written


def long_tail_figure(rows: list[Row], metric: str) -> Figure:
    """Bars per popularity group, and the gain over the smallest model."""
    figure, (left, right) = _panels(rows, 2)
    groups = [g for g in ("G1", "G2", "G3", "G4") if any(row["group"] == g for row in rows)]
    cells = [row for row in rows if row["metric"] == metric]
    count = {row["group"]: row["n"] for row in cells}
    ticks = [f"{group}\n{count[group]:,}" for group in groups]
    _bars(left, cells, groups, "group", ticks)
    _gains(right, cells, groups, "group", ticks)
    for panel in (left, right):
        panel.set_xlabel("target's popularity, head to tail; cases")
    left.set_ylabel(shown(metric))
    return _finish(figure, left)


def cold_start_figure(rows: list[Row], metric: str) -> Figure:
    """The main metric and Coverage@10 over the length of the cut history, and the gain; users who are short apart."""
    figure, panels = _panels(rows, 4, columns=2)
    last = [row for row in rows if row["setting"] == "last"]
    short = [row for row in rows if row["setting"] == "short" and row["metric"] == metric]
    _lines(panels[0], [row for row in last if row["metric"] == metric])
    panels[0].set_ylabel(shown(metric))
    _lines(panels[1], [row for row in last if row["metric"] == "coverage@10"])
    panels[1].set_ylabel("Coverage@10")
    _lines(panels[2], [row for row in last if row["metric"] == metric], "gain")
    _percent(panels[2], "gain over the smallest")
    panels[2].set_visible(len(_models(last)) > 1)
    for panel in panels[:3]:
        panel.set_xlabel("items left of the history, same users")
    lengths = sorted({row["level"] for row in short})
    count = {row["level"]: row["n"] for row in short}
    if lengths:
        _bars(panels[3], short, lengths, "level", [f"≤ {length:g}\n{count[length]:,}" for length in lengths])
        panels[3].set_ylabel(shown(metric))
        panels[3].set_xlabel("users with short histories; cases")
    else:
        panels[3].set_visible(False)
    return _finish(figure, panels[0])


def multi_domain_figure(rows: list[Row], metric: str) -> Figure:
    """Mix and diff as bars, the gain in each, and diff against mix by target domain and by domains in the history."""
    cells = [row for row in rows if row["metric"] == metric]
    domains = sorted({row["group"] for row in cells if row["group"].startswith("to ")})
    breadths = sorted(
        {row["group"] for row in cells if row["group"][0].isdigit()}, key=lambda name: int(name.split()[0])
    )
    figure, panels = _panels(rows, 4, columns=2)
    whole = [row for row in cells if row["group"] == "all"]
    count = max(row["n"] for row in whole)
    _bars(panels[0], whole, ["mix", "diff"], "setting", ["mix", "diff"])
    panels[0].set_ylabel(shown(metric))
    panels[0].set_xlabel(f"history with, without the target's domain ({count:,} cases)")
    _gains(panels[1], whole, ["mix", "diff"], "setting", ["mix", "diff"])
    diff = [row for row in cells if row["setting"] == "diff"]
    sizes = {row["group"]: row["n"] for row in diff}
    _bars(panels[2], diff, domains, "group", [f"{name[3:]}\n{sizes[name]:,}" for name in domains])
    panels[2].set_xlabel("target's domain; cases")
    _bars(panels[3], diff, breadths, "group", [f"{name.split()[0]}\n{sizes[name]:,}" for name in breadths])
    panels[3].set_xlabel("domains in the whole history; cases")
    for panel in panels[2:]:
        panel.set_ylabel(f"{shown(metric)}, diff")
    return _finish(figure, panels[0])


def robustness_figure(rows: list[Row], metric: str) -> Figure:
    """Degradation over the noise ratio, one panel per kind."""
    cells = [row for row in rows if row["metric"] == metric]
    clean = [row for row in cells if row["setting"] == "clean"]
    kinds = list(dict.fromkeys(row["setting"] for row in cells if row["setting"] != "clean"))
    figure, panels = _panels(rows, len(kinds), columns=min(3, len(kinds)), sharey=True)
    for panel, kind in zip(panels, kinds, strict=False):
        start = [{**row, "change": 0.0, "change_lower": 0.0, "change_upper": 0.0} for row in clean]
        _lines(panel, [*start, *(row for row in cells if row["setting"] == kind)], "change")
        panel.set_title(kind.replace("_", ", "), fontsize=9)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.axhline(0.0, color="#000000", linewidth=0.8)
    figure.supxlabel("noise, share of the history", fontsize=9)
    figure.supylabel(f"change of {shown(metric)}", fontsize=9)
    return _finish(figure, panels[0])


def trajectory_figure(rows: list[Row], metric: str) -> Figure:
    """The main metric by step with predictions fed back and with the truth, the loss by step, the window as a set."""
    feeds = [feed for feed in ("greedy", "sampled", "truth") if any(row["setting"] == feed for row in rows)]
    figure, panels = _panels(rows, len(feeds) + 2, columns=2)
    for panel, feed in zip(panels, feeds, strict=False):
        _lines(panel, [row for row in rows if row["setting"] == feed and row["metric"] == metric])
        panel.set_ylabel(shown(metric))
        panel.set_title(f"fed back: {'the truth' if feed == 'truth' else feed + ' prediction'}", fontsize=9)
    tops = [panel.get_ylim()[1] for panel in panels[: len(feeds)]]
    for panel in panels[: len(feeds)]:
        panel.set_ylim(0.0, max(tops))
    fed = [row for row in rows if row["setting"] == feeds[0] and row["metric"] == metric and row["level"] is not None]
    start = [{**row, "change": 0.0, "change_lower": 0.0, "change_upper": 0.0} for row in fed if row["level"] == 1]
    _lines(panels[len(feeds)], [*start, *(row for row in fed if row["level"] > 1)], "change")
    _percent(panels[len(feeds)], f"change from step 1, {feeds[0]}")
    for panel in panels[: len(feeds) + 1]:
        panel.set_xlabel("step ahead")
    sets = [row for row in rows if row["metric"] == "recall@window"]
    names = [name for name in ("one list", "greedy", "sampled") if any(row["setting"] == name for row in sets)]
    _bars(panels[len(feeds) + 1], sets, names, "setting", names)
    panels[len(feeds) + 1].set_ylabel("Recall of the window")
    return _finish(figure, panels[0])


def shown(metric: str) -> str:
    """NDCG@10 for ndcg@10."""
    name, at, k = metric.partition("@")
    return f"{_NAMES.get(name, name.upper())}{at}{k}"


# Parts of figures -----------------------------------------------------------------------------------------------------


def _panels(rows: list[Row], count: int, columns: int | None = None, sharey: bool = False) -> tuple[Figure, list[Any]]:
    columns = columns or count
    lines = -(-count // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.5 * lines + 0.7), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=sharey).reshape(-1))
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows))


def _style(number: int) -> tuple[str, str, str]:
    return tuple(kind[number % len(kind)] for kind in (COLOURS, MARKERS, HATCHES))  # type: ignore[return-value]


def _bars(panel: Any, rows: Sequence[Row], at: Sequence[Any], column: str, ticks: Sequence[str]) -> None:
    """Grouped bars with whiskers: one group per entry of ``at``, one bar per model."""
    models = _models(rows)
    width = 0.8 / max(len(models), 1)
    for number, model in enumerate(models):
        cells = {row[column]: row for row in rows if row["label"] == model}
        colour, _, hatch = _style(number)
        there = [(place, cells[value]) for place, value in enumerate(at) if value in cells]
        x = [place + (number - (len(models) - 1) / 2) * width for place, _ in there]
        y = np.array([row["value"] for _, row in there])
        ends = np.array([[row["lower"], row["upper"]] for _, row in there]).reshape(-1, 2)
        bars = np.abs(np.stack([y - ends[:, 0], ends[:, 1] - y]))
        panel.bar(x, y, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6, label=model)
        panel.errorbar(x, y, bars, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1.5)
    panel.set_xticks(range(len(at)), ticks)


def _gains(panel: Any, rows: Sequence[Row], at: Sequence[Any], column: str, ticks: Sequence[str]) -> None:
    """Lines of the gain over the smallest model, which has none itself."""
    for number, model in enumerate(_models(rows)):
        cells = {row[column]: row for row in rows if row["label"] == model and row["gain"] is not None}
        there = [(place, cells[value]) for place, value in enumerate(at) if value in cells]
        if there:
            _line(panel, number, model, [place for place, _ in there], [row for _, row in there], "gain")
    panel.set_xticks(range(len(at)), ticks)
    panel.set_xlim(-0.3, len(at) - 0.7)
    panel.set_visible(len(_models(rows)) > 1)
    _percent(panel, "gain over the smallest")


def _lines(panel: Any, rows: Sequence[Row], column: str = "value") -> None:
    """A line with a band per model over the level."""
    for number, model in enumerate(_models(rows)):
        cells = [row for row in rows if row["label"] == model and row[column] is not None]
        cells.sort(key=lambda row: row["level"])
        if cells:
            _line(panel, number, model, [row["level"] for row in cells], cells, column)
    panel.grid(True, axis="y", color="#666666", alpha=0.2, linewidth=0.6)


def _line(panel: Any, number: int, model: str, x: list[Any], cells: list[Row], column: str) -> None:
    colour, marker, _ = _style(number)
    lower, upper = ("lower", "upper") if column == "value" else (f"{column}_lower", f"{column}_upper")
    ends = np.array([[row[lower], row[upper]] for row in cells], dtype=float)
    panel.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
    panel.plot(x, [row[column] for row in cells], color=colour, marker=marker, markersize=4, linewidth=1.3, label=model)


def _percent(panel: Any, name: str) -> None:
    panel.axhline(0.0, color="#000000", linewidth=0.8)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_ylabel(name)
    panel.grid(True, axis="y", color="#666666", alpha=0.2, linewidth=0.6)


def _finish(figure: Figure, panel: Any) -> Figure:
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), frameon=False, fontsize=8)
    return figure
