"""Of several settings that a size was tried with, the one that its law is about."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_scale.text import show_count, span

Row = Mapping[str, Any]
_RUN = ("model", "n_layers", "d_model", "n_blocks", "unique_interactions")
# settings that are a run's place in a study, or no more than what it prints
_PLACE = {"size", "n_layers", "hidden_size", "n_heads", "inner_size", "seed", "data_fraction", "show_progress", "state"}


def best_settings(rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """The rows of one setting for each shape and amount of data: that of the lowest mean valid loss over its seeds.

    The same number of settings is compared at every size, in the order of the rows: a best of more tries is lower by
    luck alone, and choosing for each seed would also make the seeds look more alike than they are. Of several numbers
    of epochs only those that most sizes were trained for count: long runs of one size and short ones of another would
    be a law of training.
    """
    tried: dict[Any, dict[str, dict[Any, Row]]] = {}
    for row in rows:
        place = tuple(row.get(name) for name in _RUN)
        seed = id(row) if row.get("seed") is None else row["seed"]
        tried.setdefault(place, {}).setdefault(setting_of(row), {})[seed] = row
    tried = _of_common_epochs(tried)
    fewest: dict[Any, int] = {}
    for place, settings in tried.items():
        fewest[_ladder(place)] = min(len(settings), fewest.get(_ladder(place), len(settings)))
    kept = set()
    for place, settings in tried.items():
        compared = list(settings.values())[: fewest[_ladder(place)]]
        best = min(compared, key=lambda runs: sum(map(valid_loss, runs.values())) / len(runs))
        kept |= {id(row) for row in best.values()}
    if len(kept) < len(rows):
        notes.append(_what_was_chosen(rows, kept, tried.values(), fewest.values()))
    return [row for row in rows if id(row) in kept]


def _what_was_chosen(
    rows: Sequence[Row], kept: set[int], tried: Iterable[Mapping[str, Any]], fewest: Iterable[int]
) -> str:
    """How the rows were chosen, in a sentence."""
    counts, compared = sorted({len(settings) for settings in tried}), sorted(set(fewest))
    left = len(rows) - len(kept)
    said = f"{left} {'run repeats' if left == 1 else 'runs repeat'} a shape with other settings, such as epochs or "
    said += f"dropout ({span(counts)} {'setting' if counts == [1] else 'settings'} a size to compare): "
    if compared == [1]:
        return f"{said}the first of every size is taken, for all its seeds{_taken(rows, kept)}"
    return (
        f"{said}of the first {span(compared)} of every size the one of lowest mean valid loss is taken, the same for "
        f"all its seeds{_taken(rows, kept)}"
    )


def _of_common_epochs(tried: dict[Any, dict[str, dict[Any, Row]]]) -> dict[Any, dict[str, dict[Any, Row]]]:
    """``tried`` with those settings of each place whose epochs as many places as possible of its ladder have."""
    epochs = {place: {name: planned_epochs(next(iter(runs.values()))) for name, runs in settings.items()}
              for place, settings in tried.items()}  # fmt: skip
    had = Counter((_ladder(place), count) for place, by_name in epochs.items() for count in set(by_name.values()))
    kept = {}
    for place, settings in tried.items():
        shared = {name: had[_ladder(place), epochs[place][name]] for name in settings}
        kept[place] = {name: runs for name, runs in settings.items() if shared[name] == max(shared.values())}
    return kept


def _taken(rows: Sequence[Row], kept: set[int]) -> str:
    """What was chosen of the settings that some size was tried with several of: "; taken: epochs 24"."""
    tables = [(row, {**(row.get("settings") or {}), "epochs": f"{planned_epochs(row):g}"}) for row in rows]
    values: dict[tuple[Any, str], set[str]] = {}
    taken: dict[str, dict[str, dict[str, None]]] = {}  # by setting and value the sizes that have it
    for row, table in sorted(tables, key=lambda pair: float(pair[0].get("n_blocks") or 0)):
        for name, value in table.items():
            values.setdefault((tuple(row.get(one) for one in _RUN), name), set()).add(str(value))
            if id(row) in kept:
                sizes = taken.setdefault(name, {}).setdefault(str(value), {})
                sizes[show_count(float(row.get("n_blocks") or 0))] = None
    several = dict.fromkeys(name for (_, name), found in values.items() if len(found) > 1 and name not in _PLACE)
    told = [f"{name} {' and '.join(_at(*one, len(taken[name]) > 1) for one in taken[name].items())}"
            for name in several if name in taken]  # fmt: skip
    return f"; taken: {'; '.join(told)}" if told else ""


def _at(value: str, sizes: Iterable[str], apart: bool) -> str:
    return f"{value} at {', '.join(sizes)}" if apart else value


def setting_of(row: Row, *less: str) -> str:
    """What was set, less a run's place in a study; settings that one row names and another leaves out differ."""
    settings = {name: value for name, value in (row.get("settings") or {}).items() if name not in (*_PLACE, *less)}
    return json.dumps(settings or (None if "epochs" in less else row.get("epochs")), sort_keys=True, default=str)


def _ladder(place: tuple[Any, ...]) -> tuple[Any, Any]:
    """What sizes that are compared have in common: model and amount of data."""
    named = dict(zip(_RUN, place, strict=True))
    return named["model"], named["unique_interactions"]


def note_tuning(rows: Sequence[Row], notes: list[str]) -> None:
    """Name the settings that set the rows apart besides size, data and seed."""
    tables = [row.get("settings") or {} for row in rows]
    names = dict.fromkeys(name for table in tables for name in table if name not in _PLACE)
    apart = [name for name in names if len({json.dumps(table.get(name), default=str) for table in tables}) > 1]
    tuned = [row.get("tuning") or {} for row in rows]  # of `sweep --tune`
    if "learning_rate" in apart and all(
        one and one.get("learning_rate") == table.get("learning_rate") for one, table in zip(tuned, tables, strict=True)
    ):
        apart.remove("learning_rate")
        tries = span(sorted({len(one["valid_nll"]) for one in tuned}))
        ends = {float(row.get("n_blocks") or 0) for row, one in zip(rows, tuned, strict=True) if one["at_the_edge"]}
        edge = f"; at {', '.join(map(show_count, sorted(ends)))} it is the least or the largest tried" if ends else ""
        notes.append(f"each size has the learning rate of lowest valid loss on another seed, of {tries} tried{edge}")
    if apart:
        notes.append(f"the runs were not all given the same {', '.join(apart)}: tuning is part of what the law shows")


def planned_epochs(row: Row) -> float:
    """Epochs of the run's schedule: what was set, else what was trained."""
    settings = row.get("settings") or {}
    value = settings.get("epochs", row.get("epochs"))
    return float(value) if isinstance(value, int | float) else 0.0


def valid_loss(row: Row) -> float:
    """Lowest valid loss of a row, inf where it has none."""
    value = row.get("best_valid_nll")
    return float(value) if isinstance(value, int | float) else math.inf
