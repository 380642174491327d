"""Write an answer down: ``law.json`` for programs, a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_scale.files import write_text
from recbole_scale.fit.conclusions import (
    AHEAD,
    LEARN_FIRST,
    above_last_item,
    means_along,
    past_sentence,
    range_against_now,
    reference_sentence,
    unlearnt_smallest,
    why_not_told,
)
from recbole_scale.fit.study import Answer, run_label
from recbole_scale.interfaces import Law
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.laws.rollout import Judgement
from recbole_scale.text import counted, metric_name, show_count, text_table


def as_json(answer: Answer) -> dict[str, Any]:
    """Everything in an answer as plain JSON values; what is not finite becomes null."""
    question, law = answer.question, answer.law
    content = {
        "dataset": answer.choice.dataset,
        "model": answer.choice.model,
        "x": question.x,
        "loss": question.loss,
        "law": "L(x) = E + (x0 / x)^alpha",
        **law_json(law),
        "lack_of_fit_p": law.lack_of_fit,
        "forms_in_the_bands": ["E + (x0 / x)^alpha", *law.forms],
        "bands_widened_by": answer.widening,
        "resamples": question.resamples,
        "seed": question.seed,
        "fitted_rows": [
            {"run": list(run_label(row)), "x": row[question.x], "loss": row[question.loss], "log_residual": residual}
            for row, residual in zip(answer.choice.fitted, law.residuals, strict=True)
        ],
        "held_out": [judgement_json(judgement) for judgement in answer.held_out],
        "rollout": [judgement_json(judgement) for judgement in answer.rolled_out],
        "metric_laws": {
            name: {
                "form": metric_law.form,
                "law": "m(x) = limit / (1 + (x0 / x)^alpha)",
                **law_json(metric_law),
                "held_out": [judgement_json(judgement) for judgement in answer.metric_judgements[name]],
            }
            for name, metric_law in answer.metric_laws.items()
        },
        "predictions": predictions_json(answer),
        "held_out_fitted_too": _whole_json(answer.whole),
        "notes": answer.notes,
    }
    return dict(finite(content))


def _whole_json(whole: Answer | None) -> dict[str, Any] | None:
    """The law and predictions of every run, where some were held out."""
    if whole is None:
        return None
    return {**law_json(whole.law), "predictions": predictions_json(whole)}


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n", "the law")


def as_text(answer: Answer) -> str:
    """The answer as a table of at most 120 columns."""
    question, choice = answer.question, answer.choice
    sizes = {row[question.x] for row in choice.fitted}
    lines = [
        f"{choice.dataset}, {choice.model}: {question.loss} against {question.x}, "
        f"{counted(len(choice.fitted), 'run')} of {counted(len(sizes), 'size')}",
        *_what_is_learnt(answer),
        *(_prediction_lines(answer, "") if learnt_nothing(answer) else _what_follows(answer)),
    ]
    if notes := notes_of(answer):
        lines += ["", *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def notes_of(answer: Answer) -> list[str]:
    """The notes; where nothing was learnt those on the choice of rows alone, for no law is told."""
    return answer.choice.notes if learnt_nothing(answer) else answer.notes


def learnt_nothing(answer: Answer) -> str:
    """That the smallest size has not learnt yet, as a clause: its rows have no law to tell; else empty."""
    question = answer.question
    return unlearnt_smallest(answer.choice.fitted + answer.choice.held_out, question.x, question.loss)


def _what_follows(answer: Answer) -> list[str]:
    """Every law with what judges it, and the predictions."""
    loss = answer.question.loss
    lines = ["", *_law_lines("L = E + (x0 / x)^alpha", answer.law, answer, loss)]
    if answer.held_out:
        lines += ["", "held out (95 % band of the mean of as many runs; error above 0: predicted too high)"]
        lines += _judgement_table(answer.held_out)
    if answer.rolled_out:
        lines += ["", "rollout: the smallest sizes fitted, every larger one predicted"]
        lines += _judgement_table(answer.rolled_out)
        lines.append(skill_sentence(answer.rolled_out))
    for name, metric_law in answer.metric_laws.items():
        lines += ["", *_law_lines(f"{metric_name(name)} = limit / (1 + (x0 / x)^alpha)", metric_law, answer, name)]
        if answer.metric_judgements[name]:
            lines += _judgement_table(answer.metric_judgements[name])
    lines += _prediction_lines(answer, "")
    if answer.whole is not None:
        lines += ["", *_law_lines("held-out sizes fitted too", answer.whole.law, answer.whole, loss)]
        lines += _prediction_lines(answer.whole, ", held-out sizes fitted too")
    return lines


def _what_is_learnt(answer: Answer) -> list[str]:
    """The losses that need no model, and whether the runs are better."""
    rows, question = answer.choice.fitted + answer.choice.held_out, answer.question
    nothing = learnt_nothing(answer)
    best = min(mean for _, mean, _ in means_along(rows, question.x, question.loss))
    told = [reference_sentence(rows), f"{nothing[:1].upper()}{nothing[1:]}. {LEARN_FIRST}" if nothing else ""]
    told.append("" if nothing else past_sentence(rows, question.x, question.loss))
    return [one for one in (*told, "" if nothing else above_last_item(rows, best)) if one]


def _law_lines(form: str, law: PowerLaw | MetricLaw, answer: Answer, column: str) -> list[str]:
    """A law with its constants, or, where the rows do not fix them, its range at a larger size against now."""
    lines = [f"{form}, {law.message}"]
    if law.identified or not answer.question.resamples:
        return [*lines, *constants_table(law)]
    largest, now, runs = means_along(answer.choice.fitted, answer.question.x, column)[-1]
    if silent := not_told(answer, AHEAD * largest):
        return [*lines, f"  {AHEAD:g}x larger: not told, since {silent}"]
    told = range_against_now(law, AHEAD * largest, largest, now, runs)
    return [*lines, *([f"  {AHEAD:g}x larger, at {show_count(AHEAD * largest)}: {told}"] if told else [])]


def skill_sentence(judged: Sequence[Judgement]) -> str:
    """How near the law came to what it had not seen, against knowing no law, and whether it could have failed."""
    errors = {
        "the law": [one.predicted - one.observed for one in judged],
        '"no change since the largest fitted size"': [one.no_change - one.observed for one in judged],
        "a straight line in log x": [one.straight - one.observed for one in judged],
    }
    said = ", ".join(f"{name} {sum(map(abs, values)) / len(values):.4f}" for name, values in errors.items())
    banded = [one for one in judged if one.tells is not None]
    failing = sum(1 for one in banded if not one.tells)
    which = "its band holds" if len(banded) == 1 else f"{failing} of {len(banded)} bands hold"
    could = f'; {which} "no change" too, which proves little' if failing else ""
    law, *others = (sum(map(abs, values)) for values in errors.values())
    better = [name for name, other in zip(list(errors)[1:], others, strict=True) if other <= law]
    none = f"; the law has no skill against {' and '.join(better)}" if better else ""
    return f"mean error, nats: {said}{none}{could}"


def _prediction_lines(answer: Answer, fitted: str) -> list[str]:
    """Every prediction with its bands and its cost; ``fitted`` says what else it rests on."""
    x, lines = answer.question.x, []
    for prediction in answer.predictions:
        if silent := not_told(answer, prediction.x):
            lines += ["", f"at {x} = {show_count(prediction.x)}{fitted}: not told, since {silent}"]
            continue
        lines += ["", f"at {x} = {show_count(prediction.x)}, one run (value, 95 % band){fitted}:"]
        metrics = {metric_name(name): value for name, value in prediction.metrics.items()}
        named = {answer.question.loss: prediction.loss, **metrics}
        lines += aligned([[name, shown(v), f"[{shown(low)}, {shown(high)}]"] for name, (v, low, high) in named.items()])
        cost = "unknown: the rows lack FLOPs" if prediction.flops is None else f"about {prediction.flops:.2g} FLOPs"
        lines.append(f"  cost to train it: {cost}")
    return lines


def not_told(answer: Answer, size: float) -> str:
    """Why nothing is predicted at a size, as a clause; empty where it is."""
    return why_not_told(answer.choice.fitted + answer.choice.held_out, answer.question.x, answer.question.loss, size)


def predictions_json(answer: Answer) -> list[dict[str, Any]]:
    """Every prediction, and why it should not be relied on, or null."""
    return [{**asdict(one), "not_told_since": not_told(answer, one.x) or None} for one in answer.predictions]


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement with its derived fields."""
    return {
        **asdict(judgement),
        "covered": judgement.covered,
        "tells_from_no_change": judgement.tells,
        "skill_against_no_change": judgement.skill(judgement.no_change),
        "skill_against_straight_line": judgement.skill(judgement.straight),
    }


