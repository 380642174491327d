"""A study as one page: the answer in two sentences, then the figures, tables and runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recbole_scale.drawing import Drawn
from recbole_scale.errors import UserError
from recbole_scale.fit.figures import law_figures
from recbole_scale.fit.joint import fit_both_axes, measured_optima
from recbole_scale.fit.more import More, more_of
from recbole_scale.fit.rows import (
    SAME_SIZE,
    Choice,
    Question,
    Row,
    choose,
    matching,
    same_data,
)
from recbole_scale.fit.sizes import Ends, SizeMean, ends_of, main_metric, size_means
from recbole_scale.fit.study import Answer, answer, run_label
from recbole_scale.fit.tables import by_size, distinct, number
from recbole_scale.fit.tries import best_settings
from recbole_scale.laws.budget import ComputeOptimal
from recbole_scale.laws.isoflop import Optimum
from recbole_scale.laws.loss import JointLaw, PowerLaw, fit_power_law
from recbole_scale.laws.observations import MIN_SIZES
from recbole_scale.report.figures_study import study_figures
from recbole_scale.report.findings import WORTH, deciding, headline

MAIN_MODEL = "ScaledSASRec"


@dataclass(frozen=True)
class Study:
    """Everything the page shows.

    Attributes:
        question: with data set and model filled in.
        choice: the runs behind the law in size.
        found: the law, None where there is none; ``refusal`` says why.
        rows: the finished runs of the model on the data set; ``ladder`` those of the law's shapes, on any data.
        others: finished runs of other models on the data set.
        failed: runs of the data set that failed and were not finished later.
        data_laws: laws in data by N.
        joint, optimum: the joint law and the best use of some budgets, None where there is none (``joint_refusal``).
        measured: best sizes at equal FLOPs, read off finished runs.
        more: metrics as a function of the loss, repeated data and costs; None without a law.
        worth: nats a doubling of the parameters must win to be worth it.
    """

    question: Question
    choice: Choice
    found: Answer | None
    refusal: str
    rows: list[Row]
    ladder: list[Row]
    others: list[Row]
    failed: list[Row]
    data_laws: dict[float, PowerLaw]
    joint: JointLaw | None
    optimum: ComputeOptimal | None
    joint_refusal: str
    measured: list[tuple[Optimum, float]]
    more: More | None
    worth: float = WORTH

    @property
    def metric(self) -> str | None:
        """The ranking metric to speak of."""
        return main_metric(self.choice.fitted)

    @property
    def sizes(self) -> list[SizeMean]:
        """Means of every size, smallest first."""
        return size_means(self.choice.fitted + self.choice.held_out, self.question.loss, self.metric)

    @property
    def ends(self) -> Ends:
        """Smallest, best and largest size."""
        return ends_of(self.sizes)

    @property
    def headline(self) -> tuple[str, str]:
        """What size has won, and how far it pays by the loss, in a sentence each."""
        return headline(self.choice, self.found, self.refusal, self.question.loss, self.worth, self.metric, self.others)

    @property
    def deciding(self) -> Answer | None:
        """The law that decisions rest on, see :func:`recbole_scale.report.findings.deciding`."""
        return deciding(self.found, self.ends)


def make_study(rows: Sequence[Row], question: Question, worth: float = WORTH, more_models: Sequence[Row] = ()) -> Study:
    """Fit what can be fitted.

    Args:
        rows: runs with the columns of ``results/runs.jsonl``.
        question: what to fit, with ``x`` left at ``n_blocks``; no model means ScaledSASRec where there are runs of it.
        worth: nats a doubling of the parameters must win to be worth it.
        more_models: rows from elsewhere; only those of other models on the data set count.

    Raises:
        UserError: the rows do not hold what was asked for; too few sizes for a law are no error.
    """
    if question.x != "n_blocks":
        raise UserError(f"a report is about n_blocks and brings its own laws in data; it cannot be about {question.x}")
    finished = [row for row in rows if row.get("status") == "ok"]
    of_data = [row for row in finished if question.dataset in (None, row.get("dataset"))]
    if question.model is None and any(row.get("model") == MAIN_MODEL for row in of_data):
        question = replace(question, model=MAIN_MODEL)
    choice = choose(rows, question)
    question = replace(question, dataset=choice.dataset, model=choice.model)
    of_data = _of_data(finished, choice)
    own = matching([row for row in of_data if str(row.get("model")) == choice.model], question.where)
    ladder = _of_ladder(own, choice)
    found, refusal = _law(rows, question, choice)
    joint, optimum, measured, joint_refusal = _joint(ladder, question)
    decided = deciding(found, ends_of(size_means(choice.fitted + choice.held_out, question.loss, None)))
    return Study(
        question=question,
        choice=choice,
        found=found,
        refusal=refusal,
        rows=own,
        ladder=ladder,
        others=[row for row in _of_data([*rows, *more_models], choice) if str(row.get("model")) != choice.model],
        failed=_never_finished(rows, choice.dataset),
        data_laws=_data_laws(ladder, question),
        joint=joint,
        optimum=optimum,
        joint_refusal=joint_refusal,
        measured=measured,
        more=None if decided is None else more_of(matching(of_data, question.where), decided),
        worth=worth,
    )


def draw(study: Study) -> list[Drawn]:
    """All figures of a study, law first."""
    law = (
        law_figures(study.found, study.others)
        if study.found
        else [Drawn("law", "Loss against size", "", None, study.refusal)]
    )
    return [*law, *study_figures(study.rows, study.ladder, study.data_laws, study.question.loss)]


def _of_data(rows: Sequence[Row], choice: Choice) -> list[Row]:
    """Finished rows of the data set, as the law's runs saw it."""
    finished = [row for row in rows if row.get("status") == "ok" and row.get("dataset") == choice.dataset]
    return [row for row in finished if same_data(row, choice.fitted[0])]


