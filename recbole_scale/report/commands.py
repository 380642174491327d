"""What to run next, as commands to copy: the one that would decide an open verdict, and those that sharpen it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_scale.fit.rows import Row
from recbole_scale.fit.study import Answer
from recbole_scale.fit.tables import number
from recbole_scale.fit.tries import planned_epochs
from recbole_scale.model.sizes import EQUAL_N, load_size, named, nearest_size, scaled_shape, shaped
from recbole_scale.report.costs import Costs
from recbole_scale.report.next_runs import MORE_RUNS, Step, next_runs
from recbole_scale.report.report import Study
from recbole_scale.report.verdict import Verdict, still_learning
from recbole_scale.settings import value_text
from recbole_scale.text import counted, duration, show_count

_PLACE = {"size", "n_layers", "hidden_size", "n_heads", "inner_size", "seed", "data_fraction", "epochs",
          "show_progress", "state", "dataset", "model", "checkpoint_dir", "results_file", "per_user_file"}  # fmt: skip
_TRIES = (2, 4, 8)  # runs to add at one size
_MOST = 4
_RATES = 4  # to try at a size that is worse than a smaller one
_NEAR = math.log(1.4)  # a shape stands for a size within this factor: no shape is smaller than one layer of 8


@dataclass(frozen=True)
class Command:
    """A command to copy, what it gives, and how long it takes where the runs tell."""

    line: str
    gives: str
    minutes: float | None
    decides: bool = False


def next_commands(study: Study, verdict: Verdict, costs: Costs, rows_file: str) -> list[Command]:
    """Commands that sharpen the answer most, the one that would decide it first."""
    if not verdict.learnt or study.deciding is None:
        return [_learn(study, costs, rows_file)] if not verdict.learnt else [_more_sizes(study, costs, rows_file)]
    if verdict.at_then is None and study.ends.over_the_top:
        return [] if study.ends.large.overfits_after else [_tune(study, costs, rows_file)]
    chosen = _deciding(study.deciding, study, verdict)
    steps = [] if chosen is None else [chosen]
    longer = [_longer(study, verdict.now, costs, rows_file)] if still_learning(study, verdict.now) else []
    seen = {step.n for step, _, _ in steps}
    for step in next_runs(study.deciding, verdict.then):
        if step.n not in seen and step.after < 0.98 * step.before and _reachable(study, step.n):
            steps.append((step, 3, False))
            seen.add(step.n)
    further = [_of_step(study, step, runs, decides, rows_file, verdict.then) for step, runs, decides in steps[:_MOST]]
    first = [step for step in further if step.decides]
    return [*first, *longer, *(step for step in further if not step.decides)][:_MOST]


def _deciding(found: Answer, study: Study, verdict: Verdict) -> tuple[Step, int, bool] | None:
    """The cheapest runs after which the band would leave out what is asked for; else those that narrow it most."""
    if verdict.gain is None or verdict.gain[1] != verdict.gain[1]:
        return None
    value, low, high = verdict.gain
    if verdict.word != "Not known yet" or not low < verdict.worth <= high:
        return None
    side = (high - value) if verdict.worth > value else (value - low)
    distance = abs(value - verdict.worth)
    tried = [(step, runs) for runs in _TRIES for step in next_runs(found, verdict.then, runs)
             if _reachable(study, step.n)]  # fmt: skip
    enough = [pair for pair in tried if side * pair[0].after / pair[0].before < distance]
    if enough:
        step, runs = min(enough, key=lambda pair: pair[0].hours or pair[0].flops or float("inf"))
        return step, runs, True
    if not tried:
        return None
    step, runs = min(tried, key=lambda pair: pair[0].after)
    return step, runs, False


def _reachable(study: Study, n: float) -> bool:
    """Whether a shape of this size exists, and is not beyond one that was already worse than a smaller one."""
    near = abs(math.log(shaped(shape_name(study, n)).n_blocks / n)) < _NEAR
    return near and (not study.ends.over_the_top or n <= study.ends.best.n)


def _of_step(study: Study, step: Step, runs: int, decides: bool, rows_file: str, then: float) -> Command:
    line = sweep_line(study, [step.n], next_seeds(study, step.n, runs), rows_file)
    minutes = None if step.hours is None else 60.0 * step.hours
    takes = "" if minutes is None else f", about {duration(60 * minutes)}"
    known = any(size.n == step.n for size in study.sizes)
    what = f"{runs} {'more runs at' if known else 'runs of a new size,'} {show_count(step.n)}{takes}"
    left = 100 * step.after / step.before  # of a linearised law: it ranks runs, and its width is not the band's
    narrows = f"the band of the loss at {show_count(then)} to about {left:.0f} % of its width"
    if decides:
        return Command(line, f"Would decide it: {what}; narrows {narrows}.", minutes, True)
    return Command(line, f"{what[0].upper()}{what[1:]}: narrows {narrows}.", minutes)


def _longer(study: Study, n: float, costs: Costs, rows_file: str) -> Command:
    """Runs of size ``n`` that were stopped while they learnt, for three times as long."""
    epochs = max(3 * int(planned_epochs(_row_near(study, n))), 10)
    hours = costs.of(n).hours
    minutes = None if hours is None else 60.0 * hours * epochs / max(planned_epochs(_row_near(study, n)), 1.0)
    takes = "" if minutes is None else f", about {duration(60 * minutes)}"
    line = sweep_line(study, [n], [1], rows_file, epochs)
    return Command(line, f"Let {show_count(n)} learn to its end: {counted(epochs, 'epoch')}{takes}.", minutes)


def _learn(study: Study, costs: Costs, rows_file: str) -> Command:
    """Longer runs of the smallest size, since nothing was learnt."""
    row = _row_near(study, study.sizes[0].n)
    epochs = max(3 * int(planned_epochs(row)), 10)
    hours = costs.of(study.sizes[0].n).hours
    minutes = None if hours is None else 60.0 * hours * epochs / max(planned_epochs(row), 1.0)
    line = sweep_line(study, [study.sizes[0].n], [1], rows_file, epochs)
    takes = "" if minutes is None else f", about {duration(60 * minutes)}"
    return Command(line, f"First see that the smallest size learns at all: {counted(epochs, 'epoch')}{takes}.", minutes)


def _tune(study: Study, costs: Costs, rows_file: str) -> Command:
    """The largest size at rates of its own, since it is worse than another: a poor rate does that as well."""
    large = study.ends.large.n
    hours = costs.of(large).hours
    minutes = None if hours is None else 60.0 * hours * (_RATES + MORE_RUNS)
    takes = "" if minutes is None else f", about {duration(60 * minutes)}"
    line = sweep_line(study, [large], next_seeds(study, large, MORE_RUNS), rows_file, tune=_RATES)
    what = f"See whether {show_count(large)} is worse for its rate alone: {_RATES} rates, {MORE_RUNS} runs of the best"
    return Command(line, f"{what}{takes}.", minutes)


def _more_sizes(study: Study, costs: Costs, rows_file: str) -> Command:
    """The sizes that are missing for a law."""
    sizes = [size.n for size in study.sizes]
    wanted = [sizes[0] / 4, sizes[-1] * 4, sizes[-1] * 16][: max(1, 4 - len(sizes))]
    hours = [costs.of(n).hours for n in wanted]
    minutes = None if any(one is None for one in hours) else 2 * 60.0 * sum(one or 0.0 for one in hours)
    takes = "" if minutes is None else f", about {duration(60 * minutes)}"
    return Command(sweep_line(study, wanted, [1, 2], rows_file), f"Sizes that a law still needs{takes}.", minutes)


def sweep_line(
    study: Study,
    sizes: Sequence[float],
    seeds: Sequence[int],
    rows_file: str,
    epochs: int | None = None,
    tune: int = 0,
) -> str:
    """The sweep that adds runs like those there are, as one shell line.

    A size that is there gets the settings of its own runs, new ones the largest's; a rate tuned for that one, none,
    nor where so many rates are to be tried (``tune``).
    """
    row = _row_near(study, sizes[0])
    there = len(sizes) == 1 and abs(float(row["n_blocks"]) / sizes[0] - 1) <= EQUAL_N
    row = row if there else _row_near(study, study.sizes[-1].n)
    settings = {key: value for key, value in (row.get("settings") or {}).items() if key not in _PLACE}
    words = ["recbole-scale", "sweep", "--dataset", study.choice.dataset]
    words += ["--shapes", *(shape_name(study, n) for n in sizes), "--seeds", *map(str, seeds)]
    planned = epochs or int(planned_epochs(row))
    words += ["--epochs", str(planned)] if planned else []
    if (tuning := row.get("tuning")) and not there:
        settings.pop("learning_rate", None)
        words += ["--tune", str(len(tuning["valid_nll"])), "--tune_seed", str(tuning["seed"])]
        words += ["--tune_epochs", str(tuning["epochs"])]
    elif tune:
        settings.pop("learning_rate", None)
        words += ["--tune", str(tune)]
    words += ["--rows", rows_file]
    words += [f"--{key}={value_text(value)}" for key, value in settings.items()]
    return shlex.join(words)


def shape_name(study: Study, n: float) -> str:
    """``LAYERSxD_MODEL`` of the runs or the packaged size at ``n``, else of the largest run's proportions."""
    chosen = study.choice.fitted + study.choice.held_out
    for row in chosen + study.rows:
        if number(row, "n_blocks") and abs(float(row["n_blocks"]) / n - 1) <= EQUAL_N:
            return f"{row['n_layers']}x{row['d_model']}"
    packaged = nearest_size(n)
    if abs(named(packaged).n_blocks / n - 1) <= EQUAL_N:
        return "{n_layers}x{hidden_size}".format(**load_size(packaged))
    large = _row_near(study, study.sizes[-1].n)
    return "{}x{}".format(*scaled_shape(n, int(large["n_layers"]), int(large["d_model"])))


def next_seeds(study: Study, n: float, count: int) -> list[int]:
    """Seeds that no run of size ``n`` has had, nor one that has tuned a rate."""
    used = {(row.get("tuning") or {}).get("seed") for row in study.rows}
    used |= {
        row.get("seed") for row in study.rows if number(row, "n_blocks") and abs(row["n_blocks"] / n - 1) <= EQUAL_N
    }
    free = (seed for seed in range(1, 1000 + count) if seed not in used)
    return [next(free) for _ in range(count)]


def _row_near(study: Study, n: float) -> Row:
    rows = study.choice.fitted + study.choice.held_out
    return min(rows, key=lambda row: abs(float(row["n_blocks"]) - n))
