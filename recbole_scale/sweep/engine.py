"""Where a sweep's runs are trained, and the file of their rows: one after the other in this process (or on Ray)."""

from __future__ import annotations

import logging
import math
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Protocol

from recbole_scale.errors import UserError, as_mistake
from recbole_scale.files import Held
from recbole_scale.fit.rows import Row
from recbole_scale.runs import records
from recbole_scale.runs.prepared import LoadedData
from recbole_scale.runs.run import make_config, train_and_test
from recbole_scale.signals import OutOfTime, within
from recbole_scale.sweep.sweep import Point, finished_rows, quiet
from recbole_scale.training.checkpoint import held_run, run_stem


class OnEpoch(Protocol):
    """Is told of a run's epochs (from 0) as they are evaluated."""

    def __call__(self, point: Point, epoch: int) -> None: ...

    def parallel(self, runs: int) -> None:
        """So many runs go on at once."""


Engine = Callable[[Sequence[Point], OnEpoch], Iterator[tuple[Point, Row]]]


class Gate:
    """Says which runs begin and until when they go on. This one lets all of them, the clock of a study does not.

    Attributes:
        at_most: runs at once.
    """

    at_most: float = math.inf

    def admits(self, point: Point) -> bool:
        """Whether ``point``, which could begin now, may."""
        return True

    def seconds(self) -> float:
        """Seconds until what is under way is stopped; its checkpoint stays, and it has no row."""
        return math.inf

    def ended(self, point: Point, row: Row | None) -> None:
        """``point``, which was admitted, has its row, or was stopped (None)."""


@dataclass(frozen=True)
class RowsFile:
    """The rows file of a sweep, which several sweeps may share: each looks at it again before every run.

    Attributes:
        path: the file.
        keep: checkpoints that finished runs leave behind: ``best`` or ``none``.
    """

    path: str
    keep: str = "best"

    def finished(self, point: Point) -> Row | None:
        """The row of a run that has ended well on this data, whoever trained it."""
        same = [row for row in finished_rows(self.path) if row["run_id"] == point.run_id]
        return next((row for row in same if records.is_finished(row, point.digest)), None)

    def record(self, point: Point, row: Row, trained: bool = True) -> None:
        """Add a run's row; only then may go what the run would need to be resumed."""
        records.append_row(self.path, {**row, "tuning": point.tuning}, trained)
        if row["status"] == "ok":
            with suppress(OSError):  # a file that cannot be removed makes no finished run a failed one
                self._tidy(os.path.join(point.settings.get("checkpoint_dir", "saved"), _stem(point)))

    def _tidy(self, stem: str) -> None:
        """Remove ``last``, which holds three times the model."""
        best = [f"{stem}.{name}.pth" for name in ("best", "best-nll", "best-ranking")]
        for path in [f"{stem}.last.pth"] + (best if self.keep == "none" else []):
            if os.path.isfile(path):
                os.remove(path)


def _stem(point: Point) -> str:
    return f"ScaledSASRec-{point.dataset}-{point.run_id}"


def run_point(
    point: Point,
    finished: Callable[[Point], Row | None],
    loaded: LoadedData | None = None,
    on_epoch: Callable[[Point, int], None] | None = None,
    record: Callable[[Row, bool], None] = lambda row, trained: None,
) -> Row:
    """Train and test one run, going on from its own checkpoint if it was stopped; its row, whatever happens.

    Args:
        point: the run.
        finished: the run's row where another process has finished it meanwhile.
        loaded: keeps the data set between runs of this process.
        on_epoch: called after each evaluation.
        record: writes the row while no other process may train this run.

    Raises:
        Held: another process trains this run.
    """
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    recording = False

    def keep(row: Row, trained: bool) -> None:
        nonlocal recording
        recording = True
        record(row, trained)

    try:
        config = make_config("ScaledSASRec", point.dataset, list(point.config_files), quiet(point.settings))
        callback = None if on_epoch is None else (lambda epoch, score: on_epoch(point, epoch))
        with held_run(run_stem(config)):
            row = finished(point)
            return row or train_and_test(config, resume="auto", loaded=loaded, callback_fn=callback, keep=keep)[1]
    except Held:
        raise
    except Exception as failure:  # a failed run must not end the sweep
        if recording:
            raise
        if as_mistake(failure) is None:
            logging.getLogger().error(traceback.format_exc())
        return failed_row(point, failure) | {
            "started": started.isoformat(timespec="seconds"),
            "seconds_total": round(time.perf_counter() - clock, 2),
        }


def failed_row(point: Point, failure: BaseException | str) -> records.RunRow:
    """The row of a run that failed, or was lost."""
    sentence = " ".join(str(failure).split())[:500] or type(failure).__name__
    expected = isinstance(failure, UserError | str)
    error = sentence if expected else f"{type(failure).__name__}: {sentence}"
    return records.failed(point.run_id, error, point.dataset, "ScaledSASRec", point.settings) | {
        "n_blocks": point.n_blocks,
        "data_digest": point.digest,
    }


def in_process(loaded: LoadedData, rows: RowsFile, gate: Gate | None = None) -> Engine:
    """Engine that trains one run after the other in this process, on the data set read once.

    A run that another sweep is training comes last, and is waited for: its row is there then, or it is trained here.
    """

    gate = gate or Gate()

    def engine(points: Sequence[Point], on_epoch: OnEpoch) -> Iterator[tuple[Point, Row]]:
        waiting, held = deque(points), 0
        while waiting:
            point = waiting.popleft()
            if not gate.admits(point):
                continue
            try:
                with within(gate.seconds()):
                    row = run_point(point, rows.finished, loaded, on_epoch, partial(rows.record, point))
            except OutOfTime:
                gate.ended(point, None)
                continue
            except Held:
                waiting.append(point)
                held += 1
                if held >= len(waiting):
                    time.sleep(1)
                continue
            gate.ended(point, row)
            if row["status"] != "ok":
                rows.record(point, row)
            held = 0
            yield point, row

    return engine
