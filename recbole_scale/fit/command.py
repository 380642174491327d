"""The command ``recbole-scale fit``: options in, ``law.json``, a table and the figure out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.fit.joint import joint_answer
from recbole_scale.fit.joint_output import joint_json, joint_text
from recbole_scale.fit.law_output import as_json, as_text, write_json
from recbole_scale.fit.more import more_of
from recbole_scale.fit.more_output import more_json, more_text
from recbole_scale.fit.options import parser
from recbole_scale.fit.references import with_references
from recbole_scale.fit.rows import Question, Row, as_rows
from recbole_scale.fit.study import Answer, answer
from recbole_scale.runs.records import read_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options or the rows, in one sentence.
    """
    options = parser().parse_args(arguments)
    question = question_of(options, d_over_n=range_of(options.d_over_n), x=options.x)
    rows, others = rows_of(options)
    found = answer(rows, question)
    joint = joint_answer(rows, question) if options.joint else None  # a mistake in the options is told before anything
    print(as_text(found))
    content = as_json(found)
    if joint is not None:
        print("\n" + joint_text(joint).lstrip("\n"))
        content["joint"] = joint_json(joint)
    more = more_of(rows, found, options.price_per_hour)
    print("\n" + more_text(more, found))
    content["more"] = more_json(more)
    if options.per_user:
        from recbole_scale.fit.users import population_json, population_of, population_text  # reading them takes torch

        population = population_of(found, options.per_user)
        print("\n" + population_text(population))
        content["population"] = population_json(population)
    out = Path(options.out)
    write_json(content, out / "law.json")
    written = ["law.json", *_figures(found, out, [*rows, *others])]
    print(f"\nwritten to {out}: {', '.join(written)}")
    return 0


def _figures(found: Answer, out: Path, rows: Sequence[Row]) -> list[str]:
    from recbole_scale.fit.figures import save_law_figures

    return save_law_figures(found, out, rows)


def rows_of(options: Any) -> tuple[list[Row], list[Row]]:
    """Rows of the law, with the losses of counting where any row tells them, and those of ``--others``."""
    rows = as_rows(read_rows(options.rows))
    others = [row for path in options.others for row in as_rows(read_rows(path))]
    return with_references(rows, [*rows, *others]), others


def question_of(options: Any, **more: Any) -> Question:
    """What the options ask of the rows.

    Raises:
        UserError: a condition is not of the form COLUMN=VALUE.
    """
    return Question(
        **{name: getattr(options, name) for name in ("dataset", "model", "loss", "resamples", "seed")},
        holdout=names_of(options.holdout),
        predict=names_of(options.predict),
        where=where_of(options.where),
        **more,
    )


def names_of(text: str | None) -> tuple[str, ...]:
    """The names in a list such as ``large,829M``."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def range_of(text: str) -> tuple[float, float]:
    """A range such as ``1:100``; an end left out is open.

    Raises:
        UserError: another form.
    """
    low, colon, high = text.partition(":")
    try:
        ends = float(low or 0), float(high or "inf")
    except ValueError:
        ends = 1.0, 0.0
    if not colon or not 0 <= ends[0] < ends[1]:
        raise UserError(f"--d_over_n {text} is not of the form LOW:HIGH, such as 1:100")
    return ends


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
