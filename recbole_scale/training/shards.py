"""FSDP2: parameters, gradients and optimizer states cut over processes, and whole tensors made of the parts again.

Nothing here knows RecBole. The model is any module that turns a batch into a loss, with the blocks to cut one by one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

from recbole_scale.interfaces import Batch
from recbole_scale.training.cut_items import CutEmbedding


class ShardedLoss(nn.Module):
    """The loss of a model whose parameters are cut along their first dimension, one part a process.

    Each group is gathered just before it runs and dropped afterwards; whatever is in no group is gathered for the whole
    step. With ``bf16`` the groups travel in bfloat16, gradients are summed in float32, and the parts that the optimizer
    sees stay float32; what is in no group stays float32 throughout, as embeddings and norms do under autocast.

    Args:
        loss: module that gives a batch's mean loss; ``loss.model`` is the model.
        groups: modules gathered together, each called through ``forward``.
        bf16: whether groups travel in bfloat16.
        shards: neighbours that share one copy, where these are not all; copies add up their gradients (HSDP), so that
            weights travel between neighbours only.
        cut_items: whether ``model.item_embedding`` is never gathered (:mod:`recbole_scale.training.cut_items`).
    """

    def __init__(
        self,
        loss: Any,
        groups: Sequence[list[nn.Module]],
        bf16: bool = False,
        shards: int | None = None,
        cut_items: bool = False,
    ) -> None:
        super().__init__()
        device, world = next(loss.parameters()).device, dist.get_world_size()
        copies = world // (shards or world)
        names = ("copies", "shards")[-2 if copies > 1 else -1 :]
        sizes = (copies, world // copies)[-len(names) :]
        self.mesh: DeviceMesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
        for tensor in (*loss.parameters(), *loss.buffers()):
            dist.broadcast(tensor.data, 0)  # processes may have drawn other first weights
        self._whole = [_empty_copy(loss.model)]  # in a list: no part of this module
        apart: set[nn.Parameter] = set()
        if cut_items:
            loss.model.item_embedding = CutEmbedding(loss.model.item_embedding.weight, self.mesh)
            apart = {loss.model.item_embedding.weight}
        # the blocks add nothing in place, which is what the warning is about
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for group in groups:
            fully_shard(group, mesh=self.mesh, mp_policy=mixed if bf16 else MixedPrecisionPolicy())
        self.loss = fully_shard(loss, mesh=self.mesh, ignored_params=apart)

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar."""
        loss: Tensor = self.loss(batch)
        return loss

    def no_sync(self) -> Any:
        """As DistributedDataParallel's, where gradients of several batches add up; they are still summed over
        processes each time, since a process has no room for whole gradients."""
        return nullcontext()

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model with whole float32 weights, gathered once and dropped at the end; for evaluation.

        Ranking then needs no communication, so that processes may rank different numbers of batches.
        """
        model = self._whole[0]
        model.load_state_dict(whole(self.loss.model.state_dict()), assign=True)
        try:
            yield model
        finally:
            empty = {name: torch.empty_like(p, device="meta") for name, p in model.named_parameters()}
            model.load_state_dict(empty, strict=False, assign=True)


def _empty_copy(model: nn.Module) -> nn.Module:
    """The model again, its parameters without memory."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def map_tensors(state: Any, change: Callable[[str, Tensor], Any], path: str = "") -> Any:
    """A nest of dicts, lists and tuples with ``change(path, tensor)`` in each tensor's place; paths read ``a/b/0``."""
    if isinstance(state, Tensor):
        return change(path, state)
    if isinstance(state, dict):
        return {key: map_tensors(value, change, f"{path}/{key}" if path else str(key)) for key, value in state.items()}
    if isinstance(state, list | tuple):
        changed = [map_tensors(value, change, f"{path}/{at}") for at, value in enumerate(state)]
        return tuple(changed) if isinstance(state, tuple) else changed
    return state


def whole(state: Any, everywhere: bool = True) -> Any:
    """A state with whole tensors where there were parts. Every process must call it with the same nest.

    Args:
        state: any nest of dicts and lists.
        everywhere: keep whole tensors in every process; otherwise in process 0 only, on the CPU, and None elsewhere.
    """

    def gather(path: str, tensor: Tensor) -> Tensor | None:
        if not isinstance(tensor, DTensor):
            return tensor
        parts: Any = tensor.detach()
        full: Tensor = parts.full_tensor()
        if everywhere:
            return full
        return full.cpu() if dist.get_rank() == 0 else None

    return map_tensors(state, gather)


def cut(state: Any, mesh: DeviceMesh) -> Any:
    """The reverse of :func:`whole`: this process's part of every floating-point tensor that has a dimension to cut."""

    def part(path: str, tensor: Tensor) -> Tensor:
        if isinstance(tensor, DTensor) or not tensor.is_floating_point() or tensor.dim() == 0:
            return tensor
        cut_tensor = empty_parts(tensor.shape, tensor.dtype, mesh)
        mine = tensor.chunk(mesh.size(-1))[mesh.get_local_rank("shards") :][
            :1
        ]  # fewer rows than processes: nothing for the last
        if mine:
            cut_tensor.to_local().copy_(mine[0])
        return cut_tensor

    return map_tensors(state, part)


def empty_parts(shape: Sequence[int], dtype: torch.dtype, mesh: DeviceMesh) -> DTensor:
    """Zeros of which each process holds its part, cut as ``fully_shard`` cuts parameters."""
    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    return torch.distributed.tensor.zeros(*shape, dtype=dtype, device_mesh=mesh, placements=placements)
