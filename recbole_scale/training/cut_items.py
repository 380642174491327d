"""An item table cut over processes by rows and never gathered: for catalogues of millions (``cut_items``).

R processes, each with n positions and M targets of its own; D width; V items. A process looks up, and multiplies by,
its rows for all processes' positions: what travels is R n D and R M D numbers a step, instead of the V D of a gathered
table, and a row's gradient is complete where the row is. Source of cutting table and softmax by rows: Megatron-LM,
arXiv 1909.08053.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional as F

from recbole_scale.errors import UserError


class CutEmbedding(nn.Module):
    """In place of ``nn.Embedding`` with ``padding_idx=0``; its weight [V + 1, D] is a part of a cut tensor.

    Every process must call at the same time. Gradients of the weight are means over processes, as FSDP's are.

    Raises:
        UserError: so few items that a process might be left without any.
    """

    def __init__(self, weight: Tensor, mesh: DeviceMesh) -> None:
        super().__init__()
        if len(weight) < mesh.size() ** 2:
            raise UserError(f"cut_items cuts {len(weight) - 1} items over {mesh.size()} processes; leave it out")
        self.weight = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)]))
        self.first = mesh.get_local_rank() * -(-len(weight) // mesh.size())  # its first row in the whole table

    def _own(self) -> Tensor:
        part: Any = self.weight
        own: Tensor = part.to_local(grad_placements=[Shard(0)])
        return own

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of ids of any shape, [..., D]."""
        rows: Tensor = _LookUp.apply(self._own(), ids.flatten(), self.first)
        return rows.view(*ids.shape, -1)

    def item_cross_entropy(self, hidden: Tensor, target: Tensor, chunk: int) -> Tensor:
        """As :func:`recbole_scale.model.softmax.item_cross_entropy`: this process's mean, of [M, D] and [M]."""
        padding = int(self.first == 0)  # the first row of all is no candidate
        own = self._own()[padding:].to(hidden.dtype)
        loss: Tensor = _CrossEntropy.apply(hidden, own, target, self.first + padding, chunk)
        return loss


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ids: Tensor, first: int) -> Tensor:
        all_ids = _gathered(ids, 0)  # [R, n]
        ctx.mine, ctx.place = _within(all_ids - first, len(own))
        ctx.real, ctx.rows = all_ids != 0, len(own)
        return _summed(F.embedding(ctx.place, own) * ctx.mine[..., None])[: len(ids)]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        gradient = _gathered(grads[0], 0) * (ctx.mine & ctx.real)[..., None]  # [R, n, D]
        of_rows = gradient.new_zeros(ctx.rows, gradient.shape[2])
        of_rows.index_add_(0, ctx.place.flatten(), gradient.flatten(0, 1))
        return of_rows / dist.get_world_size(), None, None


class _CrossEntropy(torch.autograd.Function):
    """Logits of a chunk of positions are made twice, forward and backward, and not kept; sums are float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, own: Tensor, target: Tensor, first: int, chunk: int) -> Tensor:
        every, targets = _gathered(hidden, 0), _gathered(target, -1)  # [R, M, D], [R, M]
        mine, place = (part.flatten() for part in _within(targets - first, len(own)))
        wide = torch.promote_types(hidden.dtype, torch.float32)
        log_sum, right = torch.empty(2, len(mine), dtype=wide, device=hidden.device)
        for start in range(0, len(mine), chunk):
            rows = slice(start, start + chunk)
            logits = F.linear(every.flatten(0, 1)[rows], own).to(wide)  # [chunk, V / R]
            log_sum[rows] = logits.logsumexp(1)
            right[rows] = logits.gather(1, place[rows, None]).squeeze(1) * mine[rows]
        log_sum = _gathered(log_sum, 0).logsumexp(0)
        dist.all_reduce(right)
        ctx.chunk, ctx.n_own = chunk, len(hidden)
        ctx.save_for_backward(every, own, mine, place, log_sum, targets >= 0)
        start = dist.get_rank() * every.shape[1]
        return (log_sum - right)[start : start + len(hidden)].mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        every, own, mine, place, log_sum, real = ctx.saved_tensors
        share = (_gathered(grads[0][None], 0) / real.sum(1, keepdim=True) * real).flatten()  # [R M]
        positions, of_own = every.flatten(0, 1), torch.zeros_like(own, dtype=log_sum.dtype)
        of_positions = torch.empty_like(positions)
        for start in range(0, len(mine), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            error = (F.linear(positions[rows], own).to(log_sum.dtype) - log_sum[rows, None]).exp_()
            error.scatter_add_(1, place[rows, None], -mine[rows, None].to(error.dtype))
            error = error.mul_(share[rows, None]).to(own.dtype)
            of_positions[rows] = error @ own
            of_own += error.T @ positions[rows]
        of_hidden = _summed(of_positions.view_as(every))[: ctx.n_own]
        return of_hidden, (of_own / dist.get_world_size()).to(own.dtype), None, None, None


def _within(index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Which of ``index`` are rows of ``n_rows``, and numbers that are, for the others some row's."""
    return (index >= 0) & (index < n_rows), index.clamp(0, n_rows - 1)


def _gathered(own: Tensor, fill: int) -> Tensor:
    """Every process's tensor, of any length, with ``fill`` at the end of the shorter ones, [R, longest, ...]."""
    longest = torch.tensor(len(own), device=own.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    padded = own.new_full((int(longest), *own.shape[1:]), fill)
    padded[: len(own)] = own
    every = own.new_empty(dist.get_world_size() * len(padded), *own.shape[1:])
    dist.all_gather_into_tensor(every, padded)
    return every.view(dist.get_world_size(), *padded.shape)


def _summed(every: Tensor) -> Tensor:
    """This process's part of the sum over processes of [R, n, ...], [n, ...]."""
    own = torch.empty_like(every[0])
    dist.reduce_scatter_tensor(own, every.flatten(0, 1).contiguous())
    return own
