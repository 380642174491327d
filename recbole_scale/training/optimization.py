"""The phases of a run: the optimizer of each, its schedule, and the switch from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from recbole_scale.errors import UserError
from recbole_scale.interfaces import RunConfig
from recbole_scale.training.best import Best
from recbole_scale.training.budget import TimeBudget
from recbole_scale.training.optimizers import build_optimizer
from recbole_scale.training.part import load_fields
from recbole_scale.training.schedule import Schedule
from recbole_scale.training.switching import Switch, phase


class Optimization:
    """Optimizer and schedule of the present phase: the first, or SGD after the switch.

    ``optimizer`` is kept in a checkpoint beside this state, since its tensors may be cut over processes.
    """

    def __init__(self, config: RunConfig, model: nn.Module) -> None:
        self.config, self.model = config, model
        self.switch = Switch.from_config(config)
        self.epochs = int(config["epochs"])
        self.phases = [phase(str(config["learner"]).lower(), config["learning_rate"], 0, "start")]
        self.first_step = 0  # global step at which the present phase began
        self.ends: int | None = None  # epoch before which the phase ends, where that was decided on the way
        self._build()

    def _build(self) -> None:
        """Optimizer and schedule of the present phase."""
        config = self.config
        if self.second_phase:
            self.schedule = Schedule(config["sgd_lr_schedule"], 0, config["lr_min_ratio"], config["decay_share"])
            rate, decay = config["sgd_learning_rate"], config["sgd_weight_decay"] or 0.0
            self.optimizer = build_optimizer(self.model, "sgd", rate, decay, config["sgd_momentum"])
        else:
            warmup = config["warmup_steps"]
            self.schedule = Schedule(config["lr_schedule"], warmup, config["lr_min_ratio"], config["decay_share"])
            rate, decay = config["learning_rate"], config["weight_decay"]
            self.optimizer = build_optimizer(self.model, config["learner"], rate, decay)
        self.peak = float(rate)

    @property
    def second_phase(self) -> bool:
        """Whether the optimizer has been switched to SGD."""
        return len(self.phases) > 1

    @property
    def end(self) -> int:
        """First epoch that the present phase does not reach."""
        if self.ends is not None:
            return self.ends
        return self.phases[1]["first_epoch"] + self.switch.sgd_epochs if self.second_phase else self.epochs

    def _place(self, global_step: int, steps_per_epoch: int, budget: TimeBudget) -> tuple[int, int]:
        """Step of the present phase, and its steps when nothing cuts it short; a time budget is the first phase's."""
        step = global_step - self.first_step
        if self.second_phase:
            return step, self.switch.sgd_epochs * steps_per_epoch
        return step, budget.total_steps(step, self.epochs * steps_per_epoch)

    def set_rate(self, global_step: int, steps_per_epoch: int, budget: TimeBudget, factor: float) -> None:
        """Set the optimizer's rate for ``global_step``: peak rate, schedule, and the guard's ``factor``."""
        rate = self.peak * self.schedule.factor(*self._place(global_step, steps_per_epoch, budget)) * factor
        for part in self.optimizer.param_groups:
            part["lr"] = rate * part["lr_scale"]

    @property
    def patience(self) -> float:
        """Evaluations without a gain, of those that count, after which the present phase has had enough."""
        stopping_step = max(1, int(self.config["stopping_step"]))
        return stopping_step if self.second_phase else self.switch.first_phase_patience(stopping_step)

    def out_of_patience(self, global_step: int, steps_per_epoch: int, budget: TimeBudget) -> str:
        """:meth:`Schedule.out_of_patience` at ``global_step``."""
        return self.schedule.out_of_patience(*self._place(global_step, steps_per_epoch, budget))

    def start_decay(self, global_step: int, steps_per_epoch: int, epochs_done: int) -> int:
        """End the stable part of a wsd schedule; returns the epochs of its decay."""
        first = self.phases[-1]["first_epoch"]
        step, left = global_step - self.first_step, self.end - first
        self.ends = first + self.schedule.start_decay(step, steps_per_epoch, epochs_done - first, left)
        return self.ends - epochs_done

    def switch_over(self, epoch: int, global_step: int, reason: str) -> None:
        """Begin the second phase at ``epoch``; its optimizer is new."""
        self.phases = [*self.phases, phase("sgd", self.config["sgd_learning_rate"], epoch, reason)]
        self.first_step, self.ends = global_step, None
        self._build()

    def note_best(self, best: Best) -> None:
        """Write the best model so far into the present phase's entry of the row."""
        found = {f"best_valid_{name}": (best.result or {}).get(name) for name in (best.metric, "nll")}
        self.phases = [*self.phases[:-1], {**self.phases[-1], "best_epoch": best.epoch, **found}]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer's tensors."""
        kept = {"phases": self.phases, "first_step": self.first_step, "ends": self.ends}
        return {**kept, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the optimizer is built anew where the phase is another.

        Raises:
            UserError: it was trained with another learner.
        """
        before, now = state["phases"][0]["optimizer"], self.phases[0]["optimizer"]
        if before != now:
            raise UserError(f"learner is {now}, but the checkpoint was trained with {before}")
        other = len(state["phases"]) != len(self.phases)
        load_fields(self, state, ["phases", "first_step", "ends"])
        if not isinstance(self.ends, int | None):
            raise TypeError(f"'ends' is {self.ends!r}")
        if other:
            self._build()
        self.schedule.load_state_dict(state["schedule"])
