"""A plan carried out: the tries of the rate, then the ladder while there is time; what is finished is skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Row
from recbole_scale.model.sizes import rung_of
from recbole_scale.runs.records import is_finished
from recbole_scale.runs.run import LoadedData
from recbole_scale.study.folder import Folder
from recbole_scale.study.planner import Plan
from recbole_scale.sweep.command import sweep
from recbole_scale.sweep.sweep import Engine, Grid, OnEpoch, Point, finished_rows, plan_sweep
from recbole_scale.text import duration


@dataclass(frozen=True)
class Clock:
    """The time that a study may take, from ``started`` (of ``time.monotonic``)."""

    started: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds left; below 0 when it is over."""
        return self.started + self.seconds - time.monotonic()


def tune(plan: Plan, folder: Folder, loaded: LoadedData, engine: Callable[[str], Engine]) -> Plan:
    """Try the rates on the smallest size; the plan with the one of lowest valid loss.

    Raises:
        UserError: no try ended well.
    """
    if plan.rate is not None:
        return plan
    points = {}
    for rate in plan.rates:
        settings = {**_settings(plan, plan.tuning_epochs), "learning_rate": rate}
        (point,) = plan_sweep(Grid(plan.dataset, (rung_of(plan.sizes[0].shape),), (0,), settings=settings), loaded)
        points[rate] = point
    _run(list(points.values()), folder.tries_file, engine(folder.tries_file))
    rows = {row["run_id"]: row for row in finished_rows(folder.tries_file)}
    ended = {rate: rows[point.run_id] for rate, point in points.items() if point.run_id in rows}
    losses = {rate: row["best_valid_nll"] for rate, row in ended.items() if row.get("best_valid_nll") is not None}
    if not losses:
        raise UserError(f"no try of the learning rate ended well; {folder.tries_file} says why")
    best = min(losses, key=lambda rate: float(losses[rate]))
    print(f"learning rate {best:g} at {plan.sizes[0].shape} (valid loss {losses[best]:.4f})")
    plan = replace(plan, rate=best)
    folder.write_plan(plan)
    return plan


def climb(
    plan: Plan, folder: Folder, loaded: LoadedData, engine: Callable[[str], Engine], clock: Clock, at_once: int = 1
) -> None:
    """Run the ladder, one seed of every size before the next, as far as the time goes."""
    points = [point for shape, seed in plan.runs for point in ladder_points(plan, loaded, [(shape, seed)])]
    cost = {point.run_id: plan.seconds([run]) for point, run in zip(points, plan.runs, strict=True)}
    _run(points, folder.rows_file, _in_time(engine(folder.rows_file), cost, clock, at_once))


def ladder_points(plan: Plan, loaded: LoadedData, runs: Sequence[tuple[str, int]]) -> list[Point]:
    """Runs of a plan as points of a sweep."""
    found = []
    for shape, seed in runs:
        settings = {**_settings(plan, plan.epochs), "learning_rate": plan.rate}
        found += plan_sweep(Grid(plan.dataset, (rung_of(shape),), (seed,), settings=settings), loaded)
    return found


def _settings(plan: Plan, epochs: int) -> dict[str, Any]:
    """Settings of every run of a plan."""
    return {"epochs": epochs, "lr_rule": "width", **plan.settings}


def _run(points: Sequence[Point], rows_file: str, engine: Engine) -> None:
    rows = finished_rows(rows_file)
    ended = {row["run_id"]: row for row in rows}
    todo = [p for p in points if p.run_id not in ended or not is_finished(ended[p.run_id], p.digest)]
    if len(todo) < len(points):
        print(f"{len(points) - len(todo)} of {len(points)} runs are finished already")
    if todo:
        sweep(todo, rows, engine, rows_file)


def _in_time(engine: Engine, cost: dict[str, float], clock: Clock, at_once: int) -> Engine:
    """``engine`` that begins a run only where it can end in time, judged by how long those before it took."""

    def within(points: Sequence[Point], on_epoch: OnEpoch) -> Iterator[tuple[Point, Row]]:
        if at_once > 1:  # all are handed over together
            yield from engine(points, on_epoch)
            return
        spent = planned = 0.0
        skipped = []
        for point in points:
            slower = max(spent / planned, 0.2) if planned else 1.0
            if clock.left < cost[point.run_id] * slower:
                skipped.append(point)
                continue
            began = time.monotonic()
            yield from engine([point], on_epoch)
            spent, planned = spent + time.monotonic() - began, planned + cost[point.run_id]
        if skipped:
            print(f"{len(skipped)} runs were left for lack of time: {', '.join(point.label for point in skipped)}")

    return within


def more_time(plan: Plan, seconds: float, added: Sequence[tuple[str, int]]) -> Plan:
    """The plan with further runs."""
    print(
        f"{len(added)} runs more in {duration(seconds)}: " + ", ".join(f"{shape} seed {seed}" for shape, seed in added)
    )
    return replace(plan, runs=(*plan.runs, *added))
