"""A terminal is no reason to lose work: a reader that has gone, a full disk, characters that it cannot show."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Patient:
    """A text stream that drops what cannot be written and remembers why; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, unless writing has failed before."""
        return self._try(self._stream.write, text) or len(text)

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
    patient = [Patient(stream) for stream in streams]
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
