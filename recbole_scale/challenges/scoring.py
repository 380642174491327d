"""Full ranking of cases by anything that scores all items: rank and NLL of each target, and the top of each list.

Plain numpy and torch; the model stands behind :class:`Ranker`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_scale.challenges.cases import Cases
from recbole_scale.errors import UserError
from recbole_scale.model.likelihood import are_probabilities, held_out_nll

SCORES_PER_BATCH = {"cpu": 1 << 19, "cuda": 1 << 25}  # what no longer fits a CPU's cache is slower there
TOP = 10  # items of each list that Coverage looks at


class Ranker(Protocol):
    """What is asked of a model.

    Attributes:
        n_items: V, items without padding.
        max_length: T, items of a history it reads.
        device: where its scores are.
        any_width: whether histories may be padded to less than ``max_length`` without changing a score.
    """

    n_items: int
    max_length: int
    device: torch.device
    any_width: bool

    def scores(self, user: np.ndarray, items: np.ndarray, length: np.ndarray) -> Tensor:
        """Scores of all items, float [B, V + 1], for histories [B, T'] padded with 0 on the right."""
        ...


@dataclass(frozen=True)
class Scored:
    """How a model ranked each case.

    Attributes:
        rank: 1 + number of items ranked above the target, int64 [n]; of equal scores the smaller id is first.
        nll: ``-log softmax(scores)`` of the target over all items, float64 [n], whatever is masked.
        top: the ``TOP`` best items, int32 [n, TOP], or None.
    """

    rank: np.ndarray
    nll: np.ndarray
    top: np.ndarray | None


def batches(ranker: Ranker, length: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of each batch and the width of its histories: rows of like length together, as many as memory allows."""
    read = np.minimum(length, ranker.max_length)
    order = np.argsort(read, kind="stable") if ranker.any_width else np.arange(len(read))
    room = SCORES_PER_BATCH.get(ranker.device.type, SCORES_PER_BATCH["cpu"])
    step = min(1024, max(64, room // (ranker.n_items + 1)))
    for start in range(0, len(order), step):
        index = order[start : start + step]
        yield index, int(read[index].max()) if ranker.any_width else ranker.max_length


@torch.inference_mode()
def score(ranker: Ranker, cases: Cases, top: bool = True, mask_history: bool = False) -> Scored:
    """Rank all items for each case of one target.

    Args:
        ranker: the model.
        cases: with targets [n, 1].
        top: whether the best items are kept.
        mask_history: whether the items of the case's history leave the ranking (the target never does).

    Raises:
        UserError: a score is not finite.
    """
    rank = np.empty(len(cases), dtype=np.int64)
    nll = np.empty(len(cases), dtype=np.float64)
    lists = np.empty((len(cases), min(TOP, ranker.n_items)), dtype=np.int32) if top else None
    probabilities: bool | None = None  # the first batch tells
    for index, width in batches(ranker, cases.lengths):
        items, length = cases.padded(index, width)
        scores = ranker.scores(cases.user[index], items, length)
        target = torch.from_numpy(cases.target[index, 0]).to(scores.device)
        hidden = _history_pairs(cases, index) if mask_history else None
        if probabilities is None:
            probabilities = are_probabilities(scores)
        found = rank_targets(scores, target, hidden, probabilities)
        rank[index], nll[index] = found[0].cpu().numpy(), found[1].cpu().numpy()
        if lists is not None:
            lists[index] = torch.topk(scores, lists.shape[1], dim=1)[1].cpu().numpy()
    return Scored(rank, nll, lists)


def _history_pairs(cases: Cases, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, item) of everything in the whole histories of some cases."""
    part = cases.take(index)
    return part.owner, part.items.astype(np.int64)


def rank_targets(
    scores: Tensor,
    target: Tensor,
    hidden: tuple[np.ndarray, np.ndarray] | None = None,
    probabilities: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rank (int64 [B]) and NLL (float32 [B]) of each row's target.

    ``scores`` [B, V + 1] is changed: padding and the (row, item) pairs ``hidden`` go to -inf, targets excepted.
    ``probabilities``: the NLL is -log of the scores themselves.

    Raises:
        UserError: a score is not finite.
    """
    nll = held_out_nll(scores, torch.arange(len(scores), device=scores.device), target, probabilities)
    scores[:, 0] = -torch.inf
    own = scores.gather(1, target[:, None])  # [B, 1]
    if not torch.isfinite(nll).all():
        raise UserError("the model gives scores that are not finite numbers; was its training stable?")
    if hidden is not None:
        row, item = (torch.from_numpy(part).to(scores.device) for part in hidden)
        scores[row, item] = -torch.inf
        scores.scatter_(1, target[:, None], own)
    above = _count(scores > own)
    tied = _count(scores >= own) > above + 1
    if tied.any():
        rows = tied.nonzero()[:, 0]
        smaller = torch.arange(scores.shape[1], device=scores.device) < target[rows, None]
        above[rows] += ((scores[rows] == own[rows]) & smaller).sum(1)
    return above + 1, nll


def _count(mask: Tensor) -> Tensor:
    """True values of each row, int64 [B]; on a CPU numpy counts ten times faster than torch's sum."""
    if mask.device.type != "cpu":
        return mask.sum(1)
    return torch.tensor([np.count_nonzero(row) for row in mask.numpy()], dtype=torch.int64)
