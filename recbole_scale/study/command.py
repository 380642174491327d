"""The command ``recbole-scale study``: a log and a time in, one page with the answer out."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.files import whole_files
from recbole_scale.fit.command import names_of
from recbole_scale.fit.rows import Question
from recbole_scale.fit.tables import number
from recbole_scale.laws.fit import check_resamples
from recbole_scale.model.sizes import Rung, rung_of
from recbole_scale.prepare.card import read_card
from recbole_scale.report.command import check_demands
from recbole_scale.report.commands import Command
from recbole_scale.report.next_runs import run_noise
from recbole_scale.report.page import Context, answer_text, as_page
from recbole_scale.report.report import Study, draw, make_study
from recbole_scale.runs.prepared import LoadedData, Prepared, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.study.clock import Clock, begun, page_seconds
from recbole_scale.study.counting import counting_rows
from recbole_scale.study.folder import Folder
from recbole_scale.study.log import prepared_log
from recbole_scale.study.machines import WORKER_START, Machines, machines, threads_of
from recbole_scale.study.options import parser
from recbole_scale.study.planner import (
    OVERHEAD,
    SHAPES,
    SLACK,
    Measured,
    Plan,
    batch_size,
    make_plan,
    plan_text,
    seeds_that_sharpen,
)
from recbole_scale.study.running import climb, more_time, tune
from recbole_scale.study.timing import measure
from recbole_scale.sweep.sweep import finished_rows, quiet
from recbole_scale.text import duration, parse_count

_TOPK = (5, 10, 50)
_TIMING_AT_MOST = 0.2  # of the time, when no further size is timed
_EPOCHS_AT_LEAST = 40  # of the largest candidate alone would fill the time: no larger one is timed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options or the log, or too little time, in one sentence.
    """
    options, settings = parser().parse_with_settings(arguments)
    words = list(sys.argv[1:] if arguments is None else arguments)
    check_resamples(options.resamples)
    check_demands(options)
    for name in names_of(options.predict):
        if parse_count(name.lower().removesuffix("x")) is None:
            rung_of(name)
    seconds, more = time_given(options.hours, options.minutes)
    clock = Clock(begun(), seconds)
    if options.encoding and not (options.csv or options.parquet):
        settings["encoding"] = options.encoding  # of the atomic file
    dataset = prepared_log(options, str(settings.get("data_path", "dataset")))
    folder = Folder(Path(options.out or Path("studies") / dataset))
    loaded = LoadedData()
    with machines(options, loaded) as there:
        plan, ready = _plan(dataset, options, settings, folder, loaded, there, clock, more)
        print(plan_text(plan))
        if options.dry_run:
            return 0
        folder.write_plan(plan)
        folder.add_others(counting_rows(ready))
        keep = page_seconds(options.resamples)
        plan = tune(plan, folder, loaded, there.engine, clock, keep)
        climb(plan, folder, loaded, there.engine, clock, keep)
    return _report(options, words, folder, plan, ready, clock)


def _plan(
    dataset: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    folder: Folder,
    loaded: LoadedData,
    there: Machines,
    clock: Clock,
    more: bool,
) -> tuple[Plan, Prepared]:
    """The plan to carry out: a new one, the one that is there, or that one with further runs; and the data."""
    began = time.monotonic()
    settings = _common(dataset, settings, folder, loaded)
    reading = time.monotonic() - began
    plan, ready = folder.read_plan(), _prepared(dataset, settings, loaded)
    if plan is None:
        if more:
            raise UserError(f"there is no study in {folder.path} to sharpen; leave out 'more' to begin it")
        return _new_plan(dataset, options, settings, loaded, ready, there, clock, reading), ready
    if plan.dataset != dataset:
        raise UserError(f"{folder.path} holds a study of '{plan.dataset}', not '{dataset}'; choose another --out")
    plan = replace(plan, at_once=there.at_once)
    if more:
        return _sharpened(plan, _study(options, folder, plan), options, clock), ready
    print(f"going on with the plan in {folder.plan_file}: its sizes and settings hold (remove it to plan anew)")
    return plan, ready


def time_given(hours: Sequence[str] | None, minutes: Sequence[str] | None) -> tuple[float, bool]:
    """Seconds of ``--hours`` or ``--minutes``, and whether they are more time for a study that is there.

    Raises:
        UserError: both or none, or no number above 0.
    """
    if bool(hours) == bool(minutes):
        raise UserError("a study needs a time: --hours 1 or --minutes 30")
    name, words, unit = ("hours", hours, 3600.0) if hours else ("minutes", minutes, 60.0)
    assert words is not None
    try:
        value = float(words[0])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6 or list(words[1:]) not in ([], ["more"]):
        raise UserError(f"--{name} {' '.join(words)} is no time such as --{name} 1, or --{name} 1 more")
    return value * unit, len(words) == 2


