"""What a run's loss is measured by: guessing among all items, counting them, and what followed the last item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_scale.fit.rows import Row
from recbole_scale.fit.tables import number

GUESSING, COUNTING, LAST_ITEM = "uniform guessing", "popularity", "the last item alone"


def reference_losses(rows: Sequence[Row]) -> dict[str, float]:
    """Losses by name, nats, as far as the rows tell; highest first in the order of the names."""
    found = {GUESSING: next((float(np.log(row["n_items"])) for row in rows if number(row, "n_items")), None)}
    for name, column in ((COUNTING, "popularity_nll"), (LAST_ITEM, "markov_nll")):
        found[name] = next((float(row[column]) for row in rows if number(row, column)), None)
    return {name: value for name, value in found.items() if value is not None}
