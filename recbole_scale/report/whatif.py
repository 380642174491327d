"""What the sliders of a page read: loss, ranking, cost and the worth of a doubling on a grid of sizes; its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_scale.drawing import (
    BLUE,
    NAMES,
    VERMILLION,
    Drawn,
    count_axis,
    draw_levels,
    metric_name,
    new_figure,
    style,
)
from recbole_scale.fit.references import COUNTED, COUNTING, GUESSING, LAST_ITEM, reference_losses
from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import metric_of
from recbole_scale.fit.study import Answer
from recbole_scale.fit.tables import number
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.report.costs import Costs
from recbole_scale.report.gains import banded, draws_of, gain_per_doubling, hits_of
from recbole_scale.report.html import template
from recbole_scale.report.report import Study
from recbole_scale.report.verdict import Verdict
from recbole_scale.text import duration, milliseconds, show_count

_POINTS = 121
_REACH = 10.0  # the sliders go so far beyond the size that the verdict speaks of
_DIGITS = 5
WORTHS = {"hits": (5e-4, 2e-2), "loss": (2e-3, 1e-1)}  # ends of the slider of what a doubling must win
_WORTH_STEPS = 60

Law = MetricLaw | PowerLaw


@dataclass(frozen=True)
class Reference:
    """A level to measure up to: guessing, counting, or another model."""

    name: str
    loss: float | None
    hits: float | None


def references(study: Study) -> list[Reference]:
    """Uniform guessing, counting items, and the best other model on the data, as far as rows tell."""
    own = study.choice.fitted + study.choice.held_out
    found = []
    known = reference_losses(own)
    if (guessing := known.get(GUESSING)) is not None:
        found.append(Reference(GUESSING, guessing, min(10.0 * math.exp(-guessing), 1.0)))
    if COUNTING in known and not any(row.get("model") == "Popularity" for row in study.others):
        found.append(Reference("Popularity", known[COUNTING], None))
    if LAST_ITEM in known:
        found.append(Reference(LAST_ITEM, known[LAST_ITEM], None))
    counting = ("Popularity", "Pop", "Repeat last", "RepeatLast", *COUNTED)
    trained = [row for row in study.others if row.get("model") not in counting]
    for model in counting:
        counted = _reference(study, model, [row for row in study.others if row.get("model") == model])
        if counted and model == "Markov" and LAST_ITEM in known:
            counted = replace(counted, loss=None)  # that of the last item, above, is the same with better smoothing
        found += [counted] if counted else []
    best = [_reference(study, str(row["model"]), [row]) for row in trained]
    ranked = [one for one in best if one is not None and (one.loss is not None or one.hits is not None)]
    if ranked:
        found.append(min(ranked, key=lambda one: (-(one.hits or 0.0), one.loss or math.inf)))
    return found


def _reference(study: Study, name: str, rows: Sequence[Row]) -> Reference | None:
    hits = hits_of(rows)
    likely = [row for row in rows if row.get("nll_kind") != "scores"]  # what was no likelihood is no level for one
    losses = [float(row[study.question.loss]) for row in likely if number(row, study.question.loss)]
    found = [value for row in rows if (value := metric_of(row, hits)) is not None]
    if not losses and not found:
        return None
    return Reference(name, float(np.mean(losses)) if losses else None, float(np.mean(found)) if found else None)


def curves(study: Study, verdict: Verdict, costs: Costs) -> dict[str, Any] | None:
    """Values by size for the page's script, each ``[value, lower, upper]`` with null for what is not known."""
    found = study.deciding
    if found is None:
        return None
    grid = np.geomspace(study.sizes[0].n / 1.3, _REACH * verdict.then, _POINTS)
    grid = np.unique([*grid, verdict.now, verdict.then])
    hits, ndcg = (found.metric_laws.get(name or "") for name in (hits_of(study.choice.fitted), "ndcg@10"))
    each = [costs.of(float(n)) for n in grid]
    columns: dict[str, Any] = {
        "n": [_short(n) for n in grid],
        "loss": _banded(found.law, grid),
        "hits": None if hits is None else _banded(hits, grid),
        "ndcg": None if ndcg is None else _banded(ndcg, grid),
        "hours": [[_short(cost.hours)] for cost in each] if each[0].hours else None,
        "memory": [[_short(cost.memory_mb)] for cost in each] if each[0].memory_mb else None,
        "serving": [[_short(cost.serving_ms)] for cost in each] if each[0].serving_ms else None,
    }
    law: Law = hits or found.law
    decides = "hits" if hits is not None else "loss"
    low, high = WORTHS[decides]
    columns[decides] = _as_decided(columns[decides], law, grid, verdict)
    return {
        **{name: values for name, values in columns.items() if values is not None},
        "gain": _gains(law, grid, verdict),
        "decides": None if verdict.gain is None else [_short(value) for value in verdict.gain],
        "now": int(np.searchsorted(grid, verdict.now)),
        "worth": sorted({_short(v) or low for v in [*np.geomspace(low, high, _WORTH_STEPS), verdict.worth]}),
    }


