"""A plan carried out: the tries of the rate, then the ladder while there is time; what is finished is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.model.sizes import rung_of
from recbole_scale.runs.prepared import LoadedData
from recbole_scale.runs.records import is_finished
from recbole_scale.study.clock import Clock, Watch
from recbole_scale.study.folder import Folder
from recbole_scale.study.planner import RATES, Plan
from recbole_scale.sweep.command import sweep
from recbole_scale.sweep.engine import Engine, Gate
from recbole_scale.sweep.sweep import Grid, Point, finished_rows, plan_sweep
from recbole_scale.text import counted, duration

BEYOND = 3.0  # times the best rate, or a part of it, is tried next where the best is at an edge
MOST_BEYOND = 2  # such tries
Engines = Callable[[str, Gate], Engine]  # of a rows file


def tune(plan: Plan, folder: Folder, loaded: LoadedData, engine: Engines, clock: Clock, keep: float) -> Plan:
    """Try the rates on the smallest size; the plan with the one of lowest valid loss.

    While the best is the lowest or the highest of those tried, one is tried beyond it, twice at most. All sizes get
    their rate from these tries by the width rule, so there are as many for one size as for another.

    Raises:
        UserError: no try ended well, or in time.
    """
    if plan.rate is not None:
        return plan
    while True:
        losses, watch = _tried(plan, folder, loaded, engine, clock, keep)
        if watch.told():
            print(watch.told())
        if not losses:
            why = "in time; the same line goes on" if watch.told() else f"well; {folder.tries_file} says why"
            raise UserError(f"no try of the learning rate ended {why}")
        best = min(losses, key=lambda rate: losses[rate])
        beyond = {max(plan.rates): best * BEYOND, min(plan.rates): best / BEYOND}.get(best)
        said = f"learning rate {best:g} at {plan.sizes[0].shape} (valid loss {losses[best]:.4f})"
        if beyond is None or len(plan.rates) >= len(RATES) + MOST_BEYOND or watch.told():
            break
        plan = replace(plan, rates=tuple(sorted({*plan.rates, float(f"{beyond:.3g}")})))
        print(f"{said}: the best is at the edge of the tries, so {beyond:.3g} is tried too")
    print(said + ("; at the edge of the tries, so a better one may lie beyond" if beyond is not None else ""))
    plan = replace(plan, rate=best)
    folder.write_plan(plan)
    return plan


def _tried(
    plan: Plan, folder: Folder, loaded: LoadedData, engine: Engines, clock: Clock, keep: float
) -> tuple[dict[float, float], Watch]:
    """Valid loss by rate, of the tries that have ended well; and what the clock has said."""
    points = {}
    for rate in plan.rates:
        settings = {**_settings(plan, plan.tuning_epochs), "learning_rate": rate}
        (point,) = plan_sweep(Grid(plan.dataset, (rung_of(plan.sizes[0].shape),), (0,), settings=settings), loaded)
        points[rate] = replace(point, label=f"{plan.sizes[0].shape} rate {rate:g}")
    cost = dict.fromkeys((point.run_id for point in points.values()), plan.try_seconds)
    watch = Watch(cost, clock, keep, plan.at_once)
    _run(list(points.values()), folder.tries_file, engine(folder.tries_file, watch))
    rows = {row["run_id"]: row for row in finished_rows(folder.tries_file)}
    ended = {rate: rows[point.run_id].get("best_valid_nll") for rate, point in points.items() if point.run_id in rows}
    return {rate: float(loss) for rate, loss in ended.items() if loss is not None}, watch


def climb(plan: Plan, folder: Folder, loaded: LoadedData, engine: Engines, clock: Clock, keep: float) -> None:
    """Run the ladder, one seed of every size before the next, as far as the time goes; ``keep`` seconds are left."""
    points = [point for shape, seed in plan.runs for point in ladder_points(plan, loaded, [(shape, seed)])]
    cost = {point.run_id: plan.seconds([run]) for point, run in zip(points, plan.runs, strict=True)}
    watch = Watch(cost, clock, keep, plan.at_once)
    _run(points, folder.rows_file, engine(folder.rows_file, watch))
    if watch.told():
        print(watch.told())


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
        print(f"{len(points) - len(todo)} of {counted(len(points), 'run')} finished already")
    if todo:
        sweep(todo, rows, engine, rows_file)


def more_time(plan: Plan, seconds: float, added: Sequence[tuple[str, int]]) -> Plan:
    """The plan with further runs."""
    print(
        f"{counted(len(added), 'run')} more in {duration(seconds)}: "
        + ", ".join(f"{shape} seed {seed}" for shape, seed in added)
    )
    return replace(plan, runs=(*plan.runs, *added))
