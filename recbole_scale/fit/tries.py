"""Of several settings that a size was tried with, the one that its law is about."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_RUN = ("model", "n_layers", "d_model", "n_blocks", "unique_interactions")
# settings that are a run's place in a study, or no more than what it prints
_PLACE = {"size", "n_layers", "hidden_size", "n_heads", "inner_size", "seed", "data_fraction", "show_progress", "state"}


def best_settings(rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """The rows of one setting for each shape and amount of data: that of the lowest mean valid loss over its seeds.

    The same number of settings is compared at every size, in the order of the rows: a best of more tries is lower by
    luck alone, and choosing for each seed would also make the seeds look more alike than they are.
    """
    tried: dict[Any, dict[str, dict[Any, Row]]] = {}
    for row in rows:
        place = tuple(row.get(name) for name in _RUN)
        seed = id(row) if row.get("seed") is None else row["seed"]
        tried.setdefault(place, {}).setdefault(_setting(row), {})[seed] = row
    fewest: dict[Any, int] = {}
    for place, settings in tried.items():
        fewest[_ladder(place)] = min(len(settings), fewest.get(_ladder(place), len(settings)))
    kept = set()
    for place, settings in tried.items():
        compared = list(settings.values())[: fewest[_ladder(place)]]
        best = min(compared, key=lambda runs: sum(map(valid_loss, runs.values())) / len(runs))
        kept |= {id(row) for row in best.values()}
    if len(kept) < len(rows):
        counts = sorted({len(settings) for settings in tried.values()})
        compared_ = sorted(set(fewest.values()))
        notes.append(
            f"{len(rows) - len(kept)} runs repeat a shape with other settings, such as epochs or dropout "
            f"({_span(counts)} settings a size): of the first {_span(compared_)} of every size the one of lowest mean "
            "valid loss is taken, the same for all its seeds"
        )
    return [row for row in rows if id(row) in kept]


def _setting(row: Row) -> str:
    """What was set, less a run's place in a study; settings that one row names and another leaves out differ."""
    settings = {name: value for name, value in (row.get("settings") or {}).items() if name not in _PLACE}
    return json.dumps(settings or row.get("epochs"), sort_keys=True, default=str)


def _ladder(place: tuple[Any, ...]) -> tuple[Any, Any]:
    """What sizes that are compared have in common: model and amount of data."""
    named = dict(zip(_RUN, place, strict=True))
    return named["model"], named["unique_interactions"]


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def note_tuning(rows: Sequence[Row], notes: list[str]) -> None:
    """Name the settings that set the rows apart besides size, data and seed."""
    tables = [row.get("settings") or {} for row in rows]
    names = dict.fromkeys(name for table in tables for name in table if name not in _PLACE)
    apart = [name for name in names if len({json.dumps(table.get(name), default=str) for table in tables}) > 1]
    if apart:
        notes.append(f"the runs were not all given the same {', '.join(apart)}: tuning is part of what the law shows")


def valid_loss(row: Row) -> float:
    """Lowest valid loss of a row, inf where it has none."""
    value = row.get("best_valid_nll")
    return float(value) if isinstance(value, int | float) else math.inf
