"""The sizes of a ladder: means over the runs of each, the best of them, and whether noise alone sets them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from recbole_scale.fit.rows import Row
from recbole_scale.fit.tables import by_size, curve_of
from recbole_scale.text import show_count

METRICS = ("ndcg@10", "ndcg@5", "ndcg@50", "recall@10", "hit@10")
_SURE = 0.025  # probability of noise alone making any size look so much better than the largest one
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
    spare: int  # runs beyond one a size, which the noise is known from
    sizes: int

    def apart(self, one: SizeMean, other: SizeMean) -> bool:
        """Whether two sizes differ by more than noise does in the best of so many sizes; without noise, at all."""
        if self.noise is None:
            return one.loss != other.loss
        # Student's t, with Bonferroni's share of the probability for every size that might have been the best
        sure = -scipy.special.stdtrit(self.spare, _SURE / max(self.sizes - 1, 1))
        return bool(abs(one.loss - other.loss) > sure * self.noise * np.sqrt(1 / one.runs + 1 / other.runs))

    @property
    def over_the_top(self) -> bool:
        """Whether the largest size is worse than the best one by more than noise."""
        return self.large.loss > self.best.loss and self.apart(self.large, self.best)


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


def fall_of(x: Sequence[float], value: Sequence[float]) -> Ends | None:
    """The sizes of a metric whose largest is lower than another by more than its runs differ; their loss is minus it.

    None where it is not, or no runs are repeated to tell.
    """
    groups: dict[float, list[float]] = {}
    for place, one in zip(x, value, strict=True):
        groups.setdefault(place, []).append(-one)
    ends = ends_of([
        SizeMean(n, len(all_), float(np.mean(all_)), float(np.std(all_, ddof=1)) if len(all_) > 1 else float("nan"),
                 None, None) for n, all_ in sorted(groups.items())
    ])  # fmt: skip
    return ends if ends.noise is not None and ends.over_the_top else None


def fall_clause(metric: str, ends: Ends) -> str:
    """That a metric falls, as a clause."""
    best, large = ends.best, ends.large
    return f"{metric} is {-large.loss:.4f} at {show_count(large.n)}, less than {-best.loss:.4f} at {show_count(best.n)}"


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
    return Ends(sizes[0], min(sizes, key=lambda size: size.loss), sizes[-1], noise, spare, len(sizes))
