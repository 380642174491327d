"""Where a run's lines go: RecBole's log file, and a terminal that may show bars."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

from recbole.utils import init_logger

from recbole_scale.bars import LinesAboveBars
from recbole_scale.interfaces import RunConfig

_RECBOLES = "%(asctime)-15s %(levelname)s  %(message)s"  # how the lines of its handlers are formed


def open_log(config: RunConfig) -> None:
    """RecBole's log file and terminal output for this run; those of an earlier run in this process are closed.

    RecBole configures the root logger only while it has no handler, so that a second run would have an empty file.
    """
    root = logging.getLogger()
    others = [handler for handler in root.handlers if not _of_a_run(handler)]
    for handler in root.handlers:
        if handler not in others:
            handler.close()
    root.handlers = []
    init_logger(config)
    root.handlers = [_above_bars(handler) for handler in root.handlers]
    for handler in root.handlers:
        handler.of_a_run = True  # type: ignore[attr-defined]
        handler.handleError = NoMoreLog()  # type: ignore[method-assign]
    root.handlers = others + root.handlers


def _of_a_run(handler: logging.Handler) -> bool:
    """Ours, or made by RecBole's own call, whose terminal may be gone: ``HyperTuning`` puts one of its own there."""
    return hasattr(handler, "of_a_run") or _RECBOLES in str(getattr(handler.formatter, "_fmt", ""))


class NoMoreLog:
    """What a log handler does when it cannot write, on a full disk say: tell it once, in a line."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, record: logging.LogRecord) -> None:
        fault = sys.exc_info()[1]
        if not self.told:
            with suppress(OSError, ValueError):  # that may be on the same disk
                print(f"the log cannot be written any more ({fault}); the run goes on", file=sys.stderr)
        self.told = True


def _above_bars(handler: logging.Handler) -> logging.Handler:
    """RecBole's handler, or in the place of the terminal's one that knows of bars and sends no colours to a file."""
    if isinstance(handler, logging.FileHandler):
        return handler
    ours = LinesAboveBars()
    # our plan and the line "checkpoint" say it, and in fewer words
    said = ("data_preparation", "Loading model structure")
    ours.addFilter(lambda record: not (record.funcName == said[0] or record.getMessage().startswith(said[1])))
    ours.setLevel(handler.level)
    ours.setFormatter(handler.formatter)
    return ours


def to_file_only(logger: logging.Logger, text: str) -> None:
    """Write to RecBole's log file what would only fill the terminal."""
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and handler.filter(record):
            handler.emit(record)
