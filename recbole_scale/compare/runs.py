"""The runs of a comparison: one setting for everybody, each run in a process of its own, finished ones skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recbole.utils import ModelType

from recbole_scale import signals
from recbole_scale.bars import bar, say
from recbole_scale.errors import UserError, check_choice
from recbole_scale.model.sizes import SIZE_NAMES
from recbole_scale.plugin.register import WINDOW_MODELS, find_model
from recbole_scale.runs import records
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.runs.prepared import check_ranked_users, digest_there
from recbole_scale.runs.run import make_config
from recbole_scale.settings import MANY, run_id, value_text
from recbole_scale.text import counted

# the same for everybody: split, order, ranking, measures
PROTOCOL: dict[str, Any] = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "repeatable": True,
    "metrics": ["Recall", "NDCG", "ItemCoverage", "NLL"],
    "topk": [5, 10, 50],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "eval_batch_size": 256,
    "eval_step": 1,
    "show_progress": False,
}


@dataclass(frozen=True)
class Budget:
    """When training ends: after ``epochs``, after ``seconds`` of training, or (neither) when valid stops improving."""

    epochs: int | None = None
    seconds: float | None = None
    patience: int = 10

    def settings(self) -> dict[str, Any]:
        """The same budget as RecBole's settings; the best epoch on valid is what is tested, in each case."""
        if self.seconds is not None:
            return {"train_budget_seconds": self.seconds, "epochs": MANY, "stopping_step": MANY}
        if self.epochs is not None:
            return {"epochs": self.epochs, "stopping_step": MANY}
        return {"stopping_step": self.patience}

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.seconds:g} s of training each"
        if self.epochs is not None:
            return f"{counted(self.epochs, 'epoch')} each"
        return f"until {counted(self.patience, 'evaluation')} without a better valid metric"


@dataclass(frozen=True)
class Run:
    """One run: a model (``name`` as the user wrote it, ``Model`` or ``Model:size``), its settings and its id."""

    name: str
    model: str
    settings: dict[str, Any]
    run_id: str
    digest: str | None = None  # of the interaction files

    def arguments(self, dataset: str, more: dict[str, Any]) -> list[str]:
        """The command line of this run alone."""
        values = [f"--{k}={value_text(v)}" for k, v in {**self.settings, **more}.items()]
        return [f"--model={self.model}", f"--dataset={dataset}", *values]


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """Model and settings of ``Model`` or ``Model:size``.

    Raises:
        UserError: no such model or size, or a size for a model that has none.
    """
    model, colon, size = name.partition(":")
    find_model(model)
    if not colon:
        return model, {}
    if model not in WINDOW_MODELS:
        raise UserError(f"'{name}': only {', '.join(WINDOW_MODELS)} comes in sizes; {model} stands alone")
    check_choice("size", size, SIZE_NAMES)
    return model, {"size": size}


def plan_runs(
    dataset: str, names: Iterable[str], seeds: Iterable[int], budget: Budget, settings: dict[str, Any]
) -> list[Run]:
    """All runs, seed by seed, so that an interrupted comparison has all models of the first seeds.

    Args:
        dataset: name of the data set.
        names: models, ``Model`` or ``Model:size``.
        seeds: one run of each model for each.
        budget: the same for all.
        settings: of the user; ``key`` for everybody, ``Model.key`` or ``Model:size.key`` for one model.
    """
    names, runs = list(dict.fromkeys(names)), []
    shared = {k: v for k, v in settings.items() if "." not in k}
    for owner in {k.rpartition(".")[0] for k in settings if "." in k}:
        check_choice("the model of a setting", owner, {n for name in names for n in (name, name.partition(":")[0])})
    digest = None
    for seed in seeds:
        for name in names:
            model, size = split_name(name)
            own: dict[str, Any] = {}
            for owner in (model, name):
                own |= {k.rpartition(".")[2]: v for k, v in settings.items() if k.rpartition(".")[0] == owner}
            # general models, Pop and ItemKNN among them, are split by time too, which RecBole has them not read
            timeless = find_model(model).type == ModelType.SEQUENTIAL or (shared | own).get("benchmark_filename")
            times = {} if timeless else {"load_col": _with_times(shared | own)}
            chosen = {**PROTOCOL, **budget.settings(), **size, **times, **shared, **own, "seed": seed}
            config = make_config(model, dataset, config_dict=dict(chosen))
            check_ranked_users(config)
            digest = digest or digest_there(config)
            runs.append(Run(name, model, chosen, run_id(config), digest))
    return runs


