"""The command ``recbole-scale fit``: options in, ``law.json``, a table and the figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.fit.law_output import as_json, as_text, joint_json, joint_text, write_json
from recbole_scale.fit.options import parser
from recbole_scale.fit.rows import Question, Row, as_rows, choose
from recbole_scale.fit.study import Answer, answer, flops_per_interaction_of, run_label
from recbole_scale.laws.budget import ComputeOptimal, compute_optimal
from recbole_scale.laws.loss import JointLaw, fit_joint_law
from recbole_scale.runs.records import read_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options or the rows, in one sentence.
    """
    options = parser().parse_args(arguments)
    question = Question(
        dataset=options.dataset,
        model=options.model,
        x=options.x,
        loss=options.loss,
        holdout=names_of(options.holdout),
        predict=names_of(options.predict),
        where=where_of(options.where),
        resamples=options.resamples,
        seed=options.seed,
    )
    rows = as_rows(read_rows(options.rows))
    found = answer(rows, question)
    print(as_text(found))
    content = as_json(found)
    if options.joint:
        law, optimum = fit_both_axes(rows, question)
        print("\n" + joint_text(law, optimum))
        content["joint"] = joint_json(law, optimum)
    out = Path(options.out)
    write_json(content, out / "law.json")
    written = ["law.json", *_figures(found, out)]
    print(f"\nwritten to {out}: {', '.join(written)}")
    return 0


def fit_both_axes(rows: Sequence[Row], question: Question) -> tuple[JointLaw, ComputeOptimal | None]:
    """The joint law in size and data from every row, and the best use of a few budgets.

    The budgets are powers of ten from the cheapest run to ten times the dearest one; None without FLOPs in the rows.

    Raises:
        UserError: the rows hold too few sizes or amounts of data.
    """
    axis = "n_blocks" if question.x == "unique_interactions" else question.x
    kept = choose(rows, replace(question, x=axis, holdout=()), fix_other_axis=False).fitted
    if any(not isinstance(row.get("unique_interactions"), int | float) for row in kept):
        raise UserError("--joint needs unique_interactions in every row")
    law = fit_joint_law(
        [row[axis] for row in kept],
        [row["unique_interactions"] for row in kept],
        [row[question.loss] for row in kept],
        [(*run_label(row), row["unique_interactions"]) for row in kept],
        resamples=question.resamples,
        seed=question.seed,
    )
    cost = flops_per_interaction_of(kept, axis)
    totals = [float(row["flops_total"]) for row in kept if isinstance(row.get("flops_total"), int | float)]
    if cost is None or not totals:
        return law, None
    budgets = 10.0 ** np.arange(np.floor(np.log10(min(totals))), np.ceil(np.log10(max(totals))) + 2.0)
    epochs = [row["interactions_seen"] / row["unique_interactions"] for row in kept if row.get("interactions_seen")]
    return law, compute_optimal(law, budgets, cost, epochs=float(np.median(epochs)) if epochs else 1.0)


def _figures(found: Answer, out: Path) -> list[str]:
    from recbole_scale.fit.figures import save_law_figures

    return save_law_figures(found, out)


def names_of(text: str) -> tuple[str, ...]:
    """The names in a list such as ``large,829M``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def where_of(texts: Sequence[str]) -> dict[str, str]:
    """Conditions of the form ``COLUMN=VALUE`` by column.

    Raises:
        UserError: another form.
    """
    conditions = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise UserError(f"--where {text} is not of the form COLUMN=VALUE")
        conditions[column] = value
    return conditions