def _common(dataset: str, settings: dict[str, Any], folder: Folder, loaded: LoadedData) -> dict[str, Any]:
    """Settings of every run: the user's win; batch and lists fit the data; checkpoints lie in the study's folder."""
    first = {"topk": [1], "checkpoint_dir": str(folder.path / "saved"), **settings}
    ready = _prepared(dataset, first, loaded)
    if "nll" not in map(str.lower, ready.config["metrics"]):
        raise UserError(f"metrics are {', '.join(ready.config['metrics'])}, but a study fits a law of NLL: add it")
    lists = [k for k in _TOPK if k < ready.dataset.item_num] or [1]
    chosen = {"topk": lists, "train_batch_size": batch_size(ready.train_data.n_targets)}
    chosen |= {"dropout_bottom": 0.2, "dropout_top": 0.1, "attn_dropout_prob": 0.0}  # the same for every size
    return {**chosen, "checkpoint_dir": str(folder.path / "saved"), **settings}


def _prepared(dataset: str, settings: dict[str, Any], loaded: LoadedData) -> Prepared:
    return prepare(make_config("ScaledSASRec", dataset, [], quiet({**settings, "size": "tiny"})), loaded)


def _new_plan(
    dataset: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    loaded: LoadedData,
    ready: Prepared,
    there: Machines,
    clock: Clock,
    reading: float,
) -> Plan:
    """Time the candidates and choose what fits the time that is left then; ``reading`` the data took so long."""
    rungs = candidates(options.sizes)
    if len(rungs) < 3:
        raise UserError(f"--sizes {' '.join(options.sizes)} are {len(rungs)}, but a law needs at least 3")

    def enough(epoch: float) -> bool:
        late = clock.seconds - clock.left > _TIMING_AT_MOST * clock.seconds
        return not options.sizes and (late or epoch * _EPOCHS_AT_LEAST > clock.seconds * there.at_once)

    with threads_of(there.threads):
        measured: list[Measured] = measure(dataset, rungs, settings, loaded, enough)
    targets, users = ready.train_data.n_targets, len(ready.test_data.dataset)
    left = clock.left - page_seconds(options.resamples) - (WORKER_START if there.apart else 0.0)
    overhead = OVERHEAD + (reading if there.apart else 0.0)
    return make_plan(
        dataset, measured, targets, users, max(left, 1.0), settings, there.at_once, bool(options.sizes), overhead
    )


def candidates(sizes: Sequence[str] | None) -> list[Rung]:
    """The rungs to time, smallest first."""
    rungs = {rung.n_blocks: rung for rung in map(rung_of, sizes or SHAPES)}
    return [rungs[n] for n in sorted(rungs)]


def _sharpened(plan: Plan, study: Study, options: argparse.Namespace, clock: Clock) -> Plan:
    """The plan with the runs that narrow the answer most per second, by the law and the noise that runs have told.

    Raises:
        UserError: there is no law yet, or no run fits the time.
    """
    found = study.deciding
    if found is None:
        raise UserError(f"there is no law to sharpen yet ({study.refusal}); the same line without 'more' goes on")
    actual = [row for row in study.choice.fitted + study.choice.held_out if number(row, "seconds_total")]
    timed = sum(float(row["seconds_total"]) for row in actual)
    by_n = {size.n: size.shape for size in plan.sizes}
    expected = plan.seconds([(by_n[float(row["n_blocks"])], 0) for row in actual if float(row["n_blocks"]) in by_n])
    slower = timed / expected if expected else 1.0
    room = SLACK * plan.at_once * (clock.left - page_seconds(options.resamples)) / max(slower, 0.1)
    added = seeds_that_sharpen(plan, found.law, room, run_noise(found.law), options.factor)
    if not added:
        raise UserError(f"no further run fits {duration(clock.seconds)}; the cheapest takes more")
    return more_time(plan, clock.seconds, added)


def _study(options: argparse.Namespace, folder: Folder, plan: Plan) -> Study:
    rows = finished_rows(folder.rows_file)
    sizes = {row.get("n_blocks") for row in rows}
    held = next((size for size in plan.sizes if size.shape == plan.held_out and size.n in sizes), None)
    out = (f"{held.n:.0f}",) if held is not None and len(sizes) > 3 else ()
    question = Question(plan.dataset, holdout=out, predict=names_of(options.predict), resamples=options.resamples)
    return make_study(rows, question, more_models=finished_rows(folder.others_file))


def _report(
    options: argparse.Namespace, words: list[str], folder: Folder, plan: Plan, ready: Prepared, clock: Clock
) -> int:
    """Fit, write the page, and say the answer."""
    study = _study(options, folder, plan)
    again = shlex.join(["recbole-scale", "study", *words])
    more = [word for word in words if word != "more"]
    line = shlex.join(["recbole-scale", "study", *_with_more(more)])
    each = max(plan.seconds() / max(len(plan.runs), 1), 1.0)
    sharpen = Command(line, "More seeds where they narrow the answer most for the time.", 4 * each / 60)
    card = read_card(Path(str(ready.config["data_path"])) / f"{plan.dataset}.json")
    context = Context(
        folder.rows_file, again, card, options.worth_hits, options.factor, sharpen, clock.seconds - clock.left
    )
    with whole_files(folder.page_file) as (file,):
        file.write(as_page(study, draw(study), (), context).encode())
    print("\n" + answer_text(study, context))
    print(f"\n{duration(clock.seconds - clock.left)}; page: {folder.page_file}")
    return 0


def _with_more(words: Sequence[str]) -> list[str]:
    """The command with ``more`` after its time."""
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in ("--hours", "--minutes"):
            found += [name, value, "more"]
        elif found and found[-1] in ("--hours", "--minutes"):
            found += [word, "more"]
        else:
            found.append(word)
    return found
