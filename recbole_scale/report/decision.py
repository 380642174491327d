"""The top of a page: the verdict with its numbers, what would sharpen it as commands, and the sliders."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recbole_scale.drawing import Drawn
from recbole_scale.fit.law_output import not_told
from recbole_scale.report.commands import Command
from recbole_scale.report.costs import Costs
from recbole_scale.report.gains import Band, measured
from recbole_scale.report.html import commands, figures, paragraph, section, table, template
from recbole_scale.report.report import Study
from recbole_scale.report.verdict import Verdict
from recbole_scale.report.whatif import answer_figures, curves, references, show_memory, what_if
from recbole_scale.text import duration, milliseconds, show_count


def verdict_section(study: Study, verdict: Verdict, costs: Costs, steps: Sequence[Command]) -> str:
    """The box that decides, and what the sizes have won so far."""
    box = template(
        "verdict.html", dataset=study.choice.dataset, word=verdict.word, reason=f"{_capital(verdict.reason)}.",
        numbers=_numbers(study, verdict), facts=_facts(study, verdict, costs), command=_what_decides(verdict, steps),
    )  # fmt: skip
    return box + paragraph(study.headline[0], "lead")


def next_section(steps: Sequence[Command]) -> str:
    """Commands to copy, right under the verdict."""
    return section("What would sharpen the estimate next", commands([(step.line, step.gives) for step in steps]))


def what_if_section(study: Study, verdict: Verdict, costs: Costs) -> str:
    """Sliders and the two figures that they move on; nothing without a law, why not where it may not speak of size."""
    if (silent := _silent(study, verdict)) and verdict.at_then is None:
        return section("Move the size", paragraph(f"No sliders: {silent}.", "muted"), levels_table(study))
    known = curves(study, verdict, costs)
    if known is None:
        return ""
    drawn: list[Drawn] = answer_figures(study, known)
    return section("Move the size", what_if(known, verdict), figures(drawn), levels_table(study))


def levels_table(study: Study) -> str:
    """What the sizes are measured by: guessing, counting, another model."""
    rows = [[one.name, None if one.loss is None else f"{one.loss:.3f}", None if one.hits is None else f"{one.hits:.4f}"]
            for one in references(study)]  # fmt: skip
    return table(["to measure up to", "loss, nats", "HR@10"], rows)


def width_table(study: Study, verdict: Verdict) -> str:
    """Where the width of the band at the verdict's size comes from."""
    found = study.deciding
    shares = {} if found is None or _silent(study, verdict) else found.law.width(verdict.then)
    if found is None or not shares:
        return ""
    forms = " or ".join(["another term", *(form for form in found.law.forms if form != "two power terms")])
    what = {
        "noise": "noise of the runs",
        "size": "an error of each size's own, such as its tuning",
        "form": f"the form of the law ({forms})",
    }
    body = [[what[source], f"{100 * share:.0f} %"] for source, share in shares.items()]
    caption = f"Share of the squared width of the 95 % band of the loss at {show_count(verdict.then)}"
    if found.widening > 1.0:
        caption += f"; all of it {found.widening:.2g} times as wide, for what the rollout missed"
    return table(["where the width comes from", "share"], body, caption)


def _numbers(study: Study, verdict: Verdict) -> list[dict[str, str]]:
    """Now, then, and what is won."""
    if verdict.at_now is None or verdict.at_then is None or verdict.gain is None:
        return []
    hits = verdict.metric is not None
    seen = measured(study, verdict.metric, verdict.now) if verdict.metric else None
    doublings = math.log2(verdict.then / verdict.now)
    total: Band = (verdict.gain[0] * doublings, verdict.gain[1] * doublings, verdict.gain[2] * doublings)
    then = f"at {verdict.then / verdict.now:.0f}x, {show_count(verdict.then)} parameters"
    what = "of 1,000 visits, the next item is among the first ten" if hits else "loss"
    return [
        {"name": f"Now, at {show_count(verdict.now)}: {what}", "value": _value(verdict.at_now[0], hits),
         "range": "", "note": "" if seen is None else f"by the law; measured {_value(seen, hits)}"},
        {"name": f"{_capital(then)}", "value": _value(verdict.at_then[0], hits),
         "range": _range(verdict.at_then, hits), "note": "predicted; 95 % band of the law"},
        {"name": "Won by that", "value": f"{total[0] * (1000 if hits else 1):{'+.0f' if hits else '+.3f'}}",
         "range": _range(total, hits), "note": "hits in 1,000 visits" if hits else "nats"},
    ]  # fmt: skip


