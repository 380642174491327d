"""Figures of a law: the loss against size with its residuals, and the ranking metrics against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_scale.drawing import (
    BLACK,
    BLUE,
    GREY,
    NAMES,
    VERMILLION,
    WIDTH,
    Drawn,
    Figure,
    count_axis,
    draw_levels,
    metric_name,
    new_figure,
    save,
    style,
)
from recbole_scale.fit.references import counted_metrics, reference_losses
from recbole_scale.fit.rows import Row
from recbole_scale.fit.study import Answer, ranking_metrics
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.text import show_count

_MOST_METRICS = 6


def save_law_figures(answer: Answer, out: Path, others: Sequence[Row] = ()) -> list[str]:
    """Draw the loss with its residuals, and the ranking metrics where there are laws of them, beside ``others``.

    Returns:
        Names of the files written to ``out``.
    """
    return [
        name for drawn in law_figures(answer, others) if drawn.figure for name in save(drawn.figure, out, drawn.name)
    ]


def law_figures(answer: Answer, others: Sequence[Row] = ()) -> list[Drawn]:
    """The figures of an answer, or why one of them is missing; rows ``others`` may hold other models on the data."""
    size = "size" if answer.question.x != "unique_interactions" else "data"
    band = (
        "Shaded: 95 % band of the law: noise of its runs, an error of each size's own, other forms it might "
        "have. Dashed: beyond the fitted sizes. Dotted: what needs no model."
    )
    with style():
        drawn = [
            Drawn(
                "law",
                f"Loss against {size}",
                f"{band} Filled circles are fitted, open diamonds were held out. Below: what the law leaves over.",
                loss_figure(answer),
            )
        ]
        title = f"Ranking quality against {size}"
        if answer.metric_laws:
            caption = "m = limit / (1 + (x0 / x)^alpha), drawn as the loss is."
            drawn.append(Drawn("metrics", title, caption, metrics_figure(answer, others)))
        else:
            carried = ranking_metrics(answer.choice.fitted)
            why = " of the fitted sizes; each has its reason in a note" if carried else ": the rows carry none"
            reason = f"No ranking metric has a law{why}."
            drawn.append(Drawn("metrics", title, "", skipped=reason))
    return drawn


def loss_figure(answer: Answer) -> Figure:
    """Loss against size with the band of the law, above the residuals in percent."""
    question, law = answer.question, answer.law
    figure = new_figure(4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _curve(top, law, answer)
    if answer.whole is not None:
        grid = _grid(answer)
        label = "law of all runs, held-out too"
        top.plot(grid, answer.whole.law.predict(grid), color=GREY, linewidth=1.2, linestyle=":", label=label)
    _points(top, answer, lambda row: row[question.loss])
    top.set_ylabel(NAMES.get(question.loss, question.loss))
    constants = ", ".join(
        f"{name} = {show_count(value) if name == 'x0' else f'{value:#.3g}'}" for name, value in law.constants().items()
    )
    said = constants if law.identified else "constants not identified"
    top.set_title(f"{answer.choice.dataset}, {answer.choice.model}\n{said}")
    levels = reference_losses(answer.choice.fitted + answer.choice.held_out)
    draw_levels(top, levels)
    # levels too high for the axis are named above it, two in a line
    top.legend(loc="upper right", bbox_to_anchor=(1.0, 0.96 if len(levels) < 3 else 0.91))
    bottom.axhline(0.0, color=BLACK, linewidth=0.8)
    _points(bottom, answer, lambda row: 100.0 * (row[question.loss] / float(law.predict(row[question.x])) - 1.0))
    bottom.set_ylabel("measured\nabove law (%)")
    bottom.margins(y=0.15)
    bottom.set_xlabel(NAMES[question.x])
    for panel in (top, bottom):
        count_axis(panel)
    return figure


def metrics_figure(answer: Answer, others: Sequence[Row] = ()) -> Figure:
    """One panel per ranking metric against size, two in a row, with the band of its law and the levels of counting."""
    names = list(answer.metric_laws)[:_MOST_METRICS]
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure = new_figure(1.9 * rows + 0.9, WIDTH)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).reshape(-1)
    for panel, name in zip(panels, names, strict=False):
        _curve(panel, answer.metric_laws[name], answer)
        _points(panel, answer, lambda row, metric=name: (row.get("test_metrics") or {}).get(metric, np.nan))
        verdict = "" if answer.metric_laws[name].identified else " (not identified)"
        panel.set_title(metric_name(name) + verdict)
        panel.set_ylim(bottom=0.0)
        if levels := counted_metrics(others, answer.choice.fitted[0], name):
            draw_levels(panel, levels)
        count_axis(panel)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel(NAMES[answer.question.x], fontsize=9)
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside upper center", ncols=2)
    return figure


def _curve(panel: Any, law: PowerLaw | MetricLaw, answer: Answer) -> None:
    """The law and its band, dashed beyond the fitted sizes, with the predictions asked for."""
    grid = _grid(answer)
    lower, upper = law.interval(grid)
    if np.isfinite(lower).all():
        panel.fill_between(grid, lower, upper, color=BLUE, alpha=0.2, linewidth=0, label="95 % band of the law")
    inside = grid <= max(float(row[answer.question.x]) for row in answer.choice.fitted)
    panel.plot(grid[inside], law.predict(grid[inside]), color=BLUE, linewidth=1.4, label="law")
    panel.plot(grid[~inside], law.predict(grid[~inside]), color=BLUE, linewidth=1.4, linestyle="--")
    for index, prediction in enumerate(answer.predictions):
        value, (low, high) = float(law.predict(prediction.x)), law.interval(prediction.x, new_run=True)
        # resamples may lie to one side of the fit, if only by rounding, and a bar has no negative length
        bar = [[max(value - low, 0.0)], [max(high - value, 0.0)]] if np.isfinite(low) else None
        label = "predicted, 95 % of single runs" if index == 0 else None
        panel.errorbar([prediction.x], [value], bar, fmt="s", color=BLACK, markersize=4, capsize=3, label=label)


def _grid(answer: Answer) -> Any:
    """Sizes to draw a law at: somewhat beyond everything measured or asked for."""
    measured = [float(row[answer.question.x]) for row in answer.choice.fitted + answer.choice.held_out]
    everything = [*measured, *(prediction.x for prediction in answer.predictions)]
    return np.geomspace(min(everything) / 1.4, max(everything) * 1.4, 200)


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
    for label, rows, style_of_kind in kinds:
        if rows:
            x = [row[answer.question.x] for row in rows]
            panel.scatter(x, [value(row) for row in rows], zorder=3, label=label, **style_of_kind)