def _banded(law: Law, grid: Any) -> list[list[float | None]]:
    lower, upper = law.interval(grid)
    return [list(map(_short, band)) for band in zip(law.predict(grid), lower, upper, strict=True)]


def _as_decided(values: list[list[float | None]], law: Law, grid: Any, verdict: Verdict) -> list[list[float | None]]:
    """The law's bands with what the verdict adds to them where the law misses the largest runs.

    It adds nothing at the size that is there, the verdict's own at the one it speaks of, by the doubling in between.
    """
    if verdict.at_then is None or math.isnan(verdict.at_then[1]):
        return values
    own = banded(law, verdict.then)
    share = np.log2(np.maximum(grid / verdict.now, 1.0)) / math.log2(verdict.then / verdict.now)
    more = [share * (verdict.at_then[end] - own[end]) for end in (0, 1, 2)]
    added = zip(values, *more, strict=True)
    return [[_short(v + plus) for v, plus in zip(band, by, strict=True) if v is not None] for band, *by in added]


def _gains(law: Law, grid: Any, verdict: Verdict) -> list[list[float | None]]:
    """What doubling each size wins, better being above 0, with its band: the verdict's from the size that is there."""
    sign = 1.0 if isinstance(law, MetricLaw) else -1.0
    value = sign * (law.predict(2 * grid) - law.predict(grid))
    draws = sign * (draws_of(law, 2 * grid) - draws_of(law, grid))
    lower, upper = percentiles(draws, 0.95)
    if verdict.gain is not None:
        _, low, high = gain_per_doubling(law, verdict.now, verdict.then)
        beyond = grid >= verdict.now
        lower, upper = lower + beyond * (verdict.gain[1] - low), upper + beyond * (verdict.gain[2] - high)
    return [list(map(_short, band)) for band in zip(value, lower, upper, strict=True)]


def _short(value: float | None) -> float | None:
    """Five digits, and null for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def what_if(known: dict[str, Any], verdict: Verdict) -> str:
    """The sliders with what they show before anybody moves them: the size that the verdict speaks of."""
    start = int(np.searchsorted(known["n"], verdict.then * 0.999))
    start = min(start, len(known["n"]) - 1)
    worth = int(np.argmin(np.abs(np.log(np.array(known["worth"]) / verdict.worth))))
    names = {
        "loss": "Loss", "hits": "Next item among the first ten", "ndcg": "NDCG@10", "hours": "Training, one run",
        "memory": "Memory of a training step", "serving": "Serving",
    }  # fmt: skip
    readings = [(key, name) for key, name in names.items() if key in known]
    shown = {"n": show_count(known["n"][start]), "hours": "", "worth": "", "pays": ""}
    for key, _ in readings:
        value, *band = known[key][start]
        shown[key] = _said(key, value)
        ends = band and band[0] is not None
        shown[f"{key}_band"] = " to ".join(_said(key, end, "") for end in band) if ends else ""
    return template(
        "whatif.html", curves=known, shown=shown, readings=readings, last=len(known["n"]) - 1, start=start, worth=worth,
        budget="hours" in known,
    )  # fmt: skip


def _said(key: str, value: float | None, unit: str | None = None) -> str:
    """A reading with its unit, or the one given."""
    if value is None:
        return "not known"
    nats, visits = (" nats", " of 1,000 visits") if unit is None else (unit, unit)
    return {
        "loss": lambda: f"{value:.3f}{nats}",
        "hits": lambda: f"{1000 * value:.0f}{visits}",
        "ndcg": lambda: f"{value:.4f}",
        "hours": lambda: duration(3600 * value),
        "memory": lambda: show_memory(value),
        "serving": lambda: f"{milliseconds(value)} a user",
    }[key]()


def show_memory(megabytes: float) -> str:
    """Memory as 812 MB or 3.4 GB."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.3g} GB"


