"""Exact cross-entropy over all items, in chunks of positions, so that a batch's logits never exist at once.

M counted targets, D = ``d_model``, V real items. Plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_scale.errors import UserError

WIDEST = 256  # D up to which the Triton kernel's block of rows and one of items fit beside their logits

# Where the Triton kernel is taken by itself: by arithmetic, not yet by a clock. Stored logits cost about 44 bytes of
# traffic each, making them again 4 D operations, so that wide models gain nothing; and it needs blocks of 64 items for
# all of a GPU's cores.
TRITON_WIDTH, TRITON_ITEMS = 128, 8192


def softmax_kernel(setting: str, width: int, n_items: int, device: torch.device) -> str:
    """``chunks`` or ``triton`` for a setting of key ``softmax``, a model's width and its items.

    Raises:
        UserError: ``triton`` is asked for where it cannot be.
    """
    from recbole_scale.model.precision import triton_is_there

    if setting == "auto":
        fits = width <= TRITON_WIDTH and n_items >= TRITON_ITEMS
        return "triton" if fits and device.type == "cuda" and triton_is_there() else "chunks"
    if setting == "triton":
        if device.type != "cuda":
            raise UserError("softmax: triton needs a GPU, and this runs on a CPU; leave softmax out")
        if not triton_is_there():
            raise UserError("softmax: triton needs Triton, and it is not installed; leave softmax out")
        if width > WIDEST:
            raise UserError(f"softmax: triton takes models up to hidden_size {WIDEST}, but it is {width}")
    return setting


def item_cross_entropy(
    hidden: Tensor, item_weight: Tensor, target: Tensor, chunk: int, kernel: str = "chunks"
) -> Tensor:
    """Mean full-softmax cross-entropy in nats, never holding more than ``chunk`` x V logits.

    The softmax and all sums are float32 (float64 for float64 input), whatever the type of ``hidden`` and the weights.

    Args:
        hidden: outputs at the real target positions, [M, D].
        item_weight: item embedding with the padding row, [V + 1, D]; id 0 is no candidate.
        target: item ids in 1..V, [M].
        chunk: positions per chunk.
        kernel: ``chunks``, or ``triton``, which writes no logits (:func:`softmax_kernel`).
    """
    weight, index = item_weight[1:], target - 1
    if kernel == "triton":
        from recbole_scale.model.triton_softmax import TritonCrossEntropy

        exact: Tensor = TritonCrossEntropy.apply(hidden, weight, index)
        return exact
    loss: Tensor = ChunkedCrossEntropy.apply(hidden, weight, index, chunk)
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass, in a tile of logits that each chunk writes over: gradients are made in forward.

    Products take the input's type; logits, softmax and the sum over chunks are float32. ``F.linear_cross_entropy`` of
    torch 2.13 does the same, no faster, and imports torch's compiler, two seconds of CPU at every start.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, index: Tensor, chunk: int) -> Tensor:
        """Mean loss, a scalar, of ``hidden`` [M, D] against ``weight`` [V, D] and 0-based ``index`` [M]."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=hidden.device)
        tile = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            h, y = hidden[rows], index[rows, None]  # [c, D], [c, 1]
            logits = torch.mm(h, weight.T, out=tile[: len(h)]).to(wide)  # [c, V]
            right = logits.sub_(logits.amax(1, keepdim=True)).gather(1, y)
            error = logits.exp_()
            sums = error.sum(1, keepdim=True)  # [c, 1]
            total += (sums.log() - right).sum()
            # softmax minus the one-hot target, but for a factor that rows of [c, D] take more cheaply
            error = error.scatter_add_(1, y, -sums).to(hidden.dtype)
            grad_hidden[rows] = (error @ weight) / sums
            h = (h / sums).to(hidden.dtype)
            if hidden.dtype == wide:
                grad_weight.addmm_(error.T, h)
            else:
                grad_weight += error.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.count = len(hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what forward made, where it lies: once."""
        grad_hidden, grad_weight = ctx.saved_tensors
        factor = grads[0] / ctx.count
        return grad_hidden.mul_(factor), grad_weight.mul_(factor), None, None
