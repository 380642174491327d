"""Write an answer down: ``law.json`` for programs, a table for the terminal."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_scale.files import write_text
from recbole_scale.fit.joint import Joint, JointJudgement
from recbole_scale.fit.study import Answer, run_label
from recbole_scale.laws.budget import ComputeOptimal
from recbole_scale.laws.isoflop import Optimum
from recbole_scale.laws.rollout import Judgement
from recbole_scale.text import show_count, text_table


def as_json(answer: Answer) -> dict[str, Any]:
    """Everything in an answer as plain JSON values; what is not finite becomes null."""
    question, law = answer.question, answer.law
    content = {
        "dataset": answer.choice.dataset,
        "model": answer.choice.model,
        "x": question.x,
        "loss": question.loss,
        "law": "L(x) = E + (x0 / x)^alpha",
        **_law_json(law),
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
                **_law_json(metric_law),
                "held_out": [judgement_json(judgement) for judgement in answer.metric_judgements[name]],
            }
            for name, metric_law in answer.metric_laws.items()
        },
        "predictions": [asdict(prediction) for prediction in answer.predictions],
        "held_out_fitted_too": _whole_json(answer.whole),
        "notes": answer.notes,
    }
    return dict(finite(content))


def _whole_json(whole: Answer | None) -> dict[str, Any] | None:
    """The law and predictions of every run, where some were held out."""
    if whole is None:
        return None
    return {**_law_json(whole.law), "predictions": [asdict(prediction) for prediction in whole.predictions]}


def joint_json(joint: Joint) -> dict[str, Any]:
    """A joint law, how it did on what it had not seen, and the best use of some budgets as plain JSON values."""
    content = {
        "law": "L(n, d) = E + (n0 / n)^alpha + (d0 / d)^beta",
        **_law_json(joint.law),
        "lack_of_fit_p": joint.law.lack_of_fit,
        "budgets": [] if joint.optimum is None else _budget_rows(joint.optimum),
        "held_out": [{**asdict(one), "covered": one.covered} for one in joint.held_out],
        "rollout": [{**asdict(one), "covered": one.covered} for one in joint.rolled_out],
        "best_sizes_at_equal_flops": [asdict(one) for one in joint.measured],
        "notes": joint.notes,
    }
    return dict(finite(content))


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n", "the law")


def as_text(answer: Answer) -> str:
    """The answer as a table of at most 120 columns."""
    question, choice = answer.question, answer.choice
    sizes = {row[question.x] for row in choice.fitted}
    lines = [
        f"{choice.dataset}, {choice.model}: {question.loss} against {question.x}, "
        f"{len(choice.fitted)} runs of {len(sizes)} sizes",
        "",
        *_sentence("L = E + (x0 / x)^alpha, " + answer.law.message),
        *_constants_table(answer.law),
    ]
    if answer.held_out:
        lines += ["", "held out (95 % band of the mean of as many runs; error above 0: predicted too high)"]
        lines += _judgement_table(answer.held_out)
    if answer.rolled_out:
        lines += ["", "rollout: the smallest sizes fitted, every larger one predicted"]
        lines += _judgement_table(answer.rolled_out)
        lines += _sentence(skill_sentence(answer.rolled_out))
    for name, metric_law in answer.metric_laws.items():
        lines += ["", *_sentence(f"{name} = limit / (1 + (x0 / x)^alpha), {metric_law.message}")]
        lines += _constants_table(metric_law)
        if answer.metric_judgements[name]:
            lines += _judgement_table(answer.metric_judgements[name])
    lines += _prediction_lines(answer, "")
    if answer.whole is not None:
        lines += ["", *_sentence("held-out sizes fitted too: " + answer.whole.law.message)]
        lines += [*_constants_table(answer.whole.law), *_prediction_lines(answer.whole, ", held-out sizes fitted too")]
    if answer.notes:
        lines += ["", *(line for note in answer.notes for line in _sentence(f"note: {note}"))]
    return "\n".join(lines)


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
    could = f'; {failing} of {len(banded)} bands hold "no change" too and prove little' if failing else ""
    return f"mean error, nats: {said}{could}"


def _prediction_lines(answer: Answer, fitted: str) -> list[str]:
    """Every prediction with its bands and its cost; ``fitted`` says what else it rests on."""
    x, lines = answer.question.x, []
    for prediction in answer.predictions:
        lines += ["", f"at {x} = {show_count(prediction.x)}, one run (value, 95 % band){fitted}:"]
        named = {answer.question.loss: prediction.loss, **prediction.metrics}
        lines += aligned(
            [[name, _value(v), f"[{_value(low)}, {_value(high)}]"] for name, (v, low, high) in named.items()]
        )
        cost = "unknown: the rows lack FLOPs" if prediction.flops is None else f"about {prediction.flops:.2g} FLOPs"
        lines.append(f"  cost to train it: {cost}")
    return lines


def joint_text(joint: Joint) -> str:
    """A joint law and the best use of some budgets as a table."""
    law, optimum = joint.law, joint.optimum
    lines = [*_sentence("L = E + (n0 / n)^alpha + (d0 / d)^beta, " + law.message), *_constants_table(law)]
    if optimum is not None:
        lines += ["", f"best use of a budget, with every interaction seen {optimum.epochs:.3g} times"]
        head = ["FLOPs", "n", "95 % band", "d", "95 % band", "loss", ""]
        body = [
            [
                f"{row['flops']:.2g}",
                show_count(row["n"]),
                _counts(row["n_band"]),
                show_count(row["d"]),
                _counts(row["d_band"]),
                _value(row["loss"]),
                "beyond the rows" if row["extrapolates"] else "",
            ]
            for row in _budget_rows(optimum)
        ]
        lines += aligned([head, *body])
    for title, judged in (("held out", joint.held_out), ("rollout over sizes", joint.rolled_out)):
        if judged:
            lines += ["", f"joint law, {title} (95 % band of the mean of as many runs)", *_joint_judgements(judged)]
    if joint.measured:
        lines += ["", "best size at equal FLOPs, read off finished runs (a parabola in log n, 95 % band)"]
        lines += aligned([OPTIMUM_HEAD, *(optimum_row(one) for one in joint.measured)])
    lines += [line for note in joint.notes for line in _sentence(f"note: {note}")]
    return "\n".join(lines)


OPTIMUM_HEAD = ["FLOPs", "sizes", "n", "95 % band"]


def optimum_row(one: Optimum) -> list[str]:
    """The best size at one budget as cells."""
    if not math.isfinite(one.n):
        return [f"{one.flops:.2g}", str(one.sizes), "no valley between them", ""]
    band = _counts((one.lower, one.upper)) if math.isfinite(one.lower) else "none"
    return [f"{one.flops:.2g}", str(one.sizes), show_count(one.n), band]


def _joint_judgements(judged: Sequence[JointJudgement]) -> list[str]:
    head = ["fitted", "n", "d", "runs", "predicted", "95 % band", "measured", "no change", "in band"]
    body = [
        [
            str(one.sizes_fitted), show_count(one.n), show_count(one.d), str(one.runs), _value(one.predicted),
            f"[{_value(one.lower)}, {_value(one.upper)}]", _value(one.observed), _value(one.no_change),
            {None: "-", True: "yes", False: "no"}[one.covered],
        ]
        for one in judged
    ]  # fmt: skip
    return aligned([head, *body])


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement with its derived fields."""
    return {
        **asdict(judgement),
        "covered": judgement.covered,
        "tells_from_no_change": judgement.tells,
        "skill_against_no_change": judgement.skill(judgement.no_change),
        "skill_against_straight_line": judgement.skill(judgement.straight),
    }


