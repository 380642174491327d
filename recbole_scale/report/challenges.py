"""The challenge tasks in a report: where size helps, a figure and a table each, from ``results/challenges.jsonl``."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from recbole_scale.challenges import figures as layouts
from recbole_scale.challenges.table import COLUMNS, KINDS_OF_COLUMNS, OLDER, comparable, labels
from recbole_scale.drawing import Drawn, metric_name, style
from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Row
from recbole_scale.fit.tables import by_size
from recbole_scale.report.html import paragraph, section, table, wide_figure
from recbole_scale.runs.row_file import read_lines
from recbole_scale.text import show_count, span

_TITLES = {
    "long_tail": "Long-tail items",
    "cold_start": "Cold-start users",
    "multi_domain": "Transfer between domains",
    "robustness": "Robustness to noise in the history",
    "trajectory": "Several steps ahead",
}
_DRAWERS = {
    "long_tail": layouts.long_tail_figure,
    "cold_start": layouts.cold_start_figure,
    "multi_domain": layouts.multi_domain_figure,
    "robustness": layouts.robustness_figure,
    "trajectory": layouts.trajectory_figure,
}
METRIC = "ndcg@10"
_COVERAGE = {"cold_start": ("coverage@10", "coverage@10_rarefied"), "long_tail": ("coverage@10_rarefied",),
             "multi_domain": ("coverage@10_rarefied",)}  # fmt: skip


def read_challenges(path: str | Path) -> list[Row]:
    """Rows of a challenge file; of a case measured twice the last one.

    Raises:
        UserError: no such file, or a line that is no row of ``recbole-scale challenges``.
    """
    rows: dict[Any, Row] = {}
    for number, row in enumerate(read_lines(path, KINDS_OF_COLUMNS), 1):
        lacking = [name for name in COLUMNS if name not in row and name not in OLDER]
        if lacking:
            raise UserError(
                f"{path}, row {number}: no row of recbole-scale challenges, for it has no column '{lacking[0]}'"
            )
        if None in (row[name] for name in ("challenge", "setting", "group", "metric", "value", "dataset", "n")):
            raise UserError(
                f"{path}, row {number}: no row of recbole-scale challenges, for a value that it needs is null"
            )
        key = ("run_id", "n_parameters", "challenge", "setting", "level", "group", "metric", "mask_history")
        rows[tuple(str(row[name]) for name in key)] = row
    return list(rows.values())


def of_dataset(rows: Sequence[Row], dataset: str) -> list[Row]:
    """Rows of a data set, or of it with its last interactions cut off, on which trajectories are scored."""
    return [row for row in rows if re.fullmatch(re.escape(dataset) + r"(-cut\d+)?", str(row["dataset"]))]


def challenges_section(rows: Sequence[Row], dataset: str) -> str:
    """One part for every challenge in the rows, the paper's five in its order."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in labelled(comparable(rows)):
        by_name[str(row["challenge"])].append(row)
    order = [*(name for name in _TITLES if name in by_name), *(name for name in by_name if name not in _TITLES)]
    parts = [_part(name, by_name[name]) for name in order]
    said = (
        f"Every model is scored on the same cases of {dataset}; whiskers are 95 % intervals over users, and "
        f"gains are relative to the smallest model. {trained_how_often(rows)}"
    )
    return section("Where size helps: the challenge tasks", paragraph(said, "muted"), *parts) if parts else ""


def trained_how_often(rows: Sequence[Row]) -> str:
    """How many training runs stand behind each model, for no interval over users holds their noise."""
    runs: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        seed = row["run_id"] if row.get("seed") is None else row["seed"]
        runs[row["dataset"], row["model"], row["n_blocks"]].add(str(seed))
    counts = [len(one) for one in runs.values()] or [1]
    times = "once" if max(counts) == 1 else f"{span(counts)} times"
    return f"Each model was trained {times}; the intervals do not hold what another training seed would change."


def labelled(rows: Sequence[Row]) -> list[Row]:
    """Rows with the short name of their model in ``label``, smallest model first."""
    ranked = sorted(rows, key=lambda row: (row["n_blocks"] is None, row["n_blocks"] or 0, row["n_parameters"] or 0))
    models = {(row["run_id"], row["n_parameters"]): row for row in ranked}
    names = dict(zip(models, labels(list(models.values())), strict=True))
    return [{**row, "label": names[row["run_id"], row["n_parameters"]]} for row in ranked]


