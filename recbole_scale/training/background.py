"""Writing checkpoints in a thread, from copies in host memory, while the next steps run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2  # writes under way: an epoch ends with a best model and a `last` checkpoint, each a copy of its own


class Background:
    """Calls that write files, one after the other: in a thread where ``on``, else at once.

    The failure of one is raised by the next call or by :meth:`join`; what was to follow it is not written, so that no
    checkpoint names one that is not there.
    """

    def __init__(self, on: bool) -> None:
        self.thread = ThreadPoolExecutor(1, "checkpoints") if on else None
        self._under_way: list[Future[None]] = []
        self._failed = False

    def do(self, write: Callable[..., None], *arguments: Any) -> None:
        """``write(*arguments)``, when what was asked for before is written."""
        if self.thread is None:
            write(*arguments)
            return
        self.join(AT_ONCE - 1)
        self._under_way.append(self.thread.submit(self._act, write, *arguments))

    def _act(self, write: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        self._failed = True
        write(*arguments)
        self._failed = False

    def join(self, left: int = 0) -> None:
        """Wait until no more than ``left`` calls are under way."""
        while len(self._under_way) > left:
            self._under_way.pop(0).result()

    def copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """``state`` as it is now, whatever later steps do: its tensors copied to host memory, if there is a thread."""
        if self.thread is None:
            return state
        from recbole_scale.training.shards import map_tensors

        copy: dict[str, Any] = map_tensors(state, lambda _, tensor: _on_host(tensor))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copy


def _on_host(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "full_tensor"):  # a part of one that is cut over processes stays one
        from torch.distributed.checkpoint.staging import BlockingAsyncStager

        part: Tensor = BlockingAsyncStager().stage({"": tensor.detach()})[""]
        return part
    room = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return room.copy_(tensor.detach(), non_blocking=True)
