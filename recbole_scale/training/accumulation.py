"""Gradient accumulation: one optimizer step from several micro-batches, equal to the step of the whole batch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.training import parallel


def micro_batches(batch: Any, targets: str, steps: int) -> list[tuple[Any, float]]:
    """Cut a batch's sequences into ``steps`` parts (fewer when it has fewer), each with its share of the targets.

    A mean over a part's targets times its share, summed over parts, is the mean over the whole batch's targets.
    A part without targets is left out. ``batch`` is sliced like a tensor; ``batch[targets]`` [B, T] is 0 at no target.
    """
    n_sequences = len(batch[targets])
    steps = min(steps, n_sequences)
    if steps <= 1:
        return [(batch, 1.0)]
    counted = (batch[targets] != 0).reshape(n_sequences, -1).sum(1)  # [B]
    everything = int(counted.sum())
    parts = []
    for rows in torch.arange(n_sequences).tensor_split(steps):
        first, after = int(rows[0]), int(rows[-1]) + 1
        count = int(counted[first:after].sum())
        if count:
            parts.append((batch[first:after], count / everything))
    return parts or [(batch, 1.0)]


def accumulate(loss: Any, parts: list[tuple[Any, float]], amp: Any, device: Any) -> Tensor:
    """Sum of the parts' weighted losses, a scalar, with gradients added up on the way.

    Every process goes through the same parts and takes its sequences of each, so that all call the same collectives.

    Args:
        loss: maps sequences to their mean loss over targets; inside ``loss.no_sync()`` gradients are not exchanged
            between processes, which only the last part's must be.
        parts: from :func:`micro_batches`, the same in every process.
        amp: a function that gives the autocast context of a forward pass.
        device: where the parts go.
    """
    summed: Tensor | None = None
    for number, (part, share) in enumerate(parts, 1):
        mine, weight = parallel.share(part, TARGET_LIST)
        with loss.no_sync() if number < len(parts) else nullcontext():
            with amp():
                value = loss(mine.to(device)) * (weight * share)
            value.backward()
        summed = value.detach() if summed is None else summed + value.detach()
    assert summed is not None
    return summed
