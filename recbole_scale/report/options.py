"""Options of ``recbole-scale report``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import CommandParser
from recbole_scale.fit.options import add_question

_EXAMPLES = """  recbole-scale report --rows results/runs.jsonl --dataset ml-1m --holdout base --predict 829M \\
      --challenges results/challenges.jsonl --out report.html --figures figures
"""


def parser() -> CommandParser:
    """Options of the command."""
    made = CommandParser(
        "recbole-scale report",
        "One HTML file from rows: would a bigger model pay: the verdict, then figures, tables and runs.",
        _EXAMPLES,
    )
    add: Any = made.add_argument
    add_question(add, "model of the rows (default: ScaledSASRec where there are runs of it)")
    add("--challenges", nargs="+", default=[], metavar="FILE", help="rows of the verb challenges, shown as a section")
    add("--worth", type=float, default=0.01, metavar="NATS", help="what a doubling must win (default: %(default)s)")
    add("--worth_hits", type=float, default=0.002, metavar="HR", help="HR@10 it must win (default: %(default)s)")
    add("--factor", type=float, default=10.0, metavar="X", help="judge a size so much larger (default: %(default)s)")
    add("--out", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    add("--figures", metavar="DIR", help="also write every figure as PNG and PDF to this folder")
    return made
