"""Figures of a study besides its law in size: by data and by shape here, by epoch and compute in ``figures_curves``.

Every function takes rows of one data set and one model, and returns what it drew or the sentence that says why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_scale.drawing import NAMES, Drawn, count_axis, line_style, new_figure, style
from recbole_scale.fit.rows import Row, same_size
from recbole_scale.fit.tables import LOSS, by_size, distinct, means, number, whole_data
from recbole_scale.fit.tries import best_settings
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.report.figures_curves import epochs_figure, isoflop_figure, repetition_figure
from recbole_scale.text import show_count

_LEAST = 3  # points that make a curve


def study_figures(
    rows: Sequence[Row], ladder: Sequence[Row], data_laws: Mapping[float, PowerLaw], loss: str = LOSS
) -> list[Drawn]:
    """All figures besides the law's.

    Args:
        rows: runs of every shape.
        ladder: those of them whose shape is on the ladder the law is fitted to, on any amount of data.
        data_laws: laws in data by N.
        loss: column of the loss.
    """
    with style():
        return [
            data_figure(ladder, data_laws, loss),
            epochs_figure(ladder),
            repetition_figure(ladder, loss),
            aspect_figure(rows, loss),
            isoflop_figure(ladder),
        ]


def data_figure(rows: Sequence[Row], laws: Mapping[float, PowerLaw], loss: str = LOSS) -> Drawn:
    """Loss against data, a curve for each size of three or more amounts; ``laws`` by N where one could be fitted."""
    title = "Loss against data"
    runs = by_size(best_settings(rows, []), loss)
    groups = {n: group for n, group in runs.items() if len(distinct(group, "unique_interactions")) > 1}
    if not any(len(distinct(group, "unique_interactions")) >= _LEAST for group in groups.values()):
        reason = f"No size was trained on {_LEAST} amounts of data or more; sweep --fractions 0.1 0.25 0.5 1 does."
        return Drawn("data", title, "", skipped=reason)
    figure = new_figure(3.6)
    panel = figure.subplots()
    for index, (n, group) in enumerate(groups.items()):
        look, law = line_style(index), laws.get(n)
        amounts, averages, _ = means(group, "unique_interactions", loss)
        alpha = "" if law is None else f", alpha = {law.alpha:.2g}" + ("" if law.identified else " (not identified)")
        look["linestyle"] = "none" if law else look["linestyle"]
        panel.plot(amounts, averages, markersize=5, label=f"N = {show_count(n)}{alpha}", **look)
        if law is not None:
            grid = np.geomspace(min(amounts), max(amounts), 100)
            panel.plot(grid, law.predict(grid), color=look["color"], linewidth=1.3)
            lower, upper = law.interval(grid)
            if law.identified and np.isfinite(lower).all():
                panel.fill_between(grid, lower, upper, color=look["color"], alpha=0.12, linewidth=0)
    panel.set_xlabel(NAMES["unique_interactions"])
    panel.set_ylabel(NAMES.get(loss, loss))
    count_axis(panel, [row["unique_interactions"] for group in groups.values() for row in group])
    panel.legend()
    caption = (
        "Points: means over seeds. Lines: L = E + (D0 / D)^alpha of each size; shaded: its 95 % band, if identified."
    )
    return Drawn("data", title, caption, figure)


def aspect_figure(rows: Sequence[Row], loss: str = LOSS) -> Drawn:
    """Loss against d_model / layers at equal N (within 2 %), a line for each N of three or more shapes."""
    title = "Shape at equal size"
    usable = [row for row in whole_data(rows) if all(number(row, c) for c in ("n_layers", "d_model", "n_blocks", loss))]
    groups = [
        [{**row, "ratio": row["d_model"] / row["n_layers"]} for row in group]
        for group in same_size(best_settings(usable, []))
    ]
    groups = [group for group in groups if len(distinct(group, "ratio")) >= _LEAST]
    if not groups:
        reason = f"No N was trained in {_LEAST} or more shapes; recbole-scale sweep --equal_n 98.3K makes them."
        return Drawn("aspect", title, "", skipped=reason)
    figure = new_figure(3.2)
    panel = figure.subplots()
    for index, group in enumerate(groups):
        ratios, averages, spans = means(group, "ratio", loss)
        label = f"N = {show_count(float(np.mean([row['n_blocks'] for row in group])))}"
        panel.errorbar(ratios, averages, spans, capsize=2, label=label, **line_style(index))
    count_axis(panel, [row["ratio"] for group in groups for row in group])
    panel.set_xlabel("aspect ratio, d_model / layers")
    panel.set_ylabel(NAMES.get(loss, loss))
    panel.legend()
    caption = "Shapes on a line have the same number of parameters within 2 %; bars span the seeds."
    return Drawn("aspect", title, caption, figure)
