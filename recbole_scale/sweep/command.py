"""The command ``recbole-scale sweep``: a grid in, the plan first, then a row and a line per run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from recbole_scale.arguments import file_names
from recbole_scale.bars import bar, fitting, say
from recbole_scale.errors import UserError, nearest
from recbole_scale.fit.rows import Row
from recbole_scale.model.sizes import Rung, equal_shapes, rung_of, shaped
from recbole_scale.runs import records
from recbole_scale.runs.row_file import check_appendable
from recbole_scale.settings import find_settings_file, load_settings_file
from recbole_scale.signals import Interrupted
from recbole_scale.sweep.engine import Engine, RowsFile, in_process
from recbole_scale.sweep.options import FROM_FILES, ROWS, parser
from recbole_scale.sweep.sweep import (
    Grid,
    LoadedData,
    Point,
    finished_rows,
    plan_sweep,
    seconds_left,
    timed_shapes,
)
from recbole_scale.sweep.tuning import Tuning, told, tuning_file
from recbole_scale.text import counted, duration, parse_count, show_count, text_table

# config files may hold these; the options win
_IN_FILES = (*FROM_FILES, "epochs", "size", "n_layers", "hidden_size")
_GRID_OPTIONS = ("dataset", "sizes", "shapes", "layers", "d_model", "equal_n", "seeds", "fractions", "epochs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 when a run of the sweep failed.

    Raises:
        UserError: a mistake in the options, the settings or the data, before anything is trained.
    """
    options, settings = parser().parse_with_settings(arguments)
    if options.columns:
        print(columns_text())
        return 0
    for name in ("cpus_per_run", "gpus_per_run", "max_failures") if options.ray_address is None else ():
        if getattr(options, name) is not None:
            raise UserError(f"--{name} is for runs on Ray; --ray_address says where, local starts one here")
    if options.tune_epochs is not None and not options.tune:
        raise UserError("--tune_epochs is for the runs of --tune, which is not given")
    grid, loaded = read_grid(options, settings), LoadedData()
    options.rows = options.rows or ROWS
    check_appendable(options.rows, records.COLUMNS)
    if not options.tune:
        return _carry_out(plan_sweep(grid, loaded), grid.dataset, options, loaded)
    tuning = Tuning.of(grid, options.tune, options.tune_seed, options.tune_epochs)
    trials = tuning.points(loaded)
    trying = argparse.Namespace(**{**vars(options), "rows": tuning_file(options.rows), "keep": "none"})
    print(f"tuning first, seed {tuning.seed}, {counted(tuning.epochs, 'epoch')}: {tuning_file(options.rows)}")
    failed = _carry_out(trials, grid.dataset, trying, loaded)
    if options.dry_run:
        print("then each shape's runs, with the learning rate of the least valid NLL")
        return 0
    chosen = tuning.choose(trials, finished_rows(trying.rows))
    print(told(chosen))
    return _carry_out(tuning.tuned(chosen, loaded), grid.dataset, options, loaded) or failed


def _carry_out(points: Sequence[Point], dataset: str, options: argparse.Namespace, loaded: LoadedData) -> int:
    """Print the plan of ``points`` and run those that are not finished; 1 when one failed."""
    rows = finished_rows(options.rows)
    wanted = {point.run_id: point for point in points}
    same = [row for row in rows if row["run_id"] in wanted]
    done = {row["run_id"] for row in same if records.is_finished(row, wanted[row["run_id"]].digest)}
    if stale := {row["run_id"] for row in same} - done:
        print(f"{len(stale)} finished runs saw other data than '{dataset}' holds now; they are run again")
    todo = [point for point in points if point.run_id not in done]
    threads = torch.get_num_threads()
    print(plan_table(dataset, points, done))
    jobs = f"{counted(len(points), 'run')}, {len(points) - len(todo)} of them finished; {len(todo)} to go"
    timed = [*timed_shapes(todo, rows, loaded, threads), *rows]
    left = duration(seconds_left(todo, timed, threads))
    print(f"{jobs}: {sum(point.flops_to_train for point in todo):.3g} FLOP, about {left}")
    if options.dry_run or not todo:
        return 0
    return 1 if sweep(todo, timed, _engine(options, loaded), options.rows) else 0


