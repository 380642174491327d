"""What an evaluation means for the run: which best models it is, and whether patience is over. No torch."""

from __future__ import annotations

from logging import getLogger

from recbole_scale.training.best import Best, Bests
from recbole_scale.training.budget import TimeBudget
from recbole_scale.training.optimization import Optimization
from recbole_scale.training.progress import Progress


class Stopping:
    """Judges evaluations; its state is that of the parts it is given."""

    def __init__(self, bests: Bests, optimization: Optimization, progress: Progress, budget: TimeBudget) -> None:
        self.bests, self.optimization, self.progress, self.budget = bests, optimization, progress, budget

    def judge(self, epoch: int, result: dict[str, float], steps_per_epoch: int) -> list[Best]:
        """Take in the metrics of ``epoch``; returns the bests that it is.

        Where nothing was gained for long enough, the phase ends, or the decay of a wsd schedule begins.
        """
        step, chosen = self.progress.global_step, self.bests.chosen
        meaning = self.optimization.out_of_patience(step, steps_per_epoch, self.budget)
        improved = [best for best in self.bests.all if best.see(epoch, result, counts=meaning != "wait")]
        self.optimization.note_best(chosen)
        if chosen.waited < self.optimization.patience:
            return improved
        if meaning == "stop":
            self.progress.stopped = True
            return improved
        length = self.optimization.start_decay(step, steps_per_epoch, epoch + 1)
        getLogger().info(
            f"no better {chosen.metric} for {chosen.waited} evaluations since epoch {chosen.epoch}: the learning rate "
            f"falls from here on, over {length} epoch{'s' * (length != 1)}"
        )
        chosen.waited = 0
        return improved
