"""ScaledSASRec one item at a time: keys and values of what was encoded are kept. Plain torch.

Exact while no history is longer than the model reads: positions are learned and absolute, so that a window that slides
would give every item another position.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_scale.model.layers import CausalSelfAttention, DecoderBlock

if TYPE_CHECKING:
    from recbole_scale.model.scaled_sasrec import ScaledSASRec


class CachedSteps:
    """Histories [B, T'] padded on the right, encoded once; each item fed adds one position."""

    def __init__(self, model: ScaledSASRec, items: Tensor, length: Tensor, steps: int) -> None:
        """Encode histories, with room for ``steps - 1`` items more: T' + steps - 1 is at most the model's length."""
        self.model, self.length = model, length
        self.blocks = [block for block in model.blocks if isinstance(block, DecoderBlock)]
        batch = len(items)
        self.rows = torch.arange(batch, device=items.device)
        self.cache: list[tuple[Tensor, Tensor]] = []  # keys and values of each block, [B, H, T, D/H]
        with model.autocast():
            x = model.embed(items)  # [B, T', D]
            for block in self.blocks:
                k, v = _keys_values(block.attn, block.ln_attn(x))
                self.cache.append((F.pad(k, (0, 0, 0, steps - 1)), F.pad(v, (0, 0, 0, steps - 1))))
                x = block(x)
        self.hidden = x[self.rows, length - 1]  # [B, D], before the final norm

    def scores(self) -> Tensor:
        """Scores of all items after the histories as they are, [B, V + 1]."""
        with self.model.autocast():
            hidden = self.model.final_norm(self.hidden)
        scores: Tensor = hidden.float() @ self.model.item_embedding.weight.float().T
        return scores

    def feed(self, item: np.ndarray) -> None:
        """Append one item to each history and encode that position alone."""
        items = torch.from_numpy(item).to(self.length.device)
        place = self.length  # [B], position of the new item
        seen = torch.arange(self.cache[0][0].shape[2], device=place.device) <= place[:, None]  # [B, T]
        with self.model.autocast():
            x = self.model.item_embedding(items) + self.model.position_embedding.weight[place]  # [B, D]
            for block, (keys, values) in zip(self.blocks, self.cache, strict=True):
                normed = block.ln_attn(x)[:, None]  # [B, 1, D]
                k, v = _keys_values(block.attn, normed)
                keys[self.rows, :, place], values[self.rows, :, place] = k[:, :, 0], v[:, :, 0]
                x = x + _attend(block.attn, normed, keys, values, seen[:, None, None])
                x = x + block.ffn(block.ln_ffn(x))
        self.length, self.hidden = place + 1, x

    def fork(self) -> CachedSteps:
        """A copy that grows by itself."""
        other = copy.copy(self)
        other.cache = [(keys.clone(), values.clone()) for keys, values in self.cache]
        return other


def _keys_values(attn: CausalSelfAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of normed inputs [B, T, D], each [B, H, T, D/H]."""
    batch, length, width = x.shape
    both = F.linear(x, attn.qkv.weight[width:], attn.qkv.bias[width:])
    k, v = both.view(batch, length, 2, attn.n_heads, -1).permute(2, 0, 3, 1, 4)
    return k, v


def _attend(attn: CausalSelfAttention, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention output of one query a row, [B, D]."""
    batch, _, width = x.shape
    q = F.linear(x, attn.qkv.weight[:width], attn.qkv.bias[:width]).view(batch, 1, attn.n_heads, -1).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)  # [B, H, 1, D/H]
    out: Tensor = attn.out(y.transpose(1, 2).reshape(batch, width))
    return out
