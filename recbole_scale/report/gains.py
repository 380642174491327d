"""What each doubling of the parameters wins in HR@10 or in the loss: by a law, among the largest runs, and both.

A law that bends more, or less, than the largest runs themselves do (by over ``_APART`` standard errors) is not left to
decide alone: its band is widened to what each doubling among those runs has won.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_scale.fit.rows import Row
from recbole_scale.fit.sizes import metric_of
from recbole_scale.laws.fit import percentiles
from recbole_scale.laws.loss import PowerLaw
from recbole_scale.laws.metrics import MetricLaw
from recbole_scale.report.report import Study
from recbole_scale.text import show_count

HITS = ("hit@10", "recall@10")  # with one held-out item a user they are the same
_APART = 2.5
_RECENT = 8.0  # the largest runs: sizes down to an eighth of the largest, two sizes at least

Band = tuple[float, float, float]  # value, lower and upper end of the 95 % band


def hits_of(rows: Sequence[Row]) -> str | None:
    """The column of HR@10, None where no row has it."""
    return next((name for name in HITS if any(name in (row.get("test_metrics") or {}) for row in rows)), None)


def draws_of(law: MetricLaw | PowerLaw, sizes: Any) -> Any:
    """The law of every resample at ``sizes`` [S]: [R, S]."""
    return law.draws(sizes) if isinstance(law, MetricLaw) else law.fit.draws(sizes)


def banded(law: MetricLaw | PowerLaw, n: float) -> Band:
    """Value of a law at ``n`` with its 95 % band (that of the mean over seeds); nan without a band."""
    low, high = law.interval(n)
    return float(law.predict(n)), float(low), float(high)


def gain_per_doubling(law: MetricLaw | PowerLaw, now: float, then: float) -> Band:
    """What each doubling on the way wins, better being above 0, with its 95 % band."""
    sign, doublings = (1.0 if isinstance(law, MetricLaw) else -1.0), math.log2(then / now)
    value = sign * float(law.predict(then) - law.predict(now)) / doublings
    draws = draws_of(law, [now, then])
    low, high = percentiles(sign * (draws[:, 1] - draws[:, 0]) / doublings, 0.95)
    return value, float(low), float(high)


@dataclass(frozen=True)
class Recent:
    """What each doubling among the largest runs has won, with its standard error, from ``low`` to ``high``."""

    low: float
    high: float
    gain: float
    error: float


def recent(study: Study, metric: str | None, now: float) -> Recent | None:
    """The slope over the largest sizes up to ``now``; None without two sizes, or without repeated runs."""
    values: dict[float, list[float]] = {}
    for row in study.choice.fitted + study.choice.held_out:
        value = metric_of(row, metric) if metric else float(row[study.question.loss])
        if value is not None and row["n_blocks"] <= now:
            values.setdefault(float(row["n_blocks"]), []).append(value)
    sizes = sorted(values)
    noise = _noise([values[n] for n in sizes[(len(sizes) - 1) // 2 :]]) or _noise(list(values.values()))
    if len(sizes) < 2 or not noise:
        return None
    sizes = sizes[min(sum(n < max(sizes) / _RECENT for n in sizes), len(sizes) - 2) :]
    x = np.log2(np.repeat(sizes, [len(values[n]) for n in sizes]))
    y = np.concatenate([values[n] for n in sizes])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    return Recent(sizes[0], sizes[-1], slope if metric else -slope, noise / math.sqrt(spread))


def _noise(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation of a run, pooled over sizes; 0 where fewer than two runs repeat another."""
    spare = sum(len(group) - 1 for group in groups)
    return math.sqrt(sum(float(np.var(group)) * len(group) for group in groups) / spare) if spare > 1 else 0.0


def widened(band: Band, law: MetricLaw | PowerLaw, seen: Recent | None) -> tuple[Band, str]:
    """The band of the gain, reaching to what the largest runs have won where the law misses that; and a remark."""
    if seen is None or math.isnan(band[1]):
        return band, ""
    there = gain_per_doubling(law, seen.low, seen.high)
    apart = seen.gain - there[0]
    if abs(apart) <= _APART * max(seen.error, (there[2] - there[1]) / 4):
        return band, ""
    hits = isinstance(law, MetricLaw)
    reach = 2.0 * seen.error
    wide = (band[0], min(band[1], seen.gain - reach), band[2]) if apart < 0 else (
        band[0], band[1], max(band[2], seen.gain + reach))  # fmt: skip
    more = "more" if apart > 0 else "less"
    remark = (
        f"; each doubling from {show_count(seen.low)} to {show_count(seen.high)} has won {each(seen.gain, hits)}, "
        f"{more} than the law says there, and the range allows for it"
    )
    return wide, remark


def moved(value: float, gain: Band, hits: bool, doublings: float) -> Band:
    """``value`` and what ``doublings`` of the gain make of it."""
    if hits:
        return value + gain[0] * doublings, value + gain[1] * doublings, value + gain[2] * doublings
    return value - gain[0] * doublings, value - gain[2] * doublings, value - gain[1] * doublings


def measured(study: Study, metric: str, n: float) -> float | None:
    """Mean of a metric over the runs of size ``n``."""
    rows = study.choice.fitted + study.choice.held_out
    values = [value for row in rows if row.get("n_blocks") == n and (value := metric_of(row, metric)) is not None]
    return float(np.mean(values)) if values else None


def each(value: float, hits: bool) -> str:
    """A gain in words."""
    return f"{1000 * value:.1f} more hits in 1,000 visits" if hits else f"{value:.3f} nats"
