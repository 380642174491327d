"""User trajectory: predict the next 1 to W steps, feeding back the prediction or the truth.

Source: arXiv 2311.11351, challenge "user trajectory prediction". The last W interactions of each long enough user are
held out in a data set of their own (:mod:`recbole_scale.challenges.windows`); any model trained on it may be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.estimates import CUTOFFS
from recbole_scale.challenges.scoring import Ranker, batches, rank_targets

FEEDS = ("greedy", "sampled", "truth")


class Stepper(Protocol):
    """Histories that grow by one item a step."""

    def scores(self) -> Tensor:
        """Scores of all items after the histories as they are, [B, V + 1]."""
        ...

    def feed(self, item: np.ndarray) -> None:
        """Append one item to each history, [B]."""
        ...

    def fork(self) -> Stepper:
        """A copy that grows by itself."""
        ...


class Reencoder:
    """Any model: the last ``max_length`` items are encoded again at each step.

    That is also what a model of learned positions must do once a history is full: every item then moves.
    """

    def __init__(self, ranker: Ranker, user: np.ndarray, items: np.ndarray, length: np.ndarray) -> None:
        self.ranker, self.user = ranker, user
        self.items, self.length = items.copy(), length.copy()  # [B, T'], [B]

    def scores(self) -> Tensor:
        """Scores after the histories as they are, [B, V + 1]."""
        return self.ranker.scores(self.user, self.items, self.length)

    def feed(self, item: np.ndarray) -> None:
        """Append one item to each history; a full one loses its oldest."""
        full = self.length == self.ranker.max_length
        if not full.all() and self.length.max() == self.items.shape[1]:  # all that are not full must find a column
            width = min(self.items.shape[1] + 1, self.ranker.max_length)
            self.items = np.pad(self.items, ((0, 0), (0, width - self.items.shape[1])))
        self.items[full] = np.roll(self.items[full], -1, axis=1)
        self.length = np.minimum(self.length + 1, self.ranker.max_length)
        self.items[np.arange(len(item)), self.length - 1] = item

    def fork(self) -> Reencoder:
        """A copy that grows by itself."""
        return Reencoder(self.ranker, self.user, self.items, self.length)


@dataclass(frozen=True)
class Rollout:
    """How a model walked along each window.

    Attributes:
        feed: what was fed back.
        rank: rank of the true item at each step, int64 [n, W].
        nll: of the true item at each step, float64 [n, W].
        fed: items fed back (after the last step: what would be), int64 [n, W].
        first: the best items before the first step, W or the largest cutoff, whichever is more, int64 [n, K].
    """

    feed: str
    rank: np.ndarray
    nll: np.ndarray
    fed: np.ndarray
    first: np.ndarray


@torch.inference_mode()
def roll_out(
    ranker: Ranker,
    cases: Cases,
    feeds: tuple[str, ...] = ("greedy", "truth"),
    seed: int = 0,
    mask_history: bool = False,
    progress: Callable[[int], Any] = lambda done: None,
) -> list[Rollout]:
    """Walk along the windows in batches; the first step's scores are shared by all feeds.

    Args:
        ranker: the model; its ``stepper(user, items, length, steps)``, where it has one, may keep what it encoded.
        cases: with targets [n, W].
        feeds: "greedy" (the best item), "sampled" (from the softmax, with ``seed``), "truth".
        seed: of the sampled feed.
        mask_history: whether items of the history and items fed back leave the ranking (the target never does).
        progress: told how many cases are done.
    """
    n, steps = cases.target.shape
    best = max(steps, *CUTOFFS)
    columns = ((steps, np.int64), (steps, np.float64), (steps, np.int64), (best, np.int64))
    found = [Rollout(feed, *(np.zeros((n, width), kind) for width, kind in columns)) for feed in feeds]
    make = getattr(ranker, "stepper", lambda user, items, length, steps: Reencoder(ranker, user, items, length))
    generator = torch.Generator(device=ranker.device).manual_seed(seed)
    for index, width in batches(ranker, cases.lengths):
        items, length = cases.padded(index, width)
        seen = _seen(cases, index, ranker.n_items) if mask_history else None
        start = make(cases.user[index], items, length, steps)
        scores = start.scores()
        for rollout in found:
            _walk(rollout, index, cases.target[index], start.fork(), scores.clone(), seen, generator)
        progress(len(index))
    return found


def _walk(
    rollout: Rollout,
    index: np.ndarray,
    target: np.ndarray,
    stepper: Stepper,
    scores: Tensor,
    seen: Tensor | None,
    generator: torch.Generator,
) -> None:
    """One batch along its windows [B, W], from the scores of the first step on."""
    seen = None if seen is None else seen.clone()
    steps = target.shape[1]
    for step in range(steps):
        if step:
            scores = stepper.scores()
        truth = torch.from_numpy(np.ascontiguousarray(target[:, step])).to(scores.device)
        pairs = None if seen is None else tuple(part.cpu().numpy() for part in seen.nonzero(as_tuple=True))
        allowed = scores.clone() if seen is not None else scores
        if seen is not None:  # the model's own choice knows nothing of the target, which rank_targets spares
            allowed[seen] = -torch.inf
        rank, nll = rank_targets(scores, truth, pairs)  # type: ignore[arg-type]
        allowed[:, 0] = -torch.inf
        if step == 0:
            rollout.first[index] = _best(allowed, rollout.first.shape[1])
        rollout.rank[index, step], rollout.nll[index, step] = rank.cpu().numpy(), nll.cpu().numpy()
        item = target[:, step] if rollout.feed == "truth" else _choose(allowed, rollout.feed, generator)
        rollout.fed[index, step] = item
        if step + 1 < steps:
            stepper.feed(item)
        if seen is not None:
            seen[torch.arange(len(item)), torch.from_numpy(item)] = True


def _seen(cases: Cases, index: np.ndarray, n_items: int) -> Tensor:
    """Whether an item is in the whole history, bool [B, V + 1]."""
    part = cases.take(index)
    seen = torch.zeros(len(index), n_items + 1, dtype=torch.bool)
    seen[torch.from_numpy(part.owner), torch.from_numpy(part.items.astype(np.int64))] = True
    return seen


def _best(scores: Tensor, count: int) -> np.ndarray:
    """The best items, int64 [B, count]; 0 where there are fewer."""
    best = torch.topk(scores, min(count, scores.shape[1] - 1), dim=1)[1].cpu().numpy()
    return np.pad(best, ((0, 0), (0, count - best.shape[1])))


def _choose(scores: Tensor, feed: str, generator: torch.Generator) -> np.ndarray:
    """One item of each row of scores, int64 [B]."""
    if feed == "greedy":
        return scores.argmax(dim=1).cpu().numpy()
    return torch.multinomial(scores.softmax(dim=1), 1, generator=generator)[:, 0].cpu().numpy()


def window_metrics(items: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """A list against a window as a set, each metric float64 [n]; repeats count once, in the list and in the window.

    hr@k (any hit), ndcg@k (as RecBole's for several targets) for every cutoff the list is long enough for, and
    recall@window: the share of the window's distinct items among the first W of the list.

    Args:
        items: predictions, best or first one first, [n, K].
        target: the windows, [n, W].
    """
    hit = (items[:, :, None] == target[:, None, :]).any(axis=2) & _first_of_each(items)  # [n, K]
    distinct = _first_of_each(target).sum(axis=1)
    weight = 1.0 / np.log2(np.arange(2, items.shape[1] + 2))
    found = {}
    for k in (k for k in CUTOFFS if k <= items.shape[1]):
        found[f"hr@{k}"] = hit[:, :k].any(axis=1).astype(np.float64)
        found[f"ndcg@{k}"] = hit[:, :k] @ weight[:k] / np.cumsum(weight)[np.minimum(distinct, k) - 1]
    return found | {"recall@window": hit[:, : target.shape[1]].sum(axis=1) / distinct}


def _first_of_each(items: np.ndarray) -> np.ndarray:
    """Whether an item is the first of its kind in its row, bool [n, K]."""
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    new = np.ones(items.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    found = np.empty_like(new)
    np.put_along_axis(found, order, new, axis=1)
    return found
