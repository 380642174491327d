"""Which checkpoint is meant: a file, a glob, the id of a run, or the rows that runs have left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from recbole_scale.errors import UserError, nearest
from recbole_scale.runs.records import read_rows
from recbole_scale.text import counted

RUN_ID = re.compile(r"[0-9a-f]{6,10}")


def checkpoints_named(names: Sequence[str], folder: str = "saved") -> list[str]:
    """Paths of the checkpoints that ``names`` mean, each once.

    Args:
        names: files, globs, or ids of runs (six digits or more) whose checkpoints are in ``folder``.
        folder: ``checkpoint_dir`` of the runs.

    Raises:
        UserError: a name means no checkpoint.
    """
    found: list[str] = []
    for name in names:
        if Path(name).exists():
            found.append(name)
        elif any(mark in name for mark in "*?["):
            found += _of_glob(name)
        elif RUN_ID.fullmatch(name):
            found += _of_run(name, folder)
        else:
            there = [str(path) for path in Path(name).parent.glob("*.pth")]
            raise UserError(f"there is no checkpoint {name}{nearest(name, there)}")
    return list(dict.fromkeys(found))


def one_checkpoint(names: Sequence[str], folder: str = "saved") -> str:
    """The one checkpoint that ``names`` mean.

    Raises:
        UserError: they mean none, or several.
    """
    found = checkpoints_named(names, folder)
    if len(found) > 1:
        raise UserError(f"{' '.join(names)} means {len(found)} checkpoints ({', '.join(found[:4])}); give one of them")
    return found[0]


def best_of_rows(rows: str, dataset: str | None, folder: str = "saved") -> str:
    """The checkpoint of the finished run of lowest valid NLL among ``rows``.

    Raises:
        UserError: no finished run, runs on several data sets and none chosen, or no checkpoint in ``folder``.
    """
    table = read_rows(rows)
    finished = table[table["status"] == "ok"]
    if dataset is None and finished["dataset"].nunique() > 1:
        raise UserError(
            f"{rows} has runs on {', '.join(sorted(finished['dataset'].unique()))}; say which with --dataset"
        )
    if dataset is not None:
        finished = finished[finished["dataset"] == dataset]
    finished = finished[finished["best_valid_nll"].notna()].sort_values("best_valid_nll", kind="stable")
    if finished.empty:
        raise UserError(f"{rows} has no finished run{f' on {dataset!r}' if dataset else ''} with a valid NLL")
    for run in finished["run_id"]:
        if there := _files_of(run, folder):
            return there[0]
    raise UserError(
        f"{folder} has no checkpoint of the {counted(len(finished), 'run')} in {rows}; "
        "--checkpoint_dir names the folder"
    )


def _of_glob(pattern: str) -> list[str]:
    found = [path for path in sorted(glob(pattern)) if ".last." not in Path(path).name]
    if not found:
        raise UserError(f"no checkpoint matches {pattern}")
    return found


def _of_run(run: str, folder: str) -> list[str]:
    found = _files_of(run, folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint of the run {run}; --checkpoint_dir names the folder")
    if len(found) > 1:
        raise UserError(f"{run} begins the ids of {len(found)} runs in {folder}; write more of its digits")
    return found


def _files_of(run: str, folder: str) -> list[str]:
    return [str(path) for path in sorted(Path(folder).glob(f"*-{run}*.best.pth"))]
