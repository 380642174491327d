"""Options of ``recbole-scale challenges``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import CommandParser

RESAMPLES = 1000  # behind an interval
WINDOW = 10  # interactions held out for a trajectory
RULES = ("equal_interactions", "equal_items")
LENGTHS = (5, 10, 20, 30, 40, 50)
KINDS = ("delete", "replace", "replace_popular", "swap", "insert")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
SEEDS = 10  # draws of each kind and share of noise
_CHALLENGES = "some of long_tail cold_start multi_domain robustness trajectory (default: all)"
_MAKE = "only write a data set to DIR whose last interactions are held out, to train on before --challenges trajectory"
_EXAMPLES = """  recbole-scale challenges --dataset ml-1m --challenges long_tail cold_start robustness \\
      --checkpoints "saved/*-ml-1m-*.best.pth" --out results/ml-1m
  recbole-scale challenges --dataset ml-1m --rows results/runs.jsonl --challenges all

  recbole-scale challenges --dataset ml-1m --make_trajectory_data dataset
  run_recbole --model=ScaledSASRec --size=small --dataset=ml-1m-cut10
  recbole-scale challenges --dataset ml-1m-cut10 --challenges trajectory --rows results/runs.jsonl
"""


def parser() -> CommandParser:
    """Options of the command."""
    made = CommandParser(
        "recbole-scale challenges",
        "Score trained models on long-tail items, cold-start users, multi-domain transfer, noisy histories and user "
        "trajectories.",
        _EXAMPLES,
    )
    add: Any = made.add_argument
    add("--checkpoints", nargs="+", metavar="FILE", help="checkpoints of one data set: files, globs or ids of runs")
    add(
        "--rows",
        dest="runs",
        metavar="FILE",
        help="instead: rows of runs, whose checkpoints are in --checkpoint_dir",
    )
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
    add("--window", type=int, default=WINDOW, metavar="W", help="interactions held out (default: %(default)s)")
    _add_kinds(made.add_argument_group("one challenge"))
    return made


def _add_kinds(group: Any) -> None:
    """Options of single challenges."""

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        values = " ".join(map(str, default)) if isinstance(default, tuple) else default
        more |= {"nargs": "+"} if isinstance(default, tuple) else {}
        group.add_argument(name, default=default, metavar="V", help=f"{text} (default: {values})", **more)

    add("--group_rule", RULES[0], f"long_tail: {' or '.join(RULES)}")
    add("--lengths", LENGTHS, "cold_start: items left of a history", type=int)
    add("--domain_field", "domain", "multi_domain: column of the domain in the .inter file")
    add("--noise", KINDS, "robustness: kinds of noise")
    add("--ratios", RATIOS, "robustness: shares of the history", type=float)
    add("--seeds", SEEDS, "robustness: draws of each kind and ratio", type=int)
    add("--feeds", ("greedy", "truth"), "trajectory: greedy, sampled, truth")
