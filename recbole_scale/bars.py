"""What a terminal shows while work goes on: bars of its width, and lines that stand alone. A file gets lines only."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from tqdm import tqdm

from recbole_scale.terminal import columns

tqdm.set_lock(threading.RLock())  # its own is a semaphore between processes, of which a killed one leaves a warning
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar at the width of the terminal, whatever ``ncols`` says, gone at its end; none where stderr is a file.

    Takes tqdm's arguments; RecBole's trainers make theirs here too.
    """
    off = bool(options.pop("disable", False)) or not sys.stderr.isatty()
    return tqdm(iterable, **{"leave": False, **options, "ncols": None, "dynamic_ncols": True, "disable": off})


def say(text: str, file: Any = None) -> None:
    """Print a line, above the bars that are being shown."""
    tqdm.write(text, file=file or sys.stdout)


def fitting(versions: Sequence[str], stream: Any, before: int = 0) -> str:
    """The first of ``versions``, from whole to short, that fits beside ``before`` letters; in a file the whole line."""
    room = columns(stream) - before
    return next((line for line in versions if len(line) <= room), versions[-1])


def log_line(logger: logging.Logger, versions: Sequence[str]) -> None:
    """Log ``versions[0]``; a terminal that is too narrow for it shows a shorter one."""
    logger.info(versions[0], extra={"shorter": versions[1:]})


def _hanging(text: str) -> str:
    """A plan's lines ("  memory     about ...") broken between words where the terminal is too narrow for them."""
    width, indent = columns(sys.stderr), " " * 13
    return "\n".join(
        line
        if len(line) <= width or not line.startswith("  ") or width < 40
        else textwrap.fill(line, int(width), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        for line in text.split("\n")
    )


class LinesAboveBars(logging.StreamHandler):
    """A log's handler for the terminal: a bar in progress is cleared first and drawn again below the line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to today's ``sys.stderr``."""
        try:
            if shorter := getattr(record, "shorter", ()):
                whole, record = record.getMessage(), copy(record)
                record.msg, record.args = "", ()
                head = len(_COLOUR.sub("", self.format(record)))
                record.msg = fitting([whole, *shorter], sys.stderr, head)
            say(_hanging(self.format(record)), sys.stderr)
        except Exception:  # as in every handler of logging
            self.handleError(record)
