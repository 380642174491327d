"""A search on Ray Tune: Ray runs the trials and ASHA stops the bad ones; the search's folder is what is true.

Nothing is taken from Ray's own files, which are pickles: a search that is started again draws the same values, tells
ASHA what ended trials scored, and hands Ray the trials that have not ended; each goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from recbole_scale.errors import UserError
from recbole_scale.runs.ray_cluster import at_once, check_nodes, initialise, nodes_of
from recbole_scale.search.folder import Trial
from recbole_scale.search.plan import SearchPlan
from recbole_scale.search.progress import Progress


def search_with_ray(plan: SearchPlan) -> None:
    """Carry out every trial of ``plan`` that has not ended.

    Raises:
        UserError: the machine or cluster has not what a trial needs.
    """
    samples = plan.samples()
    open_trials = [n for n in range(len(samples)) if _is_open(Trial(plan.folder, n))]
    if not open_trials:
        return
    started_here = not ray.is_initialized()
    if started_here:
        start_ray(plan.ray_address)
    progress = Progress(plan, len(samples))
    try:
        resources = _resources(plan)
        scheduler = _scheduler(plan)
        for number in range(len(samples)):
            if number not in open_trials:
                _tell(scheduler, Trial(plan.folder, number))
        _tune(plan, samples, open_trials, resources, scheduler, progress)
    finally:
        progress.close()
        if started_here:
            ray.shutdown()


def _is_open(trial: Trial) -> bool:
    """A failed trial is tried again: the disk may have been full."""
    result = trial.result()
    if result is not None and result["status"] == "failed":
        trial.reopen()
        return True
    return result is None


def start_ray(address: str | None, num_cpus: int | None = None) -> None:
    """Join the cluster at ``address``, or start Ray on this machine with ``num_cpus`` (all of them when None).

    Raises:
        UserError: there is no cluster at ``address``, or this machine cannot start Ray.
    """
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # the trial changes its folder itself
    if address:
        try:
            initialise(ray, address=address)
        except (ConnectionError, ValueError, RuntimeError) as failure:
            raise UserError(f"there is no Ray cluster at {address}") from failure
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = {"include_dashboard": False, "object_store_memory": 128 * 2**20}
        try:
            initialise(ray, address="local", num_cpus=num_cpus, **here)
        except Exception as failure:  # Ray raises plain ones: a machine too busy or too small
            told = str(failure).partition(". ")[0]
            raise UserError(
                f"Ray could not be started on this machine ({told}); try again when it is idle"
            ) from failure


def _resources(plan: SearchPlan) -> dict[str, float]:
    """CPUs and GPUs of a trial; refused when nothing could ever run it."""
    nodes = nodes_of(ray)
    if plan.gpus_per_trial is None:
        some = any(node.get("GPU", 0) >= 1 for node in nodes)
        plan.gpus_per_trial = 1 if some and plan.settings.get("use_gpu", True) else 0
    wanted = {"CPU": plan.cpus_per_trial, "GPU": plan.gpus_per_trial}
    at_once(nodes, wanted, "a trial")
    if len(nodes) > 1:
        check_nodes(ray, [plan.folder])
    return {kind.lower(): amount for kind, amount in wanted.items()}


def _scheduler(plan: SearchPlan) -> Any:
    if not plan.rungs:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric="best",
        mode="max" if plan.bigger else "min",
        max_t=plan.epochs,
        grace_period=plan.grace,
        reduction_factor=plan.reduction_factor,
        stop_last_trials=False,  # a trial that reaches its last epoch still has to be tested
    )


def _tell(scheduler: Any, trial: Trial) -> None:
    """Let ASHA know what a trial of an earlier start scored."""
    if isinstance(scheduler, ASHAScheduler) and trial.evaluations():
        stand_in: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        scheduler.on_trial_add(None, stand_in)
        for evaluation in trial.evaluations():
            scheduler.on_trial_result(None, stand_in, evaluation)


def _tune(
    plan: SearchPlan,
    samples: list[dict[str, Any]],
    numbers: list[int],
    resources: dict[str, float],
    scheduler: Any,
    progress: Progress,
) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the trial's folder has it all
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0 says nothing; the other output prints a box and tracebacks
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _Record tells of failures
    scratch = Path(plan.folder) / "ray"  # Ray's bookkeeping of this start alone
    shutil.rmtree(scratch, ignore_errors=True)
    content, threads = plan.as_json(), max(1, int(plan.cpus_per_trial))

    def train(config: dict[str, Any]) -> None:  # pickled by value: imports our package on the worker
        from recbole_scale.search.ray_worker import train_on_worker

        train_on_worker(content, samples[config["number"]], config["number"], threads)

    tuner = tune.Tuner(
        tune.with_resources(train, resources),
        param_space={"number": tune.grid_search(numbers)},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=plan.folder,
            failure_config=tune.FailureConfig(max_failures=plan.max_failures),
            callbacks=[_Record(plan, progress)],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


class _Record(tune.Callback):
    """Writes down which trials ASHA stopped, and shows progress; called in the driver."""

    def __init__(self, plan: SearchPlan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress

    def __getstate__(self) -> dict[str, Any]:
        """What Ray writes down of it: no bar, since a terminal cannot be pickled."""
        return {"plan": self.plan}

    def _trial(self, ray_trial: Any) -> Trial:
        return Trial(self.plan.folder, ray_trial.config["number"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "best" in result:
            self.progress.evaluation(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        ours = self._trial(trial)
        if ours.result() is None:
            history = ours.evaluations()
            ours.end("stopped", **({"best": history[-1]["best"]} if history else {}))
        self.progress.end(ours)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        why = self._keep_error(trial)
        self.progress.note(f"trial {trial.config['number']:>3} goes on from its last checkpoint, as {why}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        ours = self._trial(trial)
        ours.end("failed", error=self._keep_error(trial))
        self.progress.end(ours)

    def _keep_error(self, trial: Any) -> str:
        """Write a trial's traceback into its folder; returns one sentence."""
        error = trial.get_error()
        if error is None or isinstance(error, ray.exceptions.RayActorError):
            return "its process was lost"
        text = str(error).strip()
        (self._trial(trial).folder / "error.txt").write_text(text + "\n", "utf-8")
        return f"it failed: {text.splitlines()[-1][:300]}"
