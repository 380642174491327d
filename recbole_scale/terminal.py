"""A terminal is no reason to lose work: a reader that has gone, a full disk, characters and lines it cannot show."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from logging import getLogger
from typing import Any

COMMANDS = r"(?:recbole-scale|run_recbole|run_hyper|torchrun) "


@cache
def say_once(warning: str) -> None:
    """Log a warning the first time that this process has it to say."""
    getLogger().warning(warning)


def columns(stream: Any) -> float:
    """How wide a stream's terminal is; a file, or a terminal that does not say, is as wide as you like."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or math.inf
    except (AttributeError, OSError, ValueError):
        return math.inf


def folded(text: str, width: float) -> str:
    """Lines that are too long for a terminal broken between words, but commands, which are copied from there."""
    return "\n".join(_folded(line, width) if len(line) > width >= 20 else line for line in text.split("\n"))


def _folded(line: str, width: float) -> str:
    if re.match(rf" *{COMMANDS}", line) or "\x1b" in line or "\r" in line:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    return textwrap.fill(
        line, int(width), subsequent_indent=indent[:12], break_long_words=False, break_on_hyphens=False
    )


class Patient:
    """A text stream that drops what cannot be written and remembers why; all else is the stream's own.

    ``fold``: break long lines between words where the stream is a terminal.
    """

    def __init__(self, stream: Any, fold: bool = False) -> None:
        self._stream, self._fold = stream, fold
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, unless writing has failed before."""
        return self._try(self._stream.write, folded(text, columns(self) - 1) if self._fold else text) or len(text)

    def flush(self) -> None:
        """Flush, unless writing has failed before."""
        self._try(self._stream.flush)

    def _try(self, act: Any, *arguments: Any) -> Any:
        if self.fault is None:
            try:
                return act(*arguments)
            except OSError as fault:
                self.fault = fault
                with suppress(OSError, ValueError):  # what is buffered would fail again as Python ends
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return None

    def writelines(self, lines: Any) -> None:
        """As a text stream's."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def patient_output() -> Iterator[None]:
    """Let a command do its work to the end whatever becomes of its output.

    Raises at the end:
        OSError: what was printed could not be written, and not because the reader had enough.
    """
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # LANG=C knows no ±
    patient = [Patient(stream, fold=stream is sys.stdout) for stream in streams]
    sys.stdout, sys.stderr = patient
    try:
        yield
        for stream in patient:
            stream.flush()
    finally:
        sys.stdout, sys.stderr = streams
    for stream in patient:
        if stream.fault is not None and stream.fault.errno != errno.EPIPE:
            raise OSError(stream.fault.errno, stream.fault.strerror, "standard output")
