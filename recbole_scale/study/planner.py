"""A ladder of runs that fits a time: which sizes, for how many epochs, with how many seeds. Arithmetic only.

Sizes span what the data can carry, evenly in log N; epochs go towards convergence; every size gets its learning rate
from the same tries on the cheapest one, by the width rule (``lr_rule: width``); what time is left goes to the seeds
that narrow the prediction most per second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.laws.loss import PowerLaw, fit_power_law
from recbole_scale.report.next_runs import half_width
from recbole_scale.text import counted, duration, text_table

SHAPES = ("1x8", "1x16", "2x16", "2x32", "2x64", "4x64", "4x128", "8x128", "12x192", "12x256", "24x512", "48x1200")
EPOCHS = (30, 20, 14, 10, 7, 5, 3, 2)
RATES = (0.001, 0.003, 0.009)  # tries, for the width that the rule starts from: a third of tiny's rate, it, thrice it
_CARRIES = 4.0  # parameters that an interaction may carry: a size beyond that only overfits
_SIZES = (4, 5, 6)
_SHARES = (1.0, 0.5, 0.25, 0.1)  # of the users that train, where all of them do not fit the time
_FIRST_SEEDS = 2  # a law without repeated runs cannot tell noise from trend
_MOST_SEEDS = 6
_SPAN_ENOUGH = 8.0  # doublings between the smallest and the largest size
_EPOCHS_ENOUGH = 20
SLACK = 0.8  # share of the time that is planned, for a machine may be busier later than when it was timed
OVERHEAD = 1.0  # seconds of a run in this process besides training and ranking
_NOISE = 0.002  # of a run's log loss, until runs have told


@dataclass(frozen=True)
class Measured:
    """A candidate size and what it takes on this machine: seconds for a training target and for ranking a user."""

    shape: str
    n: float
    width: int
    per_target: float
    per_user: float

    def seconds(self, epochs: float, targets: int, users: int) -> float:
        """Seconds of one run's steps: training and ranking after every epoch, and the test at the end."""
        return epochs * (targets * self.per_target + users * self.per_user) + users * self.per_user


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    Attributes:
        dataset: name.
        targets, users: training targets of an epoch, users ranked.
        sizes: the ladder, smallest first.
        epochs: most epochs of every run; a run stops earlier where nothing is gained.
        tuning_epochs: epochs of the tries of the rate on the smallest size.
        rates: the tries of ``learning_rate``, on the smallest size.
        runs: (shape, seed), in the order they are run.
        settings: of every run.
        held_out: shape kept from the fit.
        rate: the best of ``rates``, None until they have been tried.
        overhead: seconds of each run besides its steps.
        at_once: runs at the same time.
    """

    dataset: str
    targets: int
    users: int
    sizes: tuple[Measured, ...]
    epochs: int
    tuning_epochs: int
    rates: tuple[float, ...]
    runs: tuple[tuple[str, int], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    held_out: str | None = None
    rate: float | None = None
    overhead: float = OVERHEAD
    at_once: int = 1

    @property
    def try_seconds(self) -> float:
        """Seconds of one try of the rate."""
        return self.sizes[0].seconds(self.tuning_epochs, self.targets, self.users) + self.overhead

    @property
    def tuning_seconds(self) -> float:
        """Seconds of the tries, with one more for a best at the edge, as many together as can be."""
        return (math.ceil(len(self.rates) / self.at_once) + 1) * self.try_seconds

    def seconds(self, runs: Sequence[tuple[str, int]] | None = None) -> float:
        """Seconds of ``runs`` (all of the plan) one after the other."""
        return sum(self._each(self.runs if runs is None else runs))

    @property
    def wall_seconds(self) -> float:
        """Seconds of all runs with ``at_once`` together, each begun as soon as another ends: at most (Graham 1969)."""
        each = self._each(self.runs)
        return sum(each) / self.at_once + (1 - 1 / self.at_once) * max(each, default=0.0)

    def _each(self, runs: Sequence[tuple[str, int]]) -> list[float]:
        by_shape = {size.shape: size for size in self.sizes}
        return [by_shape[shape].seconds(self.epochs, self.targets, self.users) + self.overhead for shape, _ in runs]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the file that a stopped study goes on from."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`as_json` wrote; raises KeyError or TypeError for anything else."""
        sizes = tuple(Measured(**size) for size in content["sizes"])
        runs = tuple((str(shape), int(seed)) for shape, seed in content["runs"])
        return cls(**{**content, "sizes": sizes, "runs": runs, "rates": tuple(content["rates"])})


