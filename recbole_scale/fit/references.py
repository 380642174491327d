"""What a run's loss is measured by: guessing among all items, counting them, and what followed the last item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from recbole_scale.fit.rows import VERSION, Row, same_data
from recbole_scale.fit.tables import number

GUESSING, COUNTING, LAST_ITEM = "uniform guessing", "popularity", "the last item alone"
COUNTED = ("Markov", "ItemKNN")  # models whose ranking is told; their scores are no likelihood that compares
_COLUMNS = {COUNTING: "popularity_nll", LAST_ITEM: "markov_nll"}


def reference_losses(rows: Sequence[Row]) -> dict[str, float]:
    """Losses by name, nats, as far as the rows tell; highest first in the order of the names."""
    found = {GUESSING: next((float(np.log(row["n_items"])) for row in rows if number(row, "n_items")), None)}
    for name, column in _COLUMNS.items():
        found[name] = next((float(row[column]) for row in rows if number(row, column)), None)
    return {name: value for name, value in found.items() if value is not None}


def with_references(rows: Sequence[Row], sources: Iterable[Row]) -> list[Row]:
    """``rows`` with the losses of counting filled in where they lack them, from ``sources`` of the very same data.

    They depend on the data and its split alone, so that any model's row that says which it saw will do.
    """
    known: dict[tuple[str, str], float] = {}
    for row in sources:
        for column in _COLUMNS.values():
            if row.get("status") == "ok" and _seen(row) and number(row, column):
                known.setdefault((_seen(row), column), float(row[column]))

    def filled(row: Row) -> dict[str, float]:
        keys = {column: (_seen(row), column) for column in _COLUMNS.values() if not number(row, column)}
        return {column: known[key] for column, key in keys.items() if key in known}

    return [{**row, **filled(row)} for row in rows]


def _seen(row: Row) -> str:
    """What a row's counts are of: data set, version, split, share of the users that train; empty where unknown."""
    version = [row.get("dataset"), *(row.get(name) for name in VERSION)]
    return "" if None in version else repr([*version, float(row.get("data_fraction") or 1.0)])


def _ranked(row: Row) -> tuple[object, bool, float]:
    """Among which items a row ranks, whether without those of the history, and the share of users that train."""
    settings = row.get("settings") or {}
    mode = (settings.get("eval_args") or {}).get("mode", "full")
    among = mode.get("test") if isinstance(mode, dict) else mode
    return among, settings.get("mask_history") is True, float(row.get("data_fraction") or 1.0)


def counted_metrics(rows: Sequence[Row], like: Row, name: str) -> dict[str, float]:
    """Mean of a test metric by counted model on the data and in the rankings of ``like``, as far as these were run."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = (row.get("test_metrics") or {}).get(name)
        same = row.get("dataset") == like.get("dataset") and same_data(row, like) and _ranked(row) == _ranked(like)
        if row.get("status") == "ok" and same and row.get("model") in COUNTED and isinstance(value, int | float):
            found.setdefault(str(row["model"]), []).append(float(value))
    return {model: float(np.mean(found[model])) for model in COUNTED if model in found}
