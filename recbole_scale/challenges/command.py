"""The command ``recbole-scale challenges``: checkpoints in; table, figures, rows and export out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recbole_scale.challenges import table, windows
from recbole_scale.challenges.estimates import CUTOFFS
from recbole_scale.challenges.options import parser
from recbole_scale.challenges.terminal import as_text
from recbole_scale.errors import UserError, check_choice
from recbole_scale.runs import records
from recbole_scale.runs.row_file import append_lines
from recbole_scale.runs.trained import checkpoints_named
from recbole_scale.terminal import columns
from recbole_scale.text import counted

MAIN_METRICS = (*(f"{name}@{k}" for name in ("hr", "ndcg") for k in CUTOFFS), "mrr", "nll")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options, checkpoints or data, in one sentence; nothing is written then.
    """
    options = parser().parse_args(arguments)
    if options.make_trajectory_data is not None:
        return _make_trajectory_data(options)
    from recbole_scale.challenges.export import check_tokens
    from recbole_scale.challenges.models import open_checkpoints  # RecBole takes seconds to import
    from recbole_scale.challenges.of_runs import checkpoints_of_runs
    from recbole_scale.challenges.suite import make_suite, measure_all

    chosen = _chosen(options)
    check_choice("metric", options.metric, MAIN_METRICS)
    if options.runs:
        paths = checkpoints_of_runs(options.runs, options.dataset, options.checkpoint_dir)
    else:
        paths = checkpoints_named(options.checkpoints, options.checkpoint_dir)
    checkpoints = open_checkpoints(paths, options.data_path)
    first = checkpoints[0]
    if options.dataset and options.dataset != first.config["dataset"]:
        raise UserError(f"{first.path} was trained on '{first.config['dataset']}', not on '{options.dataset}'")
    longest = max(int(point.config["MAX_ITEM_LIST_LENGTH"]) for point in checkpoints)
    out = Path(options.out)
    suite = make_suite(first, chosen, longest)
    if options.export:
        check_tokens(first.dataset.field2id_token[first.dataset.iid_field])
    _check_folder(out)
    print(_described(suite, first.config["dataset"]))
    measured = table.in_order(measure_all(checkpoints, suite, chosen))
    rows = table.tidy(measured, records.commit(), chosen.mask_history)
    models = [model.about for model in measured]
    names = dict(zip(map(table.model_of, models), table.labels(models), strict=True))
    print("\n" + as_text(rows, names, options.metric, columns(sys.stdout) - 1))
    written = _figures(rows, names, out, options.metric)
    if options.export:
        parts = _export(options.export, first, suite, longest)
        print(f"\nexported to {options.export}: {len(parts)} parts, settings in {first.config['dataset']}-cases.yaml")
    append_lines(out / "challenges.jsonl", rows, table.COLUMNS)
    print(f"\nwritten to {out}: {', '.join([*written, 'challenges.jsonl'])} ({counted(len(rows), 'row')})")
    return 0


def _check_folder(out: Path) -> None:
    """Find out before the scoring that there is nowhere to write; the folder is made only once there are rows."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "cannot be written to" if there.is_dir() else "is no folder"
        raise UserError(f"--out {out} cannot be made a folder: {there} {reason}")


def _make_trajectory_data(options: argparse.Namespace) -> int:
    if not options.dataset:
        raise UserError("--make_trajectory_data needs --dataset, the data set whose last interactions are held out")
    source = Path(options.data_path or "dataset", options.dataset, f"{options.dataset}.inter")
    folder, with_window, without = windows.write_window_data(source, options.make_trajectory_data, options.window)
    print(
        f"written: {folder}, {counted(with_window, 'user')} with {counted(options.window, 'held-out interaction')}, "
        f"{without:,} without; "
        f"train on it with run_recbole --dataset={folder.name} --data_path={folder.parent}"
    )
    return 0


def _chosen(options: argparse.Namespace) -> Any:
    from recbole_scale.challenges.suite import Options

    if bool(options.checkpoints) == bool(options.runs):
        raise UserError("give either --checkpoints, or --rows with --dataset")
    if options.runs and not options.dataset:
        raise UserError(f"--rows {options.runs} needs --dataset: the runs of one data set are compared")
    names = ("group_rule", "domain_field", "seeds", "mask_history", "resamples")
    values: dict[str, Any] = {
        name: tuple(getattr(options, name)) for name in ("challenges", "lengths", "noise", "ratios", "feeds")
    }
    return Options(**values, **{name: getattr(options, name) for name in names})


def _described(suite: Any, dataset: str) -> str:
    """What will be scored, and what was left out and why."""
    lines = [f"challenges on {dataset}"]
    for name, sets in suite.sets.items():
        first = next(iter(sets))
        lost = "".join(f"; {count:,} dropped: {reason}" for reason, count in first.dropped.items())
        lines.append(f"  {name:<13}{counted(len(sets), 'set')}, {counted(len(first), 'case')} in the first{lost}")
    lines += [f"  {name:<13}left out: {reason}" for name, reason in suite.left_out.items()]
    return "\n".join(lines)


def _figures(rows: list[dict[str, Any]], names: dict[tuple[str, int], str], out: Path, metric: str) -> list[str]:
    from recbole_scale.challenges.figures import save_figures

    return save_figures(rows, lambda row: names[table.model_of(row)], out, metric)


def _export(folder: str | os.PathLike[str], checkpoint: Any, suite: Any, history_length: int) -> list[str]:
    from recbole_scale.challenges.export import export

    dataset = checkpoint.dataset
    fields = (dataset.uid_field, dataset.iid_field)
    return export(
        Path(folder),
        f"{checkpoint.config['dataset']}-cases",
        chain.from_iterable(suite.sets.values()),
        dataset.histories,
        dataset.split,
        tuple(dataset.field2id_token[name] for name in fields),
        fields,
        history_length,
    )
