"""One model on the sets of cases of one challenge: every metric of every group, with its resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.estimates import RESAMPLES, Estimate, case_metrics, estimate
from recbole_scale.challenges.kinds.trajectory import roll_out, window_metrics
from recbole_scale.challenges.scoring import Ranker, score
from recbole_scale.challenges.table import Key

NO_LISTS = ("robustness",)  # 60 more top-k searches for a Coverage that is not the question there


def measure(
    ranker: Ranker,
    sets: Iterable[Cases],
    mask_history: bool = False,
    resamples: int = RESAMPLES,
    progress: Callable[[int], Any] = lambda done: None,
) -> tuple[dict[Key, Estimate], dict[tuple[str, str, float | None], int]]:
    """Score sets of single-target cases; sets that differ in the seed alone are averaged case by case.

    Returns:
        estimates, and how many seeds stand behind each (challenge, setting, level) that has any.
    """
    cells: dict[Key, Estimate] = {}
    draws: dict[tuple[str, str, float | None], int] = {}
    for name, same in groupby(sets, key=lambda cases: (cases.challenge, cases.setting, cases.level)):
        drawn: dict[str, list[np.ndarray]] = {}
        for cases in same:
            scored = score(ranker, cases, top=cases.challenge not in NO_LISTS, mask_history=mask_history)
            for metric, values in case_metrics(scored.rank, scored.nll).items():
                drawn.setdefault(metric, []).append(values)
            progress(len(cases))
        means = {metric: np.mean(values, axis=0) for metric, values in drawn.items()}
        found = _estimates(cases, means, scored.top, ranker.n_items, resamples)
        if cases.seed is not None:
            draws[name] = len(drawn["nll"])
            found |= _draw_errors(cases, drawn, found)
        cells.update(found)
    return cells, draws


def _draw_errors(cases: Cases, drawn: dict[str, list[np.ndarray]], found: dict[Key, Estimate]) -> dict[Key, Estimate]:
    """``found`` with the standard error that each value has from the draws of the noise; none of a single draw."""
    places = dict(groups_of(cases))
    errors = {}
    for key, value in found.items():
        of_draws = [values[places[key.group]].mean() for values in drawn[key.metric]]
        if len(of_draws) > 1:
            errors[key] = replace(value, draw_error=float(np.std(of_draws, ddof=1) / np.sqrt(len(of_draws))))
    return errors


def _estimates(
    cases: Cases, metrics: dict[str, np.ndarray], top: np.ndarray | None, n_items: int, resamples: int
) -> dict[Key, Estimate]:
    """Estimates over all cases and in every group of every grouping."""
    found: dict[Key, Estimate] = {}
    smallest = {
        str(label): int(counts.min())
        for labels, counts in (np.unique(labels, return_counts=True) for labels in cases.groups.values())
        for label in labels
    }
    for group, index in groups_of(cases):
        part = {name: values[index] for name, values in metrics.items()}
        lists = None if top is None else top[index]
        fewest = smallest.get(group, cases.fewest)
        for name, value in estimate(part, cases.user[index], lists, n_items, resamples, fewest=fewest).items():
            found[Key(cases.challenge, cases.setting, cases.level, group, name)] = value
    return found


def groups_of(cases: Cases) -> list[tuple[str, np.ndarray]]:
    """ "all" and the groups of each grouping, each with the indices of its cases."""
    found = [("all", np.arange(len(cases)))]
    for labels in cases.groups.values():
        found += [(str(label), np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return found


def measure_trajectory(
    ranker: Ranker,
    sets: Iterable[Cases],
    feeds: tuple[str, ...] = ("greedy", "truth"),
    seed: int = 0,
    mask_history: bool = False,
    resamples: int = RESAMPLES,
    progress: Callable[[int], Any] = lambda done: None,
) -> tuple[dict[Key, Estimate], dict[tuple[str, str, float | None], int]]:
    """Metrics at each step of each feed, and of the whole window as a set, in any order.

    The setting "one list" is the list of best items before the first step, without a rollout; a feed's own list are the
    items it predicted step by step.
    """
    cells: dict[Key, Estimate] = {}
    for cases in sets:
        rollouts = roll_out(ranker, cases, feeds, seed, mask_history, progress)
        lists = {"one list": rollouts[0].first} | {r.feed: r.fed for r in rollouts if r.feed != "truth"}
        for setting, items in lists.items():
            whole = estimate(window_metrics(items, cases.target), cases.user, resamples=resamples)
            cells |= {Key("trajectory", setting, None, "all", name): value for name, value in whole.items()}
        for rollout in rollouts:
            by_step = {
                f"{step + 1} {name}": values
                for step in range(cases.target.shape[1])
                for name, values in case_metrics(rollout.rank[:, step], rollout.nll[:, step]).items()
            }
            for name, value in estimate(by_step, cases.user, resamples=resamples).items():
                at, _, metric = name.partition(" ")
                cells[Key("trajectory", rollout.feed, int(at), "all", metric)] = value
    return cells, {(k.challenge, k.setting, k.level): 1 for k in cells if k.setting == "sampled"}
