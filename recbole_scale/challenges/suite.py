"""Which challenges a data set allows, their sets of cases, and every checkpoint measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_scale.bars import bar
from recbole_scale.challenges import windows
from recbole_scale.challenges.cases import Cases, leave_one_out
from recbole_scale.challenges.estimates import RESAMPLES
from recbole_scale.challenges.kinds import cold_start, long_tail, multi_domain, robustness, trajectory
from recbole_scale.challenges.measuring import measure, measure_trajectory
from recbole_scale.challenges.models import Checkpoint, build_ranker
from recbole_scale.challenges.options import SEEDS
from recbole_scale.challenges.table import Measured
from recbole_scale.data.atomic import encoding_of
from recbole_scale.data.dataset import HistoryDataset
from recbole_scale.errors import UserError, check_choice

CHALLENGES = ("long_tail", "cold_start", "multi_domain", "robustness", "trajectory")


@dataclass(frozen=True)
class Options:
    """What the user may choose about the cases and their measurement."""

    challenges: tuple[str, ...] = ("all",)
    group_rule: str = long_tail.RULES[0]
    lengths: tuple[int, ...] = cold_start.LENGTHS
    domain_field: str = "domain"
    noise: tuple[str, ...] = robustness.KINDS
    ratios: tuple[float, ...] = robustness.RATIOS
    seeds: int = SEEDS
    feeds: tuple[str, ...] = ("greedy", "truth")
    mask_history: bool = False
    resamples: int = RESAMPLES


@dataclass
class Suite:
    """The sets of cases of each challenge, and why others were left out."""

    sets: dict[str, Iterable[Cases]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many sets there are."""
        return sum(len(sets) for sets in self.sets.values() if isinstance(sets, Sized))


def make_suite(checkpoint: Checkpoint, options: Options, history_length: int) -> Suite:
    """Cases of every challenge asked for; "all" are those that the data allows.

    Args:
        checkpoint: whose view of the data set the cases are made from.
        options: what was chosen.
        history_length: the longest history a model reads.

    Raises:
        UserError: an unknown challenge or option, or a challenge named by the user that the data does not allow.
    """
    _check(options)
    dataset = checkpoint.dataset
    base = leave_one_out(dataset.histories, dataset.split)
    if not len(base):
        raise UserError(f"'{checkpoint.config['dataset']}' has no test items: every user has fewer than 3 interactions")
    counts = dataset.split.item_counts(dataset.histories, dataset.item_num - 1, everybody=True)
    makers: dict[str, Callable[[], Iterable[Cases]]] = {
        "long_tail": lambda: long_tail.make_cases(base, counts, options.group_rule),
        "cold_start": lambda: cold_start.make_cases(base, options.lengths),
        "multi_domain": lambda: multi_domain.make_cases(base, *_domains(checkpoint, options.domain_field)),
        "robustness": lambda: robustness.make_cases(
            base, counts, options.noise, options.ratios, options.seeds, history_length
        ),
        "trajectory": lambda: _windows(checkpoint),
    }
    suite = Suite()
    everything = "all" in options.challenges
    for name in CHALLENGES:
        if not everything and name not in options.challenges:
            continue
        try:
            suite.sets[name] = makers[name]()
        except UserError as reason:
            if not everything:
                raise
            suite.left_out[name] = str(reason)
    if not suite.sets:
        raise UserError("the data allows none of the challenges: " + "; ".join(suite.left_out.values()))
    return suite


def _check(options: Options) -> None:
    """Options that concern no data; wrong ones must not pass for challenges the data does not allow."""
    for name in options.challenges:
        check_choice("challenges", name, ("all", *CHALLENGES))
    check_choice("group_rule", options.group_rule, long_tail.RULES)
    for kind in options.noise:
        check_choice("noise", kind, robustness.KINDS)
    for feed in options.feeds:
        check_choice("feeds", feed, trajectory.FEEDS)
    for name, least in (("seeds", 1), ("resamples", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}, but must be at least {least}")
    for ratio in options.ratios:
        if not 0 < ratio <= 1:
            raise UserError(f"the noise ratio {ratio:g} is not in 0..1 (0 excluded)")
    if not options.lengths or list(options.lengths) != sorted(set(options.lengths)) or options.lengths[0] < 1:
        raise UserError(f"--lengths are {', '.join(map(str, options.lengths))}, but must rise from at least 1")


def _domains(checkpoint: Checkpoint, domain_field: str) -> tuple[np.ndarray, list[str]]:
    """Domain of each item of the data set, by token: training may have read the file without that column.

    Of ready-made splits the items' own file says it: a row's columns are its target's, and not every item is one.
    """
    dataset, config = checkpoint.dataset, checkpoint.config
    path = Path(dataset.dataset_path, f"{dataset.dataset_name}.{'item' if _is_ready_made(dataset) else 'inter'}")
    if not path.is_file():
        raise UserError(f"multi_domain needs a column '{domain_field}:token' in {path}, and there is no such file")
    tokens = dataset.field2id_token[dataset.iid_field]
    form = config["field_separator"], encoding_of(config)
    return multi_domain.read_domains(path, tokens, domain_field, dataset.iid_field, *form)


def _is_ready_made(dataset: HistoryDataset) -> bool:
    return dataset.benchmark_filename_list is not None


def _windows(checkpoint: Checkpoint) -> list[Cases]:
    dataset = checkpoint.dataset
    if _is_ready_made(dataset):
        raise UserError(
            "trajectory holds the end of whole histories out before the training, and the rows of benchmark_filename "
            "are parts of histories that were split already; hold it out of the log (--make_trajectory_data)"
        )
    path = Path(dataset.dataset_path, f"{dataset.dataset_name}{windows.SUFFIX}")
    fields = (dataset.uid_field, dataset.iid_field, dataset.time_field)
    users, items = (dataset.field2id_token[name] for name in fields[:2])
    return windows.make_cases(path, dataset.histories, users, items, fields)


def measure_all(checkpoints: Sequence[Checkpoint], suite: Suite, options: Options) -> list[Measured]:
    """Every checkpoint on every set, one model in memory at a time, with a progress bar."""
    found = []
    total = len(checkpoints) * len(suite)
    with bar(total=total, unit="set") as shown:
        for checkpoint in checkpoints:
            ranker, about = build_ranker(checkpoint)
            measured = Measured(about, {})
            for name, sets in suite.sets.items():
                shown.set_description(f"{about['size'] or about['model']} {name}")
                known: dict[str, Any] = {"mask_history": options.mask_history, "resamples": options.resamples}
                if name == "trajectory":
                    cells, draws = measure_trajectory(ranker, sets, options.feeds, **known)
                    shown.update(1)
                else:
                    cells, draws = measure(ranker, sets, progress=lambda _: shown.update(1), **known)
                measured.cells.update(cells)
                measured.draws.update(draws)
            found.append(measured)
    for name, reason in suite.left_out.items():
        getLogger().info(f"{name} left out: {reason}")
    return found
