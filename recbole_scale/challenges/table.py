"""The tidy table: one row per model, challenge, setting, level, group and metric; ``results/challenges.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_scale.challenges.estimates import Estimate
from recbole_scale.scaling.study_rows import show_count

COLUMNS: dict[str, str] = {
    "challenge": "long_tail, cold_start, multi_domain, robustness, trajectory",
    "setting": "set of cases: last, short, mix, diff, clean, delete, greedy, truth, ...",
    "level": "strength of the setting: history length, noise ratio, step; null where it has none",
    "group": "all, or a group of the cases: G1..G4, to <domain>, <n> domains",
    "metric": "hr@k, ndcg@k, mrr, nll (nats), coverage@10, recall@window",
    "value": "the metric",
    "n": "cases",
    "lower": "2.5 % of the bootstrap over users",
    "upper": "97.5 % of the bootstrap over users",
    "change": "value relative to the challenge's own reference (no noise, step 1, mix, longest history, G1), minus 1",
    "change_lower": "its 2.5 %, resamples paired",
    "change_upper": "its 97.5 %, resamples paired",
    "gain": "value relative to the smallest model's, minus 1",
    "gain_lower": "its 2.5 %, resamples paired",
    "gain_upper": "its 97.5 %, resamples paired",
    "dataset": "name of the data set",
    "fingerprint": "hash of users, items and their order after filtering",
    "model": "name of the model",
    "size": "rung of the ladder, null for other models",
    "n_blocks": "N: weight matrices of the blocks, 12 * layers * d_model^2; null for other models",
    "n_parameters": "all trainable parameters",
    "seed": "random seed of the training",
    "run_id": "run that trained the model",
    "noise_seeds": "random draws averaged in the value, null where nothing was drawn",
    "mask_history": "whether items of the history left the ranking",
    "commit": "commit of the recbole_scale checkout, null when installed without one",
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
        setting = "mix"
    elif key.challenge == "cold_start" and setting == "last":
        level = max(k.level for k in cells if k.challenge == "cold_start" and k.setting == "last" and k.level)
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
                known = other is not None and not math.isnan(other.value)
                ends = other.interval() if other is not None and known else (None, None)
                row |= {name: other.value if other is not None and known else None}
                row |= {f"{name}_lower": ends[0], f"{name}_upper": ends[1]}
            drawn = model.draws.get((key.challenge, key.setting, key.level))
            row |= {**model.about, "noise_seeds": drawn, "mask_history": mask_history, "commit": commit}
            rows.append({column: row[column] for column in COLUMNS})
    return rows


def labels(models: Sequence[dict[str, Any]]) -> list[str]:
    """A short name of each model: its size or name, N, and what else tells it from its likes."""
    found = [str(m["size"] or m["model"]) for m in models]
    names = [
        name if m["size"] or not m["n_blocks"] else f"{name} {show_count(m['n_blocks'])}"
        for name, m in zip(found, models, strict=True)
    ]
    for also in ("seed", "run_id"):
        twice = {name for name in names if names.count(name) > 1}
        names = [
            f"{name} {'seed ' if also == 'seed' else ''}{m[also]}" if name in twice else name
            for name, m in zip(names, models, strict=True)
        ]
    return names


def as_text(rows: Sequence[dict[str, Any]], names: dict[tuple[str, int], str], metric: str = "ndcg@10") -> str:
    """The table of the terminal: one line per setting, level and group, one column per model, for the main metric.

    ``names`` gives the label of each (run id, parameters). A gain over the smallest model stands in percent.
    """
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        wanted = "recall@window" if row["challenge"] == "trajectory" and row["level"] is None else metric
        if row["metric"] != wanted:
            continue
        key = (row["challenge"], row["setting"], row["level"], row["group"], row["n"], wanted)
        gain = "" if row["gain"] is None else f" ({row['gain']:+.0%})"
        lines.setdefault(key, {})[names[row["run_id"], row["n_parameters"]]] = f"{row['value']:.4f}{gain}"
    columns = list(dict.fromkeys(names.values()))
    widths = [max([len(name), *(len(line.get(name, "")) for line in lines.values())]) for name in columns]
    head = f"{'challenge':<13}{'setting':<19}{'level':>6}  {'group':<14}{'n':>7}  {'metric':<14}"
    text = [head + "".join(f"  {name:>{width}}" for name, width in zip(columns, widths, strict=True))]
    for (challenge, setting, level, group, n, metric_name), line in lines.items():
        at = "" if level is None else f"{level:g}"
        cells = "".join(f"  {line.get(name, ''):>{width}}" for name, width in zip(columns, widths, strict=True))
        text.append(f"{challenge:<13}{setting:<19}{at:>6}  {group:<14}{n:>7,}  {metric_name:<14}" + cells)
    return "\n".join(text)
