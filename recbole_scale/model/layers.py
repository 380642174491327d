"""Plain torch parts of the decoder: causal attention, feed-forward, pre-LN block, item softmax loss.

Shapes: B sequences, T positions, D = ``d_model``, H heads, V real items (padding id 0 left out).
Nothing here knows RecBole or a data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention through ``scaled_dot_product_attention``.

    No padding mask is needed: sequences are padded on the right, so that a real position never sees padding.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Map ``x`` [B, T, D] to [B, T, D]; with ``last`` [B] (positions), only those queries: [B, 1, D]."""
        batch, length, width = x.shape
        if last is None:
            q, k, v = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, H, T, D/H]
            y = F.scaled_dot_product_attention(
                q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
            )  # [B, H, T, D/H]
            return self.out(y.transpose(1, 2).reshape(batch, length, width))
        weight_q, weight_kv = self.qkv.weight.split([width, 2 * width])
        bias_q, bias_kv = self.qkv.bias.split([width, 2 * width])
        rows = torch.arange(batch, device=x.device)
        q = F.linear(x[rows, last], weight_q, bias_q).view(batch, 1, self.n_heads, -1).transpose(1, 2)  # [B, H, 1, D/H]
        k, v = F.linear(x, weight_kv, bias_kv).view(batch, length, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        seen = torch.arange(length, device=x.device) <= last[:, None]  # [B, T]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])  # [B, H, 1, D/H]
        return self.out(y.transpose(1, 2).reshape(batch, 1, width))


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
        return self.down(F.dropout(self.activation(self.up(x)), self.dropout, self.training))


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
    ) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(d_model, eps=eps)
        self.attn = CausalSelfAttention(d_model, n_heads, attn_dropout)
        self.ln_ffn = nn.LayerNorm(d_model, eps=eps)
        self.ffn = FeedForward(d_model, inner_size, activation, inner_dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Map ``x`` [B, T, D] to [B, T, D]; with ``last`` [B], only those positions: [B, 1, D]."""
        attended = F.dropout(self.attn(self.ln_attn(x), last), self.dropout, self.training)
        if last is not None:
            x = x[torch.arange(len(x), device=x.device), last].unsqueeze(1)  # [B, 1, D]
        x = x + attended
        return x + F.dropout(self.ffn(self.ln_ffn(x)), self.dropout, self.training)


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


def item_cross_entropy(hidden: Tensor, item_weight: Tensor, target: Tensor, chunk: int) -> Tensor:
    """Mean full-softmax cross-entropy in nats, never holding more than ``chunk`` x V logits.

    Args:
        hidden: outputs at the real target positions, [M, D].
        item_weight: item embedding with the padding row, [V + 1, D]; id 0 is no candidate.
        target: item ids in 1..V, [M].
        chunk: positions per chunk.
    """
    weight, index = item_weight[1:], target - 1
    if hasattr(nn, "LinearCrossEntropyOptions") and not (torch.compiler.is_compiling() or hidden.is_meta):
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=min(chunk, len(hidden)))
        return F.linear_cross_entropy(hidden, weight, index, options=options)
    return _checkpointed_cross_entropy(hidden, weight, index, chunk)


def _checkpointed_cross_entropy(hidden: Tensor, weight: Tensor, index: Tensor, chunk: int) -> Tensor:
    """The same loss for a torch without ``linear_cross_entropy``: each chunk's logits are made again in backward."""

    def chunk_loss(h: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, weight).to(at_least_float32), y, reduction="sum")

    at_least_float32 = torch.promote_types(hidden.dtype, torch.float32)
    total = hidden.new_zeros((), dtype=at_least_float32)
    for h, y in zip(hidden.split(chunk), index.split(chunk), strict=True):
        total = total + torch.utils.checkpoint.checkpoint(chunk_loss, h, y, use_reentrant=False)
    return total / len(hidden)
