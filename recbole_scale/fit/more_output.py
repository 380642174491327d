"""Write down what :mod:`recbole_scale.fit.more` found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from recbole_scale.fit.law_output import aligned, finite
from recbole_scale.fit.more import More, Price
from recbole_scale.fit.study import Answer
from recbole_scale.text import duration, metric_name, show_count


def more_json(more: More) -> dict[str, Any]:
    """Everything as plain JSON values; what is not finite becomes null."""
    repeated = None
    if more.repeated is not None:
        bands = {name: list(band) for name, band in more.repeated.bands().items()}
        repeated = {"constants": more.repeated.constants(), "bands_95": bands, "identified": more.repeated.identified}
    content = {
        "metric_of_loss": {
            name: {"form": "logit(m) = a - b * loss", "a": law.a, "b": law.b, "spread_in_logits": law.spread}
            for name, law in more.of_loss.items()
        },
        "performance_law": {
            name: {"b": law.b, "w": law.w, "k": law.k, "middle": law.middle, "peak": law.peak, "rmse": law.error,
                   "rmse_of_the_saturating_law": hill}
            for name, (law, hill) in more.performance.items()
        },
        "repeated_data": repeated,
        "price_of_one_percent": {"metric": more.metric, "steps": [asdict(step) for step in more.prices]},
        "notes": more.notes,
    }  # fmt: skip
    return dict(finite(content))


def more_text(more: More, found: Answer) -> str:
    """The same as lines for a terminal."""
    lines = [line for said in more_sentences(more, found) for line in _wrap(said)]
    if more.prices:
        lines += ["", f"what {metric_name(str(more.metric))} costs, step by step", *aligned(price_table(more.prices))]
    lines += [line for note in more.notes for line in _wrap(f"note: {note}")]
    return "\n".join(lines)


def more_sentences(more: More, found: Answer) -> list[str]:
    """The same as a sentence for each law."""
    told = []
    for name, law in more.of_loss.items():
        said = f"{metric_name(name)} follows the loss: logit = {law.a:.3f} - {law.b:.3f} * loss, over all sizes, data "
        said += f"and epochs (runs lie {law.spread:.3f} off it in logits)"
        for one in found.predictions:
            low, high = law.interval([one.loss[1], one.loss[2]], new_run=True)
            said += f"; at {show_count(one.x)} {float(law.predict(one.loss[0])):.4f} [{high_low(low, high)}]"
        told.append(said)
    for name, (second, hill) in more.performance.items():
        peak = "grows on" if second.peak is None else f"peaks at {show_count(second.peak)}"
        told.append(
            f"{metric_name(name)}, Performance Law in its place: {peak}; it misses the runs by {second.error:.4f}, "
            f"the saturating law by {hill:.4f} (root mean square)"
        )
    if more.repeated is not None:
        low, high = more.repeated.bands()["repeats"]
        verdict = "" if more.repeated.identified else ", not identified"
        told.append(
            f"repeated data: what is seen again counts as new up to about {more.repeated.repeats:.3g} repeats (95 % "
            f"band {low:.3g} to {high:.3g}{verdict})"
        )
    return told


def price_table(prices: Sequence[Price]) -> list[list[str]]:
    """What every step of the ladder costs, below a head."""
    money = any(step.money is not None for step in prices)
    head = ["from", "to", "gain", "training for +1 %", *(["price of +1 %"] if money else []), "ms a user"]
    return [head, *(_price_row(step, money) for step in prices)]


def high_low(low: Any, high: Any) -> str:
    """The band of a metric over the band of a loss: the higher loss gives the lower end."""
    return f"{float(min(low)):.4f}, {float(max(high)):.4f}"


def _price_row(step: Price, money: bool) -> list[str]:
    seconds = "no gain" if step.seconds is None else duration(step.seconds) if step.seconds > 0 else "none"
    price = [f"{step.money:.4g}" if step.money is not None else "-"] if money else []
    serving = "-" if step.serving_ms is None else f"{step.serving_ms:.3g}"
    return [show_count(step.low), show_count(step.high), f"{step.gain:+.1f} %", seconds, *price, serving]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
