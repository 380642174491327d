"""The command behind ``run_scripts/report.py``: rows in, one HTML file (and the figures, if asked for) out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.fit.command import names_of, where_of
from recbole_scale.fit.rows import LOSSES, Question, as_rows
from recbole_scale.runs.records import read_rows

EXAMPLE = """example:
  python run_scripts/report.py --rows results/runs.jsonl --dataset ml-1m --holdout base --predict 829M \\
      --challenges results/challenges.jsonl --out report.html --figures figures
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options or the rows, in one sentence; nothing is written then.
    """
    options = _parser().parse_args(arguments)
    if find_spec("matplotlib") is None:
        raise UserError("a report needs matplotlib: pip install 'recbole-scale[figures]'")
    from recbole_scale.drawing import save
    from recbole_scale.report.challenges import of_dataset, read_challenges
    from recbole_scale.report.page import answer_text, as_page
    from recbole_scale.report.report import draw, make_study

    question = Question(
        dataset=options.dataset,
        model=options.model,
        loss=options.loss,
        holdout=names_of(options.holdout),
        predict=names_of(options.predict),
        where=where_of(options.where),
        resamples=options.resamples,
        seed=options.seed,
    )
    if options.worth <= 0:
        raise UserError(f"--worth is a number of nats above 0, not {options.worth:g}")
    scored = [row for path in options.challenges for row in read_challenges(path)]
    others = as_rows(read_rows(options.others)) if options.others else []
    study = make_study(as_rows(read_rows(options.rows)), question, options.worth, others)
    challenges = of_dataset(scored, study.choice.dataset)
    drawn = draw(study)
    content = as_page(study, drawn, challenges)
    out = Path(options.out)
    _write(content, out)
    print(answer_text(study))
    for one in drawn:
        if one.figure is None:
            print(f"no figure '{one.name}': {one.skipped}")
        elif options.figures:
            save(one.figure, Path(options.figures), one.name)
    print(f"written: {out}" + (f" and figures in {options.figures}" if options.figures else ""))
    return 0


def _write(content: str, out: Path) -> None:
    """Write through a temporary file, so that a reader never sees half a page."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(out)
    except OSError as failure:
        raise UserError(f"--out {out} cannot be written ({(failure.strerror or '').lower()})") from failure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="One HTML file from rows: the answer in two sentences, then figures, tables and runs.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    add("--rows", default="results/runs.jsonl", metavar="FILE", help="rows of runs (default: %(default)s)")
    add("--challenges", nargs="+", default=[], metavar="FILE", help="rows of challenge_tasks.py, shown as a section")
    add("--others", metavar="FILE", help="rows of other models, as of compare_baselines.py, for the table beside them")
    add("--dataset", metavar="D", help="data set of the rows; needed when they hold several")
    add("--model", metavar="M", help="model of the rows (default: ScaledSASRec where there are runs of it)")
    add("--loss", default="test_nll", metavar="COLUMN", help=f"{', '.join(LOSSES)} (default: %(default)s)")
    add("--holdout", default="", metavar="SIZES", help="sizes by name or count, judged instead of fitted: large,829M")
    add("--predict", default="", metavar="SIZES", help="sizes by name or count to predict: 829M or 75.5M,xlarge")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep rows with this value; repeatable")
    add("--worth", type=float, default=0.01, metavar="NATS", help="what a doubling must win (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="resamples behind the bands (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the resamples (default: %(default)s)")
    add("--out", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    add("--figures", metavar="DIR", help="also write every figure as PNG and PDF to this folder")
    return parser
