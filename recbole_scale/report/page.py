"""The report as a whole: the verdict and what would sharpen it, the evidence in order, and its answer as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_scale.drawing import Drawn
from recbole_scale.fit.rows import Row
from recbole_scale.report.about import about_section, glossary_section
from recbole_scale.report.challenges import challenges_section
from recbole_scale.report.commands import Command, next_commands
from recbole_scale.report.costs import Costs
from recbole_scale.report.decision import next_section, verdict_section, what_if_section
from recbole_scale.report.html import page
from recbole_scale.report.other_laws import joint_section, more_section
from recbole_scale.report.report import Study
from recbole_scale.report.runs_table import runs_section
from recbole_scale.report.sections import (
    advice_section,
    evidence_section,
    key_figures,
    models_section,
    sizes_section,
    study_section,
)
from recbole_scale.report.verdict import FACTOR, WORTH_HITS, Verdict, decide


@dataclass(frozen=True)
class Context:
    """What a page says besides its rows.

    Attributes:
        rows_file: where the rows are, for the commands that add to them.
        command: the command that makes the page again.
        card: the data card that ``prepare`` left, empty where there is none.
        worth_hits: HR@10 that a doubling must win.
        factor: how many times as large the size is that the verdict speaks of.
        sharpen: a command of the caller's that sharpens the answer, put first.
        seconds: what the whole study took, None where that is not known.
    """

    rows_file: str = "results/runs.jsonl"
    command: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    worth_hits: float = WORTH_HITS
    factor: float = FACTOR
    sharpen: Command | None = None
    seconds: float | None = None


def as_page(
    study: Study, drawn: Sequence[Drawn], challenges: Sequence[Row] = (), context: Context | None = None
) -> str:
    """One self-contained HTML document."""
    context = context or Context()
    verdict, costs, steps = judged(study, context)
    return page(
        f"Scaling report: {study.choice.dataset}, {study.choice.model}",
        verdict_section(study, verdict, costs, steps),
        next_section(steps),
        what_if_section(study, verdict, costs),
        key_figures(study, verdict),
        sizes_section(study),
        study_section(drawn),
        joint_section(study),
        challenges_section(challenges, study.choice.dataset),
        models_section(study),
        evidence_section(study, verdict, drawn),
        more_section(study),
        advice_section(study),
        glossary_section(study),
        runs_section(study),
        about_section(study, context.command, context.card, context.seconds),
    )


def judged(study: Study, context: Context) -> tuple[Verdict, Costs, list[Command]]:
    """The verdict, the costs it names, and the commands that come next."""
    verdict = decide(study, context.worth_hits, context.factor)
    costs = Costs(study.choice.fitted + study.choice.held_out)
    steps = next_commands(study, verdict, costs, context.rows_file)
    return verdict, costs, [context.sharpen, *steps] if context.sharpen else steps


def answer_text(study: Study, context: Context | None = None) -> str:
    """The verdict, what the sizes have won, and how far it goes by the loss alone."""
    verdict = decide(study, *((context.worth_hits, context.factor) if context else ()))
    won, by_loss = study.headline
    return f"{verdict.word}: {verdict.reason}. {won} {'By the loss alone: ' if verdict.learnt else ''}{by_loss}"
