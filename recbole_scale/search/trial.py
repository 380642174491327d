"""One trial, in the process that trains it: settings in, every evaluation reported and recorded, result on disk."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recbole.utils import get_trainer

from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import LoadedData
from recbole_scale.runs.records import without_paths
from recbole_scale.runs.run import make_config, train_and_test
from recbole_scale.search.folder import Trial, locked
from recbole_scale.search.plan import SearchPlan
from recbole_scale.training.checkpoint import set_aside_if_damaged
from recbole_scale.training.trainer import ScaledSASRecTrainer

Report = Callable[[dict[str, Any]], None]
_LOADED = LoadedData()  # a process that carries out several trials reads the data once


def run_trial(plan: SearchPlan, number: int, values: dict[str, Any], report: Report) -> None:
    """Train and test one trial, from its last checkpoint if there is one.

    Evaluations of an earlier start are reported again, so that a scheduler knows them. A user's mistake (a setting that
    the model refuses, a loss that is not finite) ends the trial as ``failed``; other exceptions are the caller's.

    Args:
        plan: the search.
        number: the trial's number.
        values: its drawn values.
        report: takes ``{"epoch", "score", "best"}`` after each evaluation; may end the thread.
    """
    trial = Trial(plan.folder, number)
    with locked(trial.folder, wait=60), _working_folder(str(trial.folder)):
        if trial.values is None:
            trial.begin(values)
        history = trial.evaluations()
        for evaluation in history:
            report(evaluation)
        if trial.result() is not None:
            return
        best = history[-1]["best"] if history else None

        def after_evaluation(epoch: int, score: float) -> None:
            nonlocal best
            best = float(score) if plan.better(score, best) else best
            assert best is not None
            report(trial.add_evaluation(epoch + 1, float(score), best))

        try:
            config = make_config(plan.model, plan.dataset, None, plan.trial_settings(values, str(trial.folder)))
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])
            # RecBole's trainers of decision trees take none: they report once, at the end
            callback = after_evaluation if "callback_fn" in inspect.signature(trainer.fit).parameters else None
            resume = _checkpoint(trainer, trial)
            result, row = train_and_test(config, resume=resume, loaded=_LOADED, callback_fn=callback)
        except UserError as mistake:
            trial.end("failed", error=str(mistake))
            return
        row["settings"] = without_paths({**plan.settings, **values})
        if callback is None:
            trial.add_evaluation(plan.epochs, float(result["best_valid_score"]), float(result["best_valid_score"]))
        checkpoint = os.path.relpath(str(result["checkpoint"]), plan.folder)
        trial.end("finished", best=float(result["best_valid_score"]), checkpoint=checkpoint, row=row)


def _checkpoint(trainer: type, trial: Trial) -> str | None:
    """What to resume: ScaledSASRec's ``last`` checkpoint; for RecBole's models, which keep only the best, that one."""
    if issubclass(trainer, ScaledSASRecTrainer):
        return "auto"
    written = sorted(trial.folder.glob("*.pth"), key=lambda path: -path.stat().st_mtime)
    return next((path for path in map(str, written) if not set_aside_if_damaged(path)), None)


@contextmanager
def _working_folder(folder: str) -> Iterator[None]:
    """RecBole writes ``log/`` and ``log_tensorboard/`` where it runs: here, into the trial's folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