def sweep(points: Sequence[Point], rows: list[Row], engine: Engine, path: str) -> int:
    """Run ``points``, whose rows ``engine`` adds to ``path``, and print a line each; returns how many failed."""
    failed = ended = 0
    try:
        with Progress(points, rows) as progress:
            for point, row in engine(points, progress):
                rows.append(row)
                ended += row["status"] == "ok"
                failed += row["status"] != "ok"
                progress.end(point, line(point, row))
    except Interrupted as stop:
        stop.advice = f"finished runs are in {path}, and the same command goes on with the others"
        raise
    print(f"{counted(ended, 'run')} finished, {failed} failed; rows in {path}")
    return failed


class Progress:
    """One bar for a sweep, in FLOPs, that moves with every evaluated epoch; and a line for each finished run."""

    def __init__(self, points: Sequence[Point], rows: list[Row]) -> None:
        self._left, self._rows, self._count = {point.run_id: point for point in points}, rows, len(points)
        self._done, self._parallel = 0.0, 1  # FLOPs of finished runs, and how many runs go on at once
        self._running: dict[str, float] = {}  # FLOPs so far of those
        form = "sweep {percentage:3.0f}%|{bar}| {desc} [{elapsed} so far]"
        self._bar = bar(total=sum(p.flops_to_train for p in points), bar_format=form)
        self._show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.close()

    def parallel(self, runs: int) -> None:
        """So many runs go on at once."""
        self._parallel = max(1, runs)

    def __call__(self, point: Point, epoch: int) -> None:
        """``point`` has trained and evaluated its ``epoch``, counted from 0."""
        share = min(1.0, (epoch + 1) / point.epochs)
        self._running[point.run_id] = max(0.0, share - point.from_trunk) * point.flops
        self._show(f", {point.label}: epoch {epoch + 1} of {point.epochs}")

    def end(self, point: Point, line: Sequence[str]) -> None:
        """``point`` is finished, as ``line`` tells: the first of them that fits the terminal."""
        self._left.pop(point.run_id)
        self._running.pop(point.run_id, None)
        self._done += point.flops_to_train
        ended = f"[{self._count - len(self._left)}/{self._count}] "
        say(ended + fitting(line, sys.stdout, len(ended)))
        self._show()

    def _show(self, remark: str = "") -> None:
        """The estimate is for runs at once on all nodes, less the share of what is under way."""
        running = sum(self._running.values())
        at_once = max(1, min(self._parallel, len(self._left)))
        seconds = seconds_left(self._left.values(), self._rows, torch.get_num_threads()) / at_once
        todo = sum(point.flops_to_train for point in self._left.values())
        left = duration(seconds * (1 - running / todo)) if todo else "nothing"
        self._bar.n = self._done + running
        ended = self._count - len(self._left)
        self._bar.set_description_str(f"{ended}/{self._count} runs{remark}, {left} left", refresh=False)
        self._bar.refresh()


def line(point: Point, row: Row) -> list[str]:
    """One finished run on one line: whole, and shorter for narrow terminals."""
    if row["status"] != "ok":
        return [f"{point.label:<24} N {show_count(point.n_blocks):>6}  failed: {row['error']}"]
    test, took = row["test_metrics"] or {}, duration(row["seconds_total"])
    ndcg = f"  NDCG@10 {test['ndcg@10']:.4f}" if "ndcg@10" in test else ""
    nll = error = ""  # a sweep may measure no NLL
    if row["test_nll"] is not None:
        nll, error = f"  test NLL {row['test_nll']:.4f}", f" ± {row['test_nll_se']:.4f}"
    ended = f"  best epoch {(row['best_epoch'] or 0) + 1} of {row['epochs']}"
    return [
        f"{point.label:<24} N {show_count(point.n_blocks):>6}{nll}{error}{ndcg}{ended}  {took}",
        f"{point.label:<16}{nll}{error}{ndcg}  {took}",
        f"{point.label}{nll}{ndcg}  {took}",
    ]


def plan_table(dataset: str, points: Sequence[Point], done: set[str]) -> str:
    """Every run with its size and cost, cheapest first."""
    rows = [["run", "N", "targets", "epochs", "FLOP", "run_id", ""]]
    for point in points:
        finished = "finished" if point.run_id in done else ""
        size, seen = show_count(point.n_blocks), f"{point.targets:,}"
        rows.append([point.label, size, seen, str(point.epochs), f"{point.flops:.2e}", point.run_id, finished])
    return f"sweep of ScaledSASRec on {dataset}\n{text_table(rows, left=(0, 5, 6), indent='  ')}"


