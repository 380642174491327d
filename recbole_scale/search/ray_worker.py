"""A trial inside a Ray worker: threads and process id set, evaluations handed to Ray Tune."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from ray import tune

from recbole_scale.search.folder import Trial
from recbole_scale.search.plan import SearchPlan
from recbole_scale.search.space import Parameter
from recbole_scale.search.trial import run_trial


def train_on_worker(content: dict[str, Any], values: dict[str, Any], number: int, threads: int) -> None:
    """Carry out one trial and report each evaluation to Ray Tune.

    ``content`` is the plan as JSON, ``threads`` the CPU threads of the trial.
    """
    torch.set_num_threads(threads)
    space = [Parameter(p["name"], p["kind"], tuple(p["values"])) for p in content["space"]]
    plan = SearchPlan(**{**content, "space": space})
    trial = Trial(plan.folder, number)
    trial.folder.mkdir(parents=True, exist_ok=True)
    (Path(trial.folder) / "pid").write_text(str(os.getpid()))
    worst = float("-inf") if plan.bigger else float("inf")
    run_trial(plan, number, values, tune.report)
    if not trial.evaluations():  # Ray expects a report from every trial; epoch 0 is on no rung
        tune.report({"epoch": 0, "score": worst, "best": worst})
