"""Write down what :mod:`recbole_scale.fit.more` found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import scipy.special

from recbole_scale.fit.law_output import aligned, finite, learnt_nothing, not_told, shown
from recbole_scale.fit.lengths import length_sentences
from recbole_scale.fit.more import More, Price
from recbole_scale.fit.study import Answer
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.performance import PerformanceLaw
from recbole_scale.laws.repeated import MOST_REPEATS
from recbole_scale.text import duration, metric_name, milliseconds, show_count, show_reach

LENGTHS = "by the law of size and repeated data, one run"
LENGTHS_BAND = "95 % band; in trials it held less where few sizes were trained so long"  # results/laws.txt
_POOLED = (("size", "sizes"), ("amount of data", "amounts of data"), ("number of epochs", "numbers of epochs"))


def more_json(more: More) -> dict[str, Any]:
    """Everything as plain JSON values; what is not finite becomes null."""
    repeated = None
    if more.repeated is not None:
        bands = {name: list(band) for name, band in more.repeated.bands().items()}
        repeated = {"constants": more.repeated.constants(), "bands_95": bands, "identified": more.repeated.identified,
                    "predictions": [asdict(one) for one in more.lengths]}  # fmt: skip
    content = {
        "metric_of_loss": {
            name: {"form": "logit(m) = a - b * loss", "a": law.a, "b": law.b, "spread_in_logits": law.spread}
            for name, law in more.of_loss.items()
        },
        "performance_law": {
            name: {"b": law.b, "w": law.w, "k": law.k, "middle": law.middle, "peak": law.peak,
                   "peak_band_95": list(law.peak_band), "rmse": law.error,
                   "rmse_of_the_saturating_law": hill}
            for name, (law, hill, _) in more.performance.items()
        },
        "repeated_data": repeated,
        "twice_the_epochs": [{**asdict(one), "enough": one.enough} for one in more.doublings],
        "price_of_one_percent": {"metric": more.metric, "sizes": [asdict(one) for one in more.prices]},
        "notes": more.notes,
    }  # fmt: skip
    return dict(finite(content))


def more_text(more: More, found: Answer) -> str:
    """The same as lines for a terminal."""
    lines = [*more_sentences(more, found), *length_sentences(more.doublings)]
    if lengths := length_table(more, found):
        lines += ["", LENGTHS, f"({LENGTHS_BAND})", *aligned(lengths)]
    if more.prices and not learnt_nothing(found):
        lines += ["", f"what {metric_name(str(more.metric))} costs, step by step", *aligned(price_table(more.prices))]
    lines += [f"note: {note}" for note in more.notes]
    return "\n".join(lines)


def more_sentences(more: More, found: Answer) -> list[str]:
    """The same as a sentence for each law; none where nothing was learnt."""
    if learnt_nothing(found):
        return []
    told = []
    runs, *parts = more.pooled
    over = f"{runs} runs of {_and([_of(n, what) for n, what in zip(parts, _POOLED, strict=True)])}"
    for name, law in more.of_loss.items():
        low, high = percentiles(law.lines[:, 1], 0.95)
        said = f"logit = {law.a:.3f} {'-' if law.b >= 0 else '+'} {abs(law.b):.3f} * loss, over {over} (runs lie "
        said += f"{law.spread:.3f} off it in logits)"
        if low <= 0:
            open_ = f"whether {metric_name(name)} follows the loss these runs do not tell: {said}"
            told.append(f"{open_}; its slope may be 0 or {'more' if law.b < 0 else 'less'}")
            continue
        said = f"{metric_name(name)} follows the loss: {said}"
        for one in (one for one in found.predictions if not not_told(found, one.x)):
            low, high = law.interval([one.loss[1], one.loss[2]], new_run=True)
            said += f"; at {show_count(one.x)} {float(law.predict(one.loss[0])):.4f} [{high_low(low, high)}]"
        told.append(said)
    for name, (second, hill, spare) in more.performance.items():
        told.append(
            f"{metric_name(name)} by the Performance Law, another form: {_peak(second)}; it misses the runs by "
            f"{second.error:.4f}, the saturating law by {hill:.4f} (root mean square)"
            f"{_which(second.error, hill, spare)}"
        )
    if more.repeated is not None:
        low, high = more.repeated.bands()["repeats"]
        ends = f"95 % band {low:.3g} to {high:.3g}{' or more' if high >= MOST_REPEATS else ''}"
        told.append(
            f"repeated data: what is seen again counts as new up to about {more.repeated.repeats:.3g} repeats ({ends})"
            if more.repeated.identified
            else f"repeated data: up to how many repeats it counts as new is not identified ({ends})"
        )
    return told


def _of(count: int, what: tuple[str, str]) -> str:
    return f"{count} {what[count != 1]}"


def _and(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _which(second: float, hill: float, spare: int) -> str:
    """Whether the misses of two forms of three constants each differ by more than chance: an F test, 95 %."""
    smaller, larger = sorted((second**2, hill**2))
    if larger <= smaller * float(scipy.special.fdtri(spare, spare, 0.975)):
        return "; the runs do not tell the two apart"
    return f"; the runs are for the {'saturating' if hill < second else 'Performance'} law"


def _peak(law: PerformanceLaw) -> str:
    """Where the metric is best, as far as the runs tell."""
    low, high = law.peak_band
    if math.isinf(low) and law.peak is None:
        return "grows on"
    said = "grows on" if law.peak is None else f"peaks at {show_reach(law.peak)}"
    return f"{said} (95 % band of the peak {show_reach(low)} to {show_reach(high)})"


def length_table(more: More, found: Answer) -> list[list[str]]:
    """What the sizes asked for reach after each number of epochs, below a head; empty where nothing is told."""
    body = [
        [show_count(one.n), f"{one.epochs:g}", value, f"[{low}, {high}]"]
        for one in more.lengths
        if not not_told(found, one.n)
        for value, low, high in [map(shown, one.loss)]
    ]
    return [["size", "epochs", found.question.loss, "95 % band"], *body] if body else []


def price_table(prices: Sequence[Price]) -> list[list[str]]:
    """What every size costs and the step to it, below a head."""
    money = any(one.money is not None for one in prices)
    head = ["size", "metric", "gain", "training for +1 %", *(["price of +1 %"] if money else []), "to serve a user"]
    return [head, *(_price_row(one, money) for one in prices)]


def high_low(low: Any, high: Any) -> str:
    """The band of a metric over the band of a loss: the higher loss gives the lower end."""
    return f"{float(min(low)):.4f}, {float(max(high)):.4f}"


def _price_row(one: Price, money: bool) -> list[str]:
    serving = "-" if one.serving_ms is None else milliseconds(one.serving_ms)
    if one.gain is None:
        return [show_count(one.n), f"{one.metric:.4f}", "", "", *([""] if money else []), serving]
    gain = f"{one.gain:+.1f}{'' if math.isnan(one.error) else f' ± {2 * one.error:.1f}'} %"
    seconds = "no clear gain" if one.seconds is None else duration(one.seconds) if one.seconds > 0 else "none"
    price = [f"{one.money:.4g}" if one.money is not None else "-"] if money else []
    return [show_count(one.n), f"{one.metric:.4f}", gain, seconds, *price, serving]