def law_json(law: Law) -> dict[str, Any]:
    return {
        "constants": law.constants(),
        "bands_95": {name: list(band) for name, band in law.bands().items()},
        "identified": law.identified,
        "message": law.message,
    }


def finite(value: Any) -> Any:
    """``value`` with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def constants_table(law: Law) -> list[str]:
    bands = law.bands()
    rows = []
    for name, value in law.constants().items():
        show = _count if name in ("x0", "n0", "d0") else shown
        rows.append([name, show(value), "[" + ", ".join(map(show, bands[name])) + "]"])
    return aligned(rows)


def _judgement_table(judgements: Sequence[Judgement]) -> list[str]:
    head = ["fitted to", "size", "runs", "law", "95 % band", "measured", "error", "in it"]  # 80 columns
    body = [
        [
            show_count(judgement.largest_fitted),
            show_count(judgement.x),
            str(judgement.runs),
            shown(judgement.predicted),
            f"[{shown(judgement.lower)}, {shown(judgement.upper)}]",
            shown(judgement.observed),
            f"{100 * judgement.signed_error:+.2f} %",
            {None: "-", True: "yes", False: "no"}[judgement.covered],
        ]
        for judgement in judgements
    ]
    return aligned([head, *body])


def _count(value: float) -> str:
    return show_count(value) if math.isfinite(value) else "-"


def shown(value: float) -> str:
    return f"{value:#.4g}" if math.isfinite(value) else "-"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns, numbers to the right."""
    return text_table(rows, left=(), indent="  ").split("\n")
