"""How long a run will take on this machine: a few steps of training and a batch of ranking, timed, and the start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil
import torch

from recbole_scale.model.sizes import flops_per_interaction
from recbole_scale.text import duration

STEPS = 3  # timed, after one that warms up
MOST_FLOPS = 3e11  # of a step that is tried, on a CPU some 3 s


@dataclass(frozen=True)
class Speed:
    """Seconds of one training target, of ranking one user, and from the process's start until its data was ready."""

    per_target: float
    per_user: float
    start: float

    def seconds(self, targets: int, epochs: int, users: int) -> float:
        """Of a run of ``epochs``, each evaluated once on ``users``, who are tested at the end."""
        return self.start + epochs * targets * self.per_target + (epochs + 1) * users * self.per_user


def measure_speed(prepared: Any, network: Any) -> Speed | None:
    """Time a few steps; None where one step alone would take too long to try.

    The network is left with changed weights: it is for planning, not for training.
    """
    start = time.time() - psutil.Process().create_time()
    loader = prepared.train_data
    on_cpu = prepared.config["device"].type == "cpu"
    if on_cpu and flops_per_interaction(network.shape) * loader.token_budget > MOST_FLOPS:
        return None
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    network.train()
    taken = []
    for batch, _ in zip(_again_and_again(loader), range(1 + STEPS), strict=False):
        begun = _now(network)
        with torch.autocast(prepared.config["device"].type, torch.bfloat16, enabled=network.precision == "bf16"):
            loss = network.calculate_loss(batch.to(prepared.config["device"]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(_now(network) - begun)
    return Speed(
        median(taken[1:] or taken) * len(loader) / max(loader.n_targets, 1), _per_user(prepared, network), start
    )


def told(prepared: Any, network: Any) -> str:
    """The line of a plan: minutes of the whole run and what they are made of."""
    speed = measure_speed(prepared, network)
    if speed is None:
        return "not timed: one step alone takes more than a few seconds on this machine"
    targets, users, epochs = prepared.train_data.n_targets, len(prepared.valid_data.dataset), prepared.config["epochs"]
    parts = f"start {duration(speed.start)}, {epochs} epochs of {duration(targets * speed.per_target)}"
    parts += f", ranking {duration(users * speed.per_user)} each"
    whole = duration(speed.seconds(targets, epochs, users))
    return f"about {whole} on this machine ({parts}; timed on {STEPS} steps)"


def _again_and_again(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


@torch.no_grad()
def _per_user(prepared: Any, network: Any) -> float:
    network.eval()
    batch = next(iter(prepared.valid_data))[0].to(prepared.config["device"])
    seconds = []
    for _ in range(2):
        begun = _now(network)
        scores = network.full_sort_predict(batch).view(len(batch), -1)
        torch.topk(scores, min(max(prepared.config["topk"]), scores.shape[1]))
        seconds.append(_now(network) - begun)
    return min(seconds) / len(batch)


def _now(network: Any) -> float:
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
