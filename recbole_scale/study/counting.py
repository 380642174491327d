"""What counting achieves: the popularity of items, and the user's last items again, as rows beside the models'."""

from __future__ import annotations

import numpy as np

from recbole_scale.data.histories import Histories
from recbole_scale.fit.rows import Row
from recbole_scale.runs.prepared import Prepared

_TOP = 10


def counting_rows(prepared: Prepared) -> list[Row]:
    """Rows of the models ``Popularity`` and ``Repeat last``, tested as all models are.

    Popularity: p(item) = (training count + 1) / (interactions + items). Repeat last: the user's latest different items,
    newest first, then popularity; it gives no probabilities, so no NLL.
    """
    split, histories = prepared.test_data.dataset.split, prepared.test_data.dataset.histories
    n_items = prepared.dataset.item_num - 1
    counts = split.item_counts(histories, n_items)
    order = np.argsort(-counts[1:], kind="stable") + 1  # item ids, most popular first
    rank = np.empty(n_items + 1, dtype=np.int64)
    rank[order] = np.arange(1, n_items + 1)
    tests = split.targets(histories, "test")
    targets = histories.items[tests]
    nll = -np.log((counts[targets] + 1) / (counts.sum() + n_items))
    repeated = np.array([_repeat_rank(histories, position, order) for position in tests])
    unseen = _metrics(np.array([_unseen_rank(histories, position, rank) for position in tests]))
    spread = float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else None
    popular = _metrics(rank[targets]) | {"nll": float(nll.mean())}
    return [
        _row(prepared, "Popularity", popular, unseen, float(nll.mean()), spread),
        _row(prepared, "Repeat last", _metrics(repeated), unseen, None, None),  # without what was seen, popularity
    ]


def _repeat_rank(histories: Histories, position: int, order: np.ndarray) -> int:
    """Rank of the item at ``position`` in the user's latest items, newest first, then the popular ones; 11 beyond."""
    start = histories.offsets[histories.owner(np.array([position]))[0]]
    latest = list(dict.fromkeys(histories.items[start:position][::-1].tolist()))[:_TOP]
    listed = list(dict.fromkeys([*latest, *order[: 2 * _TOP].tolist()]))[:_TOP]
    target = int(histories.items[position])
    return listed.index(target) + 1 if target in listed else _TOP + 1


def _unseen_rank(histories: Histories, position: int, rank: np.ndarray) -> int:
    """Rank by popularity of the item at ``position`` among those that the user has not had; 11 if they have had it."""
    start = histories.offsets[histories.owner(np.array([position]))[0]]
    seen, target = np.unique(histories.items[start:position]), histories.items[position]
    return _TOP + 1 if target in seen else int(rank[target] - (rank[seen] < rank[target]).sum())


def _metrics(rank: np.ndarray) -> dict[str, float]:
    hit = rank <= _TOP
    return {"recall@10": float(hit.mean()), "ndcg@10": float((hit / np.log2(rank + 1)).mean())}


def _row(
    prepared: Prepared,
    name: str,
    metrics: dict[str, float],
    unseen: dict[str, float],
    nll: float | None,
    se: float | None,
) -> Row:
    config = prepared.config
    return {
        "run_id": name.lower().replace(" ", "-"),
        "status": "ok",
        "dataset": config["dataset"],
        "data_fingerprint": prepared.fingerprint,
        "split": config["eval_args"]["split"],
        "model": name,
        "n_users": prepared.dataset.user_num - 1,
        "n_items": prepared.dataset.item_num - 1,
        "test_metrics": metrics,
        "test_metrics_filtered": unseen,
        "nll_kind": None if nll is None else "probabilities",
        "test_nll": nll,
        "test_nll_se": se,
    }
