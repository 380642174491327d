"""The process group: joining and leaving it, and what all processes tell each other. nccl on GPUs, gloo on CPUs.

Every function also works in a single process, where it does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_scale import signals
from recbole_scale.errors import UserError

LONGEST_WAIT = timedelta(minutes=30)  # for another process, which may be writing a checkpoint; nccl's own is 10
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
        _meet(
            device,
            f"{settings['ip']}:{settings['port']}",
            local + int(settings["offset"]),
            int(settings["world_size"]),
        )
    return device


def _meet(device: torch.device, address: str, number: int, world: int) -> None:
    """Find the other processes through a store at ``address``.

    Tensors on GPUs travel through nccl, bound to ``device`` from the start; Python's objects through gloo, so that
    gathering them waits for no GPU.

    A torchrun that starts its processes again keeps its store, with what the dead ones wrote in it: each attempt has
    names of its own.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, number, world = next(dist.rendezvous(f"tcp://{address}", number, world))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"attempt-{attempt}", store),
            rank=number,
            world_size=world,
            timeout=LONGEST_WAIT,
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, ValueError) as failure:
        reason = " ".join(str(failure).split())[:200]
        raise UserError(
            f"the {world} processes of this run did not find each other at {address} ({reason})"
        ) from failure


def leave() -> None:
    """Leave the group together: a process that leaves while another still sends aborts now and then."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def first_failure_speaks(seconds: float = 5.0) -> Iterator[None]:
    """Hold back the error of a process that only lost its peer, so that the peer's own is the one that is reported.

    Whoever starts the processes ends all of them when one has failed, this one too, well within ``seconds``.
    """
    try:
        yield
    except RuntimeError as failure:
        if not lost_peer(failure):
            raise
        if (signum := signals.asked()) is not None:  # it has ended before this one
            raise signals.Interrupted(signum) from None
        time.sleep(seconds)
        raise


def lost_peer(failure: BaseException) -> bool:
    """Whether a failure says no more than that another process has gone."""
    signs = ("gloo", "nccl", "closed by peer", "connection reset", "broken pipe", "socket")
    return isinstance(failure, RuntimeError) and any(sign in str(failure).lower() for sign in signs)


def how_it_ended(failure: Any) -> str:
    """One sentence about a process that ended without a Python error, from torch's ``ProcessExitedException``."""
    how = f"was ended by {failure.signal_name}" if failure.signal_name else f"ended with code {failure.exit_code}"
    hint = ", perhaps for want of memory" if failure.signal_name == "SIGKILL" else ""
    return f"process {failure.error_index} of this run {how}{hint}; the others were ended too, --resume auto goes on"


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
