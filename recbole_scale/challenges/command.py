"""The command behind ``run_scripts/challenge_tasks.py``: checkpoints in; table, figures, rows and export out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from recbole_scale.challenges import table, windows
from recbole_scale.challenges.estimates import CUTOFFS, RESAMPLES
from recbole_scale.challenges.kinds import cold_start, long_tail, robustness
from recbole_scale.challenges.terminal import as_text
from recbole_scale.errors import UserError, check_choice
from recbole_scale.runs import records
from recbole_scale.runs.row_file import append_lines

EXAMPLE = """examples:
  python run_scripts/challenge_tasks.py --dataset ml-1m --challenges long_tail cold_start robustness \\
      --checkpoints saved/tiny.best.pth saved/small.best.pth saved/SASRec.pth --out results/ml-1m
  python run_scripts/challenge_tasks.py --dataset ml-1m --runs results/runs.jsonl --challenges all

  python run_scripts/challenge_tasks.py --dataset ml-1m --make_trajectory_data dataset
  run_recbole --model=ScaledSASRec --size=small --dataset=ml-1m-cut10
  python run_scripts/challenge_tasks.py --dataset ml-1m-cut10 --challenges trajectory --runs results/runs.jsonl
"""


MAIN_METRICS = (*(f"{name}@{k}" for name in ("hr", "ndcg") for k in CUTOFFS), "mrr", "nll")
_CHALLENGES = "some of long_tail cold_start multi_domain robustness trajectory (default: all)"
_MAKE = "only write a data set to DIR whose last interactions are held out, to train on before --challenges trajectory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: a mistake in the options, checkpoints or data, in one sentence; nothing is written then.
    """
    options = _parser().parse_args(arguments)
    if options.make_trajectory_data is not None:
        return _make_trajectory_data(options)
    from recbole_scale.challenges.export import check_tokens
    from recbole_scale.challenges.models import open_checkpoints  # RecBole takes seconds to import
    from recbole_scale.challenges.of_runs import checkpoints_of_runs
    from recbole_scale.challenges.suite import make_suite, measure_all

    chosen = _chosen(options)
    check_choice("metric", options.metric, MAIN_METRICS)
    paths = options.checkpoints or checkpoints_of_runs(options.runs, options.dataset, options.checkpoint_dir)
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
    print("\n" + as_text(rows, names, options.metric))
    written = _figures(rows, names, out, options.metric)
    if options.export:
        parts = _export(options.export, first, suite, longest)
        print(f"\nexported to {options.export}: {len(parts)} parts, settings in {first.config['dataset']}-cases.yaml")
    append_lines(out / "challenges.jsonl", rows, table.COLUMNS)
    print(f"\nwritten to {out}: {', '.join([*written, 'challenges.jsonl'])} ({len(rows):,} rows)")
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
        f"written: {folder}, {with_window:,} users with {options.window} held-out interactions, {without:,} without; "
        f"train on it with run_recbole --dataset={folder.name} --data_path={folder.parent}"
    )
    return 0


def _chosen(options: argparse.Namespace) -> Any:
    from recbole_scale.challenges.suite import Options

    if bool(options.checkpoints) == bool(options.runs):
        raise UserError("give either --checkpoints, or --runs with --dataset")
    if options.runs and not options.dataset:
        raise UserError(f"--runs {options.runs} needs --dataset: the runs of one data set are compared")
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
        lines.append(f"  {name:<13}{len(sets)} sets, {len(first):,} cases in the first{lost}")
    lines += [f"  {name:<13}left out: {reason}" for name, reason in suite.left_out.items()]
    return "\n".join(lines)


def _figures(rows: list[dict[str, Any]], names: dict[tuple[str, int], str], out: Path, metric: str) -> list[str]:
    """Draw where matplotlib is installed; say so where it is not."""
    if find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed (pip install 'recbole-scale[figures]')")
        return []
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="challenge_tasks.py",
        description="Score trained models on long-tail items, cold-start users, multi-domain transfer, noisy histories "
        "and user trajectories.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    add("--checkpoints", nargs="+", metavar="FILE", help="checkpoints of one data set, in any order")
    add("--runs", metavar="FILE", help="instead: rows of runs, whose checkpoints are in --checkpoint_dir")
    add("--checkpoint_dir", default="saved", metavar="DIR", help="(default: %(default)s)")
    add("--dataset", metavar="D", help="the data set; with --checkpoints, the one they must be of")
    add("--data_path", metavar="DIR", help="folder of data sets, where it is not the one of the training")
    add("--challenges", nargs="+", default=["all"], metavar="C", help=f"all that the data allows, or {_CHALLENGES}")
    add("--mask_history", action="store_true", help="items of the history leave the ranking")
    add("--metric", default="ndcg@10", metavar="M", help="of the terminal's table and figures (default: %(default)s)")
    add("--resamples", type=int, default=RESAMPLES, metavar="N", help="behind the intervals (default: %(default)s)")
    add("--out", default="results", metavar="DIR", help="for challenges.jsonl and figures (default: %(default)s)")
    add("--export", metavar="DIR", help="also write the cases as RecBole benchmark files, with all training rows")
    add("--make_trajectory_data", metavar="DIR", help=_MAKE)
    add("--window", type=int, default=windows.WINDOW, metavar="W", help="interactions held out (default: %(default)s)")
    _add_kinds(parser.add_argument_group("one challenge"))
    return parser


def _add_kinds(group: Any) -> None:
    """Options of single challenges."""

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        values = " ".join(map(str, default)) if isinstance(default, tuple) else default
        more |= {"nargs": "+"} if isinstance(default, tuple) else {}
        group.add_argument(name, default=default, metavar="V", help=f"{text} (default: {values})", **more)

    add("--group_rule", long_tail.RULES[0], f"long_tail: {' or '.join(long_tail.RULES)}")
    add("--lengths", cold_start.LENGTHS, "cold_start: items left of a history", type=int)
    add("--domain_field", "domain", "multi_domain: column of the domain in the .inter file")
    add("--noise", robustness.KINDS, "robustness: kinds of noise")
    add("--ratios", robustness.RATIOS, "robustness: shares of the history", type=float)
    add("--seeds", 3, "robustness: draws of each kind and ratio", type=int)
    add("--feeds", ("greedy", "truth"), "trajectory: greedy, sampled, truth")
