"""The command ``recbole-scale report``: rows in, one HTML file (and the figures, if asked for) out."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_scale.errors import UserError
from recbole_scale.files import check_writable, write_text
from recbole_scale.fit.command import question_of, rows_of
from recbole_scale.report.options import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options or the rows, in one sentence; nothing is written then.
    """
    options = parser().parse_args(arguments)
    from recbole_scale.drawing import save
    from recbole_scale.report.challenges import of_dataset, read_challenges
    from recbole_scale.report.page import Context, answer_text, as_page
    from recbole_scale.report.report import draw, make_study

    question = question_of(options)
    if options.worth <= 0:
        raise UserError(f"--worth is a number of nats above 0, not {options.worth:g}")
    check_demands(options)
    if options.figures:
        check_writable("--figures", Path(options.figures, "law.png"))
    scored = [row for path in options.challenges for row in read_challenges(path)]
    rows, others = rows_of(options)
    study = make_study(rows, question, options.worth, others)
    challenges = of_dataset(scored, study.choice.dataset)
    drawn = draw(study)
    context = Context(options.rows, _again(arguments), worth_hits=options.worth_hits, factor=options.factor)
    out = Path(options.out)
    write_text(out, as_page(study, drawn, challenges, context), "--out")
    print(answer_text(study, context))
    for one in drawn:
        if one.figure is None:
            print(f"no figure '{one.name}': {one.skipped}")
        elif options.figures:
            save(one.figure, Path(options.figures), one.name)
    print(f"written: {out}" + (f" and figures in {options.figures}" if options.figures else ""))
    return 0


def check_demands(options: argparse.Namespace) -> None:
    """Refuse a worth or a factor for which there is no verdict."""
    for name, least in (("worth_hits", 0.0), ("factor", 1.0)):
        if not getattr(options, name) > least:
            raise UserError(f"--{name} is a number above {least:g}, not {getattr(options, name):g}")


def _again(arguments: Sequence[str] | None) -> str:
    """The command that makes the page again, less where it is written."""
    words, kept = list(sys.argv[1:] if arguments is None else arguments), []
    while words:
        word = words.pop(0)
        if word in ("--out", "--figures"):
            words = words[1:]
        elif not word.startswith(("--out=", "--figures=")):
            kept.append(word)
    return shlex.join(["recbole-scale", "report", *kept])
