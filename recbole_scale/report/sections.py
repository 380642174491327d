"""The sections of the report: each takes a study and returns markup, empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_scale.drawing import Drawn, metric_name
from recbole_scale.fit.law_output import not_told, notes_of, skill_sentence
from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import metric_of
from recbole_scale.fit.study import Answer
from recbole_scale.fit.tables import by_size, whole_data
from recbole_scale.fit.tries import best_settings
from recbole_scale.interfaces import Law
from recbole_scale.laws.rollout import Judgement
from recbole_scale.report.decision import width_table
from recbole_scale.report.html import bullets, cards, details, figures, paragraph, section, table
from recbole_scale.report.next_runs import advice
from recbole_scale.report.report import Study
from recbole_scale.report.verdict import Verdict
from recbole_scale.runs.records import NLL_MARKS, filtered_metrics
from recbole_scale.text import counted, show_count

_RANKS = (5, 10, 50)
_FILTERED_TOLD = "; filtered: without the items that a user had, as many published tables are"
_KINDS_TOLD = {
    "scores": "; of scores: a softmax over scores that no likelihood was trained for",
    "probabilities": "; -log p: of probabilities that the model gives",
}


def key_figures(study: Study, verdict: Verdict) -> str:
    """The figures behind the answer in small boxes; of a law only where something was learnt."""
    return cards(_key_figures(study) + (_cost(study) + _law_figures(study) if verdict.learnt else []))


def evidence_section(study: Study, verdict: Verdict, drawn: Sequence[Drawn]) -> str:
    """The law behind lines to click on: constants and predictions, checks, residuals, the width of the band."""
    found = study.found
    law = [one for one in drawn if one.name in ("law", "metrics")]
    notes = bullets(notes_of(found) if found is not None else study.choice.notes, "muted")
    if found is None or not verdict.learnt:
        return section("The law and its evidence", figures(law), notes)
    constants = [paragraph(f"By the loss alone: {study.headline[1]}")]
    constants.append(constants_table("L(N) = E + (x0 / N)^alpha, " + found.law.message, found.law))
    for name, metric_law in found.metric_laws.items():
        if name == study.metric:
            caption = f"{metric_name(name)}: limit / (1 + (x0 / x)^alpha), {metric_law.message}"
            constants.append(constants_table(caption, metric_law))
    constants.append(_predictions(found, study.metric, "Predictions for one run, and the training cost"))
    if found.whole is not None:
        constants.append(constants_table("Held-out sizes fitted too: " + found.whole.law.message, found.whole.law))
        constants.append(_predictions(found.whole, study.metric, "Predictions, held-out sizes fitted too"))
    caption = "Held out (95 % band of the mean of as many runs; error above 0: predicted too high)"
    checks = [
        _judgements(caption, found.held_out),
        _judgements("Rollout: the smallest sizes fitted, every larger one predicted", found.rolled_out),
    ]
    if found.rolled_out:
        checks.append(paragraph(f"Rollout, {skill_sentence(found.rolled_out)}."))
    return section(
        "The law and its evidence",
        details("Constants and predictions", *constants),
        details("Held-out size and rollouts", *checks),
        details("Residuals, and the law of every ranking metric", figures(law)),
        details("Where the width of the band comes from", width_table(study, verdict)),
        notes,
    )


def sizes_section(study: Study) -> str:
    """Every size of the law with its loss, metrics and cost."""
    rows = study.choice.fitted + study.choice.held_out
    loss, names, filtered = study.question.loss, _metric_names(rows), _filtered_names(rows)
    head = ["N", "layers x d_model", "runs", "loss", "sd", *map(metric_name, names), *_filtered_heads(filtered),
            "best epoch", "seconds", "MB"]  # fmt: skip
    body = []
    for n, group in by_size(rows, loss).items():
        values = np.array([row[loss] for row in group])
        sd = f"{values.std(ddof=1):.4f}" if len(values) > 1 else None
        shape = f"{group[0].get('n_layers')} x {group[0].get('d_model')}"
        best = [row["best_epoch"] + 1 for row in group if isinstance(row.get("best_epoch"), int | float)]
        body.append([
            show_count(n), shape, len(group), f"{values.mean():.4f}", sd,
            *(_mean([metric_of(row, name) for row in group], ".4f") for name in names),
            *_filtered_cells(group, filtered), _mean(best, ".0f"),
            _mean([row.get("seconds_total") for row in group], ",.0f"),
            _mean([row.get("peak_memory_mb") for row in group], ",.0f"),
        ])  # fmt: skip
    caption = f"Means over seeds; loss is {loss} in nats, sd its standard deviation between seeds"
    caption += _FILTERED_TOLD if filtered else ""
    return section("Sizes", table(head, body, caption))


def study_section(drawn: Sequence[Drawn]) -> str:
    """Figures of data, epochs, repetition, shape and equal compute."""
    names = ("data", "epochs", "repetition", "aspect", "isoflop")
    return section("Data, epochs, shape and compute", figures([one for one in drawn if one.name in names]))


def models_section(study: Study) -> str:
    """Other models on the same data beside the sizes."""
    if not study.others:
        return ""
    loss = study.question.loss
    runs: dict[tuple[str, str, float], list[Row]] = {}
    models = dict.fromkeys(str(row.get("model")) for row in study.others)  # each counts targets in its own way
    others = [row for model in models for row in whole_data(r for r in study.others if str(r.get("model")) == model)]
    for row in best_settings(others + study.choice.fitted + study.choice.held_out, []):
        shape = f"{row.get('n_layers')} x {row.get('d_model')}" if row.get("n_layers") else ""
        runs.setdefault((str(row.get("model")), shape, float(row.get("n_parameters") or 0)), []).append(row)
    everybody = [row for group in runs.values() for row in group]
    names, filtered = _metric_names(everybody), _filtered_names(everybody)
    head = ["model", "shape", "parameters", "runs", "loss", *map(metric_name, names), *_filtered_heads(filtered),
            "train s"]  # fmt: skip
    body = [
        [
            model, shape, show_count(count) if count else None, len(group),
            _marked(_mean([row.get(loss) for row in group], ".4f"), group[0].get("nll_kind")),
            *(_mean([metric_of(row, name) for row in group], ".4f") for name in names),
            *_filtered_cells(group, filtered), _mean([row.get("seconds_train") for row in group], ",.0f"),
        ]
        # other models as their rows come, then the sizes, smallest first
        for (model, shape, count), group in sorted(
            runs.items(), key=lambda item: item[0][2] if item[0][0] == study.choice.model else -1.0
        )
    ]  # fmt: skip
    caption = "Means over seeds; all trainable parameters, embeddings included; budgets may differ between models"
    caption += _FILTERED_TOLD if filtered else ""
    kinds = {row.get("nll_kind") for row in everybody}
    caption += "".join(told for kind, told in _KINDS_TOLD.items() if kind in kinds)
    return section("Beside other models", table(head, body, caption))


def advice_section(study: Study) -> str:
    """What else is missing."""
    return section("What else is missing", bullets(advice(study.sizes, study.ends, study.ladder, study.found)))


def _key_figures(study: Study) -> list[tuple[str, str]]:
    sizes = study.sizes
    runs = len(study.choice.fitted) + len(study.choice.held_out)
    pairs = [
        (
            f"{counted(len(sizes), 'size')}, {counted(runs, 'run')}",
            f"{show_count(sizes[0].n)} to {show_count(sizes[-1].n)} parameters",
        )
    ]
    noise = study.ends.noise
    if noise is not None:
        pairs.append((f"{noise:.4f} nats", "standard deviation between seeds"))
    return pairs


def _law_figures(study: Study) -> list[tuple[str, str]]:
    found, pairs = study.found, []
    if found is None:
        return []
    law = (study.deciding or found).law
    if law.identified:
        (alpha_low, alpha_high), (low, high) = law.bands()["alpha"], law.bands()["E"]
        pairs.append((f"alpha = {law.alpha:.3g}", f"95 % band {_band(alpha_low, alpha_high, '.3g')}"))
        pairs.append((f"E = {law.E:.3g} nats", f"floor of the law; 95 % band {_band(low, high, '.3g')}"))
    else:
        pairs.append(("no constants", f"the law is {law.message.split(':')[0]}"))
    for judged in found.held_out[-1:]:
        shown = f"predicted {judged.predicted:.3f}, measured {judged.observed:.3f} at {show_count(judged.x)}, held out"
        pairs.append((f"{100 * judged.signed_error:+.2f} %", shown))
    for prediction in (study.deciding or found).predictions:
        if not_told(study.deciding or found, prediction.x):
            continue
        value, low, high = prediction.loss
        pairs.append((f"{value:.3f} nats", f"predicted at {show_count(prediction.x)}, band {_band(low, high, '.3f')}"))
    return pairs


def _cost(study: Study) -> list[tuple[str, str]]:
    """What the best size costs, against the smallest."""
    rows = study.choice.fitted + study.choice.held_out
    runs = by_size(rows, "flops_total")
    small, best = study.ends.small.n, study.ends.best.n
    if small == best or not {small, best} <= set(runs):
        return []
    least, most = (float(np.mean([row["flops_total"] for row in runs[n]])) for n in (small, best))
    shown = f"training FLOPs at {show_count(best)} ({most:.1e}) against {show_count(small)}"
    return [(f"{most / least:.3g}x", shown)]


def constants_table(caption: str, law: Law) -> str:
    """Constants of a law with their bands; the caption alone where its runs do not fix them."""
    bands = law.bands()
    if not law.identified and np.isfinite(bands["alpha"]).all():
        return paragraph(caption, "muted")
    body = []
    for name, value in law.constants().items():
        counts = name in ("x0", "n0", "d0")
        low, high = bands[name]
        body.append([
            name, show_count(value) if counts else f"{value:#.4g}",
            counts_of(low, high) if counts else _band(low, high, "#.4g"),
        ])  # fmt: skip
    return table(["constant", "value", "95 % band"], body, caption)


def _judgements(caption: str, judged: Sequence[Judgement]) -> str:
    head = ["fitted sizes", "up to", "predicted size", "runs", "predicted", "95 % band", "measured", "error", "in band"]
    body = [
        [
            one.sizes_fitted, show_count(one.largest_fitted), show_count(one.x), one.runs, f"{one.predicted:.4f}",
            _band(one.lower, one.upper, ".4f"), f"{one.observed:.4f}", f"{100 * one.signed_error:+.2f} %",
            {None: None, True: "yes", False: "no"}[one.covered],
        ]
        for one in judged
    ]  # fmt: skip
    return table(head, body, caption)


def _predictions(found: Answer, metric: str | None, caption: str) -> str:
    names = [name for name in (metric,) if name in found.metric_laws]
    head = ["N", "loss", "95 % band", *(f"{metric_name(str(name))} (band)" for name in names), "FLOPs"]
    body = []
    for one in found.predictions:
        if silent := not_told(found, one.x):
            body.append([show_count(one.x), f"not told, since {silent}", *[None] * (len(head) - 2)])
            continue
        metrics = [one.metrics[str(name)] for name in names]
        body.append([
            show_count(one.x), f"{one.loss[0]:.4f}", _band(one.loss[1], one.loss[2], ".4f"),
            *(f"{value:.4f} ({_band(low, high, '.4f')})" for value, low, high in metrics),
            None if one.flops is None else f"{one.flops:.2e}",
        ])  # fmt: skip
    return table(head, body, caption)


def _metric_names(rows: Sequence[Row]) -> list[str]:
    """HR and NDCG at 5, 10 and 50, as far as the rows have them."""
    present = {name for row in rows for name in row.get("test_metrics") or {}}
    hit = "hit" if any(name.startswith("hit@") for name in present) else "recall"
    return [name for rank in _RANKS for name in (f"{hit}@{rank}", f"ndcg@{rank}") if name in present]


def _filtered_names(rows: Sequence[Row]) -> list[str]:
    """HR@10 and NDCG@10, as far as rows have them without what each user had."""
    present = {name for row in rows for name in filtered_metrics(row)}
    return [name for name in _metric_names(rows) if name.endswith("@10") and name in present]


def _filtered_heads(names: Sequence[str]) -> list[str]:
    return [f"{metric_name(name)} filtered" for name in names]


def _filtered_cells(group: Sequence[Row], names: Sequence[str]) -> list[str | None]:
    return [_mean([filtered_metrics(row).get(name) for row in group], ".4f") for name in names]


def _marked(value: str | None, kind: Any) -> str | None:
    """A mean NLL with what it is, where it is no softmax-trained likelihood."""
    return f"{value} ({NLL_MARKS[kind]})" if value is not None and kind in NLL_MARKS else value


def _mean(values: Sequence[Any], form: str) -> str | None:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return format(float(np.mean(numbers)), form) if numbers else None


def _band(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}" if np.isfinite(low) else "none"


def counts_of(low: float, high: float) -> str:
    """A band of counts in words."""
    return f"{show_count(low)} to {show_count(high)}" if np.isfinite(low) else "none"
