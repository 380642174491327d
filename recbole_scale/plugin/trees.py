"""RecBole's LightGBM and XGBoost: their checkpoints hold the booster's own file as bytes, and nothing pickled."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from recbole_scale.interfaces import Loader
from recbole_scale.plugin.demands import check_demands
from recbole_scale.training.checkpoint import load_checkpoint, plain_config, save_checkpoint


def mend_tree_trainers() -> None:
    """Have RecBole's tree trainers write plain checkpoints, load them safely, and leave no other file behind."""
    from recbole.trainer.trainer import DecisionTreeTrainer, LightGBMTrainer, XGBoostTrainer

    DecisionTreeTrainer._save_checkpoint = _save
    DecisionTreeTrainer.fit = _without_leftovers(DecisionTreeTrainer.fit)
    for trainer in (LightGBMTrainer, XGBoostTrainer):
        trainer.evaluate = _with_our_checkpoint(trainer.evaluate)


def _save(self: Any, epoch: int) -> None:
    booster = torch.frombuffer(bytearray(Path(self.temp_best_file).read_bytes()), dtype=torch.uint8)
    state = {
        "config": plain_config(self.config),
        "epoch": epoch,
        "cur_step": self.cur_step,
        "best_valid_score": float(self.best_valid_score),
        "state_dict": {"booster": booster},
        "other_parameter": None,
    }
    save_checkpoint(state, self.saved_model_file)


def _without_leftovers(fit: Any) -> Any:
    def fit_and_clean(self: Any, train_data: Loader, *arguments: Any, **named: Any) -> Any:
        check_demands(self.config, train_data)
        if self.config["model"] == "XGBoost":  # the format goes by the name
            self.temp_file, self.temp_best_file = (f"{path}.ubj" for path in (self.temp_file, self.temp_best_file))
        try:
            return fit(self, train_data, *arguments, **named)
        finally:
            for path in (self.temp_file, self.temp_best_file):
                with suppress(OSError):
                    os.unlink(path)

    return fit_and_clean


def _with_our_checkpoint(evaluate: Any) -> Any:
    def load_and_evaluate(
        self: Any, eval_data: Loader, load_best_model: bool = True, model_file: str | None = None, **named: Any
    ) -> Any:
        if not eval_data:  # nothing is held out
            return None
        if load_best_model:
            state = load_checkpoint(model_file or self.saved_model_file)["state_dict"]
            self.model = booster_from(self.config["model"], state)
        return evaluate(self, eval_data, load_best_model=False, **named)

    return load_and_evaluate


def booster_from(model: str, state: dict[str, Any]) -> Any:
    """The booster in a checkpoint's ``state_dict``; ``model`` is LightGBM or XGBoost."""
    stored = state["booster"].numpy().tobytes()
    library = import_module(model.lower())
    if model == "LightGBM":
        return library.Booster(model_str=stored.decode())
    booster = library.Booster()
    booster.load_model(bytearray(stored))
    return booster
