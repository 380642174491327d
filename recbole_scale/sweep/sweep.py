"""A sweep: every run of a grid of shapes, seeds, data fractions and epochs, one row each; a finished row is skipped."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_scale.data.defaults import decide_by_data
from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Row, as_rows
from recbole_scale.interfaces import RunConfig
from recbole_scale.model.sizes import Rung, Shape, flops_per_interaction, parameter_groups
from recbole_scale.runs import records
from recbole_scale.runs.prepared import LoadedData, build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.runs.timing import measure_speed
from recbole_scale.settings import MANY, run_id
from recbole_scale.text import counted
from recbole_scale.training.schedule import Schedule

_DEFAULT_RATE = 20e9  # FLOP/s assumed until a run has been measured; only the first estimate depends on it
_START = 1.4  # seconds of a run in this process beside training and evaluation (benchmarks/sweep.py)


@dataclass(frozen=True)
class Grid:
    """What a sweep varies, and what all its runs share.

    Attributes:
        dataset: name of the data set.
        rungs: shapes.
        seeds: random seeds.
        fractions: shares of users that train.
        epochs: numbers of epochs; empty: each size's own.
        settings: settings of every run; they win over a shape's.
        config_files: config files of every run.
        per_user: folder for each run's ``RUN_ID.npz`` of users, ranks and NLL, for paired comparison; None: none.
    """

    dataset: str
    rungs: tuple[Rung, ...]
    seeds: tuple[int, ...] = (1,)
    fractions: tuple[float, ...] = (1.0,)
    epochs: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    config_files: tuple[str, ...] = ()
    per_user: str | None = None


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its settings, what it will cost, and the id its row will have."""

    label: str
    dataset: str
    settings: dict[str, Any]
    config_files: tuple[str, ...]
    run_id: str
    n_blocks: int
    targets: int  # training targets of an epoch
    epochs: int
    flops: float
    digest: str | None = None  # of the interaction files
    tuning: dict[str, Any] | None = None  # how its learning rate was chosen, for the row
    from_trunk: float = 0.0  # share of its steps that a shorter run of the sweep trains

    @property
    def flops_to_train(self) -> float:
        """``flops`` less those of the trunk that a shorter run leaves."""
        return self.flops * (1 - self.from_trunk)


def plan_sweep(grid: Grid, loaded: LoadedData) -> list[Point]:
    """The grid's runs, cheapest first, with their cost in FLOPs; reads the data set once.

    Raises:
        UserError: a setting or the data set is wrong, before anything is trained; two runs would be the same.
    """
    points: dict[str, Point] = {}
    targets: dict[float, tuple[int, Any]] = {}  # fraction: targets of an epoch, data set
    digest: str | None = None
    for rung, seed, fraction, epochs in itertools.product(
        grid.rungs, grid.seeds, grid.fractions, grid.epochs or (None,)
    ):
        settings = {"valid_metric": "NLL", **rung.settings, **grid.settings, "seed": seed, "data_fraction": fraction}
        settings |= {"epochs": epochs} if epochs is not None else {}
        config = make_config("ScaledSASRec", grid.dataset, list(grid.config_files), quiet(settings))
        if config["epochs"] < 1:
            raise UserError(f"epochs is {config['epochs']}, but a run of a sweep trains for 1 at least")
        if fraction not in targets:
            prepared = prepare(config, loaded)
            targets[fraction] = prepared.train_data.n_targets, prepared.dataset
            digest = prepared.digest
        count, dataset = targets[fraction]
        decide_by_data(config, dataset.histories)
        if config["lr_schedule"] == "wsd" and len(grid.epochs) > 1:
            shared = trunk_settings(config, min(grid.epochs), count)
            settings = {k: v for k, v in shared.items() if k not in config.external_config_dict} | settings
            config = make_config("ScaledSASRec", grid.dataset, list(grid.config_files), quiet(settings))
        shape = Shape.from_config(config, dataset.item_num - 1)
        flops = flops_per_interaction(shape) * float(count) * config["epochs"]
        label = f"{rung.name} seed {seed}" + (f" {fraction:.4g} of users" if fraction != 1 else "")
        label += f" {counted(epochs, 'epoch')}" if epochs and len(grid.epochs) > 1 else ""
        name = run_id(config)
        if name in points:
            raise UserError(f"the runs '{points[name].label}' and '{label}' of this sweep are the same")
        if grid.per_user:
            settings["per_user_file"] = os.path.join(grid.per_user, f"{name}.npz")
        shorter = max((e for e in grid.epochs if e < config["epochs"]), default=0) if config["share_trunk"] else 0
        points[name] = Point(
            label,
            grid.dataset,
            settings,
            grid.config_files,
            name,
            parameter_groups(shape)["n_blocks"],
            count,
            config["epochs"],
            flops,
            digest,
            from_trunk=shorter * (1 - config["decay_share"]) / config["epochs"],
        )
    return sorted(points.values(), key=lambda point: point.flops)


