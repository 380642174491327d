"""Starting the processes of one run on this machine, and ending all of them together."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from recbole_scale import signals
from recbole_scale.errors import UserError, as_mistake
from recbole_scale.files import away
from recbole_scale.training import group

PATIENCE = 20.0  # seconds that processes have for the step they are in and a checkpoint; then they are killed


def start(work: Callable[..., None], arguments: tuple[Any, ...], processes: int) -> None:
    """Run ``work(local_rank, *arguments)`` in ``processes`` processes and wait for them.

    A signal to this process is handed on to them; they save, and end.

    Raises:
        UserError: one of them has failed; the others were ended.
        Interrupted: a signal has ended the run.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # one sentence says it all
    context: Any = None
    try:
        with signals.watched(), signals.held():
            with away() as home:
                context = mp.spawn(_member, (home, work, *arguments), nprocs=processes, join=False)
            with signals.handed_on(context.pids()):
                _wait(context)
    except mp.ProcessExitedException as failure:
        if failure.exit_code - 128 in signals.SIGNALS:
            raise signals.Interrupted(signals.asked() or failure.exit_code - 128, ADVICE) from None
        raise SystemExit(f"error: {group.how_it_ended(failure)}") from None
    except mp.ProcessRaisedException as failure:  # the other processes have been ended by now
        kind, _, sentence = str(failure).strip().splitlines()[-1].partition(": ")
        if kind.rpartition(".")[2] != UserError.__name__:
            raise
        raise UserError(sentence) from failure
    except signals.Interrupted as stop:
        stop.advice = ADVICE
        raise
    finally:
        for left in context.error_files if context else ():  # torch's, with the text of a failure
            Path(left).unlink(missing_ok=True)


def _member(local_rank: int, home: str, work: Callable[..., None], *arguments: Any) -> None:
    """One process, whose failure reaches the first one as text alone: what is no bug leaves as a plain UserError."""
    try:
        os.chdir(home)
        work(local_rank, *arguments)
    except Exception as failure:
        mistake = as_mistake(failure)
        if mistake is None:
            raise
        raise UserError(str(mistake)) from failure


ADVICE = "the same command with --resume auto goes on from its last checkpoint"


def _wait(context: Any) -> None:
    since = None
    while not context.join(timeout=0.2, grace_period=PATIENCE if signals.asked() else None):
        if signals.asked():
            since = since or time.monotonic()
            if time.monotonic() - since > PATIENCE:
                for process in context.processes:
                    process.kill()
