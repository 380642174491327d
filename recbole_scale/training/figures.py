"""What a run's row reads off its trainer."""

from __future__ import annotations

from typing import Any

from recbole_scale.training.best import Bests
from recbole_scale.training.budget import TimeBudget
from recbole_scale.training.optimization import Optimization
from recbole_scale.training.progress import Progress


class Figures:
    """Names under which a row finds the state of a trainer's parts."""

    progress: Progress
    budget: TimeBudget
    bests: Bests
    optimization: Optimization

    @property
    def global_step(self) -> int:
        """Optimizer steps so far."""
        return self.progress.global_step

    @property
    def targets_seen(self) -> int:
        """Training targets so far, repeats counted."""
        return self.progress.targets_seen

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One entry an epoch."""
        return self.progress.evaluations

    @property
    def seconds_train(self) -> float:
        """Seconds of training steps so far."""
        return self.budget.used

    @property
    def phases(self) -> list[dict[str, Any]]:
        """One entry an optimizer."""
        return self.optimization.phases

    @property
    def second_phase(self) -> bool:
        """Whether the optimizer has been switched to SGD."""
        return self.optimization.second_phase

    @property
    def best_epoch(self) -> int:
        """Epoch of the best model by the metric that chooses, -1 before the first evaluation."""
        return self.bests.chosen.epoch
