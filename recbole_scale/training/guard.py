"""Watching the training loss: steps that are not finite, three of them in a row, and spikes. Plain Python; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.training.part import load_fields

IN_A_ROW = 3  # steps that are not finite before the run goes back to its last good checkpoint
MAX_ROLLBACKS = 5
WINDOW, FEWEST = 100, 20  # losses of the running median; fewest of them before a spike is called
COUNTS = ("skipped_steps", "spikes", "rollbacks", "rate_factor")


@dataclass
class Guard:
    """What happened to the loss so far. Every process sees the same losses, and so decides the same.

    Attributes:
        spike_factor: a loss above this many times the running median is a spike; None: no spikes are called.
        skipped_steps: steps that left weights and optimizer as they were, since loss or gradient was not finite.
        in_a_row: of these, the ones since the last good step.
        spikes: spikes called; a run of high losses is one spike.
        rollbacks: returns to the last good checkpoint.
        rate_factor: what the learning rate is multiplied with, halved at every return.
        recent: last finite losses, nats.
        high: whether the last loss was above the limit.
    """

    spike_factor: float | None
    skipped_steps: int = 0
    in_a_row: int = 0
    spikes: int = 0
    rollbacks: int = 0
    rate_factor: float = 1.0
    recent: list[float] = field(default_factory=list)
    high: bool = False

    def see(self, loss: float, norm: float) -> str | None:
        """Take in a step's loss (nats) and gradient norm; returns what to log of it, None for an ordinary step."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.skipped_steps += 1
            self.in_a_row += 1
            return f"loss {loss}, gradient norm {norm}: not finite, so this step is left out ({self.in_a_row} in a row)"
        self.in_a_row = 0
        middle = median(self.recent) if len(self.recent) >= FEWEST else math.inf
        was_high, self.high = self.high, self.spike_factor is not None and loss > self.spike_factor * middle
        self.recent = [*self.recent[-WINDOW + 1 :], loss]
        if not self.high or was_high:
            return None
        self.spikes += 1
        return f"loss {loss:.4f} is a spike: {loss / middle:.2f} x the median {middle:.4f} of the last steps"

    def must_go_back(self) -> bool:
        """Whether the last steps were bad enough to return to the last good checkpoint."""
        return self.in_a_row >= IN_A_ROW

    def state_dict(self) -> dict[str, Any]:
        """What happened so far."""
        return {k: v for k, v in vars(self).items() if k != "spike_factor"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        load_fields(self, state, [name for name in vars(self) if name != "spike_factor"])

    def check_return(self, trouble: str, file: str | None, rate: float) -> None:
        """Whether the run may go back to ``file``; ``rate`` is the learning rate as set.

        Raises:
            UserError: there is no checkpoint, or going back has not helped :data:`MAX_ROLLBACKS` times.
        """
        hint = f"; try a lower learning_rate (now {rate}) first"
        if file is None:
            raise UserError(f"{trouble}, and without checkpoints (saved=False) there is nothing to go back to{hint}")
        if self.rollbacks >= MAX_ROLLBACKS:
            raise UserError(f"{trouble}, after {self.rollbacks} returns to {file}, which is good{hint}")

    def went_back(self, before: Mapping[str, Any]) -> None:
        """After a checkpoint was restored: keep the counts of ``before``, which did happen, and halve the rate."""
        load_fields(self, before, list(COUNTS))
        self.rollbacks += 1
        self.rate_factor /= 2
        self.in_a_row = 0
