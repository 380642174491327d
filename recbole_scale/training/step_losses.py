"""Losses of the steps that the host has not looked at yet; each look waits for the device."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from logging import getLogger

import torch
from torch import Tensor

from recbole_scale import signals
from recbole_scale.training import group
from recbole_scale.training.guard import Guard
from recbole_scale.training.optimizers import clipped_norm
from recbole_scale.training.progress import Progress

LOOK_EVERY_ON_GPU = 20  # steps between two looks


class StepLosses:
    """Hands the losses of steps to the guard and to the epoch's mean.

    Attributes:
        look_every: steps after which a look is due.
        stop_asked: the signal that asks the run to end, once all its processes know.
    """

    def __init__(self, guard: Guard, progress: Progress, device: torch.device) -> None:
        self.guard, self.progress = guard, progress
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY_ON_GPU
        self.stop_asked = 0
        self._unseen: list[tuple[Tensor, int]] = []

    def add(self, loss: Tensor, norm: Tensor, n_targets: int) -> Tensor:
        """Take in a step's loss and gradient norm, scalars; returns whether it is good in all processes, a scalar."""
        asked = loss.new_full((), float(signals.asked() or 0), dtype=torch.float64)
        # one sum over processes, so that all of them see, and decide, the same
        measured = group.total(torch.stack([loss.double(), norm.double(), asked])) / group.world_size()  # [3]
        self._unseen.append((measured, n_targets))
        return measured.isfinite().all()

    @property
    def due(self) -> bool:
        """Whether it is time for a look."""
        return len(self._unseen) >= self.look_every

    def look(self, epoch: int, step: int, n_steps: int, weights: Iterable[Tensor], ending: bool) -> str | None:
        """Take in the losses since the last look, up to ``step`` of ``epoch``; returns why the run must go back, if so.

        ``weights`` are looked at too where a checkpoint or an evaluation comes next (``ending``).
        """
        unseen, self._unseen = self._unseen, []
        first = step - len(unseen)
        values = torch.stack([measured for measured, _ in unseen]).tolist()  # waits for the device
        for number, ((loss, norm, asked), (_, n_targets)) in enumerate(zip(values, unseen, strict=True), first):
            if asked:
                self.stop_asked = signals.asked() or signal.SIGTERM  # this process's signal, or another one's
            remark = self.guard.see(loss, norm)
            if remark and group.rank() == 0:
                at = self.progress.global_step - step + number
                getLogger().warning(f"epoch {epoch}, batch {number} of {n_steps} (step {at}): {remark}")
            if self.guard.must_go_back():
                return f"the training loss was not finite {self.guard.in_a_row} steps in a row"
            if self.guard.in_a_row == 0:
                self.progress.add(loss, n_targets)
        if (ending or self.stop_asked) and not math.isfinite(clipped_norm(weights, None, of_gradients=False).item()):
            return "the weights were not finite"
        return None
