"""A limit on the seconds of training, and a schedule that follows it. Nothing here knows RecBole."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from recbole_scale.training.part import load_fields


class TimeBudget:
    """Seconds of training steps; evaluation does not count, since the clock is stopped meanwhile.

    Attributes:
        seconds: the limit, None: none.
        used: seconds of whole epochs so far (of a part of one, where a run stopped inside it).
        spent: whether the limit was reached when last looked.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.used = 0.0
        self.spent = False
        self._origin = perf_counter()

    def start(self) -> None:
        """Go on counting from ``used``."""
        self._origin = perf_counter() - self.used
        self.look()

    def stop(self) -> None:
        """Stop the clock: ``used`` is what it shows."""
        self.used = perf_counter() - self._origin

    def look(self) -> bool:
        """Whether the time is over, by the clock."""
        self.spent = self.seconds is not None and perf_counter() - self._origin >= self.seconds
        return self.spent

    def total_steps(self, step: int, planned: int) -> int:
        """Steps of the whole training, for a schedule at ``step``: planned, or as many as fit in at the pace so far.

        With a limit the schedule follows the clock: it ends when the time does, however many steps fit in.
        """
        if self.seconds is None or step == 0:
            return planned
        elapsed = max(perf_counter() - self._origin, 1e-9)
        return max(step + 1, round(step * self.seconds / elapsed))

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far."""
        return {"used": self.used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        load_fields(self, state, ["used"])
