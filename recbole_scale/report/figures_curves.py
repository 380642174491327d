"""Figures of how losses came about: per epoch, by repetition, and at equal compute.

Rows are of one data set and one model; every function returns what it drew or the sentence that says why not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from recbole_scale.drawing import NAMES, Drawn, count_axis, line_style, new_figure
from recbole_scale.fit.rows import Row
from recbole_scale.fit.tables import (
    LOSS,
    by_size,
    curve_of,
    distinct,
    means,
    number,
    whole_data,
)
from recbole_scale.fit.tries import planned_epochs
from recbole_scale.text import show_count

_LEAST = 3  # points that make a curve
_BUDGETS = 6


def epochs_figure(rows: Sequence[Row]) -> Drawn:
    """Valid loss (solid) and train loss (dotted) after every epoch, one run of each size: that of most epochs."""
    title = "Loss per epoch"
    runs = []
    for n, group in by_size(whole_data(rows)).items():
        run = max(group, key=lambda row: (len(curve_of(row)[0]), -float(row.get("seed") or 0)))
        if len(curve_of(run)[0]) > 1:
            runs.append((n, run))
    if not runs:
        return Drawn("epochs", title, "", skipped="No run was evaluated after more than one epoch.")
    figure = new_figure(3.8)
    panel = figure.subplots()
    for index, (n, run) in enumerate(runs):
        look = line_style(index)
        epochs, valid = curve_of(run)
        marker = look.pop("marker")
        panel.plot(epochs, valid, linewidth=1.4, label=f"N = {show_count(n)}", **look)
        best = int(np.argmin(valid))
        panel.plot(epochs[best], valid[best], marker=marker, markersize=6, color=look["color"])
        epochs, train = curve_of(run, "train_nll")
        panel.plot(epochs, train, linewidth=0.9, linestyle=":", color=look["color"], alpha=0.8)
    every = np.concatenate([curve_of(run)[1] for _, run in runs])
    low = min(every.min(), *(curve_of(run, "train_nll")[1].min(initial=every.min()) for _, run in runs))
    panel.set_ylim(low - 0.05, float(np.quantile(every, 0.97)) + 0.1)
    panel.set_xlabel("epoch")
    panel.set_ylabel("loss (nats per interaction)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(ncols=2)
    caption = (
        "Solid: valid loss; the mark is the best epoch, whose weights are tested. Dotted: train loss (with dropout). "
        "Valid rising while train falls is overfitting. The longest run of each size; the highest losses are cut off."
    )
    return Drawn("epochs", title, caption, figure)


def repetition_figure(rows: Sequence[Row], loss: str = LOSS) -> Drawn:
    """Loss against how often the data were seen, each point a run with a schedule of its own."""
    title = "Repeating the data"
    groups = {}
    for n, group in by_size(whole_data(rows), loss).items():
        planned: list[Row] = [{**row, "planned": planned_epochs(row)} for row in group if planned_epochs(row)]
        if len(distinct(planned, "planned")) >= _LEAST:
            groups[n] = planned
    if not groups:
        reason = f"No size was trained for {_LEAST} or more different --epochs (each with its own schedule)."
        return Drawn("repetition", title, "", skipped=reason)
    figure = new_figure(3.2)
    panel = figure.subplots()
    ticks: set[float] = set()
    for index, (n, group) in enumerate(groups.items()):
        epochs, averages, spans = means(group, "planned", loss)
        ticks |= set(epochs)
        panel.errorbar(epochs, averages, spans, capsize=2, label=f"N = {show_count(n)}", **line_style(index))
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel("epochs of the run's schedule")
    panel.set_ylabel(NAMES.get(loss, loss))
    panel.legend()
    caption = "Each point is its own run to the end of its own schedule, at its best epoch; bars span the seeds."
    return Drawn("repetition", title, caption, figure)


def isoflop_figure(rows: Sequence[Row]) -> Drawn:
    """Valid loss against N at equal training FLOPs, read off the runs' own curves; an inner best size is ringed."""
    title = "Equal compute"
    curves = _compute_curves(rows)
    budgets = _shared_budgets(curves)
    if not len(budgets):
        reason = f"No training budget lies on the curves of {_LEAST} or more sizes; more epochs of the small ones help."
        return Drawn("isoflop", title, "", skipped=reason)
    figure = new_figure(3.4)
    panel = figure.subplots()
    for index, budget in enumerate(budgets):
        points = isoflop_points(curves, budget)
        sizes, losses = [n for n, _ in points], [value for _, value in points]
        look = line_style(index)
        panel.plot(sizes, losses, linewidth=1.2, markersize=4, label=f"{budget:.1e} FLOPs", **look)
        best = int(np.argmin(losses))
        if best in (0, len(losses) - 1):  # the best size may lie beyond the sizes that this budget covers
            continue
        ring = {"markersize": 11, "markerfacecolor": "none", "linestyle": "none", "color": look["color"]}
        panel.plot(sizes[best], losses[best], marker="o", **ring)
    count_axis(panel, list(curves))
    panel.set_xlabel(NAMES["n_blocks"])
    panel.set_ylabel("valid loss (nats per interaction)")
    figure.legend(loc="outside upper center", ncols=3)
    caption = (
        "Each line has one training budget, softmax included; its best size is ringed where it lies between others. "
        "Losses in the middle of a run are read off its curve, before its learning rate has come down, so they are "
        "somewhat high, and more so for the large sizes."
    )
    return Drawn("isoflop", title, caption, figure)


