"""What a terminal shows while work goes on: bars of its width, and lines that stand alone. A file gets lines only."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # its own is a semaphore between processes, of which a killed one leaves a warning


def bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar at the width of the terminal, whatever ``ncols`` says, gone at its end; none where stderr is a file.

    Takes tqdm's arguments; RecBole's trainers make theirs here too.
    """
    off = bool(options.pop("disable", False)) or not sys.stderr.isatty()
    return tqdm(iterable, **{"leave": False, **options, "ncols": None, "dynamic_ncols": True, "disable": off})


def say(text: str, file: Any = None) -> None:
    """Print a line, above the bars that are being shown."""
    tqdm.write(text, file=file or sys.stdout)


class LinesAboveBars(logging.StreamHandler):
    """A log's handler for the terminal: a bar in progress is cleared first and drawn again below the line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to today's ``sys.stderr``."""
        try:
            say(self.format(record), sys.stderr)
        except Exception:  # as in every handler of logging
            self.handleError(record)
