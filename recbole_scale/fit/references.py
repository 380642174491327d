"""What a run's loss is measured by: guessing among all items, counting them, and what followed the last item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_scale.fit.rows import Row, same_data
from recbole_scale.fit.tables import number

GUESSING, COUNTING, LAST_ITEM = "uniform guessing", "popularity", "the last item alone"
NEIGHBOURS = "ItemKNN"  # its scores are no likelihood: only its ranking is told


def reference_losses(rows: Sequence[Row]) -> dict[str, float]:
    """Losses by name, nats, as far as the rows tell; highest first in the order of the names."""
    found = {GUESSING: next((float(np.log(row["n_items"])) for row in rows if number(row, "n_items")), None)}
    for name, column in ((COUNTING, "popularity_nll"), (LAST_ITEM, "markov_nll")):
        found[name] = next((float(row[column]) for row in rows if number(row, column)), None)
    return {name: value for name, value in found.items() if value is not None}


def neighbour_metrics(rows: Sequence[Row], like: Row) -> dict[str, float]:
    """Mean test metrics of item-kNN on the data of the row ``like``; empty where it was not run."""
    tables = [
        row.get("test_metrics") or {} for row in rows
        if row.get("model") == NEIGHBOURS and row.get("status") == "ok" and row.get("dataset") == like.get("dataset")
        and same_data(row, like)
    ]  # fmt: skip
    names = {name for table in tables for name, value in table.items() if isinstance(value, int | float)}
    return {name: float(np.mean([table[name] for table in tables if name in table])) for name in sorted(names)}
