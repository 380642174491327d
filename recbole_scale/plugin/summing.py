"""Metrics of users whom several processes have ranked, from sums over processes: no row of a user travels."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.metrics import ItemCoverage
from recbole.evaluator.register import metrics_dict
from torch import Tensor

from recbole_scale.training import group


def rows_needed(metrics: list[str]) -> set[str]:
    """Entries of a data struct of which the metrics (RecBole's names) need every user's row in one place."""
    kinds = [metrics_dict[metric.lower()] for metric in metrics]
    return {need for kind in kinds if not _is_sum(kind) for need in kind.metric_need}


def _is_sum(kind: type[Any]) -> bool:
    """Whether a metric is a mean over users, as RecBole's top-k metrics are, or says itself how it is summed."""
    means = issubclass(kind, TopkMetric) and kind.topk_result is TopkMetric.topk_result
    return means or kind is ItemCoverage or hasattr(kind, "from_sums")


def from_sums(metric: Any, struct: Any) -> dict[str, float]:
    """``metric.calculate_metric`` of all users, of whom ``struct`` holds this process's; every process must call."""
    if hasattr(metric, "from_sums"):
        own: dict[str, float] = metric.from_sums(struct)
        return own
    if isinstance(metric, ItemCoverage):
        return _coverage(metric, *metric.used_info(struct))
    summed = copy.copy(metric)
    summed.topk_result = lambda name, values: metric.topk_result(name, _mean_over_users(values))
    found: dict[str, float] = summed.calculate_metric(struct)
    return found


def sums(*values: float) -> list[float]:
    """Sums over processes, in float64."""
    summed: list[float] = group.total(torch.tensor(values, dtype=torch.float64)).tolist()
    return summed


def _mean_over_users(values: np.ndarray) -> np.ndarray:
    """Mean over all processes' users of ``values`` [users, k], as one row."""
    *totals, users = sums(*values.sum(0), len(values))
    return np.array([totals]) / users


def _coverage(metric: Any, items: np.ndarray, n_items: int) -> dict[str, float]:
    """Share of ``n_items`` that stands in some list's first k, for each k; ``items`` [users, k] are this process's."""
    seen: Tensor = torch.zeros(len(metric.topk), n_items + 1, dtype=torch.int32)
    for row, k in zip(seen, metric.topk, strict=True):
        row[torch.from_numpy(items[:, :k]).flatten().long()] = 1
    counts = (group.total(seen) > 0).sum(1).tolist()
    return {
        f"itemcoverage@{k}": round(count / n_items, metric.decimal_place)
        for k, count in zip(metric.topk, counts, strict=True)
    }
