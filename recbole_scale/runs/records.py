"""Rows of ``results/runs.jsonl``: one JSON object a line, one line a run. Written by programs, never read from logs.

Many processes may append at once, and any of them may be killed at any time: a row is whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_scale.errors import UserError

COLUMNS: dict[str, str] = {
    "run_id": "hash of the resolved settings; equal runs have equal ids",
    "status": "ok or failed",
    "error": "one sentence when status is failed, else null",
    "dataset": "name of the data set",
    "data_fingerprint": "hash of users, items and their order after filtering",
    "split": "RecBole's eval_args.split",
    "model": "name of the model",
    "size": "rung of the ladder, null for a shape of its own and for other models",
    "n_layers": "decoder blocks",
    "d_model": "width (RecBole's hidden_size)",
    "n_heads": "attention heads",
    "n_blocks": "N: weight matrices of the blocks, 12 * layers * d_model^2",
    "n_blocks_exact": "N with biases and LayerNorms",
    "n_item_embedding": "parameters of the item embedding, padding row included",
    "n_positions": "parameters of the position embedding",
    "n_parameters": "all trainable parameters",
    "n_users": "users",
    "n_items": "items",
    "flops_per_interaction": "training FLOPs per target, item softmax included",
    "flops_total": "flops_per_interaction * interactions_seen",
    "interactions_seen": "training targets, repeats counted",
    "unique_interactions": "training targets of one epoch",
    "data_fraction": "share of users that train; all are evaluated",
    "epochs": "epochs trained",
    "best_epoch": "epoch (from 0) of the best valid metric",
    "seed": "random seed",
    "evaluations": "list, one per epoch: epoch, phase, train_nll, targets_per_second, valid_<metric>",
    "phases": "list, one per optimizer: phase, optimizer, learning_rate, first_epoch, reason, and the best epoch and "
    "valid metrics at its end",
    "skipped_steps": "steps left out since loss or gradient was not finite",
    "spikes": "losses above spike_factor x the running median",
    "rollbacks": "returns to the last good checkpoint after three skipped steps in a row",
    "best_valid_metrics": "metrics at the best epoch",
    "best_valid_nll": "valid NLL at the best epoch, nats per interaction",
    "test_metrics": "metrics of the best checkpoint on test",
    "test_nll": "test NLL, nats per held-out interaction",
    "test_nll_se": "standard error of test_nll over interactions",
    "seconds_train": "time in training steps, s",
    "seconds_evaluate": "time of ranking the test rows once, s",
    "seconds_total": "time of the whole run, s",
    "peak_memory_mb": "largest resident memory of the process so far, MB (device memory on a GPU)",
    "device": "what it ran on",
    "threads": "CPU threads of torch, in each process",
    "processes": "processes that trained together",
    "versions": "recbole_scale, recbole, torch, numpy, python",
    "commit": "commit of the recbole_scale checkout, null when installed without one",
    "started": "start of the run, UTC",
    "settings": "what the user set",
}


def append_row(path: str | os.PathLike[str], row: Mapping[str, Any]) -> None:
    """Add the row of a run to a results file; see :func:`append_rows`.

    Raises:
        UserError: a column is unknown, or the disk is full (the file is put back to what it was).
    """
    append_rows(path, [row], COLUMNS)


def append_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Add rows to a JSON-lines file, all or none, safe against other writers and against being killed.

    The lines go out in one ``write`` under an exclusive lock and are synced; if an earlier writer was killed half way,
    its torn line is cut off first, so that a torn line can only be the last one and is never joined to a whole one.

    Args:
        path: the file; it and its folder are made where they are missing.
        rows: values by column; a column a row lacks is null.
        columns: all columns, in order.

    Raises:
        UserError: a column is unknown, or the disk is full (the file is put back to what it was).
    """
    import fcntl

    columns = list(columns)
    unknown = [key for row in rows for key in row if key not in columns]
    if unknown:
        raise UserError(f"a run's row has no column '{unknown[0]}'; columns are documented in runs/records.py")
    text = [json.dumps(_plain({k: row.get(k) for k in columns}), allow_nan=False) for row in rows]
    lines = "".join(line + "\n" for line in text).encode()
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = _end_of_whole_lines(descriptor)
            os.ftruncate(descriptor, end)
            try:
                if os.pwrite(descriptor, lines, end) != len(lines):
                    raise OSError(28, "no space left on device")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as failure:
        raise UserError(f"the run's row could not be added to {path} ({(failure.strerror or '').lower()})") from failure


def _end_of_whole_lines(descriptor: int) -> int:
    """Offset just after the last newline: what follows was torn by a killed writer."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        begin = max(0, end - 65536)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _plain(value: Any) -> Any:
    """Numbers, strings and containers that JSON knows; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """All whole rows of a results file, one pandas row each (also ``pandas.read_json(path, lines=True)``).

    Raises:
        UserError: no such file, or a line in the middle is no JSON object; a torn last line is passed over.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no results file {path}")
    rows = []
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n") and number == len(lines):
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as failure:
            raise UserError(f"{path}, line {number}: not a row ({failure.msg})") from failure
    return pd.DataFrame(rows, columns=list(COLUMNS))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import platform

    found = {"python": platform.python_version()}
    for name in ("recbole-scale", "recbole", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` when the package's files differ from it.

    Other files, such as the results a sweep adds to, change no number.
    """
    folder = Path(__file__).resolve().parents[1]
    if not (folder.parent / ".git").exists():
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", ".").returncode
    except (OSError, subprocess.SubprocessError):
        return None
    return None if name.returncode else name.stdout.strip() + "-dirty" * (changed == 1)