def batch_size(targets: int) -> int:
    """Positions of an optimizer step, a power of two: at least some 40 steps an epoch, at most the packaged 1,024."""
    return int(min(1024, max(64, 2 ** math.floor(math.log2(max(targets / 40, 64))))))


def make_plan(
    dataset: str,
    measured: Sequence[Measured],
    targets: int,
    users: int,
    seconds: float,
    settings: dict[str, Any] | None = None,
    at_once: int = 1,
    fixed: bool = False,
    overhead: float = OVERHEAD,
) -> Plan:
    """The best ladder that fits ``seconds``.

    Args:
        measured: candidates, smallest first; with ``fixed`` all of them are the ladder.
        targets, users: training targets of an epoch, users ranked.
        seconds: time for all runs, those at the same time (``at_once``) counted once.
        overhead: seconds of each run besides its steps.

    Where no ladder on all users fits, one on fewer training users is taken (all are tested still); the page says so.

    Raises:
        UserError: not even the cheapest ladder fits; says how long that one takes.
    """
    room = SLACK * seconds
    given = dict(settings or {})
    cheapest = math.inf
    plan: Plan | None = None
    for share in (1.0,) if "data_fraction" in given else _SHARES:
        part = given if share == 1 else {**given, "data_fraction": share}
        seen = max(1, round(targets * share))
        plans = [_plan(dataset, sizes, epochs, seen, users, part, overhead, at_once) for sizes, epochs in
                 product(_ladders(measured, seen, fixed), EPOCHS)]  # fmt: skip
        costs = [one.tuning_seconds + one.wall_seconds for one in plans]
        cheapest = min(cheapest, *costs)
        fitting = [one for one, cost in zip(plans, costs, strict=True) if cost <= room]
        if fitting:
            plan = max(fitting, key=_worth)
            break
    if plan is None:
        need = cheapest / SLACK
        raise UserError(
            f"{duration(seconds)} are too few for '{dataset}' on this machine: the smallest ladder takes about "
            f"{duration(need)}"
        )
    held_out = plan.sizes[-1].shape if len(plan.sizes) > 3 else None
    more = seeds_that_sharpen(plan, _law(), at_once * (room - plan.tuning_seconds - plan.wall_seconds))
    return Plan(**{**vars(plan), "runs": (*plan.runs, *more), "held_out": held_out})


