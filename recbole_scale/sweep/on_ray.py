"""A sweep's runs on a Ray cluster: as many at once as its nodes hold. The driver writes their rows."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.files import Held
from recbole_scale.fit.rows import Row
from recbole_scale.plugin.compat import load_ray_tune
from recbole_scale.runs.ray_cluster import at_once, check_nodes, initialise, nodes_of, share_of_a_run
from recbole_scale.signals import OutOfTime, within
from recbole_scale.sweep.engine import Engine, Gate, OnEpoch, RowsFile, failed_row, run_point
from recbole_scale.sweep.sweep import Point

_PATHS = {"data_path": "dataset", "checkpoint_dir": "saved"}
_HELD: Row = {"status": "held"}  # another sweep trains the run
_STOPPED: Row = {"status": "stopped"}  # its time is over
LOOK_SECONDS = 1.0  # between two looks at what runs have reported


def on_ray(
    address: str,
    cpus: float | None,
    gpus: float | None,
    rows: RowsFile,
    max_failures: int | None = None,
    gate: Gate | None = None,
) -> Engine:
    """Engine that hands each run to Ray, with ``cpus`` and ``gpus`` for each; None: see :func:`share_of_a_run`.

    A run whose worker dies is tried again, from its checkpoint, and after ``max_failures`` (3) times is a failed row.

    Args:
        address: ``auto`` for the cluster of this machine, ``HOST:PORT`` of another, ``local`` to start one here.
        cpus: CPUs per run; its worker uses as many threads.
        gpus: GPUs per run, at most one; fractions share one.
        rows: where rows go.
        max_failures: how often a lost run is tried again.
        gate: which runs may begin and how long they may take; all are handed over at once without one.

    Raises:
        UserError: several GPUs for a run; nodes without our package, without a shared folder, or too small for a run.
    """
    if gpus is not None and gpus > 1:
        raise UserError(
            f"--gpus_per_run is {gpus:g}, but a run of a sweep has at most one GPU; run_recbole --nproc={gpus:.0f} "
            "trains one run on several"
        )

    limit = gate or Gate()

    def engine(points: Sequence[Point], on_epoch: OnEpoch) -> Iterator[tuple[Point, Row]]:
        with joined(address) as ray:
            nodes = nodes_of(ray)
            share = share_of_a_run(nodes, cpus, gpus)
            on_epoch.parallel(int(min(at_once(nodes, share, "a run"), limit.at_most)))
            todo = [_absolute(point) for point in points]
            check_nodes(ray, sorted({point.settings[name] for point in todo for name in _PATHS}))
            retries = 3 if max_failures is None else max_failures
            options = {"num_cpus": share["CPU"], "num_gpus": share["GPU"], "max_retries": retries}
            yield from _run_all(ray, list(zip(points, todo, strict=True)), options, rows, on_epoch, limit)

    return engine


@contextmanager
def joined(address: str, cpus: int | None = None) -> Iterator[Any]:
    """Ray's module, with the cluster at ``address`` joined until the block ends, unless it was before.

    ``cpus``: of a cluster started here, this machine's without.
    """
    load_ray_tune()
    import ray

    started_here = not ray.is_initialized()
    try:
        if started_here:
            initialise(ray, address=address, num_cpus=cpus)
    except (ConnectionError, ValueError, RuntimeError) as failure:
        raise UserError(f"there is no Ray cluster at {address}") from failure
    try:
        yield ray
    finally:
        if started_here:
            ray.shutdown()


class _Board:
    """Where workers note which host a run is on and how far it is; an actor."""

    def __init__(self) -> None:
        self.hosts: dict[str, str] = {}
        self.epochs: dict[str, int] = {}

    def note(self, run_id: str, host: str, epoch: int) -> None:
        """A run's host and last evaluated epoch, -1 before the first."""
        self.hosts[run_id], self.epochs[run_id] = host, epoch

    def read(self) -> tuple[dict[str, str], dict[str, int]]:
        """All that was noted."""
        return self.hosts, self.epochs


def _run_all(
    ray: Any,
    pairs: Sequence[tuple[Point, Point]],
    options: dict[str, Any],
    rows: RowsFile,
    on_epoch: OnEpoch,
    gate: Gate,
) -> Iterator[tuple[Point, Row]]:
    board = ray.remote(num_cpus=0)(_Board).remote()
    remote = ray.remote(**options)(_on_worker)
    waiting: dict[Any, tuple[Point, Point]] = {}  # a run, and the same with paths for a worker
    todo = deque(pairs)
    seen: dict[str, int] = {}
    path = str(Path(rows.path).resolve())
    while todo or waiting:
        while todo and len(waiting) < gate.at_most:
            point, there = todo.popleft()
            if row := rows.finished(point):  # another sweep's
                yield point, row
            elif gate.admits(point):
                until = time.time() + gate.seconds()  # the nodes' clocks are taken to agree
                waiting[remote.remote(there, options["num_cpus"], board, path, until, os.getcwd())] = point, there
        if not waiting:
            continue
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
        hosts, epochs = ray.get(board.read.remote())
        for point, _ in waiting.values():
            if epochs.get(point.run_id, -1) > seen.get(point.run_id, -1):
                seen[point.run_id] = epochs[point.run_id]
                on_epoch(point, seen[point.run_id])
        for task in ready:
            point, there = waiting.pop(task)
            row = _result(ray, task, point, hosts.get(point.run_id))
            if row == _HELD:
                todo.append((point, there))
                time.sleep(LOOK_SECONDS)
                continue
            gate.ended(point, None if row == _STOPPED else row)
            if row != _STOPPED:
                rows.record(point, row)
                yield point, row


def _result(ray: Any, task: Any, point: Point, host: str | None) -> Row:
    try:
        row: Row = ray.get(task)
        return row
    except ray.exceptions.RayError as failure:
        lines = [line for line in str(failure).splitlines() if line.strip()]
        cause = getattr(failure, "cause", None)
        told = f"{type(cause).__name__}: {cause}" if cause is not None else " ".join(lines[:1])[:300]
        return failed_row(point, f"the worker on {host or 'a node that it never reached'} was lost: {told}")


def _on_worker(point: Point, cpus: float, board: Any, rows: str, until: float, home: str) -> Row:
    import torch

    with suppress(OSError):  # logs lie there; a node that lacks it has its own
        os.chdir(home)
    torch.set_num_threads(max(1, int(cpus)))
    host = socket.gethostname()
    board.note.remote(point.run_id, host, -1)
    try:
        with within(until - time.time()):
            return run_point(
                point, RowsFile(rows).finished, on_epoch=lambda p, epoch: board.note.remote(p.run_id, host, epoch)
            )
    except Held:
        return _HELD
    except OutOfTime:
        return _STOPPED


def _absolute(point: Point) -> Point:
    """The same run with paths that hold in a worker's own folder."""
    settings = dict(point.settings)
    for name, default in _PATHS.items():
        settings[name] = str(Path(settings.get(name, default)).resolve())
    if settings.get("per_user_file"):
        settings["per_user_file"] = str(Path(settings["per_user_file"]).resolve())
    paths = tuple(str(Path(name).resolve()) if Path(name).is_file() else name for name in point.config_files)
    return replace(point, settings=settings, config_files=paths)
