"""Exact cross-entropy over all items on a GPU without ever writing a logit to memory; float32 and bfloat16 inputs.

Each program keeps a block of logits in registers: forward keeps the running log-sum-exp of its rows, backward makes
the softmax of a block again where it is needed (the idea of FlashAttention, arXiv 2205.14135, and of Cut Cross-Entropy,
arXiv 2411.09009). That is two products of M x V x D more than with stored logits, and traffic of M D + V D for each
block of rows in place of M V: worth it while D is small, which is where the softmax takes most of a step. M counted
targets, V items, D width.

``TRITON_INTERPRET=1`` runs the kernels on a CPU, for tests.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, ITEMS = 64, 64  # logits a program holds at once
# Triton's interpreter multiplies the bits of bfloat16 numbers; in float32 their products are the same
WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _product(a, b):
    """``a @ b`` with sums in float32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee").to(tl.float32)


@triton.jit
def _load(base, first, limit, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows ``first ..`` of a row-major matrix, zeros beyond its ``limit`` rows and ``width`` columns: [ROWS, WIDTH]."""
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row[:, None] < limit) & (column[None, :] < width)
    return tl.load(base + row[:, None].to(tl.int64) * width + column[None, :], mask=inside, other=0.0)


@triton.jit
def _log_sums(
    hidden, weight, index, log_sum, own, m, v, d, ROWS: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr
):
    """``log_sum`` and the target's logit ``own`` of one block of rows, float32 [M]."""
    first = tl.program_id(0) * ROWS
    h = _load(hidden, first, m, d, ROWS, WIDTH)
    row = first + tl.arange(0, ROWS)
    target = tl.load(index + row, mask=row < m, other=0)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mine = tl.zeros([ROWS], tl.float32)
    for start in range(0, v, ITEMS):
        w = _load(weight, start, v, d, ITEMS, WIDTH)
        item = start + tl.arange(0, ITEMS)
        logits = _product(h, tl.trans(w))
        logits = tl.where(item[None, :] < v, logits, float("-inf"))
        new = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp(highest - new) + tl.sum(tl.exp(logits - new[:, None]), 1)
        highest = new
        mine += tl.sum(tl.where(item[None, :] == target[:, None], logits, 0.0), 1)
    tl.store(log_sum + row, highest + tl.log(total), mask=row < m)
    tl.store(own + row, mine, mask=row < m)


@triton.jit
def _error(h, w, target, log_sum, scale, first, start, m, v, ROWS: tl.constexpr, ITEMS: tl.constexpr):
    """Gradient of the mean loss with respect to a block of logits, float32 [ROWS, ITEMS]."""
    row = first + tl.arange(0, ROWS)
    item = start + tl.arange(0, ITEMS)
    logits = _product(h, tl.trans(w))
    error = tl.exp(logits - log_sum[:, None]) - (item[None, :] == target[:, None]).to(tl.float32)
    return tl.where((row[:, None] < m) & (item[None, :] < v), error * scale, 0.0)


@triton.jit
def _hidden_gradient(
    hidden, weight, index, log_sum, upstream, out, m, v, d, ROWS: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr
):
    """Gradient of one block of rows, [M, D]."""
    first = tl.program_id(0) * ROWS
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    h = _load(hidden, first, m, d, ROWS, WIDTH)
    target = tl.load(index + row, mask=row < m, other=0)
    sums = tl.load(log_sum + row, mask=row < m, other=0.0)
    scale = tl.load(upstream) / m
    gradient = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(0, v, ITEMS):
        w = _load(weight, start, v, d, ITEMS, WIDTH)
        error = _error(h, w, target, sums, scale, first, start, m, v, ROWS, ITEMS)
        gradient += _product(error.to(w.dtype), w)
    place = out + row[:, None].to(tl.int64) * d + column[None, :]
    tl.store(place, gradient, mask=(row[:, None] < m) & (column[None, :] < d))


@triton.jit
def _weight_gradient(
    hidden, weight, index, log_sum, upstream, out, m, v, d, ROWS: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr
):
    """Gradient of one block of items, [V, D]; no two programs write one place: equal runs are equal bit for bit."""
    start = tl.program_id(0) * ITEMS
    item = start + tl.arange(0, ITEMS)
    column = tl.arange(0, WIDTH)
    w = _load(weight, start, v, d, ITEMS, WIDTH)
    scale = tl.load(upstream) / m
    gradient = tl.zeros([ITEMS, WIDTH], tl.float32)
    for first in range(0, m, ROWS):
        row = first + tl.arange(0, ROWS)
        h = _load(hidden, first, m, d, ROWS, WIDTH)
        target = tl.load(index + row, mask=row < m, other=0)
        sums = tl.load(log_sum + row, mask=row < m, other=0.0)
        error = _error(h, w, target, sums, scale, first, start, m, v, ROWS, ITEMS)
        gradient += _product(tl.trans(error).to(h.dtype), h)
    place = out + item[:, None].to(tl.int64) * d + column[None, :]
    tl.store(place, gradient, mask=(item[:, None] < v) & (column[None, :] < d))


class TritonCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy in nats of ``hidden`` [M, D] against ``weight`` [V, D] and 0-based targets ``index`` [M].

    Products take the type of ``hidden``, exponentials and sums are float32; the loss is float32. Each gradient has the
    type of what it is of, so that float32 weights beside bfloat16 ``hidden`` get theirs as it was summed.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """The loss, a scalar; keeps the log-sum-exp of each row for backward."""
        ctx.weight_dtype = weight.dtype
        hidden, weight = hidden.contiguous(), weight.to(hidden.dtype).contiguous()
        log_sum, own = torch.empty(2, len(hidden), dtype=torch.float32, device=hidden.device)
        grid = (triton.cdiv(len(hidden), ROWS),)
        _log_sums[grid](hidden, weight, index, log_sum, own, *_sizes(hidden, weight), **_blocks(hidden))
        ctx.save_for_backward(hidden, weight, index, log_sum)
        return (log_sum - own).mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden and weight, each by programs of its own."""
        hidden, weight, index, log_sum = ctx.saved_tensors
        gradients = torch.empty_like(hidden), torch.empty_like(weight, dtype=ctx.weight_dtype)
        common = (hidden, weight, index, log_sum, upstream[0].float().contiguous())
        sizes, blocks = _sizes(hidden, weight), _blocks(hidden)
        _hidden_gradient[(triton.cdiv(len(hidden), ROWS),)](*common, gradients[0], *sizes, **blocks)
        _weight_gradient[(triton.cdiv(len(weight), ITEMS),)](*common, gradients[1], *sizes, **blocks)
        return *gradients, None


def _sizes(hidden: Tensor, weight: Tensor) -> tuple[int, int, int]:
    return len(hidden), len(weight), hidden.shape[1]


def _blocks(hidden: Tensor) -> dict[str, int]:
    return {"ROWS": ROWS, "ITEMS": ITEMS, "WIDTH": max(16, triton.next_power_of_2(hidden.shape[1]))}
