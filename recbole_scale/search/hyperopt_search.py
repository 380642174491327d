"""A search with Hyperopt in this process, as RecBole's ``HyperTuning``: tree of Parzen estimators, random, exhaustive.

RecBole's own class evaluates its params file and, on today's numpy, its exhaustive search fails (it asks a
``RandomState`` for ``integers``); Hyperopt's ``fmin`` is called directly instead. Trials already in the folder are not
trained again, so a search that is started again proposes the same values and goes on where it was.
"""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.search.folder import Trial, trials
from recbole_scale.search.outcome import Outcome
from recbole_scale.search.plan import SearchPlan
from recbole_scale.search.progress import Progress
from recbole_scale.search.space import Parameter, space_size
from recbole_scale.search.trial import run_trial

MEND_HYPEROPT = 'pip install "hyperopt>=0.2.7"'


def search_with_hyperopt(plan: SearchPlan) -> None:
    """Carry out the trials of ``plan`` one after the other.

    Raises:
        UserError: Hyperopt is not installed, or an exhaustive search of a space that is not countable.
    """
    hyperopt = None if plan.algo == "exhaustive" else load_hyperopt()
    size = space_size(plan.space)
    progress = Progress(plan, min(plan.num_samples, size) if size else plan.num_samples)
    one_by_one = _OneByOne(plan, progress)
    try:
        if hyperopt is None:
            for values in plan.samples():
                if one_by_one.loss(values) is not None and one_by_one.since_best >= plan.early_stop:
                    break
        else:
            _minimise(hyperopt, plan, one_by_one)
    finally:
        progress.close()


def load_hyperopt() -> Any:
    """Import ``hyperopt`` or raise :class:`UserError` with the command that mends it."""
    try:
        return import_module("hyperopt")
    except ImportError as failure:
        raise UserError(f"Hyperopt cannot be imported ({failure}); {MEND_HYPEROPT} installs it") from failure


def _minimise(hyperopt: Any, plan: SearchPlan, one_by_one: _OneByOne) -> None:
    def objective(drawn: dict[str, Any]) -> dict[str, Any]:
        loss = one_by_one.loss({p.name: p.clean(drawn[p.name]) for p in plan.space})
        failed = {"status": hyperopt.STATUS_FAIL}
        return failed if loss is None else {"status": hyperopt.STATUS_OK, "loss": loss}

    hyperopt.fmin(
        objective,
        {p.name: _distribution(hyperopt.hp, p) for p in plan.space},
        algo=hyperopt.tpe.suggest if plan.algo == "bayes" else hyperopt.rand.suggest,
        max_evals=plan.num_samples,
        rstate=np.random.default_rng(plan.seed),
        early_stop_fn=lambda _: (one_by_one.since_best >= plan.early_stop, {}),
        show_progressbar=False,
        verbose=False,
        return_argmin=False,
        allow_trials_fmin=False,
    )


def _distribution(hp: Any, parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return hp.choice(parameter.name, list(parameter.values))
    return getattr(hp, parameter.kind)(parameter.name, *map(float, parameter.values))


class _OneByOne:
    """Trains one trial after the other; equal values are one trial."""

    def __init__(self, plan: SearchPlan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        self.numbers = {_key(trial.values): trial.number for trial in trials(plan.folder)}
        self.best: float | None = None
        self.since_best = 0

    def loss(self, values: dict[str, Any]) -> float | None:
        """What is to be minimised, or None when the trial failed."""
        number = self.numbers.setdefault(_key(values), len(self.numbers))
        trial = Trial(self.plan.folder, number)
        if (trial.result() or {}).get("status") == "failed":
            trial.reopen()
        if trial.result() is None:
            trial.folder.mkdir(parents=True, exist_ok=True)
            with open(trial.folder / "output.txt", "a") as output, redirect_stdout(output), redirect_stderr(output):
                run_trial(self.plan, number, values, lambda evaluation: self.progress.evaluation(number, evaluation))
            self.progress.end(trial)
        score = Outcome.of(trial).score
        if score is not None and self.plan.better(score, self.best):
            self.best, self.since_best = score, 0
        else:
            self.since_best += 1
        return None if score is None else (-score if self.plan.bigger else score)


def _key(values: dict[str, Any] | None) -> str:
    return json.dumps(values, sort_keys=True)
