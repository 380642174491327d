"""Sampled softmax with logQ correction, for catalogues too large for the exact one (``loss_type: SCE``).

M counted targets, D = ``d_model``, V real items, k sampled items shared by the whole batch. Plain torch and numpy.

For a target t the sum over all other items, ``sum_j exp(s_j)``, is estimated by ``sum_i exp(s_i - log(k q_i))`` over k
draws i from a proposal q, leaving out draws of t itself; the target's own term is always there, exact. The estimate of
the sum has no bias, so that the loss approaches the exact one from below as k grows (bias of order 1 / k).
Sources: Bengio and Senecal, "Adaptive importance sampling" (2008), section on biased estimators; the logQ correction
as in Yi et al., RecSys 2019, DOI 10.1145/3298689.3346996, with the target's term kept exact.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def proposal(counts: np.ndarray, power: float) -> np.ndarray:
    """Probability of drawing each item: ``(count + 1) ** power``, normalised; power 0 is uniform.

    Args:
        counts: training interactions of each real item, [V]. The 1 added lets every item be drawn, without which the
            loss would be biased.
        power: 0 (uniform) to 1 (by popularity).

    Returns:
        float64 [V], summing to 1.
    """
    weight = (np.asarray(counts, dtype=np.float64) + 1) ** power
    return weight / weight.sum()


class SampledSoftmax(nn.Module):
    """Draws the shared items and gives the sampled loss. Costs O(k) a target, whatever V is.

    Attributes:
        n_samples: k.

    Args:
        probability: the proposal q, float64 [V].
        n_samples: k; at V or more every item is taken once, and the loss is the exact one.
    """

    cumulative: Tensor
    log_probability: Tensor

    def __init__(self, probability: np.ndarray, n_samples: int) -> None:
        super().__init__()
        self.n_samples = n_samples
        # not in the checkpoint: they follow from the data, and a model trained so can go on with the exact loss
        self.register_buffer("cumulative", torch.from_numpy(np.cumsum(probability)), persistent=False)
        log_probability = torch.from_numpy(np.log(probability)).float()
        self.register_buffer("log_probability", log_probability, persistent=False)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Items [k] as 0-based numbers, drawn with replacement, and ``log(k q)`` of each [k]; O(k log V)."""
        n_items = len(self.cumulative)
        if self.n_samples >= n_items:
            everything = torch.arange(n_items, device=self.cumulative.device)
            return everything, torch.zeros_like(self.log_probability)
        uniform = torch.rand(self.n_samples, dtype=torch.float64, device=self.cumulative.device)
        items = torch.searchsorted(self.cumulative, uniform * self.cumulative[-1], right=True).clamp_(max=n_items - 1)
        return items, self.log_probability[items] + math.log(self.n_samples)

    def forward(self, hidden: Tensor, item_weight: Tensor, target: Tensor, chunk: int, sparse: bool = False) -> Tensor:
        """Mean sampled cross-entropy in nats, float32; shapes as :func:`softmax.item_cross_entropy`.

        ``sparse``: the weights' gradient holds the rows of the batch alone.
        """
        items, correction = self.draw()
        # numbered with the padding row, since a slice of the weights would cost a copy of their gradient
        return sampled_cross_entropy(hidden, item_weight, target, items + 1, correction, chunk, sparse)


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    index: Tensor,
    items: Tensor,
    correction: Tensor,
    chunk: int,
    sparse: bool = False,
) -> Tensor:
    """Mean of ``log(exp(s_t) + sum_i [i != t] exp(s_i - correction_i)) - s_t`` over targets t.

    Args:
        hidden: outputs at the target positions, [M, D].
        weight: item weights, [V, D], of any type; products take that of ``hidden``.
        index: targets, row numbers of ``weight``, [M].
        items: drawn items, row numbers too, [k].
        correction: log of how often each is expected among the draws, [k].
        chunk: positions whose k logits exist at once.
        sparse: whether the gradient of ``weight`` is a sparse tensor of the k + M rows.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # one gather: the gradient of each is a dense [V, D], which at a million items is most of a step
    rows = F.embedding(torch.cat([items, index]), weight, sparse=sparse).to(hidden.dtype)
    candidates, targets = rows.split([len(items), len(index)])  # [k, D], [M, D]

    def chunk_loss(h: Tensor, y: Tensor, target: Tensor) -> Tensor:
        own = (h.to(wide) * target.to(wide)).sum(1)  # [c]
        if h.dtype == wide:
            others = F.linear(h, candidates, -correction.to(wide))  # [c, k]
        else:  # a correction in bfloat16 would be off by a percent
            others = F.linear(h, candidates).to(wide) - correction
        others = others.masked_fill_(items == y[:, None], -math.inf)  # a draw of the target itself is no other item
        return (torch.logaddexp(own, others.logsumexp(1)) - own).sum()

    total = torch.zeros((), dtype=wide, device=hidden.device)
    for part in zip(hidden.split(chunk), index.split(chunk), targets.split(chunk), strict=True):
        total = total + checkpoint(chunk_loss, *part, use_reentrant=False, preserve_rng_state=False)
    return total / len(hidden)
