"""Figures of a law, as PNG and PDF: colours of Okabe and Ito, and shapes that tell the same without colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from recbole_scale.scaling.study import Answer
from recbole_scale.scaling.study_rows import Row, show_count

BLUE, VERMILLION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#666666"
_STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
_NAMES = {
    "n_blocks": "parameters without embeddings, N",
    "n_blocks_exact": "parameters without embeddings (exact)",
    "unique_interactions": "interactions, D",
    "test_nll": "test loss (nats per interaction)",
    "best_valid_nll": "valid loss (nats per interaction)",
}
_MOST_METRICS = 6


def save_law_figures(answer: Answer, out: Path) -> list[str]:
    """Draw the loss with its residuals, and the ranking metrics where there are laws of them.

    Returns:
        Names of the files written to ``out``.
    """
    written = []
    with matplotlib.rc_context(_STYLE):
        figures = {"law": loss_figure(answer)}
        if answer.metric_laws:
            figures["metrics"] = metrics_figure(answer)
        for name, figure in figures.items():
            for suffix in ("png", "pdf"):
                figure.savefig(out / f"{name}.{suffix}", dpi=200)
                written.append(f"{name}.{suffix}")
    return written


def loss_figure(answer: Answer) -> Figure:
    """Loss against size with the band of the law, above the residuals in percent."""
    question, law = answer.question, answer.law
    figure = Figure(figsize=(6.0, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _curve(top, law, answer)
    _points(top, answer, lambda row: row[question.loss])
    top.set_ylabel(_NAMES.get(question.loss, question.loss))
    constants = ", ".join(
        f"{name} = {show_count(value) if name == 'x0' else f'{value:#.3g}'}" for name, value in law.constants().items()
    )
    verdict = "" if law.identified else " (not identified)"
    top.set_title(f"{answer.choice.dataset}, {answer.choice.model}: {constants}{verdict}", fontsize=9)
    top.legend(frameon=False)
    bottom.axhline(0.0, color=BLACK, linewidth=0.8)
    _points(bottom, answer, lambda row: 100.0 * (row[question.loss] / float(law.predict(row[question.x])) - 1.0))
    bottom.set_ylabel("measured\nabove law (%)")
    bottom.margins(y=0.15)
    bottom.set_xlabel(_NAMES[question.x])
    for panel in (top, bottom):
        _size_axis(panel)
    return figure


def metrics_figure(answer: Answer) -> Figure:
    """One panel per ranking metric against size, with the band of its law."""
    question = answer.question
    names = list(answer.metric_laws)[:_MOST_METRICS]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(2.6 * columns + 0.6, 5.0), 2.3 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).reshape(-1)
    for panel, name in zip(panels, names, strict=False):
        _curve(panel, answer.metric_laws[name], answer)
        _points(panel, answer, lambda row, metric=name: (row.get("test_metrics") or {}).get(metric, np.nan))
        panel.set_title(name, fontsize=9)
        panel.set_ylim(bottom=0.0)
        _size_axis(panel)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel(_NAMES[question.x], fontsize=9)
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside upper center", ncols=max(columns, 2), frameon=False, fontsize=8)
    return figure


def _curve(panel: Any, law: Any, answer: Answer) -> None:
    """The law and its band, dashed beyond the fitted sizes, with the predictions asked for."""
    x = answer.question.x
    fitted = [float(row[x]) for row in answer.choice.fitted]
    everything = [*fitted, *(float(row[x]) for row in answer.choice.held_out), *(p.x for p in answer.predictions)]
    grid = np.geomspace(min(everything) / 1.4, max(everything) * 1.4, 200)
    lower, upper = law.interval(grid)
    if np.isfinite(lower).all():
        panel.fill_between(grid, lower, upper, color=BLUE, alpha=0.2, linewidth=0, label="95 % band of the law")
    inside = grid <= max(fitted)
    panel.plot(grid[inside], law.predict(grid[inside]), color=BLUE, linewidth=1.4, label="law")
    panel.plot(grid[~inside], law.predict(grid[~inside]), color=BLUE, linewidth=1.4, linestyle="--")
    for index, prediction in enumerate(answer.predictions):
        value, (low, high) = float(law.predict(prediction.x)), law.interval(prediction.x, new_run=True)
        bar = [[value - low], [high - value]] if np.isfinite(low) else None
        label = "predicted, 95 % of single runs" if index == 0 else None
        panel.errorbar([prediction.x], [value], bar, fmt="s", color=BLACK, markersize=4, capsize=3, label=label)


def _points(panel: Any, answer: Answer, value: Any) -> None:
    """Fitted runs as filled circles, held-out ones as open diamonds."""
    kinds: tuple[tuple[str, Sequence[Row], dict[str, Any]], ...] = (
        ("fitted runs", answer.choice.fitted, {"marker": "o", "color": BLUE, "s": 18}),
        (
            "held-out runs",
            answer.choice.held_out,
            {"marker": "D", "facecolors": "none", "edgecolors": VERMILLION, "linewidths": 1.3, "s": 26},
        ),
    )
    for label, rows, style in kinds:
        if rows:
            x = [row[answer.question.x] for row in rows]
            panel.scatter(x, [value(row) for row in rows], zorder=3, label=label, **style)


def _size_axis(panel: Any) -> None:
    """A log axis whose ticks read 10K, 1M, ... and stay few enough not to touch."""
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_count(value)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, color=GREY, alpha=0.2, linewidth=0.6)
