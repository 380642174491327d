"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_scale.training.part import load_fields


@dataclass
class Progress:
    """Counts of a run, and where its next step lies.

    Attributes:
        epoch: epoch of the next step, from 0.
        step: batch of that epoch that comes next, from 0.
        global_step: optimizer steps so far, over all epochs.
        targets_seen: training targets so far, repeats counted.
        epoch_loss: summed loss of this epoch's targets so far, nats.
        epoch_targets: targets in that sum.
        stopped: whether patience has ended the present phase.
        seconds: time of training and evaluation up to here, s, over all processes of the run.
        trunk_step: step at which this run went on from another one's trunk, 0: it was trained alone.
        evaluations: one entry an epoch, as in the run's row.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    targets_seen: int = 0
    epoch_loss: float = 0.0
    epoch_targets: int = 0
    stopped: bool = False
    seconds: float = 0.0
    trunk_step: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Mean training loss of this epoch so far, nats per target."""
        return self.epoch_loss / self.epoch_targets if self.epoch_targets else float("nan")

    def add(self, loss: float, n_targets: int) -> None:
        """Take in a good step's mean loss over its targets."""
        self.epoch_loss += loss * n_targets
        self.epoch_targets += n_targets

    def end_epoch(self) -> None:
        """Turn to the next epoch."""
        self.epoch, self.step, self.epoch_loss, self.epoch_targets = self.epoch + 1, 0, 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """All counts."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        load_fields(self, {"seconds": 0.0, **state}, list(vars(self)))  # which came later
        if min(self.epoch, self.step) < 0:
            raise ValueError(f"'epoch' is {self.epoch}, 'step' {self.step}")
