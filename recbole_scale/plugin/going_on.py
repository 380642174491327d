"""RecBole's own trainers go on from their best checkpoint with the numbers of a run that was never stopped.

RecBole restores weights and optimizer; the order of the data and every random draw would begin anew.
"""

from __future__ import annotations

import inspect
from typing import Any

from recbole.utils import ModelType

from recbole_scale.data.id_tables import id_tables
from recbole_scale.interfaces import Loader, Trainer
from recbole_scale.plugin.demands import failures_told
from recbole_scale.training.checkpoint import load_checkpoint, random_state, set_random_state

STATE = "going_on"
MEASURED = ("seconds_train", "targets_seen", "evaluations", "best_epoch")


def state_of(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint holds besides RecBole's own: random draws, the loader's place, and what was measured so far."""
    loader = getattr(trainer, "train_loader", None)
    if loader is None:  # a trainer with a loop of its own
        return {}
    generator = getattr(loader, "generator", None)
    sequential = trainer.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    best = getattr(trainer, "latest_valid_result", None) or trainer.best_valid_result
    return {
        STATE: {
            "random": random_state(),
            "generator": None if generator is None else generator.get_state(),
            "best_valid_result": None if best is None else {name: float(value) for name, value in best.items()},
            "measured": {name: getattr(trainer, name) for name in MEASURED if hasattr(trainer, name)},
        },
        "data": getattr(trainer, "data_id", None),
        **({"ids": id_tables(loader._dataset, users=True)} if sequential else {}),
    }


def can_go_on(state: dict[str, Any]) -> bool:
    """Whether a checkpoint holds all that going on with the same numbers needs."""
    return STATE in state


def install(trainer_class: Any) -> None:
    """Have RecBole's ``fit`` and ``resume_checkpoint`` keep and take back :func:`state_of`."""
    fit, resume = trainer_class.fit, trainer_class.resume_checkpoint

    def fit_on(self: Any, train_data: Loader, *arguments: Any, **named: Any) -> Any:
        self.train_loader = train_data
        before = self.__dict__.pop("to_go_on_from", None)
        if before is not None:
            set_random_state(before["random"])
            if before["generator"] is not None:
                train_data.generator.set_state(before["generator"].cpu())
        with failures_told(self.config):
            return fit(self, train_data, *arguments, **named)

    def resume_on(self: Any, resume_file: Any) -> None:
        resume(self, resume_file)
        before = load_checkpoint(resume_file).get(STATE)
        if before is not None:
            self.to_go_on_from, self.best_valid_result = before, before["best_valid_result"]
            self.measured_before = before["measured"]

    fit_on.__signature__ = inspect.signature(fit)  # type: ignore[attr-defined]  # a search asks it for callback_fn
    trainer_class.fit, trainer_class.resume_checkpoint = fit_on, resume_on
