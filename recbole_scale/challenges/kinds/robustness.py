"""Robustness: a part of each history is deleted, replaced, swapped, or random items are inserted.

Source: arXiv 2311.11351, challenge "robustness" (deleted and replaced items); swap and insert are ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from recbole_scale.challenges.cases import Cases, ends_of
from recbole_scale.challenges.options import KINDS, RATIOS, SEEDS
from recbole_scale.errors import UserError, check_choice

Draw = Callable[[int], np.ndarray]


def make_cases(
    base: Cases,
    counts: np.ndarray,
    kinds: tuple[str, ...] = KINDS,
    ratios: tuple[float, ...] = RATIOS,
    seeds: int = SEEDS,
    history_length: int = 50,
) -> NoisyCases:
    """The clean cases at level 0 (setting "clean"), then every kind at every ratio and seed.

    Histories are cut to ``history_length`` first, so that the ratio is of what a model reads.

    Args:
        base: cases of the data set's own split.
        counts: training interactions of each item id, [V + 1], for "replace_popular".
        kinds: of ``KINDS``.
        ratios: shares of the history that are changed, 0..1.
        seeds: how many draws of each.
        history_length: T, the longest history a model reads.

    Raises:
        UserError: an unknown kind, a ratio outside 0..1, or fewer than 3 items.
    """
    for kind in kinds:
        check_choice("noise", kind, KINDS)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise UserError(f"the noise ratio {ratio:g} is not in 0..1 (0 excluded)")
    if len(counts) < 4:
        raise UserError(f"robustness needs at least 3 items to draw from, the data set has {len(counts) - 1}")
    clean = base.last(history_length).named("robustness", "clean", 0.0)
    draws = [(kind, ratio, seed) for kind in kinds for ratio in ratios for seed in range(seeds)]
    return NoisyCases(clean, draws, counts)


@dataclass(frozen=True)
class NoisyCases:
    """The sets of :func:`make_cases`, each made when it is its turn: all at once would be many times the data."""

    clean: Cases
    draws: list[tuple[str, float, int]]
    counts: np.ndarray

    def __len__(self) -> int:
        return 1 + len(self.draws)

    def __iter__(self) -> Iterator[Cases]:
        yield self.clean
        for kind, ratio, seed in self.draws:
            yield disturb(self.clean, kind, ratio, seed, self.counts)


def disturb(cases: Cases, kind: str, ratio: float, seed: int, counts: np.ndarray) -> Cases:
    """One kind of noise on every history; equal arguments give equal noise."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), round(1e6 * ratio)])
    amount = changed(cases.lengths, ratio)
    items, offsets = cases.items, cases.offsets
    if kind == "delete":
        chosen = order_within(cases, rng) < np.minimum(amount, cases.lengths - 1)[cases.owner]
        noisy = cases.keep_items(~chosen)
        items, offsets = noisy.items, noisy.offsets
    elif kind == "swap":
        items = swapped(cases, order_within(cases, rng), amount)
    elif kind == "insert":
        items, offsets = inserted(cases, amount, rng, uniform(rng, len(counts) - 1))
    else:
        draw = uniform(rng, len(counts) - 1) if kind == "replace" else popular(rng, counts)
        chosen = order_within(cases, rng) < amount[cases.owner]
        items = items.copy()
        items[chosen] = other_items(draw, items[chosen], cases.target[cases.owner[chosen], 0])
    return replace(cases, setting=kind, level=ratio, items=items, offsets=offsets, seed=seed)


def changed(lengths: np.ndarray, ratio: float) -> np.ndarray:
    """Items to change in histories of some lengths [n]: the ratio of each, halves rounded up."""
    return np.floor(ratio * lengths + 0.5 + 1e-9).astype(np.int64)  # 0.3 * 5 is a little below 1.5


def order_within(cases: Cases, rng: np.random.Generator) -> np.ndarray:
    """A random order of each history's places: 0..length-1 in each, int64 [R]."""
    owner = cases.owner
    shuffled = np.argsort(owner + rng.random(len(owner)))
    order = np.empty(len(owner), dtype=np.int64)
    order[shuffled] = np.arange(len(owner))
    return order - cases.offsets[:-1][owner]


def swapped(cases: Cases, order: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Items with ``amount`` [n] places of each history handing theirs on in a random circle; one alone stays."""
    owner = cases.owner
    place = np.empty(len(owner), dtype=np.int64)  # place of the r-th chosen item of each history
    place[cases.offsets[:-1][owner] + order] = np.arange(len(owner))
    count = amount[owner]
    chosen = order < count
    following = np.where(order + 1 < count, order + 1, 0)
    items = cases.items.copy()
    items[place[cases.offsets[:-1][owner] + following][chosen]] = cases.items[chosen]
    return items


def inserted(cases: Cases, amount: np.ndarray, rng: np.random.Generator, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Items and offsets with ``amount`` [n] drawn items at random places of each history, ends included."""
    new_owner = np.repeat(np.arange(len(cases)), amount)
    gap = rng.integers(0, cases.lengths[new_owner] + 1)  # before which item; the length itself: after the last
    none = np.zeros(len(new_owner), dtype=cases.items.dtype)
    new = other_items(draw, none, cases.target[new_owner, 0])
    within = np.arange(len(cases.items)) - cases.offsets[:-1][cases.owner]
    owner = np.r_[cases.owner, new_owner]
    key = np.r_[2 * within + 1, 2 * gap]
    order = np.lexsort((key, owner))
    return np.r_[cases.items, new.astype(cases.items.dtype)][order], ends_of(cases.lengths + amount)


def uniform(rng: np.random.Generator, n_items: int) -> Draw:
    """Draw items 1..V, each as likely."""
    return lambda n: rng.integers(1, n_items + 1, n)


def popular(rng: np.random.Generator, counts: np.ndarray) -> Draw:
    """Draw items as often as they occur in training; every item has one occurrence more, so that all can be drawn."""
    ends = np.cumsum(counts[1:] + 1)
    return lambda n: 1 + np.searchsorted(ends, rng.integers(0, ends[-1], n), side="right")


def other_items(draw: Draw, now: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Drawn items [m] that are neither the item that stands there nor the target: noise must not give it away."""
    new = draw(len(now))
    for _ in range(1000):
        again = np.flatnonzero((new == now) | (new == target))
        if not len(again):
            break
        new[again] = draw(len(again))
    return new
