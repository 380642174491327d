"""The learning rate over the steps of a phase, and what running out of patience does to it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recbole_scale.training.part import load_fields

WARMUP = 200  # steps that the rate rises in a long run; all of a short one would be too many


class Schedule:
    """Share of the peak rate at each step: a linear warm-up, then one of

    ========  ============================================================================================
    constant  1
    cosine    half a cosine from 1 to ``min_ratio`` at the last step
    wsd       1, and over the last ``decay_share`` of the steps ``1 - sqrt`` down to ``min_ratio``
    ========  ============================================================================================

    Source of wsd (warm-up, stable, decay) and of the shape of its decay: arXiv 2405.18392. All of a run but the decay
    is the same for every length, so that runs of several lengths share it.

    Args:
        kind: one of the three.
        warmup: steps of the warm-up; None: :data:`WARMUP`, and at most a tenth of all.
        min_ratio: last rate over the peak.
        decay_share: share of the steps that decay, 0..1 (both excluded); for wsd.
    """

    def __init__(self, kind: str, warmup: int | None = 0, min_ratio: float = 0.1, decay_share: float = 0.2) -> None:
        self.kind, self.warmup, self.min_ratio, self.decay_share = kind, warmup, min_ratio, decay_share
        self.cut: list[int] = []  # first and last step (excluded) of a decay that a stop has started, for wsd

    def factor(self, step: int, total: int) -> float:
        """Share of the peak rate at ``step`` (0-based) of ``total``."""
        warmup = self.warmup_of(total)
        if step < warmup:
            return (step + 1) / warmup
        if self.kind == "constant":
            return 1.0
        if self.kind == "cosine":
            done = min(1.0, (step - warmup) / max(1, total - warmup))
            return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * done))
        first, end = self.decay(total)
        done = min(1.0, max(0, step - first) / max(1, end - first))
        return self.min_ratio + (1 - self.min_ratio) * (1 - math.sqrt(done))

    def warmup_of(self, total: int) -> int:
        """Steps of the warm-up in a run of ``total``."""
        return min(WARMUP, total // 10) if self.warmup is None else self.warmup

    def decay(self, total: int) -> tuple[int, int]:
        """First step of wsd's decay, and the step it ends before."""
        return (self.cut[0], self.cut[1]) if self.cut else (decay_start(total, self.decay_share), total)

    def out_of_patience(self, step: int, total: int) -> str:
        """What it means at ``step`` of ``total`` that nothing is gained any more.

        Returns:
            ``stop``; ``decay`` where wsd's stable part ends for it; ``wait`` where evaluations without a gain do not
            count: a cosine has not fallen half way yet, or wsd decays already. A rate that is still high hides what its
            fall will gain.
        """
        if self.kind == "constant":
            return "stop"
        if self.kind == "cosine":
            return "stop" if step >= (self.warmup_of(total) + total) / 2 else "wait"
        return "decay" if step < self.decay(total)[0] else "wait"

    def start_decay(self, step: int, steps_per_epoch: int, epochs_done: int, epochs: int) -> int:
        """Begin wsd's decay at ``step``, after ``epochs_done`` of ``epochs``; returns the epoch it ends before.

        It takes ``decay_share`` of the shortened run, in whole epochs.
        """
        share = self.decay_share
        length = min(max(1, math.ceil(epochs_done * share / (1 - share))), max(1, epochs - epochs_done))
        self.cut = [step, step + length * steps_per_epoch]
        return epochs_done + length

    def state_dict(self) -> dict[str, Any]:
        """What no setting says: where a stop has started the decay."""
        return {"cut": self.cut}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        load_fields(self, state, ["cut"])


def decay_start(total: int, decay_share: float) -> int:
    """First step of wsd's decay in a run of ``total`` steps that nothing cuts short."""
    return total - max(1, round(total * decay_share))
