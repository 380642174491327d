"""One figure per challenge in the paper's layout, as PNG and PDF; drawn from rows of the table alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from recbole_scale.challenges.figure_parts import (
    Row,
    bars,
    gains,
    lines,
    looks_of,
    panels_of,
    percent,
    ticks,
    with_legend,
)
from recbole_scale.challenges.table import compared_with
from recbole_scale.drawing import write_figure
from recbole_scale.text import metric_name

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}


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
    written = []
    with matplotlib.rc_context(_STYLE):
        for challenge, draw in drawers.items():
            mine: list[Row] = [{**row, "label": label(row)} for row in rows if row["challenge"] == challenge]
            if not mine:
                continue
            written += write_figure(draw(mine, metric), out, challenge)
    return written


def long_tail_figure(rows: list[Row], metric: str) -> Figure:
    """Bars per popularity group, and the gain over the smallest model."""
    figure, panels = panels_of(2, 2)
    looks = looks_of(rows)
    groups = [g for g in ("G1", "G2", "G3", "G4") if any(row["group"] == g for row in rows)]
    cells = [row for row in rows if row["metric"] == metric]
    count = {row["group"]: row["n"] for row in cells}
    bars(panels[0], cells, looks, groups, "group")
    gains(panels[1], cells, looks, groups, "group", _gain(rows, metric))
    for panel in panels:
        ticks(panel, groups, [count[group] for group in groups])
        panel.set_xlabel("popularity of the target, head to tail; cases")
    panels[0].set_ylabel(metric_name(metric))
    return with_legend(figure, rows, looks)


def cold_start_figure(rows: list[Row], metric: str) -> Figure:
    """The main metric and Coverage@10 over the length of the cut history, and the gain; users who are short apart."""
    every = [row for row in rows if row["setting"] == "all" and row["metric"] == metric]
    figure, panels = panels_of(5 if every else 4, 2)
    looks = looks_of(rows)
    last = [row for row in rows if row["setting"] == "last"]
    short = [row for row in rows if row["setting"] == "short" and row["metric"] == metric]
    lines(panels[0], [row for row in last if row["metric"] == metric], looks)
    panels[0].set_ylabel(metric_name(metric))
    lines(panels[1], [row for row in last if row["metric"] == "coverage@10"], looks)
    panels[1].set_ylabel("Coverage@10")
    lines(panels[2], [row for row in last if row["metric"] == metric], looks, "gain")
    percent(panels[2], _gain(rows, metric))
    panels[2].set_visible(len(looks) > 1)
    for panel in panels[:3]:
        panel.set_xlabel(f"last items kept of {max((row['n'] for row in last), default=0):,} long histories")
    count = {row["level"]: row["n"] for row in short}
    lengths = sorted(count)
    bars(panels[3], short, looks, lengths, "level")
    ticks(panels[3], [_span(length, rows) for length in lengths], [count[length] for length in lengths])
    panels[3].set_ylabel(metric_name(metric))
    panels[3].set_xlabel("items of the whole, short history; cases")
    panels[3].set_visible(bool(lengths))
    if every:
        lines(panels[4], every, looks)
        panels[4].set_ylabel(metric_name(metric))
        panels[4].set_xlabel(f"at most so many last items, all {max(row['n'] for row in every):,} cases")
    return with_legend(figure, rows, looks)


def _span(length: float, rows: Sequence[Row]) -> str:
    """Lengths of the short histories up to this one and above the next smaller: 6-10 for 10."""
    below = max((row["level"] for row in rows if row["level"] < length), default=0)
    return f"{below + 1:g}-{length:g}"


def multi_domain_figure(rows: list[Row], metric: str) -> Figure:
    """Mix, its part as long as diff, and diff as bars, the gain in each, and diff by target and breadth."""
    figure, panels = panels_of(4, 2)
    looks = looks_of(rows)
    cells = [row for row in rows if row["metric"] == metric]
    whole = [row for row in cells if row["group"] == "all"]
    diff = [row for row in cells if row["setting"] == "diff"]
    count = {row["group"]: row["n"] for row in diff}
    names = {
        "mix": "mix: whole\nhistory",
        "mix_short": "mix: as\nlong as diff",
        "diff": "diff: without the\ntarget's domain",
    }
    settings = [setting for setting in names if any(row["setting"] == setting for row in cells)]
    bars(panels[0], whole, looks, settings, "setting")
    gains(panels[1], whole, looks, settings, "setting", _gain(rows, metric))
    for panel in panels[:2]:
        panel.set_xticks(range(len(settings)), [names[setting] for setting in settings])
        panel.set_xlabel(f"the same {max(row['n'] for row in whole):,} cases")
    panels[0].set_ylabel(metric_name(metric))
    domains = sorted(group for group in count if group.startswith("to "))
    breadths = sorted((group for group in count if group[0].isdigit()), key=lambda name: int(name.split()[0]))
    for panel, groups, part in ((panels[2], domains, 1), (panels[3], breadths, 0)):
        bars(panel, diff, looks, groups, "group")
        ticks(panel, [group.split(" ", 1)[part] for group in groups], [count[group] for group in groups])
        panel.set_ylabel(f"{metric_name(metric)}, diff")
    panels[2].set_xlabel("domain of the target; cases")
    panels[3].set_xlabel("domains in the whole history; cases")
    return with_legend(figure, rows, looks)


def robustness_figure(rows: list[Row], metric: str) -> Figure:
    """The value without noise, and the degradation over the noise ratio, one panel per kind."""
    looks = looks_of(rows)
    cells = [row for row in rows if row["metric"] == metric]
    clean = [row for row in cells if row["setting"] == "clean"]
    kinds = list(dict.fromkeys(row["setting"] for row in cells if row["setting"] != "clean"))
    figure, (absolute, *panels) = panels_of(1 + len(kinds), min(3, 1 + len(kinds)))
    bars(absolute, clean, looks, [0.0], "level")
    absolute.set_xticks([])
    absolute.set_title("no noise", fontsize=9)
    absolute.set_ylabel(metric_name(metric))
    for panel, kind in zip(panels, kinds, strict=True):
        lines(panel, [*_zeros(clean), *(row for row in cells if row["setting"] == kind)], looks, "change")
        percent(panel, f"change of {metric_name(metric)}")
        panel.set_title(kind.replace("_", ", "), fontsize=9)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlabel("noise, share of the history")
    _same_range(panels)
    return with_legend(figure, rows, looks)


def trajectory_figure(rows: list[Row], metric: str) -> Figure:
    """The main metric by step with predictions fed back and with the truth, its change, and the window as a set."""
    looks = looks_of(rows)
    stepwise = [row for row in rows if row["metric"] == metric and row["level"] is not None]
    feeds = [feed for feed in ("greedy", "sampled", "truth") if any(row["setting"] == feed for row in stepwise)]
    figure, panels = panels_of(len(feeds) + 2, 2)
    by_step, (change, window) = panels[: len(feeds)], panels[len(feeds) :]
    for panel, feed in zip(by_step, feeds, strict=True):
        lines(panel, [row for row in stepwise if row["setting"] == feed], looks)
        panel.set_ylabel(metric_name(metric))
        panel.set_title(f"fed back: {'the truth' if feed == 'truth' else feed + ' prediction'}", fontsize=9)
    _same_range(by_step, 0.0)
    fed = [row for row in stepwise if row["setting"] == feeds[0]]
    first = [row for row in fed if row["level"] == 1]
    lines(change, [*_zeros(first), *(row for row in fed if row["level"] > 1)], looks, "change")
    percent(change, f"change from step 1, {feeds[0]}")
    for panel in (*by_step, change):
        panel.set_xlabel(f"step ahead; {max(row['n'] for row in fed):,} windows")
    sets = [row for row in rows if row["metric"] == "recall@window"]
    names = {"one list": "best items\nat once", "greedy": "greedy,\nstep by step", "sampled": "sampled,\nstep by step"}
    there = [name for name in names if any(row["setting"] == name for row in sets)]
    bars(window, sets, looks, there, "setting")
    window.set_xticks(range(len(there)), [names[name] for name in there])
    window.set_ylabel("Recall of the window as a set")
    return with_legend(figure, rows, looks)


def _gain(rows: Sequence[Row], metric: str) -> str:
    """Name of the axis of gains; a loss that falls is no gain."""
    smallest = compared_with(rows, lambda row: str(row["label"]))
    return f"{metric_name(metric)} against\n{smallest}" if metric == "nll" else f"gain over\n{smallest}"


def _zeros(rows: Sequence[Row]) -> list[Row]:
    """Rows that changes are relative to, with no change of their own."""
    return [{**row, "change": 0.0, "change_lower": 0.0, "change_upper": 0.0} for row in rows]


def _same_range(panels: Sequence[Any], bottom: float | None = None) -> None:
    """One vertical range for panels that are compared."""
    ends = [panel.get_ylim() for panel in panels]
    low, high = min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=1.0)
    for panel in panels:
        panel.set_ylim(low if bottom is None else bottom, high)