def trunk_settings(config: RunConfig, fewest_epochs: int, targets: int) -> dict[str, Any]:
    """What lets runs of several lengths share their trunk, where the user has not set it.

    They keep it, warm up as the shortest of them does, and train for the lengths that were asked for: patience that
    ran out in the stable part would begin the decay early, and compare other lengths than the plan says.
    """
    steps = fewest_epochs * -(-targets // config["train_batch_size"])
    return {"share_trunk": True, "warmup_steps": Schedule("wsd", None).warmup_of(steps), "stopping_step": MANY}


def quiet(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with a run's own terminal output off; they do not change its numbers or its id."""
    return {"show_progress": False, "state": "error", **settings}


def finished_rows(path: str) -> list[Row]:
    """Rows of runs that ended well, none when the file is not there yet."""
    if not os.path.isfile(path):
        return []
    return [row for row in as_rows(records.read_rows(path)) if row["status"] == "ok"]


def timed_shapes(points: Sequence[Point], rows: Sequence[Row], loaded: LoadedData, threads: int) -> list[Row]:
    """Stand-ins for rows of shapes that have none here: a few steps of each are timed, smallest first.

    A shape whose step takes too long to try has none, and neither has one past it.
    """
    known = {row["n_blocks"] for row in rows if row.get("seconds_train") and row.get("threads") == threads}
    found: list[Row] = []
    for point in sorted({p.n_blocks: p for p in points if p.n_blocks not in known}.values(), key=lambda p: p.n_blocks):
        config = make_config("ScaledSASRec", point.dataset, list(point.config_files), quiet(point.settings))
        prepared = prepare(config, loaded)
        speed = measure_speed(prepared, build_model(prepared))
        if speed is None:
            break
        train = point.epochs * point.targets * speed.per_target
        ranking = (point.epochs + 1) * len(prepared.valid_data.dataset) * speed.per_user
        found.append(
            {
                "n_blocks": point.n_blocks,
                "threads": threads,
                "epochs": point.epochs,
                "flops_per_interaction": point.flops / max(point.targets * point.epochs, 1),
                "flops_total": point.flops,
                "seconds_train": train,
                "seconds_total": train + ranking + _START,
            }
        )
    return found


def seconds_left(points: Iterable[Point], rows: Sequence[Row], threads: int) -> float:
    """Estimated seconds of ``points`` one after the other, from the measured run of nearest cost.

    Rates differ tenfold between small and large shapes, so the nearest measured FLOPs per target is used, and of equals
    the newest; what a run took beside its training (start, evaluations) is counted by the epoch.
    """
    measured = [
        (
            row["flops_per_interaction"],
            row["flops_total"] / row["seconds_train"],
            max(0.0, (row.get("seconds_total") or 0.0) - row["seconds_train"]) / max(row.get("epochs") or 1, 1),
        )
        for row in rows
        if row.get("flops_total") and row.get("seconds_train") and row.get("threads") == threads
    ]
    total = 0.0
    for point in points:
        each = point.flops / max(point.targets * point.epochs, 1)
        near = min(reversed(measured), key=lambda m: abs(m[0] / each - 1), default=None)
        total += point.flops_to_train / (near[1] if near else _DEFAULT_RATE)
        total += near[2] * point.epochs * (1 - point.from_trunk) if near else 0.0
    return total
