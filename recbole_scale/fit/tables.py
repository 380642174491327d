"""Rows in groups: by size, by amount of data, by epoch. What the figures and the report count with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recbole_scale.fit.rows import Row

LOSS = "test_nll"


def by_size(rows: Iterable[Row], column: str = "n_blocks") -> dict[float, list[Row]]:
    """Rows that hold a number in ``column``, by N, smallest first."""
    groups: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if number(row, "n_blocks") and number(row, column):
            groups[float(row["n_blocks"])].append(row)
    return {n: groups[n] for n in sorted(groups)}


def curve_of(row: Row, name: str = "valid_nll") -> tuple[Any, Any]:
    """Epochs (from 1) and the value after each, of those where it was measured."""
    points = [
        (float(entry["epoch"]) + 1.0, float(entry[name]))
        for entry in row.get("evaluations") or []
        if isinstance(entry, dict) and number(entry, name) and number(entry, "epoch")
    ]
    return np.array([epoch for epoch, _ in points]), np.array([value for _, value in points])


def decays_late(row: Row) -> bool:
    """Whether the learning rate falls in the last epochs alone, so that a drop of the loss there tells nothing."""
    return bool((row.get("settings") or {}).get("lr_schedule") == "wsd")


def whole_data(rows: Iterable[Row]) -> list[Row]:
    """Rows on the largest amount of data."""
    rows = list(rows)
    amounts = distinct(rows, "unique_interactions")
    return [row for row in rows if row.get("unique_interactions") == max(amounts)] if amounts else rows


def means(rows: Sequence[Row], x: str, y: str) -> tuple[Any, Any, Any]:
    """x, mean of y and its spans down and up [2, n] over the rows of equal x, ascending."""
    groups: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if number(row, x) and number(row, y):
            groups[float(row[x])].append(float(row[y]))
    places = sorted(groups)
    averages = np.array([np.mean(groups[place]) for place in places])
    spans = [[mean - min(groups[p]), max(groups[p]) - mean] for p, mean in zip(places, averages, strict=True)]
    return np.array(places), averages, np.maximum(np.array(spans).T, 0.0)


def distinct(rows: Iterable[Row], column: str) -> set[float]:
    """The different numbers in ``column``."""
    return {float(row[column]) for row in rows if number(row, column)}


def number(row: Mapping[str, Any], column: str) -> bool:
    """Whether ``column`` of a row holds a finite number."""
    value = row.get(column)
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
