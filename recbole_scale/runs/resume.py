"""Going on from a checkpoint: only where the numbers are those of a run that was never stopped, or where it is said."""

from __future__ import annotations

import re
from logging import getLogger
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.interfaces import RunConfig, Trainer
from recbole_scale.plugin.config import checkpoint_config
from recbole_scale.plugin.going_on import can_go_on
from recbole_scale.settings import run_id
from recbole_scale.settings.identity import ENVIRONMENT
from recbole_scale.training import group
from recbole_scale.training.checkpoint import last_checkpoint, load_settings
from recbole_scale.training.run_checkpoints import goes_on_from

# settings that say when training ends, or how, and leave what was trained as it is
ENDINGS = (
    "epochs", "stopping_step", "train_budget_seconds", "eval_batch_size", "optimizer_switch", "switch_at_epoch",
    "switch_patience", "sgd_epochs", "sgd_learning_rate",
)  # fmt: skip


def go_on(trainer: Trainer, config: RunConfig, fingerprint: str | None, resume: str | None) -> str | None:
    """Have ``trainer`` continue from ``resume``: a path, ``auto`` for the run's own last checkpoint, or None.

    ``auto`` begins anew where that checkpoint is damaged, which a line says; a path is taken as it is or refused.

    Returns:
        ``run_id`` of the checkpoint's run, where its settings were others than ``config``.

    Raises:
        UserError: the checkpoint is of other data, of settings with other numbers, or of more epochs than are wanted.
    """
    path = resume
    if resume == "auto":
        if not hasattr(trainer, "last_file"):
            raise UserError(f"--resume auto is for ScaledSASRec; {config['model']} resumes from a path")
        path = _own(trainer)
        if path is None:
            getLogger().info(f"nothing to resume: there is no whole {trainer.last_file}; starting afresh")
    if path is None:
        return None
    state = load_settings(path)
    if state.get("data") and fingerprint and state["data"] != fingerprint:
        told = f"{path} was trained on other data than '{config['dataset']}' holds now"
        if resume == "auto":
            getLogger().info(f"{told}; starting afresh")
            return None
        raise UserError(f"the checkpoint {told}")
    if not hasattr(trainer, "last_file") and not can_go_on(state):
        raise UserError(
            f"{path} does not hold all that {config['model']} needs to go on with the same numbers; train it again"
        )
    other = _other_run(state, config, path)
    trainer.resume_checkpoint(path)
    return other


def _own(trainer: Any) -> str | None:
    """The newest ``last`` checkpoint of the trainer's run that it can go on from; process 0 looks, for all."""
    path = last_checkpoint(trainer.last_file) if group.rank() == 0 else None
    while path and not goes_on_from(path, trainer.bests):
        older = last_checkpoint(trainer.last_file)
        path = older if older != path else None
    found: str | None = group.gather(path)[0]
    return found


def _other_run(state: dict[str, Any], config: RunConfig, path: str) -> str | None:
    """Id of the checkpoint's run, or None if it is this one; refuses settings that would have changed its numbers."""
    settings = state.get("config") or {}
    if (settings.get("model"), settings.get("dataset")) != (config["model"], config["dataset"]):
        raise UserError(f"{path} is of another model or data set than {config['model']} on {config['dataset']}")
    theirs = checkpoint_config(settings)
    # a checkpoint's settings hold what its data had decided, and so do those of a run whose data is read
    old, new = theirs.final_config_dict, config.final_config_dict
    differ = [key for key in sorted({*old, *new} - ENVIRONMENT - {"by_data"}) if old.get(key) != new.get(key)]
    changed = [key for key in differ if key not in ENDINGS]
    if changed:
        told = ", ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in changed[:4])
        raise UserError(
            f"the checkpoint {path} is of other settings ({told}): its run would have had other numbers; "
            f"only {', '.join(ENDINGS)} may change"
        )
    if not differ:
        return None
    named = re.search(r"-([0-9a-f]{10})\.(?:phase1\.)?last\.", path)
    return named[1] if named else run_id(theirs)
