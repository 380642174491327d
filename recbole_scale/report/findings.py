"""What a study says in two sentences: how much size buys, and up to where; with the limits of what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_scale.drawing import metric_name
from recbole_scale.fit.rows import Choice, Row
from recbole_scale.fit.study import Answer
from recbole_scale.fit.tables import by_size, curve_of
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.text import show_count

WORTH = 0.01  # nats by which a doubling of the parameters must lower the loss to be called worth it: 1 % of perplexity
METRICS = ("ndcg@10", "ndcg@5", "ndcg@50", "recall@10", "hit@10")
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

    (x0 / N)^alpha * (1 - 2^-alpha) = gain, solved for N.
    """
    draws = law.fit.constants(law.fit.replicates)
    value = _where_worth(law.x0, law.alpha, gain)
    lower, upper = percentiles(np.asarray(_where_worth(draws[:, 1], draws[:, 2], gain)), 0.95)
    return float(value), float(lower), float(upper)


def _where_worth(x0: np.ndarray | float, alpha: np.ndarray | float, gain: float) -> np.ndarray:
    exponent = np.log(x0) - np.log(gain / (1.0 - np.power(2.0, -np.asarray(alpha)))) / alpha
    return np.asarray(np.exp(np.clip(exponent, -700.0, 700.0)))


def deciding(found: Answer | None, ends: Ends) -> Answer | None:
    """The law that decisions rest on: that of every run, held-out ones too, for they have served to judge it.

    Where the largest size is worse than another one, it was held out because the law does not hold there.
    """
    return found.whole if found is not None and found.whole is not None and not ends.over_the_top else found


def headline(
    choice: Choice, found: Answer | None, refusal: str, loss: str, worth: float = WORTH, metric: str | None = None
) -> tuple[str, str]:
    """The answer in two sentences.

    Args:
        choice: the runs.
        found: the law, or None where there is none.
        refusal: why there is none.
        loss: column of the loss.
        worth: nats a doubling must win to be worth it.
        metric: ranking metric to name.
    """
    sizes = size_means(choice.fitted + choice.held_out, loss, metric)
    ends = ends_of(sizes)
    first = _what_size_buys(choice.dataset + _part_of_data(choice), ends, found, loss, metric, len(sizes))
    return first, _how_far(ends, found, refusal, worth)


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
    if found is None:
        return ""
    law = found.law
    fitted = max(float(row[found.question.x]) for row in found.choice.fitted)
    which = f"the law fitted up to {show_count(fitted)}" if best.n > fitted else "the law"
    drop = float(law.predict(small.n) - law.predict(best.n))
    draws = law.fit.draws([small.n, best.n])
    lower, upper = percentiles(draws[:, 0] - draws[:, 1], 0.95)
    band = f", 95 % band {lower:.3f} to {upper:.3f}" if np.isfinite(lower) else ""
    return f" ({which} gives {drop:.3f}{band})"


def _how_far(ends: Ends, found: Answer | None, refusal: str, worth: float) -> str:
    if ends.over_the_top and ends.best is not ends.large:
        return _beyond_the_best(ends)
    if found is None:
        return f"How far it pays is not known: {refusal}."
    law = (deciding(found, ends) or found).law
    value, lower, upper = worth_up_to(law, worth)
    largest, rule = ends.large.n, f"doubling the parameters lowers the loss by less than {worth:g} nats"
    if not law.identified:
        why = law.message.removeprefix("not identified: ")
        where = f"; the point where {rule} may be anywhere from {_count(lower)} to {_count(upper)} parameters"
        return f"How far it pays is not identified ({why}{where if np.isfinite(lower) else ''})."
    said = [f"95 % band {_count(lower)} to {_count(upper)}"] if np.isfinite(lower) else []
    if law is not found.law:
        said.append(f"{_count(worth_up_to(found.law, worth)[0])} without the held-out sizes")
    band = f" ({'; '.join(said)})" if said else ""
    if value <= largest:
        return f"It is not worth it beyond about {_count(value)} parameters{band}: from there on {rule}."
    gain = float(law.predict(largest) - law.predict(2 * largest))
    return (
        f"It still pays at the largest size trained (a doubling of {_n(ends.large)} is worth {gain:.3f} nats), and by "
        f"the law not beyond about {_count(value)} parameters{band}, where {rule}; that is extrapolated."
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
