"""The time of a study: the clock it is read from, and which runs may begin and go on by it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from recbole_scale.fit.rows import Row
from recbole_scale.sweep.engine import Gate
from recbole_scale.sweep.sweep import Point

_YOUNG = 60.0  # seconds: a process that is older did other things before, as a notebook does


@dataclass(frozen=True)
class Clock:
    """The time that a study may take: ``seconds`` from ``started``, both of ``now``."""

    started: float
    seconds: float
    now: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """Seconds left; below 0 when it is over."""
        return self.started + self.seconds - self.now()


def begun() -> float:
    """When this command began, of ``time.monotonic``: as the process did, for its imports take seconds too."""
    age = time.time() - psutil.Process().create_time()
    return time.monotonic() - (age if age < _YOUNG else 0.0)


def page_seconds(resamples: int) -> float:
    """Seconds to keep for fit and page: twice what they take on one idle core (report of 10 to 22 rows)."""
    return 8.0 + 0.012 * resamples


class Watch(Gate):
    """Begins a run only where it can end in time, judged by how long those before it took; stops it where it cannot.

    Args:
        cost: planned seconds of each run, by its id.
        clock: the study's.
        keep: seconds to leave for what comes after.
        at_most: runs at once.
    """

    def __init__(self, cost: dict[str, float], clock: Clock, keep: float = 0.0, at_most: float = math.inf) -> None:
        self.at_most = at_most
        self.left_out: list[str] = []
        self.stopped: list[str] = []
        self._cost, self._clock, self._keep = cost, clock, keep
        self._began: dict[str, float] = {}
        self._spent = self._planned = 0.0

    def admits(self, point: Point) -> bool:
        """Whether the run can end in time."""
        slower = max(self._spent / self._planned, 0.2) if self._planned else 1.0
        if self.seconds() < self._cost[point.run_id] * slower:
            self.left_out.append(point.label)
            return False
        self._began[point.run_id] = self._clock.now()
        return True

    def seconds(self) -> float:
        """Seconds until runs are stopped."""
        return self._clock.left - self._keep

    def ended(self, point: Point, row: Row | None) -> None:
        """Learn from a run how long the others take."""
        if row is None:
            self.stopped.append(point.label)
        elif row["status"] == "ok":
            self._spent += self._clock.now() - self._began[point.run_id]
            self._planned += self._cost[point.run_id]

    def told(self) -> str:
        """What the clock has cost, one line each; empty where it has cost nothing."""
        lines = []
        if self.stopped:
            lines.append(f"stopped when the time was over, to go on later: {', '.join(self.stopped)}")
        if self.left_out:
            lines.append(f"left for lack of time: {', '.join(self.left_out)}")
        return "\n".join(lines)
