"""Gradient accumulation: one optimizer step from several parts of a batch, equal to the step of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

Parts = list[tuple[Interaction, float]]  # sequences, and what the mean loss of their targets is weighted with
AHEAD = 2  # steps whose parts are built before they are needed


def accumulate(loss: Any, parts: Parts, amp: Callable[[], AbstractContextManager[Any]], device: torch.device) -> Tensor:
    """Sum of the parts' weighted losses, a scalar, with gradients added up on the way.

    Args:
        loss: maps sequences to their mean loss over targets; inside ``loss.no_sync()`` gradients are not exchanged
            between processes, which only the last part's must be.
        parts: from :meth:`~recbole_scale.data.loaders.WindowDataLoader.parts`, as many in every process.
        amp: a function that gives the autocast context of a forward pass.
        device: where the parts go; out of pinned memory they do so without being waited for.
    """
    summed: Tensor | None = None
    for number, (part, weight) in enumerate(parts, 1):
        moved = Interaction({name: part[name].to(device, non_blocking=True) for name in part})
        with loss.no_sync() if number < len(parts) else nullcontext():
            with amp():
                value = loss(moved) * weight
            value.backward()
        summed = value.detach() if summed is None else summed + value.detach()
    assert summed is not None
    return summed


@contextmanager
def built_ahead(build: Callable[[int], Parts], last: int, device: torch.device) -> Iterator[Callable[[int], Parts]]:
    """``build(step)`` for steps below ``last``; for a GPU in a thread, before they are asked for, in pinned memory.

    A CPU that trains has no core to spare for it. Steps may be asked for in any order.
    """
    if device.type == "cpu":
        yield build
        return

    def pinned(step: int) -> Parts:
        parts = build(step)
        if device.type != "cuda":
            return parts
        return [(Interaction({name: part[name].pin_memory() for name in part}), weight) for part, weight in parts]

    made: dict[int, Future[Parts]] = {}
    with ThreadPoolExecutor(1, "batches") as thread:

        def take(step: int) -> Parts:
            for known in [known for known in made if not step <= known <= step + AHEAD]:
                made.pop(known).cancel()
            for wanted in range(step, min(step + AHEAD + 1, last)):
                if wanted not in made:
                    made[wanted] = thread.submit(pinned, wanted)
            return made.pop(step).result()

        try:
            yield take
        finally:
            thread.shutdown(cancel_futures=True)
