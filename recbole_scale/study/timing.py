"""How long a size takes on this machine: a few steps of training and one batch of ranking, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from recbole_scale.model.sizes import Rung
from recbole_scale.runs.run import LoadedData, Prepared, build_model, make_config, prepare
from recbole_scale.study.planner import Measured
from recbole_scale.sweep.sweep import quiet

STEPS = 3  # timed, after one that warms up


def measure(
    dataset: str,
    rungs: Sequence[Rung],
    settings: dict[str, Any],
    loaded: LoadedData,
    enough: Callable[[float], bool] = lambda seconds: False,
) -> list[Measured]:
    """Time each rung, smallest first; stops where ``enough`` says so of the seconds an epoch of the last one takes."""
    found: list[Measured] = []
    for rung in rungs:
        config = make_config("ScaledSASRec", dataset, [], quiet({**rung.settings, **settings}))
        prepared = prepare(config, loaded)
        found.append(_measured(rung, prepared))
        targets, users = prepared.train_data.n_targets, len(prepared.test_data.dataset)
        if enough(targets * found[-1].per_target + users * found[-1].per_user):
            break
    return found


def _measured(rung: Rung, prepared: Prepared) -> Measured:
    model, loader = build_model(prepared), prepared.train_data
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    per_target = []
    for index, batch in zip(range(1 + STEPS), _endless(loader), strict=False):
        started = _now(model)
        with model.autocast():
            loss = model.calculate_loss(batch.to(prepared.config["device"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if index:
            per_target.append((_now(model) - started) / max(loader.n_targets / len(loader), 1))
    per_user = _ranking(model, prepared)
    width = int(prepared.config["hidden_size"])
    return Measured(rung.name, float(rung.n_blocks), width, median(per_target), per_user)


def _endless(loader: Any) -> Any:
    while True:
        yield from loader


@torch.no_grad()
def _ranking(model: Any, prepared: Prepared) -> float:
    """Seconds of ranking one user among all items, in a batch."""
    model.eval()
    batch = next(iter(prepared.test_data))[0].to(prepared.config["device"])
    seconds = []
    for _ in range(2):
        started = _now(model)
        scores = model.full_sort_predict(batch).view(len(batch), -1)
        torch.topk(scores, min(50, scores.shape[1]))
        seconds.append(_now(model) - started)
    return min(seconds) / len(batch)


def _now(model: Any) -> float:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
