"""The table of the terminal: a block per challenge and metric, cases down, models across."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_scale.challenges.table import RAREFIED, comparable, compared_with, model_of
from recbole_scale.fit.rows import Row
from recbole_scale.text import metric_name, span, text_table

# what stands in parentheses behind a value; of the other challenges it is the gain
_CHANGES = {"robustness": "change from the clean history", "trajectory": "change from step 1"}
_COVERED = f"coverage@10{RAREFIED}"
_ALSO = {
    "long_tail": (_COVERED,),
    "cold_start": ("coverage@10", _COVERED),
    "multi_domain": (_COVERED,),
    "trajectory": ("recall@window",),
}


def as_text(rows: Sequence[Row], names: Mapping[Any, str], metric: str = "ndcg@10", width: float = math.inf) -> str:
    """All blocks, one below the other.

    Args:
        rows: of the table; models are shown in the order in which they come.
        names: label of each model, by :func:`recbole_scale.challenges.table.model_of`.
        width: letters of a line; a table of more models becomes several.
        metric: the main metric; Coverage@10 stands beside it, between groups of different size that of equally many
            cases, and the recall of a trajectory's window.
    """
    blocks, rows = [], comparable(rows)
    for challenge in dict.fromkeys(row["challenge"] for row in rows):
        for shown in (metric, *_ALSO.get(challenge, ())):
            cells = [row for row in rows if (row["challenge"], row["metric"]) == (challenge, shown)]
            whole = [challenge == "trajectory" and row["level"] is None for row in cells]  # windows as a set, apart
            for wanted in (False, True):
                if part := [row for row, of_window in zip(cells, whole, strict=True) if of_window == wanted]:
                    blocks.append(_block(part, names, width))
    return "\n\n".join(blocks)


def _block(rows: Sequence[Row], names: Mapping[Any, str], width: float) -> str:
    """Rows of one challenge and metric; what all cases share stands in the title or is left out."""
    challenge, metric = rows[0]["challenge"], rows[0]["metric"]
    changes = challenge in _CHANGES and any(row["change"] is not None for row in rows)
    column = "change" if changes else "gain"
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        share = "" if row[column] is None else f"({row[column]:+.0%})"
        level = "" if row["level"] is None else f"{row['level']:g}"
        case = (row["setting"], level, row["group"], f"{row['n']:,}")
        lines.setdefault(case, {})[names[model_of(row)]] = f"{row['value']:.4f} {share}"
    models = list(dict.fromkeys(names[model_of(row)] for row in rows))
    differ = [len({case[i] for case in lines}) > 1 for i in range(3)]
    whole = ["the window as a set"] if challenge == "trajectory" and rows[0]["level"] is None else []
    title = ", ".join([challenge, *whole, *([] if differ[0] else [rows[0]["setting"]]), metric_name(metric)])
    if any(row[column] is not None for row in rows):
        smallest = compared_with(rows, lambda row: names[model_of(row)])
        title += f" ({_CHANGES[challenge] if changes else f'gain over {smallest}'})"
    if drawn := [row["noise_seeds"] for row in rows if challenge == "robustness" and row["noise_seeds"] is not None]:
        errors = [row["draw_error"] for row in rows if row.get("draw_error") is not None]
        title += f"; draws: {span(drawn)}" + (f", ± {max(errors):.4f} by them" if errors else "")
    table = [["setting", "level", "group", "cases", *models]]
    table += [[*case, *(line.get(model, "") for model in models)] for case, line in lines.items()]
    columns = [i for i in range(len(table[0])) if i >= 3 or differ[i]]
    left = [at for at, i in enumerate(columns) if table[0][i] not in ("level", "cases")]
    cells = [[line[i] for i in columns] for line in table]
    return title + "\n" + text_table(cells, left, indent="  ", width=width, heads=len(columns) - len(models))
