"""Rows of ``results/runs.jsonl``: what the columns mean. Written by programs, never read from logs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import pandas as pd

from recbole_scale.errors import UserError
from recbole_scale.runs.row_file import Row, append_lines, read_lines

# kinds of values, as they are checked when a row is read; any may be null
Text = Annotated[str | None, "a text"]
Count = Annotated[int | None, "a whole number of 0 or more"]
Number = Annotated[float | None, "a number"]
Metrics = Annotated[dict[str, float | None] | None, "numbers by name"]
Objects = Annotated[list[dict[str, Any]] | None, "a list of objects"]
Plain = Annotated[dict[str, Any] | None, "an object"]


class RunRow(TypedDict, total=False):
    """One run's values; a column it lacks is null. Order, kinds and meanings of all columns are taken from here."""

    run_id: Annotated[Text, "hash of the resolved settings; equal runs have equal ids"]
    resumed_from: Annotated[
        Text,
        "run_id of the run it went on from, where that had other settings (fewer epochs, say)",
    ]
    status: Annotated[Text, "ok or failed"]
    error: Annotated[Text, "one sentence when status is failed, else null"]
    dataset: Annotated[Text, "name of the data set"]
    data_fingerprint: Annotated[Text, "hash of users, items and their order after filtering"]
    data_digest: Annotated[Text, "hash of the bytes of the interaction files"]
    split: Annotated[Plain, "RecBole's eval_args.split"]
    model: Annotated[Text, "name of the model"]
    size: Annotated[Text, "rung of the ladder, null for a shape of its own and for other models"]
    n_layers: Annotated[Count, "decoder blocks"]
    d_model: Annotated[Count, "width (RecBole's hidden_size)"]
    n_heads: Annotated[Count, "attention heads"]
    n_blocks: Annotated[Count, "N: weight matrices of the blocks, layers * (4 d_model^2 + 2 d_model * inner_size)"]
    n_blocks_exact: Annotated[Count, "N with biases and LayerNorms"]
    n_item_embedding: Annotated[Count, "parameters of the item embedding, padding row included"]
    n_positions: Annotated[Count, "parameters of the position embedding"]
    n_parameters: Annotated[Count, "all trainable parameters"]
    n_users: Annotated[Count, "users"]
    n_items: Annotated[Count, "items"]
    users_valid: Annotated[Count, "users ranked on valid at each evaluation: all with a row there, or valid_users"]
    users_tested: Annotated[Count, "users ranked on test: all with a row there, or test_users"]
    users_dropped: Annotated[Count, "users without one: their history is too short"]
    uniform_nll: Annotated[Number, "loss of guessing among all items, log of their number, nats"]
    popularity_nll: Annotated[Number, "test loss of items in proportion to their training interactions plus one, nats"]
    markov_nll: Annotated[Number, "test loss of what followed the last item in training, mixed with popularity, nats"]
    flops_per_interaction: Annotated[Number, "training FLOPs per target, item softmax included"]
    flops_total: Annotated[Number, "flops_per_interaction * interactions_seen"]
    interactions_seen: Annotated[Count, "training targets, repeats counted"]
    unique_interactions: Annotated[Count, "training targets of one epoch"]
    data_fraction: Annotated[Number, "share of users that train; all are evaluated"]
    epochs: Annotated[Count, "epochs trained"]
    valid_metric: Annotated[Text, "metric on valid that chose the checkpoint and counted patience; null in older rows"]
    best_epoch: Annotated[Number, "epoch (from 0) of the best valid metric: of the chosen model"]
    best_epoch_nll: Annotated[
        Number,
        "epoch of the best valid NLL; null where no such model was kept (RecBole's own models)",
    ]
    best_epoch_ranking: Annotated[
        Number,
        "epoch of the best valid ranking metric: valid_metric, or NDCG@10 when that is NLL",
    ]
    seed: Annotated[Number, "random seed"]
    evaluations: Annotated[Objects, "list, one per epoch: epoch, phase, train_nll, targets_per_second, valid_<metric>"]
    phases: Annotated[
        Objects,
        "list, one per optimizer: phase, optimizer, learning_rate, first_epoch, reason, and the best epoch "
        "and valid metrics at its end",
    ]
    skipped_steps: Annotated[Count, "steps left out since loss or gradient was not finite"]
    spikes: Annotated[Count, "losses above spike_factor x the running median"]
    rollbacks: Annotated[Count, "returns to the last good checkpoint after three skipped steps in a row"]
    best_valid_metrics: Annotated[Metrics, "metrics of the chosen model on valid"]
    best_valid_nll: Annotated[
        Number,
        "valid NLL of the model that is best by it (where only one is kept, of that), nats",
    ]
    best_valid_metrics_filtered: Annotated[
        Metrics,
        "of its ranked lists on valid, items the user had left out; {} where the ranking leaves them out "
        "anyway, null where it was not measured",
    ]
    test_metrics: Annotated[Metrics, "metrics of the chosen model on test"]
    test_metrics_filtered: Annotated[
        Metrics,
        "of its ranked lists on test, items the user had left out; {} where the ranking leaves them out anyway",
    ]
    test_metrics_nll: Annotated[Metrics, "metrics on test of the model with the best valid NLL"]
    test_metrics_nll_filtered: Annotated[Metrics, "of its ranked lists, items the user had left out"]
    test_metrics_ranking: Annotated[Metrics, "metrics on test of the model with the best valid ranking metric"]
    test_metrics_ranking_filtered: Annotated[Metrics, "of its ranked lists, items the user had left out"]
    test_nll: Annotated[
        Number,
        "test NLL of the model with the best valid NLL (where only one is kept, of that), nats per held-out "
        "interaction; what laws are fitted to",
    ]
    test_nll_se: Annotated[Number, "standard error of test_nll over interactions"]
    nll_kind: Annotated[
        Text,
        "what the NLL is: likelihood (softmax-trained), probabilities (-log p), scores (no trained likelihood)",
    ]
    trunk_step: Annotated[
        Count,
        "step at which the run went on from a shorter one's trunk (wsd), whose seconds_train count; 0: alone",
    ]
    seconds_train: Annotated[Number, "time in training steps, s"]
    seconds_evaluate: Annotated[Number, "time of ranking the test rows once, s"]
    seconds_total: Annotated[
        Number, "time of the whole run, s; where it was stopped, that of all its processes up to what was saved"
    ]
    peak_memory_mb: Annotated[Number, "largest resident memory of the process so far, MB (device memory on a GPU)"]
    device: Annotated[Text, "what it ran on"]
    threads: Annotated[Count, "CPU threads of torch, in each process"]
    processes: Annotated[Count, "processes that trained together"]
    versions: Annotated[Plain, "recbole_scale, recbole, torch, numpy, python"]
    commit: Annotated[Text, "commit of the recbole_scale checkout, null when installed without one"]
    started: Annotated[Text, "start of the run, UTC"]
    settings: Annotated[Plain, "what the user set"]
    tuning: Annotated[
        Plain,
        "where a sweep tuned its rates: learning_rate chosen, valid_nll by rate tried, seed and epochs of "
        "the trials, at_the_edge: the best rate is the least or the largest tried; else null",
    ]
    by_data: Annotated[Plain, "defaults that the log's density and size decided, by key"]