def _with_times(settings: dict[str, Any]) -> dict[str, list[str]]:
    """``load_col`` of users, items and times, by their names in ``settings``."""
    names = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"}
    return {"inter": [settings.get(key, name) for key, name in names.items()]}


def finished_rows(results_file: str, runs: Iterable[Run], out: Path) -> dict[str, dict[str, Any]]:
    """Rows of finished runs by ``run_id``, where the run's users were kept as well."""
    rows = _last_rows(results_file, runs, "ok")
    return {name: row for name, row in rows.items() if read_per_user(per_user_file(out, name)) is not None}


def failed_rows(results_file: str, runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """The last row of each run that failed, by ``run_id``."""
    return _last_rows(results_file, runs, "failed")


def _last_rows(results_file: str, runs: Iterable[Run], status: str) -> dict[str, dict[str, Any]]:
    if not os.path.isfile(results_file):
        return {}
    wanted = {run.run_id: run.digest for run in runs}
    rows: list[Any] = records.read_rows(results_file).to_dict("records")
    rows = [row for row in rows if row["run_id"] in wanted and row["status"] == status]
    return {row["run_id"]: row for row in rows if records.is_finished(row, wanted[row["run_id"]])}


def per_user_file(out: Path, run_id: str) -> Path:
    """Where the ranks of a run's users are kept."""
    return out / "per_user" / f"{run_id}.npz"


def carry_out(dataset: str, runs: list[Run], out: Path, results_file: str, jobs: int = 1) -> None:
    """Run what is not finished, ``jobs`` at once; each adds its row, and a failed one a row with its error.

    A run that was stopped goes on where its model can. The output of each run goes to ``out/logs``. Several at once
    share the CPU's threads evenly.
    """
    for folder in ("per_user", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    done = finished_rows(results_file, runs, out)
    todo = [run for run in runs if run.run_id not in done]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads_of(jobs))} if jobs > 1 else {})}
    running: set[subprocess.Popen[bytes]] = set()

    def carry(run: Run) -> tuple[Run, str | None]:
        more = {
            "results_file": results_file,
            "per_user_file": str(per_user_file(out, run.run_id)),
            "checkpoint_dir": str(out / "saved"),
        }
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        resume = ["--resume=auto"] if run.model in WINDOW_MODELS else []  # RecBole's keep nothing to go on from
        error = _run_alone(
            [*run.arguments(dataset, more), *resume], out / "logs" / f"{run.run_id}.txt", environment, running
        )
        if error and not signals.asked():
            records.append_row(results_file, _failed_row(dataset, run, error, started))
        return run, error

    with (
        signals.watched(),
        ThreadPoolExecutor(jobs) as pool,
        bar(total=len(runs), initial=len(done), unit="run") as progress,
    ):
        try:
            for finished in as_completed([pool.submit(carry, run) for run in todo]):
                run, error = finished.result()
                name = f"{run.name}, seed {run.settings['seed']}"
                say(f"{name} failed: {error}" if error else f"{name} finished")
                progress.update()
        except signals.Interrupted as stop:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in [*running]:
                process.terminate()
            stop.advice = f"finished runs are in {results_file}, and the same command goes on with the others"
            raise


def threads_of(jobs: int) -> int:
    """CPU threads of each of several runs at once: an even share, at least one."""
    return max(1, (os.cpu_count() or 1) // jobs)


def _run_alone(
    arguments: list[str], log: Path, environment: dict[str, str], running: set[subprocess.Popen[bytes]]
) -> str | None:
    """Run ``run_recbole`` in a fresh process, so that its peak of memory is its own; returns why it failed, if so.

    The process is in ``running`` while it is there.
    """
    # -m would put the working folder first among the places of modules, and run a file there that is called as one
    begin = f"import sys; sys.path[:] = {sys.path!r}; import recbole_scale.cli as cli; cli.run_recbole_command()"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", begin, *arguments], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    running.add(process)
    if signals.asked():  # while it was being started
        process.terminate()
    code = process.wait()
    running.discard(process)
    if code == 0:
        return None
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"ended by signal {-code}{hint}"
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return (lines[-1].removeprefix("error: ") if lines else f"exit code {code}")[:500]


def _failed_row(dataset: str, run: Run, error: str, started: str) -> records.RunRow:
    return records.failed(run.run_id, error, dataset, run.model, run.settings) | {
        "data_digest": run.digest,
        "split": run.settings["eval_args"]["split"],
        "size": run.settings.get("size"),
        "started": started,
    }
