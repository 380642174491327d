"""The best models of a run: by NLL, which laws are fitted to, and by a ranking metric, which users see. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_scale.training.part import load_fields

NLL = "nll"
RANKING = ("NDCG", "MRR", "MAP", "Recall", "Hit", "Precision")  # in the order in which one is taken


def ranking_metric(metrics: Sequence[str], topk: Sequence[int]) -> str | None:
    """The ranking metric that chooses where none is named: NDCG@10, or the nearest to it that is measured, or None."""
    measured = {metric.lower() for metric in metrics}
    name = next((name for name in RANKING if name.lower() in measured), None)
    return name and f"{name}@{10 if 10 in topk else topk[0]}"


@dataclass
class Best:
    """The best evaluation so far by one metric; an equal one is no gain.

    Attributes:
        metric: name as in an evaluation's result.
        bigger: whether more is better.
        score: its value there, None before the first evaluation.
        epoch: that evaluation's epoch, -1 before the first.
        result: all metrics of that evaluation.
        waited: evaluations since then that counted and gained nothing.
    """

    metric: str
    bigger: bool
    score: float | None = None
    epoch: int = -1
    result: dict[str, float] | None = None
    waited: int = 0

    @property
    def kind(self) -> str:
        """``nll`` or ``ranking``."""
        return NLL if self.metric == NLL else "ranking"

    def see(self, epoch: int, result: dict[str, float], counts: bool = True) -> bool:
        """Take in an evaluation; returns whether it is the best. ``counts``: whether no gain counts as waiting."""
        score, best = result[self.metric], self.score
        if best is None or math.isnan(best) or (score > best if self.bigger else score < best):
            self.score, self.epoch, self.result, self.waited = score, epoch, result, 0
            return True
        self.waited = self.waited + 1 if counts else 0
        return False


class Bests:
    """The best by the metric that chooses the checkpoint and counts patience, and the best of the other kind."""

    def __init__(self, valid_metric: str, bigger: bool, metrics: Sequence[str], topk: Sequence[int]) -> None:
        """``valid_metric``: the one that chooses; ``metrics`` and ``topk``: what is measured, RecBole's settings."""
        self.chosen = Best(valid_metric.lower(), bigger)
        self.other: Best | None = None
        if self.chosen.kind == "ranking" and NLL in map(str.lower, metrics):
            self.other = Best(NLL, bigger=False)
        elif self.chosen.kind == NLL and (name := ranking_metric(metrics, topk)):
            self.other = Best(name.lower(), bigger=True)

    @property
    def all(self) -> list[Best]:
        """Both, the one that chooses first."""
        return [self.chosen] + ([self.other] if self.other else [])

    def state_dict(self) -> dict[str, Any]:
        """Both, by kind."""
        return {best.kind: dict(vars(best)) for best in self.all}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            KeyError: it kept its best models by other metrics.
        """
        for best in self.all:
            if state[best.kind]["metric"] != best.metric:
                raise KeyError(f"best {best.metric}")
            load_fields(best, state[best.kind], ["score", "epoch", "result", "waited"])
