"""Several processes, one trainer: joining, sharing batches, averaging gradients, gathering evaluations.

Every function also works in a single process, where it does nothing. nccl on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Number of this process among all, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def torchrun_settings() -> dict[str, Any]:
    """RecBole's settings of this process when ``torchrun`` started it, else nothing."""
    if not all(name in os.environ for name in TORCHRUN):
        return {}
    local, overall = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
    return {
        "local_rank": local,
        "offset": overall - local,
        "nproc": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        "world_size": int(os.environ["WORLD_SIZE"]),
        "ip": os.environ["MASTER_ADDR"],
        "port": os.environ["MASTER_PORT"],
    }


def join(settings: Mapping[str, Any], use_gpu: bool) -> torch.device:
    """Join the process group that RecBole's settings describe; returns this process's device.

    Args:
        settings: ``local_rank``, ``offset``, ``world_size``, ``nproc``, ``ip``, ``port``.
        use_gpu: whether each process takes the GPU of its local rank.
    """
    local = int(settings["local_rank"])
    device = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(settings["nproc"])))
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if use_gpu else "gloo",
            init_method=f"tcp://{settings['ip']}:{settings['port']}",
            rank=local + int(settings["offset"]),
            world_size=int(settings["world_size"]),
        )
    return device


def leave() -> None:
    """Leave the group together: a process that leaves while another still sends aborts now and then."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class BatchLoss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel hooks into."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """Mean loss of a batch, a scalar."""
        loss: Tensor = self.model.calculate_loss(batch)
        return loss


def data_parallel(model: Any) -> nn.Module:
    """The model's loss, with gradients averaged over processes where there are several."""
    loss = BatchLoss(model)
    if world_size() == 1:
        return loss
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(loss, device_ids=[device] if device.type == "cuda" else None)


def share(batch: Any, targets: str) -> tuple[Any, float]:
    """This process's sequences of a batch, and the weight that makes averaged gradients those of the whole batch.

    A mean over local targets, averaged over processes, is not the mean over all targets; weighting each process by
    local targets x processes / all targets makes it so. A process without sequences repeats the first with weight 0.
    """
    if world_size() == 1:
        return batch, 1.0
    everything = int((batch[targets] != 0).sum())
    mine = batch[rank() :: world_size()]
    if len(mine[targets]) == 0 or not bool((mine[targets] != 0).any()):
        return batch[:1], 0.0
    return mine, int((mine[targets] != 0).sum()) * world_size() / everything


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def gather(value: Any) -> list[Any]:
    """The value of every process, in rank order."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def interleave(parts: list[Tensor], batch_size: int) -> Tensor:
    """Undo dealing out batches round robin: batch 0 of rank 0, batch 0 of rank 1, ..., batch 1 of rank 0, ..."""
    dealt = [list(part.split(batch_size)) for part in parts]
    rounds = max(len(batches) for batches in dealt)
    return torch.cat([batches[i] for i in range(rounds) for batches in dealt if i < len(batches)])
