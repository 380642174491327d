"""Answer a question from rows: the law of the loss and of the metrics, judged on held-out sizes, with predictions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize

from recbole_scale.errors import UserError, nearest
from recbole_scale.fit.conclusions import split_clause
from recbole_scale.fit.rows import Choice, Question, Row, choose, is_called
from recbole_scale.fit.sizes import fall_clause, fall_of
from recbole_scale.fit.tables import number
from recbole_scale.laws.budget import Cost
from recbole_scale.laws.fitting import Array
from recbole_scale.laws.loss import PowerLaw, fit_power_law
from recbole_scale.laws.metrics import MetricLaw, fit_metric_law
from recbole_scale.laws.observations import MIN_SIZES
from recbole_scale.laws.rollout import Judgement, judge, rollout, widening
from recbole_scale.model.sizes import SIZE_NAMES, rung_of
from recbole_scale.text import metric_name, parse_count, show_count

MISFIT = 0.01  # p value of the lack of fit below which something besides seed noise sets the sizes apart
OTHER_COUNTS = {"n_blocks": "n_parameters", "n_blocks_exact": "n_parameters", "n_parameters": "n_blocks"}
_TOLD = 1.05  # factor on a band's width from which on it is worth a note
_ROLLOUT_RESAMPLES = 120  # enough for the width of a band, of every metric and window
_METRICS = ("hit", "recall", "ndcg", "mrr", "map", "precision")


@dataclass(frozen=True)
class Prediction:
    """What the laws say of a size: loss and metrics with the 95 % band of a single run, and the FLOPs to get there."""

    name: str
    x: float
    loss: tuple[float, float, float]  # value, lower, upper
    metrics: dict[str, tuple[float, float, float]]
    flops: float | None  # estimate, for as many epochs as the largest fitted run; None where the rows do not tell


@dataclass(frozen=True)
class Answer:
    """Everything found out for a question."""

    question: Question
    choice: Choice
    law: PowerLaw
    held_out: list[Judgement]
    rolled_out: list[Judgement]
    metric_laws: dict[str, MetricLaw]
    metric_judgements: dict[str, list[Judgement]]
    predictions: list[Prediction]
    notes: list[str]
    widening: float = 1.0  # of the bands of the law, for what the rollout missed
    whole: Answer | None = None  # the same from every run, held-out ones too; None where none is held out


def answer(rows: Sequence[Row], question: Question) -> Answer:
    """Fit, judge and predict.

    Raises:
        UserError: the rows do not allow it, see :func:`recbole_scale.fit.rows.choose`; fewer than 3 sizes.
    """
    choice = choose(rows, question)
    asked = [_size(name, [*choice.fitted, *choice.held_out], question.x) for name in question.predict]
    notes: list[str] = []
    rolled_out = _roll_out(choice, question, notes)
    notes += filter(None, [split_clause(choice.fitted + choice.held_out, question.x, question.loss)])
    known = {float(row[question.x]) for row in choice.fitted}
    found = _answer(choice, question, asked, widening([one for one in rolled_out if one.x in known]))
    found = replace(found, rolled_out=rolled_out, notes=[*found.notes, *notes])
    if not choice.held_out:
        return found
    everything = replace(choice, fitted=choice.fitted + choice.held_out, held_out=[])
    return replace(found, whole=_answer(everything, replace(question, holdout=()), asked, widening(rolled_out)))


def _answer(choice: Choice, question: Question, asked: Sequence[float], wider: float) -> Answer:
    """The answer of the fitted runs of ``choice``, judged on its held-out ones, without a rollout."""
    notes = list(choice.notes)
    law, groups = _fit(choice, question, notes)
    law = law.widened(wider)
    if wider > _TOLD:
        notes.append(f"bands of the loss are {wider:.2g} times as wide as resampling makes them: sizes held out in the "
                     "rollout missed theirs by that much")  # fmt: skip
    notes += _of_other_users(choice, question)
    options: dict[str, Any] = {"resamples": question.resamples, "seed": question.seed}
    held_out = _judge(law, *(_columns(rows, question) for rows in (choice.held_out, choice.fitted)))
    metric_laws = _metric_laws(choice, question, groups, options, notes)
    metric_judgements = {
        name: _judge(
            metric_law, *(_metric_columns(rows, name, question.x) for rows in (choice.held_out, choice.fitted))
        )
        for name, metric_law in metric_laws.items()
    }
    predictions = [
        Prediction(
            name,
            size,
            _banded(law, size),
            {metric: _banded(metric_law, size) for metric, metric_law in metric_laws.items()},
            estimate_flops(choice.fitted, question.x, size),
        )
        for name, size in zip(question.predict, asked, strict=True)
    ]
    return Answer(question, choice, law, held_out, [], metric_laws, metric_judgements, predictions, notes, wider)


def estimate_flops(rows: Sequence[Row], x: str, size: float) -> float | None:
    """Training FLOPs of a run at ``size`` of column ``x``, from those of ``rows``; None where they lack the columns.

    As many interactions are seen as by the row of largest x for a law in size, as many epochs for a law in data.
    """
    known = [row for row in rows if isinstance(row.get("interactions_seen"), int | float)]
    axis = "n_blocks" if x == "unique_interactions" else x
    cost = flops_per_interaction_of(known, axis)
    if cost is None:
        return None
    largest = max(known, key=lambda row: float(row[x]))
    same = [row["flops_per_interaction"] for row in known if row[x] == size and row.get("flops_per_interaction")]
    if x != "unique_interactions" and same:
        return float(np.mean(same) * largest["interactions_seen"])
    if x == "unique_interactions":
        return float(cost(np.array([float(largest[axis])]))[0] * size * largest["interactions_seen"] / largest[x])
    return float(cost(np.array([size]))[0] * largest["interactions_seen"])


def flops_per_interaction_of(rows: Sequence[Row], axis: str) -> Cost | None:
    """Training FLOPs of one interaction as a function of the size in column ``axis``; None where rows lack them.

    6 n for the matrices, plus what the rows cost beyond it: a nonnegative mix of sqrt(n), for softmax and attention,
    which grow with the width, and a constant. An exact cost needs the model's shape: ``recbole_scale.model.sizes``.
    """
    known = [row for row in rows if all(isinstance(row.get(c), int | float) for c in ("flops_per_interaction", axis))]
    if not known:
        return None
    n = np.array([row[axis] for row in known], dtype=np.float64)
    cost = np.array([row["flops_per_interaction"] for row in known], dtype=np.float64)
    matrices = min(6.0, float((cost / n).min()))  # below 6 only where the rows count otherwise than we do
    scale = n.max()

    def beyond(sizes: Array) -> Array:
        return np.stack([np.sqrt(sizes / scale), np.ones_like(sizes)], axis=-1)

    mix, _ = scipy.optimize.nnls(beyond(n) / cost[:, None], (cost - matrices * n) / cost)
    return lambda sizes: np.asarray(matrices * sizes + beyond(sizes) @ mix)


def run_label(row: Row) -> tuple[str, str]:
    """The run of a row: size (layers x width for a shape without a name) and seed."""
    size = row.get("size") or f"{row.get('n_layers')}x{row.get('d_model')}"
    return str(size), str(row.get("seed"))


def _fit(choice: Choice, question: Question, notes: list[str]) -> tuple[PowerLaw, list[Any]]:
    """The law and the labels of its runs."""
    x, loss = _columns(choice.fitted, question)
    groups = _runs(choice.fitted, question.x)
    other = OTHER_COUNTS.get(question.x, "")
    counts = [row.get(other) for row in choice.fitted]
    known = all(isinstance(count, int | float) and count > 0 for count in counts)
    law = fit_power_law(
        x,
        loss,
        groups,
        resamples=question.resamples,
        seed=question.seed,
        other_count=np.array(counts, dtype=np.float64) if known else None,
    )
    if law.lack_of_fit < MISFIT:
        notes.append(
            f"the sizes miss the law by more than their runs differ (p = {law.lack_of_fit:.1g}): something besides "
            "seed noise sets them apart, such as unequal tuning or another form; the bands allow for it"
        )
    return law, groups


def _roll_out(choice: Choice, question: Question, notes: list[str]) -> list[Judgement]:
    """The rollout over all chosen rows: a window never sees a larger size, held out or not."""
    rows = choice.fitted + choice.held_out
    x, loss = _columns(rows, question)
    if len(np.unique(x)) <= MIN_SIZES:
        notes.append(f"no rollout: it needs more than {MIN_SIZES} sizes")
        return []
    return rollout(x, loss, _runs(rows, question.x), resamples=question.resamples, seed=question.seed)


def _runs(rows: Sequence[Row], x: str) -> list[Any]:
    """Label of every row's run; the same size and seed on two amounts of data are two runs."""
    return [(*run_label(row), float(row[x])) for row in rows]


