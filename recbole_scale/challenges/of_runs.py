"""From rows of runs to the checkpoints that are compared: which runs, and where their files are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Row, as_rows
from recbole_scale.fit.tries import best_settings
from recbole_scale.plugin.checkpoints import open_checkpoint
from recbole_scale.runs import records
from recbole_scale.settings import run_id
from recbole_scale.text import counted

# checkpoints of our own trainer say in their name which run they are of
NAMED = re.compile(r"-([0-9a-f]{10})\.best\.pth$")
# states that are not the chosen model of a run: the last one, the best by the other metric, those of a trunk
NOT_CHOSEN = re.compile(r"\.last\.pth$|\.best-(nll|ranking)\.pth$|-trunk-[0-9a-f]{10}-")


def checkpoints_of_runs(rows: str, dataset: str, folder: str) -> list[str]:
    """Checkpoints of the finished runs on a data set, looked for in a folder.

    Runs on a part of the users are no match for those on all, nor are settings that were tried and not chosen: they are
    left out with a warning, and so are runs without a checkpoint.

    Raises:
        UserError: no finished run on the data set, or none of their checkpoints is in the folder.
    """
    table = as_rows(records.read_rows(rows))
    finished = [row for row in table if row["dataset"] == dataset and row["status"] == "ok"]
    if not finished:
        there = sorted({str(row["dataset"]) for row in table if row["dataset"]})
        raise UserError(f"{rows} has no finished run on '{dataset}'; it has runs on {', '.join(there) or 'nothing'}")
    notes: list[str] = []
    ids = list(dict.fromkeys(row["run_id"] for row in compared(finished, notes)))
    found = files_of(ids, folder)
    if missing := [run for run in ids if run not in found]:
        notes.append(f"no checkpoint in {folder} of {len(missing)} of {counted(len(ids), 'run')}: {', '.join(missing)}")
    if not found:
        raise UserError(
            f"{folder} has no checkpoint of the {counted(len(ids), 'run')} on '{dataset}'; --checkpoint_dir names it"
        )
    for note in notes:
        getLogger().warning(note)
    return [found[run] for run in ids if run in found]


def compared(runs: Sequence[Row], notes: list[str]) -> list[Row]:
    """Runs on the most data, and of each model, shape and seed the one of lowest valid loss; ``notes`` is added to."""
    most = max(_fraction(run) for run in runs)
    kept = [run for run in runs if _fraction(run) == most]
    if len(kept) < len(runs):
        notes.append(f"{counted(len(runs) - len(kept), 'run')} on fewer users than the others left out")
    models = dict.fromkeys(run["model"] for run in kept)
    return [run for model in models for run in best_settings([r for r in kept if r["model"] == model], notes)]


def _fraction(run: Row) -> float:
    """Share of the users that trained: all, where a row does not say."""
    return 1.0 if run.get("data_fraction") is None else float(run["data_fraction"])


def files_of(ids: Sequence[str], folder: str) -> dict[str, str]:
    """The checkpoint of each run that has one: its name holds the run's id, or else its settings give it."""
    found: dict[str, str] = {}
    others = []
    for path in sorted(Path(folder).glob("*.pth"), key=lambda path: path.stat().st_mtime, reverse=True):
        named = NAMED.search(path.name)
        if named and named[1] in ids:
            found[named[1]] = str(path)
        elif not named and not NOT_CHOSEN.search(path.name):
            others.append(path)
    for path in others:  # newest first
        if not set(ids) - found.keys():
            break
        try:
            run = run_id(open_checkpoint(str(path))[1])
        except UserError:
            continue  # somebody else's file is no reason to stop
        if run in ids:
            found.setdefault(run, str(path))
    return found
