"""More that the rows tell: metrics as a function of the loss, a second form of them, repeated data, costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.fit.lengths import Doubling, doublings
from recbole_scale.fit.rows import Choice, Question, Row
from recbole_scale.fit.study import Answer, run_label
from recbole_scale.fit.tables import by_size, distinct, number, whole_data
from recbole_scale.fit.tries import planned_epochs
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.metric_of_loss import MetricOfLoss, fit_metric_of_loss
from recbole_scale.laws.performance import PerformanceLaw, fit_performance_law
from recbole_scale.laws.repeated import RepeatedLaw, fit_repeated_law
from recbole_scale.text import metric_name

METRICS = ("ndcg@10", "hit@10", "recall@10")
_LEAST_GAIN = 0.002  # of the metric, relative, below which a price per per cent means nothing
_SURE = 2.0  # standard errors that make a gain clear


@dataclass(frozen=True)
class Price:
    """What a size costs, and what the step to it from the size before costs for every per cent that it wins."""

    n: float
    metric: float
    serving_ms: float | None  # to rank all items for one user, measured over the test users
    gain: float | None  # per cent of the metric, over the size before; None at the smallest size
    error: float  # standard error of the gain, per cent; nan without repeated seeds
    seconds: float | None  # of training, more than at the size before, for each per cent; None where no gain is clear
    money: float | None  # the same, at a price per hour


@dataclass(frozen=True)
class OfLength:
    """What the law of repeated data says of a size after so many epochs: value, lower and upper end for one run."""

    n: float
    epochs: float
    loss: tuple[float, float, float]


@dataclass(frozen=True)
class More:
    """What was found, and why the rest was not."""

    of_loss: dict[str, MetricOfLoss]
    pooled: tuple[int, int, int, int]  # runs behind these, with their sizes, amounts of data and numbers of epochs
    # with the root mean square residual of the saturating law, and the runs to spare of either
    performance: dict[str, tuple[PerformanceLaw, float, int]]
    repeated: RepeatedLaw | None
    lengths: list[OfLength]  # predictions of that law
    prices: list[Price]
    metric: str | None
    doublings: list[Doubling]  # what twice the epochs have won
    notes: list[str]


def more_of(rows: Sequence[Row], found: Answer, price_per_hour: float | None = None) -> More:
    """Everything of this module for the question of ``found``."""
    question, notes = found.question, list[str]()
    choice = found.choice
    pool = _pool(rows, question, choice)
    own = choice.fitted + choice.held_out
    names = [name for name in METRICS if any(number(row.get("test_metrics") or {}, name) for row in own)]
    of_loss = {name: law for name in names if (law := _of_loss(pool, name, question, notes)) is not None}
    performance = {}
    for name in names:
        if question.x == "unique_interactions" or name not in found.metric_laws:
            continue
        x, value = (np.array(column) for column in _metric(choice.fitted, question.x, name))
        try:
            second = fit_performance_law(x, value)
        except UserError as refusal:
            notes.append(f"no second form for {metric_name(name)}: {refusal}")
            continue
        rest: Array = value - found.metric_laws[name].predict(x)
        performance[name] = second, float(np.sqrt((rest**2).mean())), len(x) - 3
    metric = names[0] if names else None
    pooled = (len(pool), len({run_label(row)[0] for row in pool}), len(distinct(pool, "unique_interactions")),
              len({planned_epochs(row) for row in pool}))  # fmt: skip
    steps = prices(own, metric, price_per_hour)
    shapes = _of_shapes(pool, choice)
    repeated = _repeated(shapes, question, notes)
    lengths = [] if repeated is None or question.x != "n_blocks" else _lengths(repeated, found, shapes)
    return More(of_loss, pooled, performance, repeated, lengths, steps, metric, doublings(whole_data(shapes)), notes)


def prices(rows: Sequence[Row], metric: str | None, price_per_hour: float | None) -> list[Price]:
    """The price of every step of the ladder in ``metric``; empty without times or the metric.

    A gain of less than two standard errors, or of 0.2 % where no seeds tell the noise, has no price.
    """
    sizes: list[tuple[float, list[float], float, float | None]] = []
    for n, group in by_size(rows, "seconds_train").items():
        values = _metric(group, "n_blocks", metric)[1] if metric else []
        if values:
            times = [1000 * row["seconds_evaluate"] / row["n_users"] for row in group
                      if number(row, "seconds_evaluate") and row.get("n_users")]  # fmt: skip
            spent = float(np.mean([row["seconds_train"] for row in group]))
            sizes.append((n, values, spent, float(np.mean(times)) if times else None))
    spare = sum(len(values) - 1 for _, values, _, _ in sizes)
    square = sum(float(np.var(values)) * len(values) / np.mean(values) ** 2 for _, values, _, _ in sizes if any(values))
    noise = math.sqrt(square / spare) if spare else math.nan  # relative, of one run
    found = [Price(n, float(np.mean(values)), served, None, math.nan, None, None) for n, values, _, served in sizes[:1]]
    for (_, before, less, _), (n, after, more, served) in pairwise(sizes):
        ratio = float(np.mean(after) / np.mean(before)) if any(before) else 1.0
        gain, error = 100.0 * (ratio - 1.0), 100.0 * ratio * noise * math.sqrt(1 / len(before) + 1 / len(after))
        clear = gain > max(100 * _LEAST_GAIN, 0.0 if math.isnan(error) else _SURE * error)
        seconds = (more - less) / gain if clear else None
        money = None if price_per_hour is None or seconds is None or seconds <= 0 else seconds / 3600 * price_per_hour
        found.append(Price(n, float(np.mean(after)), served, gain, error, seconds, money))
    return found


def _pool(rows: Sequence[Row], question: Question, choice: Choice) -> list[Row]:
    """Finished runs of the model on the data set: any size, amount of data and number of epochs."""
    return [
        row for row in rows
        if row.get("status") == "ok" and row.get("dataset") == choice.dataset and str(row.get("model")) == choice.model
        and number(row, question.loss) and row.get("split") == choice.fitted[0].get("split")
    ]  # fmt: skip


def _of_loss(pool: Sequence[Row], name: str, question: Question, notes: list[str]) -> MetricOfLoss | None:
    loss, value = _metric(pool, question.loss, name)
    kept = [row for row in pool if number(row.get("test_metrics") or {}, name)]
    try:
        return fit_metric_of_loss(loss, value, [run_label(row)[0] for row in kept], resamples=question.resamples or 100)
    except UserError as refusal:
        notes.append(f"no curve of {metric_name(name)} over the loss: {refusal}")
        return None


def _metric(rows: Sequence[Row], x: str, name: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if number(row.get("test_metrics") or {}, name)]
    return [float(row[x]) for row in kept], [float(row["test_metrics"][name]) for row in kept]


def _of_shapes(pool: Sequence[Row], choice: Choice) -> list[Row]:
    """Rows of the shapes that the law took."""
    shapes = {(row.get("n_layers"), row.get("d_model")) for row in choice.fitted + choice.held_out}
    return [row for row in pool if (row.get("n_layers"), row.get("d_model")) in shapes and number(row, "n_blocks")]


def _lengths(law: RepeatedLaw, found: Answer, rows: Sequence[Row]) -> list[OfLength]:
    """What the law of repeated data says of every size asked for, after each number of epochs that was run."""
    whole = whole_data(rows)
    unique = float(whole[0]["unique_interactions"])
    return [
        OfLength(one.x, epochs, (float(law.predict(one.x, unique, epochs)), float(low), float(high)))
        for one in found.predictions
        for epochs in sorted({planned_epochs(row) for row in whole})
        for low, high in [law.interval(one.x, unique, epochs, new_run=1)]
    ]


def _repeated(rows: Sequence[Row], question: Question, notes: list[str]) -> RepeatedLaw | None:
    """The law of repeated data, from every schedule that was run; a note where the rows do not tell."""
    kept = [row for row in rows if number(row, "unique_interactions") and planned_epochs(row) > 0]
    if len({planned_epochs(row) for row in kept}) < 3:
        notes.append("no law of repeated data: it needs finished schedules of 3 or more different numbers of epochs")
        return None
    try:
        return fit_repeated_law(
            [row["n_blocks"] for row in kept],
            [row["unique_interactions"] for row in kept],
            [planned_epochs(row) for row in kept],
            [row[question.loss] for row in kept],
            [(*run_label(row), row["unique_interactions"], planned_epochs(row)) for row in kept],
            seed=question.seed,
        )
    except UserError as refusal:
        notes.append(f"no law of repeated data: {refusal}")
        return None
