"""Several processes, one trainer: averaging gradients, putting evaluations together.

Every function also works in a single process, where it does nothing. Whole copies of the model (DDP) are handled here,
models cut over processes (FSDP2) in :mod:`recbole_scale.training.shards`.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Batch, RunConfig
from recbole_scale.model.memory import memory_of_a_process
from recbole_scale.training import group

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from recbole_scale.model.scaled_sasrec import ScaledSASRec  # whose first import of RecBole imports this


class BatchLoss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel and FSDP2 hook into."""

    def __init__(self, model: ScaledSASRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar."""
        loss: Tensor = self.model.calculate_loss(batch)
        return loss

    def no_sync(self) -> AbstractContextManager[None]:
        """As DistributedDataParallel's; a single process has nothing to wait for."""
        return nullcontext()


def choose_mode(setting: str | None, model: nn.Module, device: torch.device, processes: int | None = None) -> str:
    """``ddp``, ``fsdp`` or ``hsdp`` for several processes, by setting ``parallel``, and ``none`` for one.

    ``auto`` keeps whole copies (ddp) while weights, gradients and Adam's two moments take at most half of a process's
    memory, which leaves the other half to activations and logits. ``processes``: how many, if not those of this group.
    """
    processes = processes or group.world_size()
    if processes == 1:
        return "none"
    if any(getattr(module, "sparse", False) for module in model.modules()):
        return "ddp"  # FSDP2 cannot cut a sparse gradient
    if setting in ("ddp", "fsdp", "hsdp"):
        return str(setting)
    states = 4 * sum(p.numel() * p.element_size() for p in model.parameters())
    return "ddp" if states <= memory_of_a_process(device, processes) / 2 else "fsdp"


def shards_of(mode: str, setting: int | None, nproc: int | None, processes: int) -> int:
    """Processes over which a copy of the model is cut: all, or for ``hsdp`` as ``shard_group`` says, or a machine's.

    Raises:
        UserError: they do not divide the processes.
    """
    shards = (setting or nproc or processes) if mode == "hsdp" else processes
    if processes % shards:
        raise UserError(f"parallel: hsdp cuts the model over {shards} processes (shard_group), but {processes} train")
    return shards


def data_parallel(
    model: ScaledSASRec,
    setting: str | None = "ddp",
    bf16: bool = False,
    shards: tuple[int | None, int | None] = (None, None),
    cut_items: bool = False,
) -> nn.Module:
    """The model's loss, with gradients averaged over processes where there are several.

    Under FSDP2 the model's parameters become parts; build the optimizer afterwards.

    Args:
        model: has ``calculate_loss(batch)`` and, for FSDP2, ``blocks`` with ``attn`` and ``ffn``.
        setting: ``ddp``, ``fsdp``, ``hsdp`` or ``auto`` (:func:`choose_mode`).
        bf16: under FSDP2, attention and feed-forward weights travel in bfloat16; for training under autocast.
        shards: settings ``shard_group`` and ``nproc`` (:func:`shards_of`).
        cut_items: under fsdp, rows of the item embedding stay in their processes.
    """
    loss = BatchLoss(model)
    device = next(model.parameters()).device
    mode = choose_mode(setting, model, device)
    if mode == "none":
        return loss
    if cut_items and (mode != "fsdp" or getattr(model, "sampled", None) is not None):
        raise UserError(f"cut_items needs parallel: fsdp and the exact softmax (loss_type: CE); this is {mode}")
    if mode in ("fsdp", "hsdp"):
        if getattr(model, "graphs", False):
            raise UserError(
                f"compile: graphs replays weights where they lie, and {mode} gathers them anew; take compile: True"
            )
        from recbole_scale.training.shards import ShardedLoss

        # autocast leaves LayerNorm and its weights in float32, so they stay out of what travels in bfloat16
        parts = ("attn", "ffn") if bf16 else ("",)  # "": the block itself
        groups = [[block.get_submodule(part) for part in parts] for block in model.blocks]
        return ShardedLoss(loss, groups, bf16, shards_of(mode, *shards, group.world_size()), cut_items)
    if device.type == "cuda" and any(getattr(module, "sparse", False) for module in model.modules()):
        raise UserError("learner: sparse_adam is for one GPU, nccl adds no sparse gradients; take learner: adamw")
    devices = [device] if device.type == "cuda" else None
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)  # torch 2.13
    return nn.parallel.DistributedDataParallel(
        loss,
        device_ids=devices,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # buffers never change
    )


def loss_of(model: ScaledSASRec, config: RunConfig) -> nn.Module:
    """:func:`data_parallel` as the settings of a run have it."""
    shards = config["shard_group"], config["nproc"]
    return data_parallel(model, config["parallel"], model.precision == "bf16", shards, bool(config["cut_items"]))


def mode_of(loss: nn.Module) -> str:
    """``none``, ``ddp``, ``fsdp`` or ``hsdp``: how :func:`data_parallel` made ``loss``."""
    if mesh := mesh_of(loss):
        return "fsdp" if mesh.ndim == 1 else "hsdp"
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


def save_sharded(state: dict[str, Any], folder: str, process_group: Any = None) -> None:
    """:func:`recbole_scale.training.sharded_checkpoint.save_sharded`, imported when it is needed."""
    from recbole_scale.training import sharded_checkpoint

    sharded_checkpoint.save_sharded(state, folder, process_group)


def interleave(parts: list[Tensor], batch_size: int) -> Tensor:
    """Undo dealing out batches round robin: batch 0 of rank 0, batch 0 of rank 1, ..., batch 1 of rank 0, ..."""
    dealt = [list(part.split(batch_size)) for part in parts]
    rounds = max(len(batches) for batches in dealt)
    return torch.cat([batches[i] for i in range(rounds) for batches in dealt if i < len(batches)])
