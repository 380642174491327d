"""The checkpoint files of one run: its best models, and ``last``, from which it goes on as if never stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recbole_scale import signals
from recbole_scale.data.histories import HistoryData, data_fingerprint
from recbole_scale.data.id_tables import id_tables
from recbole_scale.errors import UserError
from recbole_scale.interfaces import RunConfig
from recbole_scale.training import group, parallel
from recbole_scale.training.background import Background
from recbole_scale.training.best import Best, Bests
from recbole_scale.training.checkpoint import (
    copy_checkpoint,
    link_checkpoint,
    load_checkpoint,
    load_settings,
    plain_config,
    random_state,
    save_checkpoint,
    set_aside_if_damaged,
    set_random_state,
)
from recbole_scale.training.optimization import Optimization
from recbole_scale.training.optimizers import load_optimizer
from recbole_scale.training.part import Part


def first_phase_file(path: str) -> str:
    """Name of the copy of a checkpoint kept at the optimizer switch: ``X.phase1.best.pth`` of ``X.best.pth``."""
    stem, kind, ending = path.rsplit(".", 2)
    return f"{stem}.phase1.{kind}.{ending}"


def best_file(stem: str, best: Best, chosen: bool) -> str:
    """Where a run keeps a best model: ``STEM.best.pth`` the chosen one, ``STEM.best-nll.pth`` (say) the other."""
    return f"{stem}.best{'' if chosen else '-' + best.kind}.pth"


def goes_on_from(path: str, bests: Bests) -> bool:
    """Whether a run can go on from this ``last`` checkpoint of its own: it is whole, and so are its best models.

    What is damaged is set aside, and a line says what is lacking. Only one process may ask.
    """
    if set_aside_if_damaged(path):
        return False
    progress = load_settings(path).get("progress")
    known = progress.get("bests") if isinstance(progress, dict) else None
    for best in bests.all:
        there = best_file(path.rpartition(".last.")[0], best, best is bests.chosen)
        kept = known.get(best.kind) if isinstance(known, dict) else None
        if not isinstance(kept, dict) or not isinstance(kept.get("epoch"), int) or kept["epoch"] < 0:
            continue
        if not os.path.isfile(there):
            getLogger().error(f"{path} cannot be gone on from: its best model {there} is not there")
            return False
        if set_aside_if_damaged(there):
            return False
    return True


class RunCheckpoints:
    """Writes and reads a run's files, ``STEM.last.pth`` (or ``.dcp``), ``STEM.best.pth`` and its like.

    A ``last`` checkpoint holds the model, the optimizer, the random state, and as ``progress`` the state of each part.

    Args:
        stem: path of the files less their endings.
        config: RecBole's Config.
        loss: the model's loss as it is trained, whole or cut over processes.
        optimization: has the optimizer, and is one of the parts.
        parts: by name; the fields of the one named ``""`` lie beside the others.
    """

    def __init__(
        self, stem: str, config: RunConfig, loss: nn.Module, optimization: Optimization, parts: Mapping[str, Part]
    ) -> None:
        self.stem, self.config, self.loss, self.optimization, self.parts = stem, config, loss, optimization, parts
        self.sharded = parallel.is_sharded(loss)
        self.last_file = f"{stem}.last.{'dcp' if self.sharded else 'pth'}"
        self.data_id = ""
        self.ids: dict[str, Any] = {}  # names of items, for whoever has the checkpoint and not the data
        self.unsaved: list[Any] | None = None  # random states of all processes at a step that no checkpoint has yet
        on, self.group = config["async_checkpoints"], None
        self.background = Background(config["device"].type == "cuda" if on is None else bool(on))
        if self.sharded and self.background.thread:  # what the thread tells other processes must not meet training's
            self.group = dist.new_group(backend="gloo")

    def trains_on(self, dataset: HistoryData) -> None:
        """Note the data that is trained on.

        Raises:
            UserError: a checkpoint that was taken over is of other data.
        """
        data_id = data_fingerprint(dataset)
        if self.data_id not in ("", data_id):
            name = self.config["dataset"]
            raise UserError(f"the checkpoint {self.last_file} was trained on other data than '{name}' holds now")
        self.data_id, self.ids = data_id, id_tables(dataset, users=False)

    def model_state(self) -> dict[str, Any]:
        """The model, and what it takes to build it again."""
        return {
            "config": plain_config(self.config),
            "data": self.data_id,
            "ids": self.ids,
            "state_dict": self.optimization.model.state_dict(),
            "other_parameter": {},
        }

    def save_model(self, path: str, epoch: int, result: dict[str, float] | None) -> None:
        """Write the model as it is, whole and in one file, for evaluation and RecBole's ``load_data_and_model``."""
        state = parallel.whole_state(self.loss, self.model_state())  # every process hands in its parts
        if group.rank() == 0:
            state = self.background.copied({**state, "epoch": epoch, "best_valid_result": result})
            self.background.do(save_checkpoint, state, path)

    def save_last(self, states: list[Any] | None = None) -> None:
        """Write everything that going on takes.

        ``states``: the random states of all processes, where they were gathered before.
        """
        if states is None:
            states = group.gather(random_state())  # also makes every process wait until the best model is written
        if group.rank() != 0 and not self.sharded:
            return
        progress = {name: part.state_dict() for name, part in self.parts.items() if name}
        state = {**self.model_state(), "optimizer": self.optimization.optimizer.state_dict(), "random": states}
        state = self.background.copied({**state, "progress": {**self.parts[""].state_dict(), **progress}})
        save = partial(parallel.save_sharded, process_group=self.group) if self.sharded else save_checkpoint
        self.background.do(save, state, self.last_file)

    def finish(self) -> None:
        """Wait until all that was saved is written, by every process; all must call."""
        self.background.join()
        if self.background.thread:
            group.gather(None)

    @contextmanager
    def saving_when_interrupted(self, saved: bool) -> Iterator[None]:
        """Save what an interrupted evaluation comes after, say how to go on, and wait for what is being written.

        That needs no other process: under ddp all have the same model. Under fsdp the run goes on from its last
        checkpoint, of the epoch's start or of ``save_step``.
        """
        try:
            yield
        except signals.Interrupted as stop:
            if saved and self.unsaved is not None:
                self.save_last(self.unsaved)
            if saved:
                stop.advice = f"saved {self.last_file}; the same command with --resume auto goes on"
            raise
        finally:
            self.background.join()

    def note_unsaved(self) -> None:
        """An epoch's last step is done; its evaluation comes next and may be interrupted."""
        if not self.sharded:
            self.unsaved = group.gather(random_state())

    def load(self, path: str) -> dict[str, Any]:
        """A checkpoint, of which each process reads its own part when the model is cut over processes."""
        self.finish()
        return load_checkpoint(path, self.config["device"], parallel.mesh_of(self.loss))

    def load_weights(self, path: str) -> None:
        """Take over a checkpoint's model."""
        self.optimization.model.load_state_dict(self.load(path)["state_dict"])
        getLogger().debug(f"loaded {path}")

    def restore(self, path: str) -> None:
        """Take over everything that :meth:`save_last` wrote.

        Raises:
            UserError: the file is damaged, no ``last`` checkpoint, of another model, or of another version.
        """
        state = self.load(path)
        if "progress" not in state:
            raise UserError(f"{path} holds a model but no training state; resume from its '.last.pth' or '.last.dcp'")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["progress"][name] if name else state["progress"])
            self.data_id, random = str(state["data"]), state["random"]
            if group.rank() < len(random):  # more processes than before: the others keep their fresh seeds
                set_random_state(random[group.rank()])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as failure:
            raise UserError(
                f"{path} does not hold what this run goes on from ({failure}): it is damaged, or of another version "
                "of recbole_scale, or of a run that was told to keep its best models by other metrics"
            ) from failure
        optimizer = self.optimization.optimizer
        try:
            self.optimization.model.load_state_dict(state["state_dict"])
            load_optimizer(optimizer, state["optimizer"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as failure:
            raise UserError(f"the checkpoint {path} is of another model than these settings describe") from failure

    def save_bests(self, improved: list[Best], bests: Bests, save: Any) -> None:
        """Write the model as it is to the file of each best that it now is; ``save(saved_model_file=path)`` writes one.

        Each best has a file of its own, so that a killed run finds both as its ``last`` checkpoint knows them.
        """
        paths = [best_file(self.stem, best, best is bests.chosen) for best in improved]
        for path in paths[:1]:
            save(saved_model_file=path)
        for path in paths[1:]:
            if group.rank() == 0:
                self.background.do(link_checkpoint, paths[0], path)

    def keep_first_phase(self, bests: Bests, save: Any) -> None:
        """Keep the first phase's best models, and all that it takes to go on from its end, beside the run's own files.

        Called at the switch, with the best model loaded, which ``save(saved_model_file=path)`` writes. Doing it twice,
        after a kill, gives the same files.
        """
        save(saved_model_file=first_phase_file(best_file(self.stem, bests.chosen, chosen=True)))
        self.finish()
        if group.rank() != 0:
            return
        if bests.other and os.path.isfile(other := best_file(self.stem, bests.other, chosen=False)):
            link_checkpoint(other, first_phase_file(other))
        copy_checkpoint(self.last_file, first_phase_file(self.last_file))

    def adopt_bests(self, resume_file: str, bests: Bests) -> None:
        """A run resumed under other settings (more epochs, say) has a new name; its best models so far come along."""
        stem = resume_file.removesuffix("/").removesuffix(".last.pth").removesuffix(".last.dcp")
        if os.path.abspath(stem) == os.path.abspath(self.stem):
            return
        for best in bests.all:
            ours = best_file(self.stem, best, best is bests.chosen)
            theirs = best_file(stem, best, chosen=False)
            if not os.path.isfile(theirs):  # it is the one that their run chose
                theirs = best_file(stem, best, chosen=True)
            for path, copy in ((theirs, ours), (first_phase_file(theirs), first_phase_file(ours))):
                if group.rank() == 0 and os.path.isfile(path):
                    link_checkpoint(path, copy)

    def tensors(self) -> dict[str, torch.Tensor]:
        """A copy of the model's tensors on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.model_state()["state_dict"].items()}
