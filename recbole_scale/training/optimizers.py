"""Optimizers and learning rate schedules. Plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from recbole_scale.errors import UserError, check_choice

LEARNERS = ("adamw", "adam", "sgd", "adagrad", "rmsprop")
SCHEDULES = ("cosine", "constant")


def build_optimizer(model: nn.Module, learner: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Optimizer by RecBole's name; weight decay acts on weight matrices, not on biases, LayerNorms or embeddings.

    Raises:
        UserError: an unknown name or a learning rate that is not positive.
    """
    learner = str(learner).lower()
    check_choice("learner", learner, LEARNERS)
    if not isinstance(learning_rate, int | float) or not 0 < learning_rate < math.inf:
        raise UserError(f"learning_rate is {learning_rate!r}, but must be a number above 0")
    groups = parameter_groups_by_decay(model, weight_decay)
    if learner in ("adamw", "adam"):
        kind = torch.optim.AdamW if learner == "adamw" else torch.optim.Adam
        return kind(groups, lr=learning_rate, fused=True)
    if learner == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    kinds: dict[str, Any] = {"adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
    optimizer: torch.optim.Optimizer = kinds[learner](groups, lr=learning_rate)
    return optimizer


def parameter_groups_by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices of linear layers with ``weight_decay``, everything else without."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    with_decay = [p for p in model.parameters() if p.requires_grad and id(p) in decayed]
    without = [p for p in model.parameters() if p.requires_grad and id(p) not in decayed]
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


def learning_rate_factor(step: int, warmup: int, total: int, schedule: str, min_ratio: float) -> float:
    """Share of the peak rate at ``step`` (0-based): linear warmup, then cosine to ``min_ratio`` or constant."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * done))
