"""RecBole's ``--display_file``: every trial's score as it came and the best so far, in one picture."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from recbole_scale.drawing import BLUE, VERMILLION, as_svg, metric_name, new_figure, style
from recbole_scale.errors import UserError
from recbole_scale.files import check_writable, whole_files
from recbole_scale.search.outcome import Outcome
from recbole_scale.search.plan import SearchPlan, as_text

KINDS = (".html", ".svg", ".png", ".pdf")


def check_display(path: str) -> None:
    """Refuse a file of another kind, or one that cannot be written, before anything is searched.

    Raises:
        UserError: it is.
    """
    if Path(path).suffix not in KINDS:
        raise UserError(f"--display_file {path}: a picture's name ends in {', '.join(KINDS)}")
    check_writable("--display_file", path)


def write_display(path: str, plan: SearchPlan, found: Sequence[Outcome]) -> None:
    """Draw the trials that have a score, in the order in which they began; a page tells their values in its table.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    trials = sorted((one.number, one.score, one) for one in found if one.score is not None)
    numbers, scores = [number for number, *_ in trials], [score for _, score, _ in trials]
    with style():
        figure = new_figure()
        panel = figure.add_subplot()
        panel.plot(numbers, scores, "o", color=BLUE, label="trial")
        best = list(accumulate(scores, max if plan.bigger else min))
        panel.step(numbers, best, where="post", color=VERMILLION, label="best so far")
        panel.set(xlabel="trial", ylabel=f"valid {metric_name(plan.metric)}")
        panel.legend()
        with whole_files(Path(path), what="the picture of the trials") as (file,):
            if Path(path).suffix != ".html":
                figure.savefig(file.handle, format=Path(path).suffix[1:], dpi=200)
                return
            name = html.escape(f"{plan.model} on {plan.dataset}")
            rows = (f"<tr><td>{n}<td>{score:.6g}<td>{html.escape(as_text(one.values))}" for n, score, one in trials)
            file.write(
                f"<!doctype html><meta charset=utf-8><title>{name}</title><h1>{name}</h1>"
                f"{as_svg(figure, 'trials', 'score of each trial')}<table>{''.join(rows)}</table>\n".encode()
            )
