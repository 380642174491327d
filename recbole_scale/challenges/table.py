"""The tidy table: one row per model, challenge, setting, level, group and metric; ``results/challenges.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_scale.challenges.estimates import Estimate
from recbole_scale.fit.rows import Row
from recbole_scale.text import show_count

COLUMNS: dict[str, str] = {
    "challenge": "long_tail, cold_start, multi_domain, robustness, trajectory",
    "setting": "set of cases: last, all, short, mix, mix_short, diff, clean, delete, greedy, truth, ...",
    "level": "strength of the setting: history length, noise ratio, step; null where it has none, as a window as a set",
    "group": "all, or a group of the cases: G1..G4, to <domain>, <n> domains",
    "metric": "hr@k, ndcg@k, mrr, nll (nats), coverage@10, recall@window; coverage@10_rarefied: of as many cases as "
    "the smallest of the groups has",
    "value": "the metric",
    "n": "cases",
    "lower": "2.5 % of the bootstrap over users",
    "upper": "97.5 % of the bootstrap over users",
    "change": "value relative to the challenge's own reference (no noise, step 1, mix and for diff mix_short, longest "
    "history, G1), minus 1",
    "change_lower": "its 2.5 %, resamples paired",
    "change_upper": "its 97.5 %, resamples paired",
    "gain": "value relative to the smallest model's, minus 1",
    "gain_lower": "its 2.5 %, resamples paired",
    "gain_upper": "its 97.5 %, resamples paired",
    "dataset": "name of the data set",
    "fingerprint": "hash of users, items and their order after filtering",
    "model": "name of the model",
    "size": "rung of the ladder, null for other models",
    "n_blocks": "N: weight matrices of the blocks, as in a run's row; null for other models",
    "n_parameters": "all trainable parameters",
    "seed": "random seed of the training",
    "run_id": "run that trained the model",
    "noise_seeds": "random draws averaged in the value, null where nothing was drawn",
    "draw_error": "standard error of the value over those draws, null with fewer than two",
    "mask_history": "whether items of the history left the ranking",
    "commit": "commit of the recbole_scale checkout, null when installed without one",
}

_TEXTS = "challenge setting group metric dataset fingerprint model size run_id commit"
_NUMBERS = "level value lower upper change change_lower change_upper gain gain_lower gain_upper seed draw_error"
RAREFIED = "_rarefied"  # ends the name of a Coverage of equally many cases
OLDER = ("draw_error",)  # columns that rows written before them lack
KINDS_OF_COLUMNS = {
    **dict.fromkeys(_TEXTS.split(), "a text"),
    **dict.fromkeys(("n", "n_blocks", "n_parameters", "noise_seeds"), "a whole number of 0 or more"),
    **dict.fromkeys(_NUMBERS.split(), "a number"),
}


@dataclass(frozen=True)
class Key:
    """What was measured; equal keys of two models hold the same cases."""

    challenge: str
    setting: str
    level: float | None
    group: str
    metric: str


@dataclass
class Measured:
    """All estimates of one model, and the columns that name it."""

    about: dict[str, Any]
    cells: dict[Key, Estimate]
    draws: dict[tuple[str, str, float | None], int] = field(default_factory=dict)


def reference(key: Key, cells: dict[Key, Estimate]) -> Key | None:
    """The key that a challenge compares with, None for the reference itself and where there is none."""
    setting, level, group = key.setting, key.level, key.group
    if key.challenge == "robustness":
        setting, level = "clean", 0.0
    elif key.challenge == "trajectory" and level is not None:
        level = 1
    elif key.challenge == "multi_domain":
        as_long = Key(key.challenge, "mix_short", level, group, key.metric)  # older rows lack it
        setting = "mix_short" if setting == "diff" and as_long in cells else "mix"
    elif key.challenge == "cold_start" and setting in ("last", "all"):
        level = max(k.level for k in cells if k.challenge == "cold_start" and k.setting == setting and k.level)
    elif key.challenge == "long_tail" and group != "all":
        group = "G1"
    found = Key(key.challenge, setting, level, group, key.metric)
    return found if found in cells and found != key else None


def smallest(models: Sequence[Measured]) -> Measured:
    """The model of the fewest block parameters; of the fewest parameters where no ScaledSASRec is among them."""
    ours = [model for model in models if model.about["n_blocks"]] or list(models)
    return min(ours, key=lambda model: (model.about["n_blocks"] or 0, model.about["n_parameters"]))


def tidy(models: Sequence[Measured], commit: str | None, mask_history: bool) -> list[dict[str, Any]]:
    """Rows of all models, models in the order given."""
    small = smallest(models)
    rows = []
    for model in models:
        for key, estimate in model.cells.items():
            base = reference(key, model.cells)
            others = {
                "change": estimate.relative_to(model.cells[base]) if base else None,
                "gain": estimate.relative_to(small.cells[key]) if model is not small and key in small.cells else None,
            }
            lower, upper = estimate.interval()
            row = {**vars(key), "value": estimate.value, "n": estimate.n, "lower": lower, "upper": upper}
            for name, other in others.items():
                numbers = (other.value, *other.interval()) if other else (math.nan,) * 3
                columns = (name, f"{name}_lower", f"{name}_upper")
                row |= {c: None if math.isnan(n) else n for c, n in zip(columns, numbers, strict=True)}
            drawn = model.draws.get((key.challenge, key.setting, key.level))
            row |= {**model.about, "noise_seeds": drawn, "draw_error": estimate.draw_error}
            row |= {"mask_history": mask_history, "commit": commit}
            rows.append({column: row[column] for column in COLUMNS})
    return rows


def compared_with(rows: Sequence[Mapping[str, Any]], label: Callable[[Any], str]) -> str:
    """Name of the model that gains are relative to: the one that has none itself."""
    gaining = {label(row) for row in rows if row["gain"] is not None}
    left = [name for name in dict.fromkeys(map(label, rows)) if name not in gaining]
    return left[0] if len(left) == 1 else "the smallest"


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Rows without the plain Coverage of cases that stand there rarefied: groups of more cases cover more."""
    names = ("challenge", "setting", "level", "group", "run_id", "n_parameters", "mask_history")
    rarefied = {
        (row["metric"].removesuffix(RAREFIED), *(row[name] for name in names))
        for row in rows
        if row["metric"].endswith(RAREFIED)
    }
    return [row for row in rows if (row["metric"], *(row[name] for name in names)) not in rarefied]


def model_of(row: Mapping[str, Any]) -> tuple[str, int]:
    """What tells one model's rows from another's."""
    return row["run_id"], row["n_parameters"]


def in_order(models: Sequence[Measured]) -> list[Measured]:
    """ScaledSASRec from the fewest block parameters to the most, then other models in the order given."""
    return sorted(models, key=lambda model: size_rank(model.about))


def size_rank(about: Mapping[str, Any]) -> tuple[bool, int, int]:
    """Sorts models, or rows of models, as :func:`in_order` does."""
    blocks = about["n_blocks"]
    return (False, blocks, about["n_parameters"]) if blocks else (True, 0, 0)


def labels(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name of each model: its name, N where it has one, and what else tells it from its likes on its data."""
    names = [f"{m['model']} {show_count(m['n_blocks'])}" if m["n_blocks"] else str(m["model"]) for m in models]
    for also in ("seed", "run_id"):
        places = [(name, m["dataset"]) for name, m in zip(names, models, strict=True)]
        twice = {place for place in places if places.count(place) > 1}
        names = [
            f"{place[0]} {'seed ' if also == 'seed' else ''}{m[also]}" if place in twice else place[0]
            for place, m in zip(places, models, strict=True)
        ]
    return names