def _plan(
    dataset: str,
    sizes: tuple[Measured, ...],
    epochs: int,
    targets: int,
    users: int,
    settings: dict[str, Any],
    overhead: float,
    at_once: int,
) -> Plan:
    """A ladder with its tries, two seeds of every size."""
    runs = tuple((size.shape, seed) for seed in range(1, _FIRST_SEEDS + 1) for size in sizes)
    return Plan(
        dataset, targets, users, sizes, epochs, max(1, epochs // 3), RATES, runs, dict(settings), overhead=overhead,
        at_once=at_once,
    )  # fmt: skip


def _ladders(measured: Sequence[Measured], targets: int, fixed: bool) -> list[tuple[Measured, ...]]:
    """Ladders to choose from: four to six sizes evenly apart among neighbours, up to what the data can carry."""
    if fixed:
        return [tuple(measured)]
    carried = sum(size.n <= _CARRIES * targets for size in measured)
    usable = measured[: max(carried, _SIZES[0])]
    found = {
        tuple(usable[i] for i in np.linspace(low, high, count).round().astype(int))
        for low in range(len(usable))
        for high in range(low + 2, len(usable))
        for count in _SIZES
        if count <= high - low + 1
    }
    return sorted(found or {tuple(usable)}, key=lambda sizes: [size.n for size in sizes])


def _worth(plan: Plan) -> float:
    """How much a ladder can tell: the doublings it spans and how near its runs come to convergence, then its top."""
    span = min(math.log2(plan.sizes[-1].n / plan.sizes[0].n), _SPAN_ENOUGH)
    epochs = 2.0 * min(math.log2(plan.epochs), math.log2(_EPOCHS_ENOUGH))
    # a little for sizes near what the data can carry, which is where the question is, and for one size more
    return span + epochs + 0.3 * math.log2(plan.sizes[-1].n) + 0.2 * len(plan.sizes)


def _law() -> PowerLaw:
    """A law to plan by until the study's own is known: the losses of published ladders."""
    sizes = np.geomspace(1e3, 1e6, 6)
    return fit_power_law(sizes, 5.0 + (900.0 / sizes) ** 0.25, resamples=0)


def seeds_that_sharpen(
    plan: Plan, law: PowerLaw, seconds: float, noise: float = _NOISE, factor: float = 10.0
) -> list[tuple[str, int]]:
    """Further (shape, seed) whose runs narrow the prediction at ``factor`` x the largest size most per second."""
    chosen = list(plan.runs)
    added: list[tuple[str, int]] = []
    target = factor * plan.sizes[-1].n
    by_shape = {size.shape: size for size in plan.sizes}
    while True:
        at = [by_shape[shape].n for shape, _ in chosen]
        now = half_width(law, at, target, noise)
        offers = []
        for size in plan.sizes:
            seeds = [seed for shape, seed in chosen if shape == size.shape]
            cost = plan.seconds([(size.shape, 0)])
            if cost <= seconds and len(seeds) < _MOST_SEEDS:
                gain = now - half_width(law, [*at, size.n], target, noise)
                offers.append((gain / cost, cost, (size.shape, max(seeds, default=0) + 1)))
        if not offers:
            return added
        _, cost, run = max(offers)
        seconds -= cost
        chosen.append(run)
        added.append(run)


def plan_text(plan: Plan) -> str:
    """Plan and cost, for the terminal."""
    share = plan.settings.get("data_fraction", 1.0)
    part = f" of {share:.0%} of the users" if share != 1 else ""
    lines = [
        f"study of {plan.dataset}: {counted(plan.targets, 'training target')}{part}, "
        f"{counted(plan.users, 'user')} ranked",
        f"  rate   {len(plan.rates)} tries ({', '.join(f'{rate:g}' for rate in plan.rates)}) at {plan.sizes[0].shape} "
        f"for {counted(plan.tuning_epochs, 'epoch')}, {duration(plan.tuning_seconds)}; other sizes by the width rule",
    ]
    rows = [["size", "N", "seeds", "epochs", "one run", ""]]
    for size in plan.sizes:
        seeds = sum(shape == size.shape for shape, _ in plan.runs)
        mark = "held out of the fit" if size.shape == plan.held_out else ""
        took = duration(plan.seconds([(size.shape, 0)]))
        rows.append([size.shape, f"{size.n:,.0f}", str(seeds), str(plan.epochs), took, mark])
    lines.append(text_table(rows, left=(0, 5), indent="  "))
    together = f", {plan.at_once} at a time," if plan.at_once > 1 else ""
    total = duration(plan.tuning_seconds + plan.wall_seconds)
    lines.append(f"  {counted(len(plan.runs), 'run')} and the tries{together} take about {total}")
    return "\n".join(lines)
