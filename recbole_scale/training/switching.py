"""When the first optimizer hands over to SGD: the switching optimizer of arXiv 2311.11351."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ADAM = ("adam", "adamw", "sparse_adam")


@dataclass(frozen=True)
class Switch:
    """The rule of the switch.

    Attributes:
        on: whether there is a second phase at all.
        patience: evaluations without a better valid metric after which the first phase is over.
        at_epoch: epoch (from 0) at whose start the switch is forced, or None; patience does not count then.
        epochs: most epochs of the first phase.
        sgd_epochs: most epochs of the second phase, counted apart.
    """

    on: bool
    patience: int
    at_epoch: int | None
    epochs: int
    sgd_epochs: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Any) -> Switch:
        """Read the settings; ``switch_at_epoch`` switches ``optimizer_switch`` on."""
        at_epoch, patience = config["switch_at_epoch"], config["switch_patience"]
        if patience is None:  # where early stopping would end a run without the switch
            patience = max(1, config["stopping_step"])
        on = config["optimizer_switch"] or at_epoch is not None
        return cls(on, patience, at_epoch, config["epochs"], config["sgd_epochs"])

    def reason(
        self, epoch: int, exhausted: bool, waited: int, best_epoch: int, metric: str, end: int | None = None
    ) -> str | None:
        """Why the first phase ends before ``epoch``, or None while it goes on.

        Args:
            epoch: the epoch that would come next.
            exhausted: whether early stopping has ended the first phase.
            waited: evaluations without a better ``metric``.
            best_epoch: epoch of the best ``metric``.
            metric: name of the valid metric.
            end: epoch before which the first phase ends, if that is not ``epochs``.
        """
        if not self.on:
            return None
        if self.at_epoch is not None:
            return f"switch_at_epoch {self.at_epoch}" if epoch >= self.at_epoch else None
        if exhausted:
            return f"no better {metric} for {waited} evaluation{'s' * (waited != 1)} since epoch {best_epoch}"
        return "epochs of the first phase used up" if epoch >= (end or self.epochs) else None

    def first_phase_patience(self, stopping_step: int) -> float:
        """Evaluations without a gain that the first phase bears: ``stopping_step`` where there is no switch."""
        if not self.on:
            return stopping_step
        return float("inf") if self.at_epoch is not None else self.patience


def phase(learner: str, learning_rate: float, first_epoch: int, reason: str) -> dict[str, Any]:
    """An entry of the row's ``phases``; its best valid metric and epoch are filled in as it is evaluated."""
    return {
        "phase": "adam" if learner in ADAM else learner,
        "optimizer": learner,
        "learning_rate": learning_rate,
        "first_epoch": first_epoch,
        "reason": reason,
        "best_epoch": None,
    }
