"""How long each candidate size takes on this machine, smallest first, until one is too large to bother."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recbole_scale.model.sizes import Rung
from recbole_scale.runs.prepared import LoadedData, build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.runs.timing import measure_speed
from recbole_scale.study.planner import Measured
from recbole_scale.sweep.sweep import quiet

FEWEST = 5  # candidates that are timed whatever they take, so that there is a ladder to plan


def measure(
    dataset: str,
    rungs: Sequence[Rung],
    settings: dict[str, Any],
    loaded: LoadedData,
    enough: Callable[[float], bool] = lambda seconds: False,
) -> list[Measured]:
    """Time a few steps of each rung; stops where ``enough`` says so of the seconds an epoch of the last one takes."""
    found: list[Measured] = []
    for rung in rungs:
        config = make_config("ScaledSASRec", dataset, [], quiet({**rung.settings, **settings}))
        prepared = prepare(config, loaded)
        speed = measure_speed(prepared, build_model(prepared))
        if speed is None:
            break
        before = found[-1] if found else Measured("", 0.0, 0, 0.0, 0.0)
        # a larger size takes no less: on a busy machine a few steps may have been lucky
        seconds = max(speed.per_target, before.per_target), max(speed.per_user, before.per_user)
        found.append(Measured(rung.name, float(rung.n_blocks), int(config["hidden_size"]), *seconds))
        targets, users = prepared.train_data.n_targets, len(prepared.valid_data.dataset)
        if len(found) >= FEWEST and enough(targets * seconds[0] + users * seconds[1]):
            break
    return found