def _part(name: str, rows: Sequence[Row]) -> str:
    title = _TITLES.get(name, name)
    drawer = _DRAWERS.get(name)
    figure = ""
    if drawer is not None:
        with style():
            caption = f"{metric_name(METRIC)} of every model unless an axis says otherwise."
            figure = wide_figure(Drawn(f"challenge-{name}", title, caption, drawer(list(rows), METRIC)))
    parts = [challenge_table(title, rows, metric) for metric in (METRIC, *_COVERAGE.get(name, ()))]
    said = [coverage_trend(rows) if name == "cold_start" else "", noise_of_draws(rows)]
    return Markup(figure) + Markup("").join(map(Markup, parts)) + Markup("").join(paragraph(one) for one in said if one)


def coverage_trend(rows: Sequence[Row], metric: str = "coverage@10") -> str:
    """What the sizes cover of the items at the shortest history, means over seeds; empty with one size."""
    cells = [
        row for row in rows if row["metric"] == metric and row["setting"] == "last" and row["n_blocks"] is not None
    ]
    shortest = min((row["level"] for row in cells), default=0)
    sizes = by_size((row for row in cells if row["level"] == shortest), "value")
    if len(sizes) < 2:
        return ""
    means = {n: float(np.mean([row["value"] for row in group])) for n, group in sizes.items()}
    values = ", ".join(f"{value:.3f} at {show_count(n)}" for n, value in means.items())
    small, large = min(sizes), max(sizes)
    said = f"Of the last {shortest:g} items alone the lists cover {values} of all items"
    if not means[small]:
        return f"{said}."
    ends = _interval_of(means[large] / means[small] - 1.0, sizes[large][0]) if len(sizes[large]) == 1 else ""
    return f"{said}: {means[large] / means[small] - 1.0:+.0%} from the smallest size to the largest{ends}."


def noise_of_draws(rows: Sequence[Row], metric: str = METRIC) -> str:
    """The largest standard error that drawing the noise again leaves in a value; empty where nothing was drawn."""
    cells = [row for row in rows if row["challenge"] == "robustness" and row["metric"] == metric]
    drawn = [int(row["noise_seeds"]) for row in cells if row["noise_seeds"] is not None]
    if not drawn:
        return ""
    errors = [float(row["draw_error"]) for row in cells if row.get("draw_error") is not None]
    left = f"leaves a standard error of at most {max(errors):.4f} in a value" if errors else "leaves an unknown error"
    return f"Noise is drawn {'once' if max(drawn) == 1 else f'{span(drawn)} times'}, which {left}."


def challenge_table(title: str, rows: Sequence[Row], metric: str = METRIC) -> str:
    """Cases down, models across, with the gain of the largest over the smallest."""
    cells = [row for row in rows if row["metric"] == metric and isinstance(row["value"], int | float)]
    if not cells:
        return ""
    several = len({row["setting"] for row in cells}) > 1
    names = list(dict.fromkeys(row["label"] for row in cells))
    ours = list(dict.fromkeys(row["label"] for row in cells if row["n_blocks"] is not None))
    gain = len(ours) > 1
    lines: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in cells:
        lines[condition(row, several)][row["label"]] = row
    head = ["cases", "n", *names, *(["largest over smallest"] if gain else [])]
    body = []
    for case, line in lines.items():
        shown = [f"{line[name]['value']:.4f}" if name in line else None for name in names]
        body.append([case, f"{next(iter(line.values()))['n']:,}", *shown, *([_gain(line, ours)] if gain else [])])
    return table(head, body, f"{title}: {metric_name(metric)}")


def condition(row: Row, with_setting: bool = True) -> str:
    """What is special about a row's cases, in words."""
    level = None if row["level"] is None else f"{row['level']:g}"
    if row["challenge"] == "trajectory" and level is None:
        level = "(window as a set)"
    parts = [row["setting"] if with_setting else None, level, None if row["group"] == "all" else row["group"]]
    return " ".join(str(part) for part in parts if part not in (None, "")) or "all"


def _gain(line: dict[str, Row], ours: Sequence[str]) -> str | None:
    """Gain of the largest over the smallest in percent, with the interval the row has for it."""
    small, large = line.get(ours[0]), line.get(ours[-1])
    if small is None or large is None or not small["value"]:
        return None
    gain = large["value"] / small["value"] - 1.0
    return f"{gain:+.0%}{_interval_of(gain, large)}"


def _interval_of(gain: float, large: Row) -> str:
    """The interval that a row has for its gain, where that is ``gain``: of several seeds, one is the reference."""
    ends = [large[name] for name in ("gain", "gain_lower", "gain_upper")]
    known = all(isinstance(end, int | float) and np.isfinite(end) for end in ends) and math.isclose(ends[0], gain)
    return f" ({ends[1]:+.0%} to {ends[2]:+.0%})" if known else ""