def answer_figures(study: Study, known: dict[str, Any] | None) -> list[Drawn]:
    """Loss and HR@10 against size over the whole reach of the sliders, with the levels to measure up to."""
    found = study.deciding
    if found is None or known is None:
        return []
    levels = references(study)
    name = hits_of(study.choice.fitted)
    caption = "Circles: runs; diamonds: held-out runs. Shaded: 95 % band of the verdict, dashed beyond the largest run."
    with style():
        drawn = [Drawn("answer-loss", "Loss against size", caption, _figure(
            study, found, found.law, lambda row: row.get(study.question.loss), NAMES[study.question.loss],
            {one.name: one.loss for one in levels}, known, "loss"))]  # fmt: skip
        law = found.metric_laws.get(name or "")
        if law is not None and name is not None:
            drawn.append(Drawn("answer-hits", f"{metric_name(name)}: how often the next item is among the first ten",
                "Drawn as the loss is.", _figure(study, found, law, lambda row: metric_of(row, name),
                metric_name(name), {one.name: one.hits for one in levels}, known, "hits")))  # fmt: skip
    return drawn


def _figure(
    study: Study,
    found: Answer,
    law: Law,
    value: Any,
    label: str,
    levels: dict[str, float | None],
    known: dict[str, Any],
    key: str,
) -> Any:
    figure = new_figure(3.1)
    panel = figure.subplots()
    grid = np.array(known["n"])
    trained = grid <= max(float(row["n_blocks"]) for row in found.choice.fitted)
    _, lower, upper = np.array(known[key], dtype=float).T  # the sliders' band, which is the verdict's
    if np.isfinite(lower).all():
        panel.fill_between(grid, lower, upper, color=BLUE, alpha=0.2, linewidth=0)
    panel.plot(grid[trained], law.predict(grid[trained]), color=BLUE, linewidth=1.4, label="law")
    panel.plot(grid[~trained], law.predict(grid[~trained]), color=BLUE, linewidth=1.4, linestyle="--", label="law")
    kinds = (("run", study.choice.fitted, "o", BLUE), ("held-out run", study.choice.held_out, "D", VERMILLION))
    for name, rows, marker, colour in kinds:
        points = [(row["n_blocks"], value(row)) for row in rows if isinstance(value(row), int | float)]
        if points:
            filled = colour if marker == "o" else "none"
            x, y = np.array(points, dtype=float).T
            look: dict[str, Any] = {"facecolors": filled, "edgecolors": colour, "linewidths": 1.2, "zorder": 3}
            panel.scatter(x, y, s=22, marker=marker, label=name, **look)
    count_axis(panel)
    panel.set_xlim(grid[0], grid[-1])
    points = [v for _, rows, *_ in kinds for row in rows if (v := value(row)) is not None]
    seen = np.array([*law.predict(grid), *points])
    span = float(seen.max() - seen.min()) or 1.0  # a band that is wide at an end must not flatten the curve
    panel.set_ylim(float(seen.min()) - 0.3 * span, float(seen.max()) + 0.3 * span)
    panel.set_xlabel(NAMES["n_blocks"])
    panel.set_ylabel(label)
    draw_levels(panel, levels)
    return figure