def isoflop_points(curves: Mapping[float, Sequence[tuple[Any, Any]]], budget: float) -> list[tuple[float, float]]:
    """(N, valid loss) of every size whose curve covers ``budget``: linear between epochs in log FLOPs, best curve."""
    points = []
    for n, runs in curves.items():
        covered = [
            float(np.interp(np.log(budget), np.log(flops), losses))
            for flops, losses in runs
            if flops[0] <= budget * 1.0001 and budget <= flops[-1] * 1.0001
        ]
        if covered:
            points.append((n, min(covered)))
    return points


def _compute_curves(rows: Sequence[Row]) -> dict[float, list[tuple[Any, Any]]]:
    """(FLOPs, mean valid loss over seeds) after every epoch, by N, one curve for each schedule."""
    needed = ("flops_per_interaction", "unique_interactions")
    curves: dict[float, list[tuple[Any, Any]]] = {}
    for n, group in by_size(whole_data(rows)).items():
        schedules: dict[Any, list[Row]] = defaultdict(list)
        for row in group:
            if all(number(row, name) for name in needed) and len(curve_of(row)[0]):
                schedules[planned_epochs(row), row["flops_per_interaction"]].append(row)
        for same in schedules.values():
            length = min(len(curve_of(row)[0]) for row in same)
            epochs = curve_of(same[0])[0][:length]
            cost = float(same[0]["flops_per_interaction"]) * float(same[0]["unique_interactions"])
            losses = np.mean([curve_of(row)[1][:length] for row in same], axis=0)
            curves.setdefault(n, []).append((cost * epochs, losses))
    return curves


def _shared_budgets(curves: Mapping[float, Sequence[tuple[Any, Any]]]) -> Any:
    """Up to six budgets, evenly apart in log, each covered by at least three sizes."""
    ends = [(flops[0], flops[-1]) for runs in curves.values() for flops, _ in runs]
    if not ends:
        return np.empty(0)
    tried = np.geomspace(min(low for low, _ in ends), max(high for _, high in ends), 200)
    covered = [budget for budget in tried if len(isoflop_points(curves, budget)) >= _LEAST]
    if not covered:
        return np.empty(0)
    if covered[-1] <= 1.5 * covered[0]:
        return np.array(covered[:1])
    return np.array(covered)[np.linspace(0, len(covered) - 1, _BUDGETS).round().astype(int)]