_FIELDS = {name: hint.__metadata__ for name, hint in get_type_hints(RunRow, include_extras=True).items()}
COLUMNS: dict[str, str] = {name: meaning for name, (_, meaning) in _FIELDS.items()}
KINDS_OF_COLUMNS: dict[str, str] = {name: kind for name, (kind, _) in _FIELDS.items()}


NLL_MARKS = {"scores": "of scores", "probabilities": "-log p"}  # what an NLL is that is no softmax-trained likelihood


def filtered_metrics(row: Mapping[str, Any], column: str = "test_metrics") -> Mapping[str, Any]:
    """Metrics without what each user had: of the second lists, or the only ones where the history is masked."""
    masked = (row.get("settings") or {}).get("mask_history") is True
    found: Mapping[str, Any] = row.get(column if masked else f"{column}_filtered") or {}
    return found


def failed(run_id: str, error: str, dataset: str, model: str, settings: Mapping[str, Any]) -> RunRow:
    """The row of a run that failed or was lost; ``error`` is one sentence."""
    return {
        "run_id": run_id,
        "status": "failed",
        "error": error,
        "dataset": dataset,
        "model": model,
        "seed": settings.get("seed"),
        "data_fraction": settings.get("data_fraction"),
        "settings": without_paths(settings),
        "versions": versions(),
        "commit": commit(),
    }


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set, less what only this machine knows."""
    paths = ("data_path", "checkpoint_dir", "results_file", "per_user_file")
    return {key: value for key, value in settings.items() if key not in paths}


def append_row(path: str | os.PathLike[str], row: Mapping[str, Any], trained: bool = True) -> bool:
    """Add the row of a run to a results file, unless it is there; see :func:`recbole_scale.runs.row_file.append_lines`.

    A run that was not ``trained`` just now, but resumed after its end, has its row; one that was trained again and came
    to the same numbers has it too.

    Returns:
        whether the row was added.

    Raises:
        UserError: a column is unknown, the file is none of rows, or the disk is full (the file is left as it was).
    """
    unknown = [key for key in row if key not in COLUMNS]
    if unknown:
        raise UserError(f"a run's row has no column '{unknown[0]}'; columns are documented in runs/records.py")

    def there(rows: list[Row]) -> bool:
        same = [one for one in rows if one.get("run_id") == row.get("run_id") and one.get("status") == "ok"]
        same_data = [one for one in same if one.get("data_fingerprint") in (None, row.get("data_fingerprint"))]
        return any(not trained or _numbers(one) == _numbers(row) for one in same_data)

    return append_lines(path, [row], COLUMNS, there if row.get("status") == "ok" else None)


def _numbers(row: Mapping[str, Any]) -> list[Any]:
    return [row.get(name) for name in ("data_fingerprint", "epochs", "best_valid_metrics", "test_metrics", "test_nll")]


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """All whole rows of a results file, one pandas row each (also ``pandas.read_json(path, lines=True)``).

    Raises:
        UserError: no such file, or a line that is no row, by its number; a torn last line is passed over.
    """
    return pd.DataFrame(read_lines(path, KINDS_OF_COLUMNS), columns=list(COLUMNS))


def is_finished(row: Mapping[str, Any], digest: str | None) -> bool:
    """Whether the row of a run stands for it: trained from its start, on interaction files that hold ``digest`` now.

    Of a row that does not say what it saw, nothing is known against it.
    """
    known, other = row.get("data_digest"), row.get("resumed_from")
    return not isinstance(other, str) and (not isinstance(known, str) or known == digest)


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
