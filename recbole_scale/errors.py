"""A user's mistake, told in one sentence: what is wrong, where, and the nearest right thing."""

from __future__ import annotations

import errno
import logging
import os
import reprlib
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches

from recbole_scale.signals import Interrupted, watched
from recbole_scale.terminal import columns, folded, patient_output

MEND_RECBOLE = "pip install --no-deps recbole==1.2.1"  # its other requirements are ours


LONGEST = 1500  # characters of a message that quotes what somebody wrote


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else repr(letter)[1:-1]


class UserError(Exception):
    """A mistake the user can mend; its message is one sentence and is shown without a traceback.

    What it quotes of a file or a command line may hold anything: what is not printable is shown as Python writes it.
    """

    def __init__(self, sentence: str = "") -> None:
        shown = sentence if sentence.isprintable() else "".join(_printable(letter) for letter in sentence)
        super().__init__(shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 300]} ... {shown[-290:]}")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice closest to ``word``, or ``""`` when none is close."""
    if len(word) > 100:  # comparing is quadratic, and nothing is near it
        return ""
    by_lower, word = {choice.lower(): choice for choice in choices}, word.lower()

    def likeness(choice: str) -> tuple[float, int]:  # of equals with most letters in place: --itme is --item
        return SequenceMatcher(None, choice, word).ratio(), sum(map(str.__eq__, choice, word))

    best = max(get_close_matches(word, list(by_lower), n=3, cutoff=0.6), key=likeness, default="")
    return f"; did you mean '{by_lower[best]}'?" if best else ""


class _Short(reprlib.Repr):
    """``repr`` that never grows long, never recurses without end, and writes integers of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 3, 6, 6, 6

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"a number of {int(x.bit_length() * 0.30103) + 1:,} digits"


_SHORT = _Short()


def shown(value: object) -> str:
    """``value`` as a sentence quotes it: a ``repr`` of at most some 200 letters, whatever it is."""
    return _SHORT.repr(value)[:300]


def check_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value of setting ``key`` that is none of ``choices``, naming the nearest."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{key} '{str(value)[:80]}' is none of {', '.join(choices)}{nearest(str(value), choices)}")


def without_recbole(failure: ModuleNotFoundError) -> UserError | None:
    """The sentence for a missing RecBole, which no dependency can bring (its cap on Ray); None for another module."""
    if failure.name is None or failure.name.split(".")[0] != "recbole":
        return None
    return UserError(f"RecBole is not installed; {MEND_RECBOLE} installs it without its cap on Ray")


def exit_code(main: Callable[[], int | None]) -> int:
    """Run ``main`` and return its exit code; a :class:`UserError` prints one sentence and gives 2.

    A signal prints one sentence too and gives the code of a process that a signal has ended. Any other exception is a
    bug: one line says so and where its traceback lies, and the code is 1. With the environment variable
    ``RECBOLE_SCALE_TRACEBACK`` set, the traceback of every one of them is printed as well.
    """

    def run() -> int:
        try:
            return main() or 0
        except Exception:
            if os.environ.get("RECBOLE_SCALE_TRACEBACK"):
                traceback.print_exc()
            raise

    try:
        with watched(), patient_output():
            return run()
    except Interrupted as stop:
        sentence, code = str(stop), stop.exit_code
    except Exception as failure:
        mistake = as_mistake(failure)
        sentence, code = (_bug(failure), 1) if mistake is None else (f"error: {mistake}", 2)
    with suppress(OSError):
        print(folded(sentence, columns(sys.stderr) - 1), file=sys.stderr, flush=True)
    return code


def as_mistake(failure: Exception) -> UserError | None:
    """What the user or whoever keeps the machine can mend of a failure, in one sentence; None for a bug."""
    if isinstance(failure, UserError):
        return failure
    if isinstance(failure, ModuleNotFoundError):
        return without_recbole(failure)
    if isinstance(failure, OSError) and failure.errno in OF_THE_MACHINE:
        return UserError(_of_the_machine(failure))
    return UserError(OUT_OF_MEMORY) if out_of_memory(failure) else None


OUT_OF_MEMORY = (
    "there is not enough memory; what saves it, cheapest first: activation_checkpointing: True, accumulation_steps: 4, "
    "a lower eval_batch_size, softmax_chunk: 1024, precision: bf16 on a GPU, parallel: fsdp with --nproc, "
    "a smaller size"
)


def out_of_memory(failure: BaseException) -> bool:
    """Whether a failure says that a CPU's or a GPU's memory is full (torch's own classes are known by name)."""
    words = ("not enough memory", "out of memory", "cannot allocate memory", "unable to allocate")
    named = isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError"
    return named or (isinstance(failure, RuntimeError) and any(word in str(failure).lower() for word in words))


def _bug(failure: BaseException) -> str:
    """Keep the traceback of a bug in the run's log file, or one of its own, and say where that is."""
    told = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    if type(failure).__name__ == "ProcessRaisedException":  # torch's, whose text is the traceback of one process
        told = f"process {failure.error_index}: {str(failure).strip().splitlines()[-1][:200]}"  # type: ignore[attr-defined]
    place = keep_traceback(failure, os.path.abspath(f"log/bug-{time.strftime('%Y%m%d-%H%M%S')}.log"))
    if place is None:
        lines = "".join(traceback.format_exception(failure))
        return f"{lines}error: this is a bug of recbole-scale ({told}); please report it with the traceback above"
    return f"error: this is a bug of recbole-scale ({told}); its traceback is in {place}, please report it with that"


def keep_traceback(failure: BaseException, without_log: str | None = None) -> str | None:
    """Add a traceback to the run's log file, or to ``without_log``; returns where it is, None if nowhere."""
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    place = files[-1].baseFilename if files else without_log
    if place is None:
        return None
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "a", encoding="utf-8", errors="replace") as log:
            log.write("".join(traceback.format_exception(failure)))
    except OSError:
        return None
    return place


# faults of disks, folders and limits that no program can mend
OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
)  # fmt: skip


def _of_the_machine(fault: OSError) -> str:
    where = f"'{fault.filename}'" if fault.filename is not None else "a file"
    return f"{where} cannot be read or written ({(fault.strerror or str(fault)).lower()})"