def _law_json(law: Any) -> dict[str, Any]:
    return {
        "constants": law.constants(),
        "bands_95": {name: list(band) for name, band in law.bands().items()},
        "identified": law.identified,
        "message": law.message,
    }


def _budget_rows(optimum: ComputeOptimal) -> list[dict[str, Any]]:
    columns = {
        "flops": optimum.flops,
        "n": optimum.n,
        "d": optimum.d,
        "loss": optimum.loss,
        "extrapolates": optimum.extrapolates,
    }
    bands = zip(*optimum.n_band, *optimum.d_band, strict=True)
    rows: list[dict[str, Any]] = []
    for values, (n_low, n_high, d_low, d_high) in zip(zip(*columns.values(), strict=True), bands, strict=True):
        row: dict[str, Any] = dict(zip(columns, (value.item() for value in values), strict=True))
        row["n_band"], row["d_band"] = [float(n_low), float(n_high)], [float(d_low), float(d_high)]
        rows.append(row)
    return rows


def finite(value: Any) -> Any:
    """``value`` with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _constants_table(law: Any) -> list[str]:
    bands = law.bands()
    rows = []
    for name, value in law.constants().items():
        show = show_count if name in ("x0", "n0", "d0") else _value
        rows.append([name, show(value), "[" + ", ".join(map(show, bands[name])) + "]"])
    return aligned(rows)


def _judgement_table(judgements: Sequence[Judgement]) -> list[str]:
    head = ["fitted", "up to", "held out", "runs", "predicted", "95 % band", "measured", "error", "in band"]
    body = [
        [
            str(judgement.sizes_fitted),
            show_count(judgement.largest_fitted),
            show_count(judgement.x),
            str(judgement.runs),
            _value(judgement.predicted),
            f"[{_value(judgement.lower)}, {_value(judgement.upper)}]",
            _value(judgement.observed),
            f"{100 * judgement.signed_error:+.2f} %",
            {None: "-", True: "yes", False: "no"}[judgement.covered],
        ]
        for judgement in judgements
    ]
    return aligned([head, *body])


def _counts(band: Iterable[float]) -> str:
    return "[" + ", ".join(show_count(value) for value in band) + "]"


def _value(value: float) -> str:
    return f"{value:#.4g}" if math.isfinite(value) else "-"


def _sentence(text: str) -> list[str]:
    return textwrap.wrap(text, 120, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns, numbers to the right."""
    return text_table(rows, left=(), indent="  ").split("\n")
