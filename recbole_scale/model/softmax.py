"""Exact cross-entropy over all items, in chunks of positions, so that a batch's logits never exist at once.

M counted targets, D = ``d_model``, V real items. Plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def item_cross_entropy(hidden: Tensor, item_weight: Tensor, target: Tensor, chunk: int) -> Tensor:
    """Mean full-softmax cross-entropy in nats, never holding more than ``chunk`` x V logits.

    The softmax and all sums are float32 (float64 for float64 input), whatever the type of ``hidden`` and the weights.

    Args:
        hidden: outputs at the real target positions, [M, D].
        item_weight: item embedding with the padding row, [V + 1, D]; id 0 is no candidate.
        target: item ids in 1..V, [M].
        chunk: positions per chunk.
    """
    weight, index = item_weight[1:], target - 1
    whole_precision = hidden.dtype in (torch.float32, torch.float64)  # torch's own would return a bfloat16 loss
    if hasattr(nn, "LinearCrossEntropyOptions") and whole_precision and not hidden.is_meta:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=min(chunk, len(hidden)))
        return F.linear_cross_entropy(hidden, weight, index, options=options)
    loss: Tensor = ChunkedCrossEntropy.apply(hidden, weight, index, chunk)
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """The same loss for bfloat16 and for a torch without ``linear_cross_entropy``: gradients are made in forward.

    Products take the input's type, logits, softmax and the sum over chunks are float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, index: Tensor, chunk: int) -> Tensor:
        """Mean loss, a scalar, of ``hidden`` [M, D] against ``weight`` [V, D] and 0-based ``index`` [M]."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            h, y = hidden[rows], index[rows, None]  # [c, D], [c, 1]
            logits = F.linear(h, weight).to(wide)  # [c, V]
            log_sum = logits.logsumexp(1, keepdim=True)
            total += (log_sum - logits.gather(1, y)).sum()
            error = logits.sub_(log_sum).exp_()  # softmax, then minus the one-hot target
            error.scatter_add_(1, y, error.new_full(y.shape, -1.0))
            error = error.div_(len(hidden)).to(hidden.dtype)
            grad_hidden[rows] = error @ weight
            grad_weight += error.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what forward made."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0].to(grad_weight.dtype), None, None