def _silent(study: Study, verdict: Verdict) -> str:
    """Why the rows let no law speak of the larger size, as a clause; else empty."""
    return not_told(study.deciding, verdict.then) if study.deciding is not None else ""


def _facts(study: Study, verdict: Verdict, costs: Costs) -> list[tuple[str, str]]:
    return [("What it costs:", _costs(study, verdict, costs)), ("How sure:", _how_sure(study, verdict))]


def _costs(study: Study, verdict: Verdict, costs: Costs) -> str:
    """Training, serving and memory at the size there is and, where one may speak of it, at the larger one."""
    sizes = [verdict.now] if _silent(study, verdict) else [verdict.now, verdict.then]
    each = {show_count(n): costs.of(n) for n in sizes}
    said = []
    for what, told in (
        ("one training run", {n: duration(3600 * one.hours) for n, one in each.items() if one.hours is not None}),
        ("serving a user", {n: milliseconds(one.serving_ms) for n, one in each.items() if one.serving_ms is not None}),
        ("memory of training", {n: show_memory(one.memory_mb) for n, one in each.items() if one.memory_mb is not None}),
    ):
        if len(told) == len(each):
            said.append(f"{what} {', '.join(f'{value} at {n}' for n, value in told.items())}")
    return "; ".join(said) + " (estimates for this machine)." if said else "not known: the rows carry no times."


def _how_sure(study: Study, verdict: Verdict) -> str:
    if not verdict.learnt:
        return "not at all: the runs say nothing of size before they have learnt something."
    said = []
    if verdict.sure is not None:
        pays = verdict.word == "Yes" or (verdict.gain is not None and verdict.gain[0] >= verdict.worth)
        kind = "pays" if pays and verdict.word != "No" else "does not pay"
        said.append(f"{100 * verdict.sure:.0f} of 100 resamples of the runs say that it {kind}")
    judged = [] if study.found is None else study.found.held_out
    for one in judged[-1:]:
        inside = {True: "inside", False: "outside", None: "and no"}[one.covered]
        said.append(
            f"held out, {show_count(one.x)} was predicted at {one.predicted:.3f} nats and measured at "
            f"{one.observed:.3f} ({100 * one.signed_error:+.2f} %), {inside} its band"
        )
    if verdict.at_then is None and not judged and study.ends.noise is not None:
        said.append(f"measured, not predicted; runs of one size differ by {study.ends.noise:.3f} nats (sd)")
    elif not judged:
        said.append("no size was held out to check the law")
    return "; ".join(said) + "."


def _what_decides(verdict: Verdict, steps: Sequence[Command]) -> dict[str, str] | None:
    """The command that would decide an open verdict, or the one to begin with; None where it is decided."""
    if verdict.word != "Not known yet" or not steps:
        return None
    takes = "" if steps[0].minutes is None else f" about {duration(60 * steps[0].minutes)}"
    name = "The command that would decide it:" if steps[0].decides else "The command to run first:"
    return {"name": name, "takes": takes, "line": steps[0].line}


def _value(value: float, hits: bool) -> str:
    return f"{1000 * value:.0f}" if hits else f"{value:.3f} nats"


def _range(band: Band, hits: bool) -> str:
    if math.isnan(band[1]):
        return "no band"
    return f"{1000 * band[1]:.0f} to {1000 * band[2]:.0f}" if hits else f"{band[1]:.3f} to {band[2]:.3f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
