"""Learning rates tuned before a sweep: as many for every shape, on a seed of their own, chosen by valid loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Row
from recbole_scale.model.sizes import Rung
from recbole_scale.runs.prepared import LoadedData
from recbole_scale.runs.run import make_config
from recbole_scale.sweep.sweep import Grid, Point, plan_sweep, quiet


@dataclass(frozen=True)
class Tuning:
    """What is tried before a sweep.

    Attributes:
        grid: the sweep's.
        tried: rates by name of the shape.
        seed: of the tuning runs, none of the sweep's.
        epochs: of the tuning runs.
    """

    grid: Grid
    tried: dict[str, tuple[float, ...]]
    seed: int
    epochs: int

    @classmethod
    def of(cls, grid: Grid, tune: Sequence[float], seed: int, epochs: int | None) -> Tuning:
        """Read ``--tune``: the rates, or how many of them, each twice the one before, around the shape's own.

        Raises:
            UserError: fewer than two rates, one that is not above 0, a seed of the sweep, a rate that is set as well.
        """
        if "learning_rate" in grid.settings:
            raise UserError(
                "--tune chooses the learning rate of each shape, and --learning_rate sets it; give one of them"
            )
        if seed in grid.seeds:
            raise UserError(
                f"--tune_seed {seed} is one of the sweep's --seeds; what it chose would be judged on itself"
            )
        count = int(tune[0]) if len(tune) == 1 and float(tune[0]).is_integer() else None
        if count is not None and not 2 <= count <= 12:
            raise UserError(
                f"--tune {tune[0]:g} must be 2 to 12, a number of rates, or be followed by the rates themselves"
            )
        if count is None and (len(set(tune)) < 2 or not all(0 < rate < math.inf for rate in tune)):
            raise UserError(f"--tune {' '.join(f'{rate:g}' for rate in tune)}: at least two rates above 0 are needed")
        tried, lengths = {}, []
        for rung in grid.rungs:
            config = _config(grid, rung)
            lengths.append(min(grid.epochs) if grid.epochs else config["epochs"])
            own = config["learning_rate"]
            around = [own * 2.0 ** (at - (count - 1) // 2) for at in range(count)] if count else tune
            tried[rung.name] = tuple(sorted({float(f"{rate:.6g}") for rate in around}))
        return cls(grid, tried, seed, min(lengths) if epochs is None else epochs)

    def points(self, loaded: LoadedData) -> list[Point]:
        """The tuning runs, cheapest first."""
        rungs = tuple(
            replace(rung, name=f"{rung.name} rate {rate:g}", settings={**rung.settings, "learning_rate": rate})
            for rung in self.grid.rungs
            for rate in self.tried[rung.name]
        )
        grid = replace(
            self.grid, rungs=rungs, seeds=(self.seed,), fractions=(1.0,), epochs=(self.epochs,), per_user=None
        )
        return plan_sweep(grid, loaded)

    def choose(self, points: Sequence[Point], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        """The rate with the least valid NLL, by name of the shape: column ``tuning`` of the sweep's rows.

        Raises:
            UserError: no rate of a shape has a finished run.
        """
        loss = {row["run_id"]: row["best_valid_nll"] for row in rows if row.get("best_valid_nll") is not None}
        found = {}
        for rung in self.grid.rungs:
            of_rung = {point.label.split(" seed ")[0]: loss.get(point.run_id) for point in points}
            losses = {rate: of_rung.get(f"{rung.name} rate {rate:g}") for rate in self.tried[rung.name]}
            known = {rate: value for rate, value in losses.items() if value is not None}
            if not known:
                raise UserError(f"no tuning run of {rung.name} has finished, so that its learning rate is not known")
            best = min(known, key=lambda rate: known[rate])
            found[rung.name] = {
                "learning_rate": best,
                "valid_nll": {f"{rate:g}": value for rate, value in losses.items()},
                "seed": self.seed,
                "epochs": self.epochs,
                "at_the_edge": best in (min(losses), max(losses)),
            }
        return found

    def tuned(self, chosen: dict[str, dict[str, Any]], loaded: LoadedData) -> list[Point]:
        """The sweep's runs with each shape's chosen rate."""
        points = []
        for rung in self.grid.rungs:
            told = chosen[rung.name]
            settings = {**rung.settings, "learning_rate": told["learning_rate"]}
            grid = replace(self.grid, rungs=(replace(rung, settings=settings),))
            points += [replace(point, tuning=told) for point in plan_sweep(grid, loaded)]
        return sorted(points, key=lambda point: point.flops)


def tuning_file(rows: str) -> str:
    """Where the rows of tuning runs go, apart from those that laws are fitted to: ``runs.tuning.jsonl``."""
    path = Path(rows)
    return str(path.with_name(f"{path.stem}.tuning{path.suffix}"))


def told(chosen: dict[str, dict[str, Any]]) -> str:
    """One line a shape: what was tried and what was chosen."""
    lines = []
    for name, one in chosen.items():
        tried = ", ".join(
            f"{rate}: {'failed' if nll is None else f'{nll:.4f}'}" for rate, nll in one["valid_nll"].items()
        )
        edge = "; the best is at the edge, so a better one may lie beyond" if one["at_the_edge"] else ""
        lines.append(f"{name}: learning_rate {one['learning_rate']:g} (valid NLL by rate: {tried}{edge})")
    return "\n".join(lines)


def _config(grid: Grid, rung: Rung) -> Any:
    settings = quiet({"valid_metric": "NLL", **rung.settings, **grid.settings})
    return make_config("ScaledSASRec", grid.dataset, list(grid.config_files), settings)
