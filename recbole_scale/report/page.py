"""The report as a whole: sections in order, and its answer as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_scale.drawing import Drawn
from recbole_scale.fit.rows import Row
from recbole_scale.report.challenges import challenges_section
from recbole_scale.report.findings import headline
from recbole_scale.report.html import page
from recbole_scale.report.report import Study
from recbole_scale.report.runs_table import runs_section
from recbole_scale.report.sections import (
    answer_section,
    joint_section,
    law_section,
    models_section,
    next_section,
    sizes_section,
    study_section,
)


def as_page(study: Study, drawn: Sequence[Drawn], challenges: Sequence[Row] = ()) -> str:
    """One self-contained HTML document."""
    return page(
        f"Scaling report: {study.choice.dataset}, {study.choice.model}",
        answer_section(study),
        law_section(study, drawn),
        sizes_section(study),
        study_section(drawn),
        joint_section(study),
        challenges_section(challenges, study.choice.dataset),
        models_section(study),
        next_section(study),
        runs_section(study),
    )


def answer_text(study: Study) -> str:
    """The two sentences."""
    return " ".join(headline(study.choice, study.found, study.refusal, study.question.loss, study.worth, study.metric))
