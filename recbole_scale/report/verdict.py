"""Would a bigger model pay? Yes, No or Not known yet, from the band of what ten times the parameters win in HR@10.

"Now" is the best size trained and "then" a size ``FACTOR`` times as large. The gain of each doubling on the way is
compared with what a doubling must win to be worth it (``worth``, in HR@10):

* Yes: the whole 95 % band of the gain lies at or above it.
* No: the whole band lies below it.
* Not known yet: it lies inside the band, there is no band, or nothing was learnt that a count of items would not know.

Where the rows carry no ranking metric, the same is said of the loss and its worth in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recbole_scale.fit.conclusions import LEARNT, unlearnt_smallest
from recbole_scale.fit.lengths import doublings
from recbole_scale.fit.references import COUNTING, GUESSING, reference_losses
from recbole_scale.fit.sizes import fall_clause, fall_of, metric_of
from recbole_scale.fit.tables import curve_of, decays_late, whole_data
from recbole_scale.fit.tries import planned_epochs
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.report.gains import (
    Band,
    banded,
    draws_of,
    each,
    gain_per_doubling,
    hits_of,
    measured,
    moved,
    recent,
    widened,
)
from recbole_scale.report.report import Study
from recbole_scale.text import show_count

FACTOR = 10.0
WORTH_HITS = 0.002  # HR@10 that a doubling must win: two more visits of 1,000
_FALLING = 0.01  # nats in the last epoch that say a run was stopped while it learnt
_YES, _NO, _UNKNOWN = "Yes", "No", "Not known yet"


@dataclass(frozen=True)
class Verdict:
    """The answer and the numbers behind it.

    Attributes:
        word: Yes, No or Not known yet.
        reason: why, in one sentence.
        metric: name of the metric the answer speaks of; None: the loss.
        now, then: sizes N compared.
        at_now, at_then: the law there, with its band; None without a law.
        gain: what each doubling from now to then wins, above 0 is better; None without a law.
        worth: what it must win.
        sure: share of the resamples of the law that say the same; None without a band.
        learnt: whether the runs beat guessing and counting.
    """

    word: str
    reason: str
    metric: str | None
    now: float
    then: float
    at_now: Band | None
    at_then: Band | None
    gain: Band | None
    worth: float
    sure: float | None
    learnt: bool


def decide(study: Study, worth_hits: float = WORTH_HITS, factor: float = FACTOR) -> Verdict:
    """The verdict of a study; ``worth_hits`` is what a doubling must win in HR@10, ``factor`` how much larger."""
    found, ends = study.deciding, study.ends
    name = hits_of(study.choice.fitted)
    law: MetricLaw | PowerLaw | None = None if found is None else found.metric_laws.get(name or "")
    if law is None:
        name, law = None, None if found is None else found.law
    fallen = _fallen(study)
    past = ends.over_the_top and not _ranks_better(study, name)
    unlearnt = nothing_learnt(study)
    if unlearnt or (past and ends.noise is not None):
        law = None  # it tells nothing yet; or only falls, and what it says beyond the best size is not so
    now = (ends.best if past else ends.large).n
    then = factor * now
    worth = worth_hits if name else study.worth
    band, bend = None, ""
    if law is not None:
        band, bend = widened(gain_per_doubling(law, now, then), law, recent(study, name, now))
    word, reason = _judge(study, law, band, worth, unlearnt, then, past)
    if fallen and not unlearnt and word != _NO:
        word, reason = _NO, f"{fallen}, whatever the loss does: {reason}"
    if ends.over_the_top and not past:
        reason += f"; yet by the loss the largest size, {show_count(now)}, is worse than {show_count(ends.best.n)}"
    if word == _NO and (falling := still_learning(study, ends.large.n if past else now)):
        word, reason = _UNKNOWN, f"{falling}; {reason}"
    at_then = None if law is None else banded(law, then)
    if bend and law is not None and band is not None:  # what is shown at the larger size agrees with the gain
        at_then = moved(float(law.predict(now)), band, isinstance(law, MetricLaw), math.log2(factor))
    return Verdict(
        word=word,
        reason=reason + bend,
        metric=name,
        now=now,
        then=then,
        at_now=None if law is None else banded(law, now),
        at_then=at_then,
        gain=band,
        worth=worth,
        sure=_sure(law, now, then, worth, word),
        learnt=not unlearnt,
    )


def _fallen(study: Study) -> str:
    """That HR@10 is lower at the largest size than at another by more than noise, as a clause; else empty."""
    rows, name = study.choice.fitted + study.choice.held_out, hits_of(study.choice.fitted)
    pairs = [(float(row["n_blocks"]), value) for row in rows if (value := metric_of(row, name)) is not None]
    ends = fall_of([n for n, _ in pairs], [value for _, value in pairs]) if pairs else None
    return "" if ends is None else fall_clause("HR@10", ends)


def _ranks_better(study: Study, metric: str | None) -> bool:
    """Whether the largest size ranks better than that of lowest loss: a loss also asks how sure a model is."""
    at_best, at_largest = (measured(study, metric, one.n) if metric else None
                           for one in (study.ends.best, study.ends.large))  # fmt: skip
    return at_best is not None and at_largest is not None and at_largest > at_best


def nothing_learnt(study: Study) -> str:
    """Why the runs have learnt nothing that could grow with size, or an empty text."""
    rows = study.choice.fitted + study.choice.held_out
    best = study.ends.best.loss
    known = reference_losses(rows)
    guessing, counted = known.get(GUESSING), known.get(COUNTING)
    if guessing is not None and best > guessing - LEARNT:
        return (
            f"no run learnt anything: the lowest loss, {best:.2f} nats, is that of guessing among "
            f"{show_count(math.exp(guessing))} items ({guessing:.2f})"
        )
    if counted is not None and best > counted:
        return (
            f"no run learnt more than counting items does: the lowest loss is {best:.2f} nats, that of popularity "
            f"{counted:.2f}"
        )
    return unlearnt_smallest(rows, "n_blocks", study.question.loss)


def still_learning(study: Study, now: float) -> str:
    """Whether longer runs of size ``now`` are still better, in words; else empty.

    By what twice the epochs of its runs have won, or the last doubling of them; without such runs by the last epoch.
    """
    own = [row for row in study.choice.fitted + study.choice.held_out if row["n_blocks"] == now]
    planned = max(map(planned_epochs, own), default=0.0)
    won = {one.epochs: one.won for one in doublings(whole_data(study.ladder)) if one.n == now}
    for epochs in (planned, planned / 2):
        if epochs in won:
            told = (
                f"at {show_count(now)}, {2 * epochs:g} epochs lower the valid loss by {won[epochs]:.3f} nats against "
            )
            told += f"{epochs:g}, so longer runs may say otherwise"
            return told if won[epochs] > _FALLING else ""
    drops = []
    for row in own:
        losses = [] if decays_late(row) else curve_of(row)[1]
        if len(losses) > 1:
            drops.append(float(losses[-2] - losses[-1]))
    if not drops or float(np.median(drops)) <= _FALLING:
        return ""
    return (
        f"at {show_count(now)} the valid loss still fell by {np.median(drops):.3f} nats in the last epoch, so longer "
        "runs may say otherwise"
    )


def _judge(
    study: Study,
    law: MetricLaw | PowerLaw | None,
    gain: Band | None,
    worth: float,
    unlearnt: str,
    then: float,
    past: bool,
) -> tuple[str, str]:
    """The word and its reason."""
    if unlearnt:
        return _UNKNOWN, f"{unlearnt}; so nothing can be said of size yet"
    if past and study.ends.noise is not None:
        best, large = study.ends.best, study.ends.large
        more = large.loss - best.loss
        return (
            _NO,
            f"the largest size, {show_count(large.n)}, is already worse than {show_count(best.n)}, by {more:.3f} nats",
        )
    if law is None or gain is None:
        return _UNKNOWN, study.refusal or "there is no law to go by"
    if math.isnan(gain[1]):
        return _UNKNOWN, "there are too few runs to tell noise from a trend"
    kind = isinstance(law, MetricLaw)
    told = f"{each(gain[0], kind)} for each doubling up to {show_count(then)} (95 % band {_ends(gain, kind)})"
    asked = f"the {f'{1000 * worth:.1f}' if kind else each(worth, kind)} asked for"
    if gain[1] >= worth:
        return _YES, f"the runs promise {told}, at least {asked}"
    if gain[2] < worth:
        worse = _worse(study) if past else ""
        return _NO, f"{worse}the runs promise {told}, less than {asked}"
    return _UNKNOWN, f"the runs promise {told}, and {asked} lie within that range"


def _worse(study: Study) -> str:
    ends = study.ends
    return f"the largest size, {show_count(ends.large.n)}, is already worse than {show_count(ends.best.n)}, and "


def _ends(band: Band, hits: bool) -> str:
    scale, form = (1000, ".1f") if hits else (1, ".3f")
    return f"{scale * band[1]:{form}} to {scale * band[2]:{form}}"


def _sure(law: MetricLaw | PowerLaw | None, now: float, then: float, worth: float, word: str) -> float | None:
    """Share of the resamples in which a doubling is worth it (Yes) or is not (No); the larger one for Not known."""
    if law is None:
        return None
    draws = draws_of(law, [now, then])
    if not len(draws):
        return None
    sign = 1.0 if isinstance(law, MetricLaw) else -1.0
    worthy = float(np.mean(sign * (draws[:, 1] - draws[:, 0]) / math.log2(then / now) >= worth))
    return {_YES: worthy, _NO: 1.0 - worthy}.get(word, max(worthy, 1.0 - worthy))
