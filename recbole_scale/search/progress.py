"""What the terminal shows while a search runs: a line when a trial ends, a bar with the best score so far."""

from __future__ import annotations

from typing import Any

from recbole_scale.bars import bar, say
from recbole_scale.search.folder import Trial
from recbole_scale.search.outcome import Outcome, outcomes
from recbole_scale.search.plan import SearchPlan, as_text
from recbole_scale.text import counted, metric_name


class Progress:
    """The bar of a search; ``total`` is the number of its trials."""

    def __init__(self, plan: SearchPlan, total: int) -> None:
        self.plan = plan
        begun = outcomes(plan)
        self.ended = {one.number for one in begun if one.status != "unfinished"}
        self.best = next(((one.score, one.number) for one in begun if one.score is not None), None)
        self.epochs: dict[int, int] = {}
        self.bar = bar(total=total, initial=len(self.ended), desc="trials", unit="trial")

    def evaluation(self, number: int, evaluation: dict[str, Any]) -> None:
        """A trial has evaluated."""
        self.epochs[number] = evaluation["epoch"]
        if self.plan.better(evaluation["best"], self.best[0] if self.best else None):
            self.best = (evaluation["best"], number)
        running = " ".join(f"{n}:{epoch}" for n, epoch in sorted(self.epochs.items()))
        best = f"{metric_name(self.plan.metric)} {self.best[0]:.4f} (trial {self.best[1]})" if self.best else ""
        self.bar.set_postfix_str(f"{best}  trial:epoch {running}")

    def end(self, trial: Trial) -> None:
        """A trial has ended."""
        one = Outcome.of(trial)
        self.epochs.pop(one.number, None)
        if one.number not in self.ended:
            self.ended.add(one.number)
            self.bar.update()
        score = "no score" if one.score is None else f"best {metric_name(self.plan.metric)} {one.score:.4f}"
        error = f"  {one.result['error']}" if one.result.get("error") else ""
        self.note(
            f"trial {one.number:>3} {one.status} after {counted(one.epochs, 'epoch')}  {score}  "
            f"{as_text(one.values)}{error}"
        )

    def note(self, text: str) -> None:
        """A line above the bar."""
        say(text)

    def close(self) -> None:
        """Take the bar away: each trial has its line."""
        self.bar.close()