def _never_finished(rows: Sequence[Row], dataset: str) -> list[Row]:
    """Failed rows, the last one of each run, without those of runs that a later attempt finished."""
    finished = {row.get("run_id") for row in rows if row.get("status") == "ok" and row.get("run_id")}
    failed = [row for row in rows if row.get("status") != "ok" and row.get("dataset") == dataset]
    last = {row.get("run_id") or id(row): row for row in failed}
    return [row for run, row in last.items() if run not in finished]


def _of_ladder(rows: Sequence[Row], choice: Choice) -> list[Row]:
    """``rows`` without the other shapes of the sizes that the law took one shape of."""
    chosen = choice.fitted + choice.held_out
    shapes = {(row.get("n_layers"), row.get("d_model")) for row in chosen}
    sizes = {float(row["n_blocks"]) for row in chosen}

    def taken(row: Row) -> bool:
        return any(abs(float(row["n_blocks"]) / size - 1.0) <= SAME_SIZE for size in sizes)

    known = [row for row in rows if number(row, "n_blocks")]
    return [row for row in known if (row.get("n_layers"), row.get("d_model")) in shapes or not taken(row)]


def _law(rows: Sequence[Row], question: Question, choice: Choice) -> tuple[Answer | None, str]:
    """The law, or the sentence that says why there are too few sizes for one."""
    few = len(distinct(choice.fitted, question.x)) < MIN_SIZES
    try:
        return answer(rows, question), ""
    except UserError as refusal:
        if few:  # more runs mend that; what was asked for wrongly is the user's to mend
            return None, str(refusal)
        raise


def _data_laws(rows: Sequence[Row], question: Question) -> dict[float, PowerLaw]:
    laws = {}
    for n, group in by_size(best_settings(rows, []), question.loss).items():
        if len(distinct(group, "unique_interactions")) < MIN_SIZES:
            continue
        runs = [(*run_label(row), row["unique_interactions"]) for row in group]
        amounts, losses = [row["unique_interactions"] for row in group], [row[question.loss] for row in group]
        laws[n] = fit_power_law(amounts, losses, runs, resamples=question.resamples, seed=question.seed)
    return laws


def _joint(
    rows: Sequence[Row], question: Question
) -> tuple[JointLaw | None, ComputeOptimal | None, list[tuple[Optimum, float]], str]:
    law, optimum, refused = None, None, ""
    try:
        law, optimum = fit_both_axes(rows, question)
    except UserError as refusal:
        refused = str(refusal)
    try:
        return law, optimum, measured_optima(rows, question, law, []), refused
    except UserError:  # rows without data
        return law, optimum, [], refused