def _columns(rows: Sequence[Row], question: Question) -> tuple[list[float], list[float]]:
    return [float(row[question.x]) for row in rows], [float(row[question.loss]) for row in rows]


def _metric_columns(rows: Sequence[Row], name: str, x: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if number(row.get("test_metrics") or {}, name)]
    return [float(row[x]) for row in kept], [float(row["test_metrics"][name]) for row in kept]


def _judge(
    law: PowerLaw | MetricLaw, held_out: tuple[list[float], list[float]], fitted: tuple[list[float], list[float]]
) -> list[Judgement]:
    return judge(law, *held_out, fitted_x=fitted[0], fitted_value=fitted[1])


def ranking_metrics(rows: Sequence[Row]) -> list[str]:
    """The ranking metrics that rows carry."""
    tables = [row.get("test_metrics") or {} for row in rows]
    return [name for name in dict.fromkeys(name for table in tables for name in table)
            if name.lower().startswith(_METRICS) and any(number(table, name) for table in tables)]  # fmt: skip


def _metric_laws(
    choice: Choice, question: Question, groups: list[Any], options: dict[str, Any], notes: list[str]
) -> dict[str, MetricLaw]:
    """A law for every ranking metric of the fitted rows; one that cannot be fitted leaves a note."""
    laws = {}
    for name in ranking_metrics(choice.fitted):
        x, value = _metric_columns(choice.fitted, name, question.x)
        kept = [
            one for one, row in zip(groups, choice.fitted, strict=True) if number(row.get("test_metrics") or {}, name)
        ]
        if len(kept) < len(groups):
            notes.append(f"{len(groups) - len(kept)} of {len(groups)} fitted runs lack {metric_name(name)}")
        try:
            if (ends := fall_of(x, value)) is not None:
                raise UserError(f"{fall_clause('it', ends)}, and the law only rises")
            law = fit_metric_law(x, value, kept, **options)
            _refuse_below_measured(law, *_metric_columns(choice.held_out, name, question.x))
            laws[name] = law.widened(_metric_widening(x, value, kept, question))
        except UserError as refusal:
            notes.append(f"no law for {metric_name(name)}: {refusal}")
    return laws


