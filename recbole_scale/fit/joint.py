"""The joint law in size and data from rows: fitted to all, judged on held-out sizes, rolled out over sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Question, Row, choose, matching, same_data
from recbole_scale.fit.study import MISFIT, flops_per_interaction_of, run_label
from recbole_scale.fit.tables import by_size, distinct, number, whole_data
from recbole_scale.fit.tries import best_settings, planned_epochs
from recbole_scale.laws.budget import ComputeOptimal, compute_optimal
from recbole_scale.laws.isoflop import Optimum, curve_noise, isoflop_optima
from recbole_scale.laws.loss import JointLaw, fit_joint_law
from recbole_scale.laws.observations import MIN_SIZES

_ROLLOUT_RESAMPLES = 200
_STEPS = (2, 4, 8, 16)
_LEAST_NOISE = 1e-4  # of log loss, where a law leaves next to nothing over


@dataclass(frozen=True)
class JointJudgement:
    """Runs of one size and amount of data that a joint law had not seen."""

    sizes_fitted: int
    n: float
    d: float
    predicted: float
    lower: float  # 95 % band of the mean of as many runs
    upper: float
    observed: float
    runs: int
    no_change: float  # the largest fitted size on as much data; nan where there is none

    @property
    def covered(self) -> bool | None:
        """Whether the band holds the observed mean; None without a band."""
        return None if np.isnan(self.lower) else self.lower <= self.observed <= self.upper


@dataclass(frozen=True)
class Joint:
    """Everything the rows say of size and data together."""

    law: JointLaw | None  # of every row; None where they hold too few amounts of data
    optimum: ComputeOptimal | None
    held_out: list[JointJudgement]
    rolled_out: list[JointJudgement]
    measured: list[tuple[Optimum, float]]  # best sizes at equal FLOPs, read off finished runs; with the law's, or nan
    notes: list[str]


def joint_rows(rows: Sequence[Row], question: Question) -> tuple[list[Row], list[Row], str]:
    """Rows of the joint law, those of them that are held out, and the column of size.

    Raises:
        UserError: a row without data, or none in the range of ``question.d_over_n``.
    """
    axis = "n_blocks" if question.x in ("unique_interactions", "flops_total") else question.x
    choice = choose(rows, replace(question, x=axis), fix_other_axis=False)
    kept = choice.fitted + choice.held_out
    if any(not isinstance(row.get("unique_interactions"), int | float) for row in kept):
        raise UserError("--joint needs unique_interactions in every row")
    low, high = question.d_over_n
    kept = [row for row in kept if low <= row["unique_interactions"] / row[axis] <= high]
    if not kept:
        raise UserError(f"no row has {low:g} to {high:g} interactions for each parameter (--d_over_n)")
    out = {id(row) for row in choice.held_out}
    return kept, [row for row in kept if id(row) in out], axis


def fit_both_axes(rows: Sequence[Row], question: Question) -> tuple[JointLaw, ComputeOptimal | None]:
    """The joint law in size and data from every row, and the best use of a few budgets.

    The budgets are powers of ten from the cheapest run to ten times the dearest one; None without FLOPs in the rows.

    Raises:
        UserError: the rows hold too few sizes or amounts of data.
    """
    kept, _, axis = joint_rows(rows, question)
    law = _law(kept, axis, question, question.resamples)
    totals = _totals(kept)
    return law, _best_use(law, kept, axis, _budgets(totals)) if totals else None


def _best_use(law: JointLaw, rows: Sequence[Row], axis: str, budgets: Sequence[float]) -> ComputeOptimal | None:
    """How the law would spend budgets, at the usual epochs of ``rows``; None where they lack FLOPs."""
    cost = flops_per_interaction_of(rows, axis)
    if cost is None:
        return None
    epochs = [row["interactions_seen"] / row["unique_interactions"] for row in rows if row.get("interactions_seen")]
    return compute_optimal(law, budgets, cost, epochs=float(np.median(epochs)) if epochs else 1.0)


def joint_answer(rows: Sequence[Row], question: Question) -> Joint:
    """Fit, judge on held-out sizes, roll out over sizes, and read best sizes off equal FLOPs.

    Raises:
        UserError: no row for either, as :func:`joint_rows`; that rows allow neither is told in ``notes``.
    """
    notes: list[str] = []
    try:
        law, optimum = fit_both_axes(rows, question)
    except UserError as refusal:
        measured = measured_optima(rows, question, None, notes)
        return Joint(None, None, [], [], measured, [f"no joint law in size and data: {refusal}", *notes])
    kept, held_out, axis = joint_rows(rows, question)
    out = {id(row) for row in held_out}
    judged = _judge([row for row in kept if id(row) not in out], held_out, axis, question, notes) if held_out else []
    ladder = sorted({float(row[axis]) for row in kept})
    rolled: list[JointJudgement] = []
    for count in range(MIN_SIZES, len(ladder)):
        seen = [row for row in kept if row[axis] <= ladder[count - 1]]
        rest = [row for row in kept if row[axis] > ladder[count - 1]]
        rolled += _judge(seen, rest, axis, replace(question, resamples=min(question.resamples, _ROLLOUT_RESAMPLES)), [])
    if law.lack_of_fit < MISFIT:
        notes.append(f"cells miss the joint law by more than their runs differ (p = {law.lack_of_fit:.1g})")
    return Joint(law, optimum, judged, rolled, measured_optima(rows, question, law, notes), notes)


def _law(rows: Sequence[Row], axis: str, question: Question, resamples: int) -> JointLaw:
    return fit_joint_law(
        [row[axis] for row in rows],
        [row["unique_interactions"] for row in rows],
        [row[question.loss] for row in rows],
        [(*run_label(row), row["unique_interactions"]) for row in rows],
        resamples=resamples,
        seed=question.seed,
    )


def _judge(
    seen: Sequence[Row], rest: Sequence[Row], axis: str, question: Question, notes: list[str]
) -> list[JointJudgement]:
    """What a law of ``seen`` says of the cells of ``rest``; a note where there are too few rows for one."""
    try:
        law = _law(seen, axis, question, question.resamples)
    except UserError as refusal:
        notes.append(f"no joint law without the held-out sizes: {refusal}")
        return []
    largest = max(float(row[axis]) for row in seen)
    cells = sorted({(float(row[axis]), float(row["unique_interactions"])) for row in rest})
    judged = []
    for n, d in cells:
        runs = [row[question.loss] for row in rest if row[axis] == n and row["unique_interactions"] == d]
        known = [row[question.loss] for row in seen if row[axis] == largest and row["unique_interactions"] == d]
        lower, upper = law.interval(n, d, new_run=len(runs))
        judged.append(
            JointJudgement(
                len({row[axis] for row in seen}),
                n,
                d,
                float(law.predict(n, d)),
                float(lower),
                float(upper),
                float(np.mean(runs)),
                len(runs),
                float(np.mean(known)) if known else float("nan"),
            )
        )
    return judged


def measured_optima(
    rows: Sequence[Row], question: Question, law: JointLaw | None, notes: list[str]
) -> list[tuple[Optimum, float]]:
    """Best sizes at equal FLOPs, read off finished runs, each with the joint law's; a note where they do not tell."""
    kept, _, axis = joint_rows(rows, question)
    known = [row for row in _schedules(rows, kept, question) if number(row, "flops_total") and number(row, axis)]
    if not known:
        return []
    low, high = (np.log10(end) for end in (min(_totals(known)), max(_totals(known))))
    n, flops, loss = ([row[name] for row in known] for name in (axis, "flops_total", question.loss))
    noise = curve_noise(n, flops, loss) if law is None else float(np.sqrt((law.residuals**2).mean()))
    found: list[Optimum] = []
    for steps in _STEPS:  # of a decade; finer ones where so few schedules overlap that no half of one lies between them
        budgets = 10.0 ** (np.arange(np.ceil(steps * low), steps * high) / steps)
        try:
            found = isoflop_optima(n, flops, loss, budgets, noise=max(noise, _LEAST_NOISE), seed=question.seed)
            break
        except UserError as refusal:
            told = f"no best size at equal FLOPs: {refusal}"
    if not found:
        notes.append(told)
        return []
    use = None if law is None else _best_use(law, kept, axis, [one.flops for one in found])
    return list(zip(found, [float("nan")] * len(found) if use is None else map(float, use.n), strict=True))


