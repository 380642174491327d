"""How a search ended: the table of trials, the best one, and ``best.yaml``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.files import write_text
from recbole_scale.runs import plan as run_plan
from recbole_scale.runs.records import append_row
from recbole_scale.search.folder import Trial, trials
from recbole_scale.search.plan import SearchPlan, as_text
from recbole_scale.settings import settings_text
from recbole_scale.text import counted, metric_name, text_table


@dataclass
class Outcome:
    """One trial's line of the table; ``score`` is its best ``valid_metric``, None when it has none."""

    number: int
    values: dict[str, Any]
    status: str
    epochs: int
    score: float | None
    result: dict[str, Any]

    @classmethod
    def of(cls, trial: Trial) -> Outcome:
        """Read one trial's folder; a trial without a result is ``unfinished``."""
        history, result = trial.evaluations(), trial.result() or {}
        score = result.get("best", history[-1]["best"] if history else None)
        if result.get("status") == "failed" or score is None or not math.isfinite(score):
            score = None
        epochs = history[-1]["epoch"] if history else 0
        return cls(trial.number, trial.values or {}, result.get("status", "unfinished"), epochs, score, result)


def outcomes(plan: SearchPlan) -> list[Outcome]:
    """Every trial that has begun, best first."""
    found = [Outcome.of(trial) for trial in trials(plan.folder)]
    sign = -1 if plan.bigger else 1
    return sorted(found, key=lambda o: (o.score is None, sign * (o.score or 0.0), o.number))


def best_of(found: list[Outcome]) -> Outcome | None:
    """The best trial: of those that were trained to their end and tested, if any, else of all with a score."""
    scored = [outcome for outcome in found if outcome.score is not None]
    return next((outcome for outcome in scored if outcome.status == "finished"), scored[0] if scored else None)


def table(plan: SearchPlan, found: list[Outcome]) -> str:
    """The trials, best first, one a line."""
    rows = [["trial", "status", "epochs", metric_name(plan.metric), "values"]]
    for one in found:
        score = "-" if one.score is None else f"{one.score:.4f}"
        error = f"\n{one.result.get('error')}" if one.status == "failed" else ""
        rows.append([str(one.number), one.status, str(one.epochs), score, as_text(one.values) + error])
    return text_table(rows, left=(1, 4))


def conclude(plan: SearchPlan, output_file: str | None = None) -> Outcome:
    """Print the table and the best trial; write ``trials.txt``, ``best.yaml`` and, where asked for, its row.

    Raises:
        UserError: no trial has a score.
    """
    found = outcomes(plan)
    text = table(plan, found)
    print(text)
    for path in (os.path.join(plan.folder, "trials.txt"), output_file):
        if path:
            write_text(path, text + "\n", "the table of trials")
    left = sum(one.status == "unfinished" for one in found)
    if left:
        where = os.path.relpath(plan.folder)
        print(f"\n{counted(left, 'trial')} unfinished; the same command, or run_hyper --resume {where}, goes on")
    best = best_of(found)
    if best is None:
        errors = [one.result["error"] for one in found if one.result.get("error")]
        raise UserError(f"no trial has a score{'; the first failed so: ' + errors[0] if errors else ''}")
    path = write_best(plan, best)
    print(f"\nbest trial  {best.number}: valid {metric_name(plan.metric)} {best.score:.6g}  {as_text(best.values)}")
    row = best.result.get("row")
    if row:
        print(run_plan.results_table(row).lstrip("\n"))
        _add_row(plan, row)
    print(f"written     {path}; run_recbole --config_files={path} trains it again")
    return best


def write_best(plan: SearchPlan, best: Outcome) -> str:
    """Write ``best.yaml``: model, data set, the search's settings and the best trial's values; returns its path."""
    settings = {"model": plan.model, "dataset": plan.dataset, **plan.settings, **best.values}
    score = f"{metric_name(plan.metric)} on valid {best.score:.6g}"
    head = f"# Trial {best.number} of {plan.num_samples}: best {score} ({best.status})\n"
    path = Path(plan.folder) / "best.yaml"
    write_text(path, head + settings_text(settings), "the best trial")
    return os.path.relpath(path)


def _add_row(plan: SearchPlan, row: dict[str, Any]) -> None:
    """Add the best trial's row to the user's ``results_file``, once."""
    name = plan.settings.get("results_file")
    if not name:
        return
    path = os.path.join(plan.home, name)
    append_row(path, row, trained=False)
