"""SIGTERM and SIGINT: what is under way ends well, and one sentence says how to go on.

A scheduler that wants the machine back (SLURM, Kubernetes, a spot machine) sends SIGTERM, a user at a terminal SIGINT.
Both raise :class:`Interrupted` where the program is; inside :func:`held` they wait until the block ends. A second
Ctrl-C does not wait.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from recbole_scale.terminal import patient_output

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_SECONDS = 1.0  # one Ctrl-C can reach a process twice: from the terminal, and handed on by its parent


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end; ``advice`` says what was kept and how to go on."""

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice

    @property
    def exit_code(self) -> int:
        """As a shell counts a process that a signal has ended: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signum

    def __str__(self) -> str:
        name = "interrupted" if self.signum == signal.SIGINT else f"ended by {signal.Signals(self.signum).name}"
        return f"{name}; {self.advice}" if self.advice else name


class OutOfTime(Exception):
    """The seconds of :func:`within` are over; what was under way has ended as by a signal."""


class _State:
    asked: int | None = None  # the signal that came
    at = 0.0  # when
    held = 0  # how many blocks must end first
    watching = False
    children: tuple[int, ...] = ()


def asked() -> int | None:
    """The signal that has asked this process to end, None so far."""
    return _State.asked


def _handle(signum: int, frame: FrameType | None) -> None:
    first, now = _State.asked is None, time.monotonic()
    impatient = not first and signum == signal.SIGINT and now - _State.at > TWICE_SECONDS
    if first:
        _State.asked, _State.at = signum, now
    _hand_on(signal.SIGKILL if impatient else signal.SIGTERM if first else 0)
    if impatient or (first and not _State.held):
        raise Interrupted(signum)


def _hand_on(signum: int) -> None:
    for pid in _State.children if signum else ():
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextmanager
def watched() -> Iterator[None]:
    """Raise :class:`Interrupted` for the signals inside; only the main thread can, others leave things as they are.

    An ignored SIGTERM stays ignored, an ignored SIGINT only where there is a terminal whose Ctrl-C it could be.
    """
    if _State.watching or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _State.watching, _State.asked = True, None
    for number in SIGNALS:
        if before[number] != signal.SIG_IGN or (number == signal.SIGINT and not _has_terminal()):
            signal.signal(number, _handle)
    try:
        yield
    finally:
        _State.watching = False
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a library's own, which Python cannot set


def _has_terminal() -> bool:
    """Whether there is a terminal, whose Ctrl-C shells have their background jobs ignore; ``kill -INT`` is meant."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def held() -> Iterator[None]:
    """Let the block end before a signal raises; the outermost such block raises at its end."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    if _State.asked is not None and not _State.held and _State.watching:
        raise Interrupted(_State.asked)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what is inside after ``seconds`` as a signal would, and raise :class:`OutOfTime`; only a main thread can."""
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _handle)
    try:
        with watched():
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
            yield
    except Interrupted as stop:
        if stop.signum != signal.SIGALRM:
            raise
        raise OutOfTime from None
    finally:
        _State.held += 1  # an alarm that comes now is late
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        _State.asked = None if _State.asked == signal.SIGALRM else _State.asked
        _State.held -= 1


@contextmanager
def handed_on(children: Iterator[int] | list[int]) -> Iterator[None]:
    """Hand the signals on to ``children`` and go on waiting for them; a second Ctrl-C kills them."""
    _State.children = tuple(children)
    _State.held += 1
    if _State.asked is not None:  # it came while they were being started
        _hand_on(signal.SIGTERM)
    try:
        yield
    finally:
        _State.held -= 1
        _State.children = ()


@contextmanager
def ends_by_signal(child: bool) -> Iterator[None]:
    """In a ``child`` of a run's first process, which tells the user: end with a signal's exit code, without a word."""
    if not child:
        yield
        return
    try:
        with watched(), patient_output():
            yield
    except Interrupted as stop:
        leave(stop.exit_code)


def leave(code: int) -> NoReturn:
    """End this process; after a signal at once, since taking Python and torch apart takes a second of CPU.

    What a run keeps is written by then. Hooks for the end of Python are called where Ray or wandb has one.
    """
    if code - 128 in SIGNALS and not {"ray", "wandb"} & sys.modules.keys():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
