"""Plain torch parts of the decoder: causal attention, feed-forward, pre-LN block, dropout rates, first weights.

Shapes: B sequences, T positions, D = ``d_model``, H heads.
Nothing here knows RecBole or a data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """``F.dropout``; on a CPU with masks drawn ten times faster and kept in a byte a number, not in ``x``'s format."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    dropped: Tensor = ByteDropout.apply(x, rate)
    return dropped


class ByteDropout(torch.autograd.Function):
    """Inverted dropout with 16 random bits a number: its rate is off by at most 1 / 131,072."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        """Zero with probability ``rate``, else ``x / (1 - rate)``; any shape."""
        n = x.numel()
        words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # every bit is random
        keep = (words.view(torch.int16)[:n] >= round(rate * 2**16) - 2**15).view(x.shape)
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - rate)
        return x * keep.to(x.dtype).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient where ``x`` was kept."""
        (keep,) = ctx.saved_tensors
        return grads[0] * keep.to(grads[0].dtype).mul_(ctx.scale), None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, rate: float, scale: float | None = None) -> Tensor:
    """Causal attention of ``q``, ``k``, ``v`` [B, H, T, D/H] with dropout ``rate`` on its weights.

    ``scale`` is what logits are multiplied with, ``(D/H) ** -0.5`` if None: a padded head has that of its true width.

    Through ``scaled_dot_product_attention``, but written out where a CPU drops weights: torch's own then takes nearly
    twice the time of its flash kernel, which knows no dropout on a CPU.
    """
    if rate == 0 or q.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True, scale=scale)
    length = q.shape[2]
    scale = q.shape[3] ** -0.5 if scale is None else scale
    future = torch.full((length, length), -math.inf, dtype=q.dtype).triu(1)  # [T, T]
    queries, keys, values = (part.flatten(0, 1) for part in (q * scale, k, v))  # [B * H, T, D/H]
    weights = torch.baddbmm(future, queries, keys.transpose(1, 2)).softmax(-1, dtype=torch.float32)
    return (dropout(weights, rate, True).to(v.dtype) @ values).view(q.shape)


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention (:func:`causal_attention`).

    No padding mask is needed: sequences are padded on the right, so that a real position never sees padding.
    With ``pad_heads`` the projections make heads whose width is a multiple of 8, which a GPU's flash attention asks
    for: zeros are appended to their weights at each call, not to the activations, and the parameters stay as they are.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, pad_heads: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.scale = (d_model // n_heads) ** -0.5
        self.missing = -(d_model // n_heads) % 8 if pad_heads else 0  # columns that a head is padded with
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Map ``x`` [B, T, D] to [B, T, D]; with ``last`` [B] (positions), only those queries: [B, 1, D]."""
        batch, length, width = x.shape
        if last is None:
            qkv = self._padded_qkv(x) if self.missing else self.qkv(x)
            q, k, v = qkv.view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, H, T, D/H]
            y = causal_attention(q, k, v, self.dropout if self.training else 0.0, self.scale)  # [B, H, T, D/H]
            y = y.transpose(1, 2).reshape(batch, length, -1)
            return self._padded_out(y) if self.missing else self.out(y)
        weight_q, weight_kv = self.qkv.weight.split([width, 2 * width])
        bias_q, bias_kv = self.qkv.bias.split([width, 2 * width])
        rows = torch.arange(batch, device=x.device)
        q = F.linear(x[rows, last], weight_q, bias_q).view(batch, 1, self.n_heads, -1).transpose(1, 2)  # [B, H, 1, D/H]
        k, v = F.linear(x, weight_kv, bias_kv).view(batch, length, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        seen = torch.arange(length, device=x.device) <= last[:, None]  # [B, T]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])  # [B, H, 1, D/H]
        return self.out(y.transpose(1, 2).reshape(batch, 1, width))

    def _padded_qkv(self, x: Tensor) -> Tensor:
        """``self.qkv(x)``, with zeros at the end of each head, [B, T, 3 * H * (D/H + missing)]."""
        weight = self.qkv.weight.unflatten(0, (3 * self.n_heads, -1))  # [3 * H, D/H, D]
        bias = self.qkv.bias.unflatten(0, (3 * self.n_heads, -1))
        padded = F.pad(weight, (0, 0, 0, self.missing)).flatten(0, 1), F.pad(bias, (0, self.missing)).flatten()
        return F.linear(x, *padded)

    def _padded_out(self, y: Tensor) -> Tensor:
        """``self.out`` of heads with zeros at their end, [B, T, D]."""
        weight = self.out.weight.unflatten(1, (self.n_heads, -1))  # [D, H, D/H]
        return F.linear(y, F.pad(weight, (0, self.missing)).flatten(1), self.out.bias)


class FeedForward(nn.Module):
    """Two linear maps with an activation between: D -> ``inner_size`` -> D."""

    def __init__(self, d_model: int, inner_size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, inner_size)
        self.down = nn.Linear(inner_size, d_model)
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        return self.down(dropout(self.activation(self.up(x)), self.dropout, self.training))


class DecoderBlock(nn.Module):
    """Pre-LN block: ``x + drop(attn(ln(x)))``, then ``x + drop(ffn(ln(x)))``.

    ``dropout`` is the rate of both residual branches, ``attn_dropout`` of the attention weights,
    ``inner_dropout`` of the feed-forward activations (0 in SASRec and GPT-2).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        inner_size: int,
        activation: str = "gelu",
        eps: float = 1e-12,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
        inner_dropout: float = 0.0,
        pad_heads: bool = False,
    ) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(d_model, eps=eps)
        self.attn = CausalSelfAttention(d_model, n_heads, attn_dropout, pad_heads)
        self.ln_ffn = nn.LayerNorm(d_model, eps=eps)
        self.ffn = FeedForward(d_model, inner_size, activation, inner_dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Map ``x`` [B, T, D] to [B, T, D]; with ``last`` [B], only those positions: [B, 1, D]."""
        attended = dropout(self.attn(self.ln_attn(x), last), self.dropout, self.training)
        if last is not None:
            x = x[torch.arange(x.shape[0], device=x.device), last].unsqueeze(1)  # [B, 1, D]
        x = x + attended
        return x + dropout(self.ffn(self.ln_ffn(x)), self.dropout, self.training)


def layer_rates(n_layers: int, bottom: float, top: float) -> list[float]:
    """Dropout rate of each layer, falling linearly from ``bottom`` (first) to ``top`` (last).

    Source: layer-wise adaptive dropout, arXiv 2311.11351 (section on stability); the paper gives no rates.
    """
    if n_layers == 1:
        return [bottom]
    return [bottom + (top - bottom) * layer / (n_layers - 1) for layer in range(n_layers)]


def init_weights(root: nn.Module, blocks: Sequence[nn.Module], std: float) -> None:
    """Initialise every weight of the model, in this one place.

    ================================  ==========================================
    embeddings, linear weights        normal(0, ``std``); padding row 0 is zero
    ``attn.out``, ``ffn.down``        normal(0, ``std / sqrt(2 * layers)``) [GPT-2: residual branches]
    biases                            0
    LayerNorm                         weight 1, bias 0
    ================================  ==========================================
    """
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for block in blocks:
        if isinstance(block, DecoderBlock):
            for projection in (block.attn.out, block.ffn.down):
                nn.init.normal_(projection.weight, 0.0, std / math.sqrt(2 * len(blocks)))
