"""Several processes, one trainer: joining, sharing batches, averaging gradients, gathering evaluations.

Every function also works in a single process, where it does nothing. nccl on GPUs, gloo on CPUs. Whole copies of the
model (DDP) are handled here, models cut over processes (FSDP2) in :mod:`recbole_scale.training.shards`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbole_scale.errors import check_choice

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MODES = ("auto", "ddp", "fsdp")
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


@contextmanager
def first_failure_speaks(seconds: float = 5.0) -> Iterator[None]:
    """Hold back the error of a process that only lost its peer, so that the peer's own is the one that is reported.

    Whoever starts the processes ends all of them when one has failed, this one too, well within ``seconds``.
    """
    try:
        yield
    except RuntimeError as failure:
        if lost_peer(failure):
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


class BatchLoss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel and FSDP2 hook into."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """Mean loss of a batch, a scalar."""
        loss: Tensor = self.model.calculate_loss(batch)
        return loss

    def no_sync(self) -> AbstractContextManager[None]:
        """As DistributedDataParallel's; a single process has nothing to wait for."""
        return nullcontext()


def choose_mode(setting: str | None, model: nn.Module, device: torch.device, processes: int | None = None) -> str:
    """``ddp`` or ``fsdp`` for several processes, by setting ``parallel``, and ``none`` for one.

    ``auto`` keeps whole copies (ddp) while weights, gradients and Adam's two moments take at most half of a process's
    memory, which leaves the other half to activations and logits. ``processes``: how many, if not those of this group.

    Raises:
        UserError: an unknown setting.
    """
    check_choice("parallel", setting or "auto", MODES)
    processes = processes or world_size()
    if processes == 1:
        return "none"
    if setting in ("ddp", "fsdp"):
        return str(setting)
    states = 4 * sum(p.numel() * p.element_size() for p in model.parameters())
    return "ddp" if states <= memory_of_a_process(device, processes) / 2 else "fsdp"


def memory_of_a_process(device: torch.device, processes: int) -> int:
    """Bytes: the GPU's memory, or the machine's shared by ``processes``."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes


def data_parallel(model: Any, setting: str | None = "ddp", bf16: bool = False) -> nn.Module:
    """The model's loss, with gradients averaged over processes where there are several.

    Under FSDP2 the model's parameters become parts; build the optimizer afterwards.

    Args:
        model: has ``calculate_loss(batch)`` and, for FSDP2, ``blocks`` with ``attn`` and ``ffn``.
        setting: ``ddp``, ``fsdp`` or ``auto`` (:func:`choose_mode`).
        bf16: under FSDP2, attention and feed-forward weights travel in bfloat16; for training under autocast.
    """
    loss = BatchLoss(model)
    device = next(model.parameters()).device
    mode = choose_mode(setting, model, device)
    if mode == "none":
        return loss
    if mode == "fsdp":
        from recbole_scale.training.shards import ShardedLoss

        # autocast leaves LayerNorm and its weights in float32, so they stay out of what travels in bfloat16
        return ShardedLoss(loss, [[block.attn, block.ffn] if bf16 else [block] for block in model.blocks], bf16)
    devices = [device] if device.type == "cuda" else None
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)  # torch 2.13
    return nn.parallel.DistributedDataParallel(
        loss,
        device_ids=devices,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # buffers never change
    )


def mode_of(loss: nn.Module) -> str:
    """``none``, ``ddp`` or ``fsdp``: how :func:`data_parallel` made ``loss``."""
    if is_sharded(loss):
        return "fsdp"
    return "ddp" if isinstance(loss, nn.parallel.DistributedDataParallel) else "none"


def mesh_of(loss: nn.Module) -> DeviceMesh | None:
    """Processes over which the model is cut; None when each has a whole copy."""
    mesh: DeviceMesh | None = getattr(loss, "mesh", None)
    return mesh


def whole_model(loss: Any) -> AbstractContextManager[Any]:
    """The model with whole weights, for evaluation: itself, or a copy that lasts as long as the context."""
    if is_sharded(loss):
        context: AbstractContextManager[Any] = loss.whole_model()
        return context
    return nullcontext(loss.module.model if mode_of(loss) == "ddp" else loss.model)


def is_sharded(loss: nn.Module) -> bool:
    """Whether the model is cut over processes."""
    return mesh_of(loss) is not None


def whole_state(loss: nn.Module, state: Any) -> Any:
    """A state with whole tensors, in process 0 at least; every process must call."""
    if not is_sharded(loss):
        return state
    from recbole_scale.training.shards import whole

    return whole(state, everywhere=False)


def save_sharded(state: dict[str, Any], folder: str) -> None:
    """:func:`recbole_scale.training.sharded_checkpoint.save_sharded`, imported when it is needed."""
    from recbole_scale.training import sharded_checkpoint

    sharded_checkpoint.save_sharded(state, folder)


def share(batch: Any, targets: str) -> tuple[Any, float]:
    """This process's sequences of a batch, and the weight that makes averaged gradients those of the whole batch.

    A mean over local targets, averaged over processes, is not the mean over all targets; weighting each process by
    local targets x processes / all targets makes it so. A process without sequences repeats the first with weight 0.
    """
    world = world_size()
    if world == 1:
        return batch, 1.0
    counts = (batch[targets] != 0).flatten(1).sum(1).tolist()  # [B]
    mine = deal(counts, world)[rank()]
    count = sum(counts[row] for row in mine)
    if count == 0:
        return batch[:1], 0.0
    return batch[torch.tensor(mine)], count * world / sum(counts)


def deal(counts: list[int], world: int) -> list[list[int]]:
    """Rows of each process: even numbers of rows, and of targets, so that no process waits long for another.

    The row with the most targets left goes to the process with the fewest among those with room. Dealt as they come,
    ML-1M's windows made the process with more targets take 4.5 % more of them than half.
    """
    dealt: list[list[int]] = [[] for _ in range(world)]
    load, room = [0] * world, [-(-len(counts) // world)] * world
    for row in sorted(range(len(counts)), key=lambda at: -counts[at]):
        least = min((p for p in range(world) if room[p]), key=load.__getitem__)
        dealt[least].append(row)
        load[least] += counts[row]
        room[least] -= 1
    return [sorted(rows) for rows in dealt]


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