def _schedules(rows: Sequence[Row], kept: Sequence[Row], question: Question) -> list[Row]:
    """Finished schedules of any number of epochs on the whole data, one setting each; else ``kept``, over its data."""
    shapes = {(row.get("n_layers"), row.get("d_model")) for row in kept}
    pool = [
        row for row in rows
        if row.get("status") == "ok" and all(row.get(name) == kept[0].get(name) for name in ("dataset", "model"))
        and same_data(row, kept[0]) and number(row, question.loss)
        and (row.get("n_layers"), row.get("d_model")) in shapes
    ]  # fmt: skip
    by_epochs: dict[float, list[Row]] = {}
    for row in whole_data(matching(pool, question.where)):
        by_epochs.setdefault(planned_epochs(row), []).append(row)
    schedules = [row for group in by_epochs.values() for row in best_settings(group, [])]
    costs = [len(distinct(group, "flops_total")) for group in by_size(schedules).values()]
    return schedules if sum(count > 1 for count in costs) >= MIN_SIZES else list(kept)


def _totals(rows: Sequence[Row]) -> list[float]:
    return [float(row["flops_total"]) for row in rows if isinstance(row.get("flops_total"), int | float)]


def _budgets(totals: Sequence[float]) -> list[float]:
    powers = np.arange(np.floor(np.log10(min(totals))), np.ceil(np.log10(max(totals))) + 2.0)
    return [float(10.0**power) for power in powers]