def _metric_widening(x: list[float], value: list[float], groups: list[Any], question: Question) -> float:
    """How much wider the bands of a metric's law must be to hold what its own rollout held out; 1 where none can be."""
    if len(set(x)) <= MIN_SIZES or not question.resamples:
        return 1.0
    few = min(question.resamples, _ROLLOUT_RESAMPLES)
    try:
        return widening(rollout(x, value, groups, fit=fit_metric_law, resamples=few, seed=question.seed))
    except UserError:  # a window of the smaller sizes may have no law
        return 1.0


def _of_other_users(choice: Choice, question: Question) -> list[str]:
    """How far another sample of as many users would move E: all runs are tested on the same ones."""
    largest = max(float(row[question.x]) for row in choice.fitted)
    errors = [row.get("test_nll_se") for row in choice.fitted if row[question.x] == largest]
    known = [float(error) for error in errors if isinstance(error, int | float)]
    if question.loss != "test_nll" or not known:
        return []
    return [
        f"E and its band hold on these test users; another sample of as many would move it by about "
        f"± {1.96 * float(np.mean(known)):.3f} nats (95 %, from the spread over users at the largest size fitted)"
    ]


def _refuse_below_measured(law: MetricLaw, x: list[float], value: list[float]) -> None:
    """Refuse a law whose limit some held-out size has passed on average."""
    for size in sorted(set(x)):
        mean = float(np.mean([one for at, one in zip(x, value, strict=True) if at == size]))
        if mean > law.limit:
            raise UserError(f"its limit, {law.limit:.4f}, lies below {mean:.4f}, measured at {show_count(size)}")


def _banded(law: PowerLaw | MetricLaw, size: float) -> tuple[float, float, float]:
    lower, upper = law.interval(size, new_run=True)
    return float(law.predict(size)), float(lower), float(upper)


def _size(name: str, rows: Sequence[Row], x: str) -> float:
    """The x that a name in ``--predict`` means: a count, a size or shape of the rows, or one of any ladder."""
    count = parse_count(name)
    if count is not None:
        return count
    times = parse_count(name[:-1]) if name[-1:].lower() == "x" else None
    known_sizes = [float(row[x]) for row in rows if isinstance(row.get(x), int | float)]
    if times is not None and known_sizes:
        return times * max(known_sizes)
    named = {float(row[x]) for row in rows if is_called(row, name) and isinstance(row.get(x), int | float)}
    if len(named) == 1:
        return named.pop()
    if x == "n_blocks" and (name in SIZE_NAMES or re.fullmatch(r"\d+x\d+", name)):
        return float(rung_of(name).n_blocks)
    known = sorted({str(row["size"]) for row in rows if row.get("size")} | set(SIZE_NAMES))
    raise UserError(
        f"--predict {name} is neither a count such as 829M, nor 10x the largest, nor one size or shape of the rows"
        f"{nearest(name, known)}"
    )
