"""What a run's checkpoints hold: writing ``best`` and ``last``, and continuing from ``last`` as if never stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.utils import set_color

from recbole_scale import signals
from recbole_scale.data.histories import data_fingerprint
from recbole_scale.errors import UserError
from recbole_scale.training import group, parallel
from recbole_scale.training.checkpoint import (
    copy_checkpoint,
    load_checkpoint,
    plain_config,
    random_state,
    save_checkpoint,
    set_random_state,
)
from recbole_scale.training.guard import MAX_ROLLBACKS, Guard
from recbole_scale.training.optimizers import load_optimizer

# attributes of the trainer that a checkpoint holds as they are
PROGRESS = (
    "global_step", "epoch_loss", "epoch_targets", "targets_seen", "seconds_train", "cur_step", "best_valid_score",
    "best_valid_result", "best_epoch", "stopped", "evaluations", "phases", "phase_step",
)  # fmt: skip


def first_phase_file(path: str) -> str:
    """Name of the copy of a checkpoint kept at the optimizer switch: ``X.phase1.best.pth`` of ``X.best.pth``."""
    stem, kind, ending = path.rsplit(".", 2)
    return f"{stem}.phase1.{kind}.{ending}"


class Resumable:
    """The part of the trainer that saves and resumes; the attributes below are the trainer's."""

    config: Any
    model: Any
    loss: Any
    logger: Any
    device: torch.device
    optimizer: torch.optim.Optimizer
    saved_model_file: str
    last_file: str
    data_id: str
    start_epoch: int
    start_step: int
    global_step: int
    epoch_loss: float
    epoch_targets: int
    cur_step: int
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    best_epoch: int
    guard: Guard
    phases: list[dict[str, Any]]
    unsaved: tuple[int, int, list[Any]] | None = None  # epoch, step and random states that no checkpoint has yet
    _build_optimizer: Any

    def _check_data(self, train_data: Any) -> None:
        """Refuse to go on with a checkpoint that was trained on other data."""
        data_id = data_fingerprint(train_data._dataset)
        if self.data_id and self.data_id != data_id:
            raise UserError(
                f"the checkpoint {self.last_file} was trained on other data than '{self.config['dataset']}' holds now"
            )
        self.data_id = data_id

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write the model as it is, whole and in one file, for evaluation and :func:`load_data_and_model`."""
        state = parallel.whole_state(self.loss, self._model_state())  # every process hands in its parts
        if group.rank() != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save_checkpoint({**state, "epoch": epoch, "best_valid_result": self.best_valid_result}, path)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _model_state(self) -> dict[str, Any]:
        return {
            "config": plain_config(self.config),
            "data": self.data_id,
            "state_dict": self.model.state_dict(),
            "other_parameter": {},
        }

    def _note_unsaved(self, epoch: int, step: int) -> None:
        """Training has got to ``step`` of ``epoch``, whose evaluation comes next and may be interrupted."""
        if not parallel.is_sharded(self.loss):
            self.unsaved = epoch, step, group.gather(random_state())

    @contextmanager
    def _saving_when_interrupted(self, saved: bool) -> Iterator[None]:
        """Save what an interrupted evaluation comes after, and say how to go on.

        That needs no other process: under ddp all have the same model. Under fsdp the run goes on from its last
        checkpoint, of the epoch's start or of ``save_step``.
        """
        try:
            yield
        except signals.Interrupted as stop:
            if saved and self.unsaved is not None:
                self._save_last(*self.unsaved)
            if saved:
                stop.advice = f"saved {self.last_file}; the same command with --resume auto goes on"
            raise

    def _save_last(self, epoch: int, step: int, states: list[Any] | None = None) -> None:
        """Write everything that continuing from the start of ``step`` of ``epoch`` needs.

        ``states``: the random states of all processes, where they were gathered before.
        """
        if states is None:
            states = group.gather(random_state())  # also makes every process wait until the best model is written
        if group.rank() != 0 and not parallel.is_sharded(self.loss):
            return
        progress = {"epoch": epoch, "step": step, "guard": self.guard.state()}
        progress |= {name: getattr(self, name) for name in PROGRESS}
        state = {**self._model_state(), "optimizer": self.optimizer.state_dict(), "random": states}
        save = parallel.save_sharded if parallel.is_sharded(self.loss) else save_checkpoint
        save({**state, "progress": progress}, self.last_file)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a ``last`` checkpoint: model, optimizer, schedule, data position, random state, best so far.

        Raises:
            UserError: the file is damaged, no ``last`` checkpoint, or of another model.
        """
        state = self._load(resume_file)
        if "progress" not in state:
            raise UserError(
                f"{resume_file} holds a model but no training state; resume from its '.last.pth' or '.last.dcp'"
            )
        self._restore(state, resume_file)
        self._adopt_best(resume_file)
        self.resumed_file = resume_file
        self.logger.info(f"resumed {resume_file} at epoch {self.start_epoch}, step {self.start_step}")

    def _load(self, path: str) -> dict[str, Any]:
        """A checkpoint, of which each process reads its own part when the model is cut over processes."""
        return load_checkpoint(path, self.device, parallel.mesh_of(self.loss))

    def _restore(self, state: dict[str, Any], path: str) -> None:
        """Take over everything that :meth:`_save_last` wrote."""
        progress = state["progress"]
        if len(progress["phases"]) != len(self.phases):  # the optimizer of the other phase
            self.phases = progress["phases"]
            self.optimizer = self._build_optimizer()
        try:
            self.model.load_state_dict(state["state_dict"])
            load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as failure:
            raise UserError(f"the checkpoint {path} is of another model than these settings describe") from failure
        for name in PROGRESS:
            setattr(self, name, progress[name])
        self.start_epoch, self.start_step = progress["epoch"], progress["step"]
        self.guard.restore(progress["guard"])
        self.data_id = state["data"]
        if group.rank() < len(state["random"]):  # more processes than before: the others keep their fresh seeds
            set_random_state(state["random"][group.rank()])

    def _roll_back(self, trouble: str, saved: bool) -> int:
        """Return to the last good checkpoint with half the learning rate; returns the step to go on from.

        Raises:
            UserError: there is no checkpoint, or going back has not helped :data:`MAX_ROLLBACKS` times.
        """
        guard = self.guard
        hint = f"; try a lower learning_rate (now {self.config['learning_rate']}) first"
        if not saved:
            raise UserError(f"{trouble}, and without checkpoints (saved=False) there is nothing to go back to{hint}")
        if guard.rollbacks >= MAX_ROLLBACKS:
            raise UserError(f"{trouble}, after {guard.rollbacks} returns to {self.last_file}, which is good{hint}")
        before = guard.state()
        self._restore(self._load(self.last_file), self.last_file)
        guard.went_back(before)
        if group.rank() == 0:
            self.logger.warning(
                f"{trouble}: back to batch {self.start_step} of epoch {self.start_epoch} with the learning rate x "
                f"{guard.rate_factor:g} (return {guard.rollbacks} of at most {MAX_ROLLBACKS})"
            )
        self._save_last(self.start_epoch, self.start_step)
        return self.start_step

    def _load_weights(self, weights: dict[str, Any]) -> None:
        """Take over a checkpoint's ``state_dict``."""
        self.model.load_state_dict(weights)

    def _keep_first_phase(self) -> None:
        """Keep the first phase's best model, and all that it takes to go on from its end, beside the run's own files.

        Called at the switch, with the best model loaded. Doing it twice, after a kill, gives the same files.
        """
        self._save_checkpoint(self.best_epoch, verbose=False, saved_model_file=first_phase_file(self.saved_model_file))
        if group.rank() == 0:
            copy_checkpoint(self.last_file, first_phase_file(self.last_file))

    def _adopt_best(self, resume_file: str) -> None:
        """A run resumed under other settings (more epochs, say) has a new name; its best models so far come along."""
        stem = resume_file.removesuffix("/").removesuffix(".last.pth").removesuffix(".last.dcp")
        for theirs, ours in (
            (f"{stem}.best.pth", self.saved_model_file),
            (f"{stem}.phase1.best.pth", first_phase_file(self.saved_model_file)),
        ):
            if theirs != ours and os.path.isfile(theirs):
                save_checkpoint(load_checkpoint(theirs), ours)
