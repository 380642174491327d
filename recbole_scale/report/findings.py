"""What a study says in two sentences: how much size buys, and up to where; with the limits of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_scale.drawing import metric_name
from recbole_scale.fit.conclusions import (
    AHEAD,
    LEARN_FIRST,
    above_last_item,
    range_against_now,
    reference_sentence,
    unlearnt_smallest,
)
from recbole_scale.fit.references import counted_metrics
from recbole_scale.fit.rows import Choice, Row
from recbole_scale.fit.sizes import Ends, SizeMean, ends_of, size_means
from recbole_scale.fit.study import Answer
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.text import show_count, show_reach

WORTH = 0.01  # nats by which a doubling of the parameters must lower the loss to be called worth it: 1 % of perplexity
_FEWEST, _MOST, _STEPS = 1e2, 1e14, 8  # sizes searched, and steps to a doubling


def worth_up_to(law: PowerLaw, gain: float = WORTH) -> tuple[float, float, float]:
    """N at which doubling it lowers the law by ``gain`` nats, with its 95 % band (nan without resamples).

    (x0 / N)^alpha * (1 - 2^-alpha) = gain, solved for N; the band is over every form that the rows allow.
    """
    exponent = np.log(law.x0) - np.log(gain / (1.0 - 2.0**-law.alpha)) / law.alpha
    value = float(np.exp(np.clip(exponent, -700.0, 700.0)))
    sizes = np.exp2(np.arange(np.log2(_FEWEST), np.log2(_MOST), 1 / _STEPS))
    draws = law.fit.draws(sizes)
    pays = draws[:, :-_STEPS] - draws[:, _STEPS:] >= gain
    last = np.where(pays.any(axis=1), pays.shape[1] - 1 - pays[:, ::-1].argmax(axis=1), 0)
    lower, upper = percentiles(sizes[last], 0.95) if len(draws) else (float("nan"), float("nan"))
    return value, min(float(lower), value), max(float(upper), value)


@dataclass(frozen=True)
class LastStep:
    """What each doubling from the last size but one to the largest has won, measured and by the law, nats."""

    low: float
    high: float
    gain: float
    error: float  # standard error; nan without repeated seeds
    by_law: float


def last_step(sizes: Sequence[SizeMean], noise: float | None, law: PowerLaw) -> LastStep | None:
    """The last step of the ladder; None with one size."""
    if len(sizes) < 2:
        return None
    low, high = sizes[-2:]
    doublings = float(np.log2(high.n / low.n))
    errors = law.fit.errors
    if errors is None or noise is None:
        apart = noise or float("nan")
        spread = np.array([apart, apart])
    else:  # noise differs by size
        places = law.fit.seen.places(np.log([[low.n], [high.n]]))
        spread = np.median(errors.noise.of_runs(places), axis=0) * np.array([low.loss, high.loss])
    error = float(np.sqrt((spread**2 / np.array([low.runs, high.runs])).sum())) / doublings
    by_law = float(law.predict(low.n) - law.predict(high.n)) / doublings
    return LastStep(low.n, high.n, (low.loss - high.loss) / doublings, error, by_law)


def deciding(found: Answer | None, ends: Ends) -> Answer | None:
    """The law that decisions rest on: that of every run, held-out ones too, for they have served to judge it.

    Where the largest size is worse than another one, it was held out because the law does not hold there.
    """
    return found.whole if found is not None and found.whole is not None and not ends.over_the_top else found


def headline(
    choice: Choice,
    found: Answer | None,
    refusal: str,
    loss: str,
    worth: float = WORTH,
    metric: str | None = None,
    others: Sequence[Row] = (),
) -> tuple[str, str]:
    """The answer in two sentences.

    Args:
        choice: the runs.
        found: the law, or None where there is none.
        refusal: why there is none.
        loss: column of the loss.
        worth: nats a doubling must win to be worth it.
        metric: ranking metric to name.
        others: runs of other models on the data.
    """
    sizes = size_means(choice.fitted + choice.held_out, loss, metric)
    ends = ends_of(sizes)
    rows = choice.fitted + choice.held_out
    if nothing := unlearnt_smallest(rows, "n_blocks", loss):
        return f"On {choice.dataset}, {nothing}.", LEARN_FIRST
    first = _what_size_buys(choice.dataset + _part_of_data(choice), ends, found, loss, metric, len(sizes))
    return first + _references(rows, others, metric, ends.best.loss), _how_far(sizes, ends, found, refusal, worth)


def _references(rows: Sequence[Row], others: Sequence[Row], metric: str | None, best: float) -> str:
    """What needs no model of size: losses, and rankings by counting."""
    known = [reference_sentence(rows)]
    if metric and (levels := counted_metrics(others, rows[0], metric)):
        told = ", ".join(f"{model} {level:.4f}" for model, level in levels.items())
        known.append(f"{metric_name(metric)} by counting: {told}.")
    inside = " ".join(one for one in known if one)
    return "".join(f" {one}" for one in (inside and f"({inside})", above_last_item(rows, best)) if one)


def _part_of_data(choice: Choice) -> str:
    """Says so where the runs saw a part of the users only."""
    shares = {row.get("data_fraction") for row in choice.fitted}
    share = max((share for share in shares if isinstance(share, int | float)), default=1)
    return f" with {share:.0%} of its users in training" if share < 1 and None not in shares else ""


def _what_size_buys(dataset: str, ends: Ends, found: Answer | None, loss: str, metric: str | None, count: int) -> str:
    small, best = ends.small, ends.best
    kind = "test" if loss == "test_nll" else "valid"
    if count < 2:
        return f"On {dataset} only one size was trained ({_n(small)}, {kind} loss {small.loss:.3f} nats)."
    if best is small:
        return (
            f"On {dataset} more parameters do not lower the {kind} loss: of {count} sizes the smallest ({_n(small)}) "
            f"has the lowest, {small.loss:.3f} nats, against {ends.large.loss:.3f} at {_n(ends.large)}."
        )
    if ends.noise is not None and not ends.apart(small, best):
        return (
            f"On {dataset} no size is clearly better than the smallest: the lowest {kind} loss of {count} sizes, "
            f"{best.loss:.3f} nats at {_n(best)}, lies {small.loss - best.loss:.3f} below that at {_n(small)}, which "
            "the noise of the runs alone may do."
        )
    text = (
        f"On {dataset}, {_times(best.n / small.n)} more parameters ({_n(small)} to {_n(best)} without embeddings) "
        f"lower the {kind} loss by {small.loss - best.loss:.3f} nats, from {small.loss:.3f} to {best.loss:.3f}"
        f"{_law_says(found, small, best)}"
    )
    if metric and small.metric is not None and best.metric is not None:
        text += f", and take {metric_name(metric)} from {small.metric:.4f} to {best.metric:.4f}"
    return text + "."


def _law_says(found: Answer | None, small: SizeMean, best: SizeMean) -> str:
    if found is None or not found.law.identified:
        return ""
    law = found.law
    fitted = max(float(row[found.question.x]) for row in found.choice.fitted)
    which = f"the law fitted up to {show_count(fitted)}" if best.n > fitted else "the law"
    drop = float(law.predict(small.n) - law.predict(best.n))
    draws = law.fit.draws([small.n, best.n])
    lower, upper = percentiles(draws[:, 0] - draws[:, 1], 0.95)
    band = f", 95 % band {lower:.3f} to {upper:.3f}" if np.isfinite(lower) else ""
    return f" ({which} gives {drop:.3f}{band})"


def _how_far(sizes: Sequence[SizeMean], ends: Ends, found: Answer | None, refusal: str, worth: float) -> str:
    if ends.over_the_top and ends.best is not ends.large:
        return _beyond_the_best(ends)
    if found is None:
        return f"How far it pays is not known: {refusal}."
    law = (deciding(found, ends) or found).law
    if not law.identified:
        return _not_identified(law, ends)
    value, lower, upper = worth_up_to(law, worth)
    largest, rule = ends.large.n, f"doubling the parameters lowers the loss by less than {worth:g} nats"
    said = [f"95 % band {show_reach(lower)} to {show_reach(upper)}"] if np.isfinite(lower) else []
    if law is not found.law:
        said.append(f"{show_reach(worth_up_to(found.law, worth)[0])} without the held-out sizes")
    band = f" ({'; '.join(said)})" if said else ""
    step = last_step(sizes, ends.noise, law)
    if step is not None and (step.gain >= worth) != (value > largest):
        return _apart(step, value, band, rule, value > largest)
    if value <= largest:
        return f"It is not worth it beyond about {show_reach(value)} parameters{band}: from there on {rule}."
    gain = float(law.predict(largest) - law.predict(2 * largest))
    return (
        f"It still pays at the largest size trained (a doubling of {_n(ends.large)} is worth {gain:.3f} nats), and by "
        f"the law not beyond about {show_reach(value)} parameters{band}, where {rule}; that is extrapolated."
    )


def _apart(step: LastStep, value: float, band: str, rule: str, law_pays: bool) -> str:
    """The law and the last measured step say different things."""
    error = f" ± {2 * step.error:.3f}" if np.isfinite(step.error) else ""
    measured = (
        f"the last measured step, {show_count(step.low)} to {show_count(step.high)}, "
        f"{'won only' if law_pays else 'still won'} {step.gain:.3f}{error} nats a doubling "
        f"(the law says {step.by_law:.3f} there)"
    )
    return (
        f"How far it pays is not settled: by the law not beyond about {show_reach(value)} parameters{band}, where "
        f"{rule}, but {measured}."
    )


def _not_identified(law: PowerLaw, ends: Ends) -> str:
    """The range of a prediction against what is measured now."""
    why = law.message.removeprefix("not identified: ")
    larger = AHEAD * ends.large.n
    told = range_against_now(law, larger, ends.large.n, ends.large.loss, ends.large.runs)
    ahead = f"; {AHEAD:g}x larger, at {show_reach(larger)}: {told}" if told else ""
    return f"How far it pays is not identified ({why}){ahead}."


def _beyond_the_best(ends: Ends) -> str:
    best, large = ends.best, ends.large
    higher = f"at {_n(large)} the loss is {large.loss - best.loss:.3f} nats higher"
    if ends.noise is None:
        return f"Whether it pays beyond {_n(best)} is not settled: {higher}, but of one run each, so this may be noise."
    text = f"It is not worth it beyond {_n(best)} on this data: {higher}"
    if large.overfits_after is not None:
        text += f", for it overfits: its valid loss rises after epoch {large.overfits_after}"
    return text + "."


def _n(size: SizeMean) -> str:
    return show_count(size.n)


def _times(factor: float) -> str:
    return f"{factor:.0f}x" if factor >= 9.95 else f"{factor:.2g}x"
