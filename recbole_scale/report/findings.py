"""What a study says in two sentences: how much size buys, and up to where; with the limits of what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_scale.drawing import metric_name
from recbole_scale.fit.references import COUNTING, GUESSING, reference_losses
from recbole_scale.fit.rows import Choice, Row
from recbole_scale.fit.study import Answer
from recbole_scale.fit.tables import by_size, curve_of
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.text import show_count

WORTH = 0.01  # nats by which a doubling of the parameters must lower the loss to be called worth it: 1 % of perplexity
METRICS = ("ndcg@10", "ndcg@5", "ndcg@50", "recall@10", "hit@10")
NEIGHBOURS = "ItemKNN"  # its scores are no likelihood: only its ranking is told
_AHEAD = 10.0  # times the largest size, where a law that is not identified is read
_LEARNT = 0.1  # nats below uniform guessing that show that something was learnt
_FEWEST, _MOST, _STEPS = 1e2, 1e14, 8  # sizes searched, and steps to a doubling
_SURE = 2.0  # standard errors that make a difference more than noise
_RISE = 0.01  # nats that the valid loss must rise after its best epoch to be called overfitting


@dataclass(frozen=True)
class SizeMean:
    """The runs of one size."""

    n: float
    runs: int
    loss: float  # mean, nats
    sd: float  # standard deviation over seeds; nan with one run
    metric: float | None  # mean of the chosen ranking metric
    overfits_after: int | None  # epoch (from 1) after which the valid loss rises; None where it does not


@dataclass(frozen=True)
class Ends:
    """The smallest, the best and the largest size, and the standard error of a difference of two runs."""

    small: SizeMean
    best: SizeMean
    large: SizeMean
    noise: float | None  # standard deviation of one run, nats; None without repeated seeds

    @property
    def over_the_top(self) -> bool:
        """Whether the largest size is worse than the best one by more than noise."""
        rise = self.large.loss - self.best.loss
        if self.noise is None:
            return rise > 0
        return rise > _SURE * self.noise * float(np.sqrt(1 / self.large.runs + 1 / self.best.runs))


def size_means(rows: Sequence[Row], loss: str, metric: str | None) -> list[SizeMean]:
    """Means over the runs of every size, smallest first."""
    found = []
    for n, group in by_size(rows, loss).items():
        losses = np.array([row[loss] for row in group], dtype=np.float64)
        metrics = [value for row in group if (value := metric_of(row, metric)) is not None]
        sd = float(losses.std(ddof=1)) if len(losses) > 1 else float("nan")
        mean = float(np.mean(metrics)) if metrics else None
        found.append(SizeMean(n, len(group), float(losses.mean()), sd, mean, overfits_after(group)))
    return found


def metric_of(row: Row, metric: str | None) -> float | None:
    """A test metric of a row, None where it is missing."""
    value = (row.get("test_metrics") or {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def main_metric(rows: Sequence[Row]) -> str | None:
    """The ranking metric to speak of: NDCG@10 where the rows have it."""
    tables: list[Mapping[str, object]] = [row.get("test_metrics") or {} for row in rows]
    return next((name for name in METRICS if any(name in table for table in tables)), None)


def overfits_after(rows: Sequence[Row]) -> int | None:
    """Median best epoch (from 1) if in most runs the valid loss rises by over 0.01 nats after it, else None."""
    best = []
    for row in rows:
        epochs, losses = curve_of(row)
        if len(losses) and losses[-1] > losses.min() + _RISE:
            best.append(epochs[int(losses.argmin())])
    return int(np.median(best)) if 2 * len(best) > len(rows) else None


def ends_of(sizes: Sequence[SizeMean]) -> Ends:
    """The sizes that matter, with the noise pooled over all sizes of more than one run."""
    spare = sum(size.runs - 1 for size in sizes)
    total = sum(size.sd**2 * (size.runs - 1) for size in sizes if size.runs > 1)
    noise = float(np.sqrt(total / spare)) if spare else None
    return Ends(sizes[0], min(sizes, key=lambda size: size.loss), sizes[-1], noise)


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


def unlearnt(rows: Sequence[Row], loss: float) -> str:
    """That a loss is no better than guessing or counting, as a clause; empty where it is better or nothing is known."""
    known = reference_losses(rows)
    guessing, counting = known.get(GUESSING), known.get(COUNTING)
    if guessing is not None and loss > guessing - _LEARNT:
        return f"its loss, {loss:.3f} nats, is that of guessing among all items ({guessing:.3f})"
    if counting is not None and loss > counting:
        return f"its loss, {loss:.3f} nats, is not below that of popularity ({counting:.3f})"
    return ""


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
    nothing = unlearnt(rows, ends.small.loss)
    if nothing:
        return (
            f"On {choice.dataset} the smallest size ({_n(ends.small)}) has not learnt yet: {nothing}.",
            "Train longer before asking about size.",
        )
    first = _what_size_buys(choice.dataset + _part_of_data(choice), ends, found, loss, metric, len(sizes))
    return first + _references(rows, others, metric), _how_far(sizes, ends, found, refusal, worth)


def _references(rows: Sequence[Row], others: Sequence[Row], metric: str | None) -> str:
    said = " and ".join(f"{name} gives {value:.3f}" for name, value in reference_losses(rows).items())
    first = f" ({said[0].upper()}{said[1:]} nats.)" if said else ""
    neighbours = [value for row in others if row.get("model") == NEIGHBOURS and (value := metric_of(row, metric))]
    if metric and neighbours:
        first += f" ({NEIGHBOURS} has {metric_name(metric)} {np.mean(neighbours):.4f}.)"
    return first


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
    said = [f"95 % band {_count(lower)} to {_count(upper)}"] if np.isfinite(lower) else []
    if law is not found.law:
        said.append(f"{_count(worth_up_to(found.law, worth)[0])} without the held-out sizes")
    band = f" ({'; '.join(said)})" if said else ""
    step = last_step(sizes, ends.noise, law)
    if step is not None and (step.gain >= worth) != (value > largest):
        return _apart(step, value, band, rule, value > largest)
    if value <= largest:
        return f"It is not worth it beyond about {_count(value)} parameters{band}: from there on {rule}."
    gain = float(law.predict(largest) - law.predict(2 * largest))
    return (
        f"It still pays at the largest size trained (a doubling of {_n(ends.large)} is worth {gain:.3f} nats), and by "
        f"the law not beyond about {_count(value)} parameters{band}, where {rule}; that is extrapolated."
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
        f"How far it pays is not settled: by the law not beyond about {_count(value)} parameters{band}, where {rule}, "
        f"but {measured}."
    )


def _not_identified(law: PowerLaw, ends: Ends) -> str:
    """The range of a prediction against what is measured now."""
    why = law.message.removeprefix("not identified: ")
    larger = _AHEAD * ends.large.n
    lower, upper = law.interval(larger)
    if not np.isfinite(lower):
        return f"How far it pays is not identified ({why})."
    now = ends.large.loss
    verdict = "a gain" if upper < now else "a loss" if lower > now else "cannot be told from no gain"
    return (
        f"How far it pays is not identified ({why}); {_AHEAD:g}x larger, at {_count(larger)}: {lower:.2f} to "
        f"{upper:.2f} nats, now {now:.2f}: {verdict}."
    )


def _beyond_the_best(ends: Ends) -> str:
    best, large = ends.best, ends.large
    text = (
        f"It is not worth it beyond {_n(best)} on this data: at {_n(large)} the loss is {large.loss - best.loss:.3f} "
        f"nats higher"
    )
    if ends.noise is None:
        text += " (one run each, so this may be noise)"
    if large.overfits_after is not None:
        text += f", for it overfits: its valid loss rises after epoch {large.overfits_after}"
    return text + "."


def _n(size: SizeMean) -> str:
    return show_count(size.n)


def _times(factor: float) -> str:
    return f"{factor:.0f}x" if factor >= 9.95 else f"{factor:.2g}x"


def _count(value: float) -> str:
    """A count, or that it is beyond anything one could train."""
    if value > 1e13:
        return "more than 10T"
    return show_count(value) if value >= 100 else "less than 100"
