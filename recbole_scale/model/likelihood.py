"""What a model's scores say about probability: the NLL of a held-out item, and what kind of number that is.

The kind depends on how the model was trained and on what it returns:

- ``likelihood``: trained by cross-entropy over all items, the NLL is -log softmax(scores): the trained likelihood.
- ``probabilities``: the scores of all items are probabilities already, the NLL is -log p.
- ``scores``: trained by anything else (BPR, a sigmoid a pair, squared error, counting) or not at all. The NLL is
  -log softmax(scores) too, but nothing made the scores logits: it is defined, and compares with nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

NLL_KINDS = ("likelihood", "probabilities", "scores")
SOFTMAX_LOSSES = ("CE", "NLL")  # values of loss_type; SINE's NLL is CE and a penalty
# trained by the softmax over all items without a setting that says so: windows, and the multinomial autoencoders
_SOFTMAX_TRAINED = ("ScaledSASRec", "MacridVAE", "MultiDAE", "MultiVAE", "RaCT", "RecVAE")
# stages in which a model with such a loss is trained by another one
_OTHER_STAGE = {"S3Rec": "pretrain", "RaCT": "finetune"}


def are_probabilities(scores: Tensor) -> bool:
    """Whether each row [B, V + 1], padding's column included, is a distribution: nothing below 0, and a sum of 1.

    Rows of zeros and a single one are taken for counts.
    """
    for rows in (scores[:1], scores):  # most models are told apart by their first row
        if not bool((rows >= 0).all()) or not bool(((rows.sum(1, dtype=torch.float64) - 1).abs() < 1e-3).all()):
            return False
    return bool(((scores > 0) & (scores < 1)).any())


def held_out_nll(scores: Tensor, row: Tensor, item: Tensor, probabilities: bool = False) -> Tensor:
    """Nats of each held-out interaction: ``-log softmax(scores)`` over the real items, or ``-log p``.

    Args:
        scores: scores of all items, column 0 is padding's and is no item, [B, V + 1].
        row: row of each interaction, [n].
        item: item of each interaction, [n].
        probabilities: the scores are probabilities (:func:`are_probabilities`).

    Returns:
        nats, float32 [n].
    """
    own = scores[row, item].float()
    if probabilities:
        return -own.clamp_min(torch.finfo(torch.float32).tiny).log()
    return torch.logsumexp(scores[:, 1:].float(), dim=1)[row] - own


def nll_kind(model: object, probabilities: bool) -> str:
    """Which of :data:`NLL_KINDS` a model's NLL is; ``probabilities``: what its scores are."""
    if probabilities:
        return "probabilities"
    names = [base.__name__ for base in type(model).__mro__]
    if any(name in names and getattr(model, "train_stage", None) == stage for name, stage in _OTHER_STAGE.items()):
        return "scores"
    softmax = getattr(model, "loss_type", None) in SOFTMAX_LOSSES or any(name in names for name in _SOFTMAX_TRAINED)
    return "likelihood" if softmax else "scores"
