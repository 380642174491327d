"""A search's folder: what is searched, and each trial's evaluations and result, as JSON that survives ``kill -9``.

::

    search.json                  the plan
    best.yaml  trials.txt        written at the end
    trials/003/trial.json        the values of trial 3
               evaluations.jsonl one line per evaluation, synced before it is reported
               result.json       how the trial ended; absent while it has not
               *.pth  log/       its checkpoints and RecBole's log
"""

from __future__ import annotations

import codecs
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from recbole_scale import files
from recbole_scale.errors import UserError
from recbole_scale.files import write_text
from recbole_scale.runs.records import COLUMNS, KINDS_OF_COLUMNS
from recbole_scale.runs.row_file import check_kinds, parsed_object


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all."""
    write_text(path, json.dumps(content, indent=1), what="the file")


def read_json(path: Path, kinds: Mapping[str, str], needed: str) -> dict[str, Any] | None:
    """What :func:`write_json` wrote, or None when there is no such file.

    Args:
        path: the file.
        kinds: of its values, as in a file of rows.
        needed: names of values that are not null.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = parsed_object(path.read_bytes().removeprefix(codecs.BOM_UTF8), kinds)
        if row := content.get("row"):
            check_kinds(row, KINDS_OF_COLUMNS)
            content["row"] = {**dict.fromkeys(COLUMNS), **row}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as failure:
        raise UserError(f"{path} is damaged ({failure})") from failure
    missing = [name for name in needed.split() if content.get(name) is None]
    if missing:
        raise UserError(f"{path} is damaged (it has no {missing[0]})")
    return content


EVALUATION = {"epoch": "a whole number of 0 or more", "score": "a number", "best": "a number", "time": "a number"}
RESULT = {"status": "a text", "best": "a number", "error": "a text", "row": "an object"}


class Trial:
    """One trial on disk."""

    def __init__(self, folder: str | os.PathLike[str], number: int) -> None:
        self.number = number
        self.folder = Path(folder) / "trials" / f"{number:03d}"

    @property
    def values(self) -> dict[str, Any] | None:
        """The drawn values, or None when the trial has not begun."""
        found = read_json(self.folder / "trial.json", {"values": "an object"}, "values")
        return None if found is None else dict(found["values"])

    def begin(self, values: dict[str, Any]) -> None:
        """Note the drawn values."""
        write_json(self.folder / "trial.json", {"number": self.number, "values": values})

    def add_evaluation(self, epoch: int, score: float, best: float) -> dict[str, Any]:
        """Append one evaluation (``epoch`` counts from 1) and sync it."""
        line = {"epoch": epoch, "score": score, "best": best, "time": round(time.time(), 3)}
        path = self.folder / "evaluations.jsonl"
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(("" if whole else "\n") + json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise files.unwritten(path, fault, "the evaluation in") from fault
        return line

    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations by epoch; the later of two of one epoch counts, a line torn by a kill does not."""
        path = self.folder / "evaluations.jsonl"
        found: dict[int, dict[str, Any]] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                evaluation = parsed_object(line, EVALUATION)
            except (ValueError, RecursionError):
                continue
            if evaluation.get("epoch") is not None:
                scores = {name: evaluation.get(name) for name in ("score", "best")}
                unknown = {name: math.nan for name, score in scores.items() if score is None}  # as NaN comes back
                found[evaluation["epoch"]] = evaluation | unknown
        return [found[epoch] for epoch in sorted(found)]

    def end(self, status: str, **result: Any) -> None:
        """Write the result: ``finished``, ``stopped`` (by the scheduler) or ``failed``."""
        write_json(self.folder / "result.json", {"status": status, **result})

    def reopen(self) -> None:
        """Forget how the trial ended, so that it goes on."""
        (self.folder / "result.json").unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """How the trial ended, or None."""
        return read_json(self.folder / "result.json", RESULT, "status")


def trials(folder: str | os.PathLike[str]) -> list[Trial]:
    """Every trial of a search that has begun, by number."""
    numbers = [int(path.parent.name) for path in Path(folder).glob("trials/*/trial.json") if path.parent.name.isdigit()]
    return [Trial(folder, number) for number in sorted(numbers)]


def locked(folder: str | os.PathLike[str], wait: float = 0.0) -> AbstractContextManager[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        Held: another process still holds it after ``wait`` seconds.
    """
    held = f"another process works in {folder}; wait for it, or choose another folder"
    return files.locked(Path(folder) / ".lock", held, wait)