def columns_text() -> str:
    """What each column of a row means, one a line."""
    return text_table(list(records.COLUMNS.items()), left=(0, 1))


def read_grid(options: argparse.Namespace, more: dict[str, Any]) -> Grid:
    """The grid of the options, of the sweep file, and of further settings.

    Raises:
        UserError: an unknown option in the file, a value of the wrong kind, or no shape at all.
    """
    given = {name: getattr(options, name) for name in _GRID_OPTIONS if getattr(options, name) is not None}
    settings = {**_from_file(options.sweep, given), **more}
    files = file_names(options.config_files)
    parser().check_files(files, but=_IN_FILES)
    _add_from_configs(files, given, options)
    rungs = _rungs(given)
    if "dataset" not in given:
        raise UserError("a sweep needs --dataset")
    return Grid(
        dataset=str(given["dataset"]),
        rungs=tuple(rungs),
        seeds=tuple(_numbers(given, "seeds", int, [1])),
        fractions=tuple(_numbers(given, "fractions", float, [1.0])),
        epochs=tuple(_numbers(given, "epochs", int, [])),
        settings=settings,
        config_files=tuple(files),
        per_user=options.per_user,
    )


def _from_file(path: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Add a sweep file's options to ``given``, where the command line has none; returns its ``settings``."""
    content = load_settings_file(path) if path else {}
    settings = content.pop("settings", {}) or {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings is {settings!r}, but must be a list of 'key: value' lines")
    parser().check_settings(settings, path or "")
    for name, value in content.items():
        if name not in _GRID_OPTIONS:
            known = (*_GRID_OPTIONS, "settings")
            raise UserError(f"{path}: a sweep has no option '{name}'{nearest(name, known)}")
        given.setdefault(name, value)
    return settings


def _add_from_configs(files: Sequence[str], given: dict[str, Any], options: argparse.Namespace) -> None:
    """Add what config files say of the sweep to ``given`` and the rows' file, where no option does, and tell it."""
    found = {key: value for path in files for key, value in load_settings_file(find_settings_file(path)).items()}
    missing = [key for key, name in FROM_FILES.items() if name not in given and getattr(options, name) is None]
    taken = {key: found[key] for key in missing if found.get(key) is not None}
    options.rows = taken.get("results_file", options.rows)
    given.update({FROM_FILES[key]: value for key, value in taken.items()})
    if taken:
        print(f"from the config files: {', '.join(f'{key} {value}' for key, value in taken.items())}")


def _rungs(given: dict[str, Any]) -> list[Rung]:
    rungs = [rung_of(str(text)) for name in ("sizes", "shapes") for text in _several(given, name)]
    layers, widths = _numbers(given, "layers", int, []), _numbers(given, "d_model", int, [])
    if bool(layers) != bool(widths):
        raise UserError("--layers and --d_model go together: every number of layers with every width")
    rungs += [shaped(f"{count}x{width}") for count in layers for width in widths]
    for text in _several(given, "equal_n"):
        count = parse_count(str(text))
        if count is None:
            raise UserError(f"--equal_n {text} is no count such as 98304 or 98.3K")
        rungs += equal_shapes(count)
    if not rungs:
        raise UserError("a sweep needs shapes: --sizes tiny small, --shapes 2x16 2x32, --layers with --d_model, "
                        "or --equal_n 98.3K")  # fmt: skip
    return list({rung.name: rung for rung in rungs}.values())


def _several(given: dict[str, Any], name: str) -> list[Any]:
    value = given.get(name, [])
    return list(value) if isinstance(value, list | tuple) else [value]


def _numbers(given: dict[str, Any], name: str, kind: type, default: list[Any]) -> list[Any]:
    values = _several(given, name) or default
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value:
            raise UserError(f"--{name} {value} is no {'whole number' if kind is int else 'number'}")
    return [kind(value) for value in dict.fromkeys(values)]


def _engine(options: argparse.Namespace, loaded: LoadedData) -> Engine:
    rows = RowsFile(options.rows, options.keep)
    if options.ray_address is None:
        return in_process(loaded, rows)
    from recbole_scale.sweep.on_ray import on_ray

    return on_ray(options.ray_address, options.cpus_per_run, options.gpus_per_run, rows, options.max_failures)
