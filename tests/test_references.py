"""The losses that need no model, against a few lines that count by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_scale.data.histories import Histories
from recbole_scale.data.splits import split_histories
from recbole_scale.fit.references import counted_metrics, with_references
from recbole_scale.fit.references import reference_losses as by_name
from recbole_scale.fit.rows import as_rows
from recbole_scale.runs import references
from recbole_scale.runs.records import read_rows
from recbole_scale.runs.references import reference_losses

V = 7


def data(seed=0):
    rng = np.random.default_rng(seed)
    rows = [[int(item) for item in (rng.integers(1, V + 1) + np.arange(n)) % V + 1] for n in rng.integers(4, 9, 60)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    histories = Histories(np.concatenate(rows).astype(np.int32), np.arange(1, 61, dtype=np.int32), offsets)
    return rows, SimpleNamespace(
        item_num=V + 1, histories=histories, split=split_histories(histories, {"LS": "valid_and_test"})
    )


def by_hand(rows, phase, weight):
    """Mean loss of popularity plus one, and of it mixed with what followed the last item."""
    items = [item for row in rows for item in row[:-2]]
    pairs = [pair for row in rows for pair in pairwise(row[:-2])]
    end = -1 if phase == "test" else -2
    popular, markov = [], []
    for row in rows:
        share = (items.count(row[end]) + 1) / (len(items) + V)
        popular.append(-np.log(share))
        after = sum(last == row[end - 1] for last, _ in pairs)
        markov.append(-np.log((pairs.count((row[end - 1], row[end])) + weight * share) / (after + weight)))
    return np.mean(popular), np.mean(markov)


@pytest.mark.parametrize("step", [7, 1 << 22])
def test_guessing_popularity_and_the_last_item_are_those_counted_by_hand(monkeypatch, step):
    monkeypatch.setattr(references, "_STEP", step)  # the parts of a long log
    rows, dataset = data()
    found = reference_losses(dataset)
    best = min(references.WEIGHTS, key=lambda weight: by_hand(rows, "valid", weight)[1])
    popular, markov = by_hand(rows, "test", best)
    assert found == pytest.approx({"uniform_nll": np.log(V), "popularity_nll": popular, "markov_nll": markov})
    assert markov < 0.3 < popular  # each item follows from the one before


def test_without_histories_only_guessing_is_known():
    assert reference_losses(SimpleNamespace(item_num=11)) == {
        "uniform_nll": pytest.approx(np.log(10)), "popularity_nll": None, "markov_nll": None,
    }  # fmt: skip


def test_rows_name_what_they_carry_in_order():
    rows = [{"n_items": 10}, {"markov_nll": 1.5, "popularity_nll": 2.0}]
    assert list(by_name(rows).items()) == [
        ("uniform guessing", pytest.approx(np.log(10))), ("popularity", 2.0), ("the last item alone", 1.5),
    ]  # fmt: skip


def test_rows_without_counts_take_those_of_the_very_same_data_and_no_others():
    own = {"status": "ok", "dataset": "d", "data_fingerprint": "f", "split": {"LS": "valid_and_test"}, "n_items": 10}
    counted = {**own, "model": "Pop", "popularity_nll": 2.0, "markov_nll": 1.5}
    bare = {**own, "popularity_nll": None, "data_fraction": 1.0}
    assert with_references([bare], [bare, counted]) == [{**bare, "popularity_nll": 2.0, "markov_nll": 1.5}]
    half = {**own, "popularity_nll": 1.9}
    assert with_references([half], [counted]) == [{**half, "markov_nll": 1.5}]  # what a row says itself stands
    for other in ({"data_fingerprint": "g"}, {"split": {"RS": [8, 1, 1]}}, {"data_fraction": 0.5}, {"dataset": "e"},
                  {"status": "failed"}, {"data_fingerprint": None}):  # fmt: skip
        assert with_references([bare], [{**counted, **other}]) == [bare]
    unknown = {**bare, "data_fingerprint": None}
    assert with_references([unknown], [counted, {**counted, "data_fingerprint": None}]) == [unknown]


def test_rankings_by_counting_are_those_of_the_same_data():
    own = {"status": "ok", "dataset": "d", "data_fingerprint": "f", "test_metrics": {"ndcg@10": 0.1}}
    rows = [{**own, "model": "ItemKNN"}, {**own, "model": "ItemKNN", "test_metrics": {"ndcg@10": 0.2}},
            {**own, "model": "Markov"}, {**own, "model": "GRU4Rec"}, {**own, "model": "Markov", "dataset": "e"},
            {**own, "model": "Markov", "data_fingerprint": "g", "test_metrics": {"ndcg@10": 0.9}}]  # fmt: skip
    for other in (
        {"eval_args": {"mode": "uni100"}},
        {"eval_args": {"mode": {"test": "pop100"}}},
        {"mask_history": True},
    ):
        rows.append({**own, "model": "Markov", "settings": other, "test_metrics": {"ndcg@10": 0.8}})
    rows.append({**own, "model": "Markov", "data_fraction": 0.5, "test_metrics": {"ndcg@10": 0.7}})
    assert list(counted_metrics(rows, own, "ndcg@10").items()) == [("Markov", 0.1), ("ItemKNN", pytest.approx(0.15))]
    assert counted_metrics(rows, own, "mrr") == {}


def test_ml_1m_has_its_counts_from_the_rows_of_counted_models():
    """The values of an independent count over dataset/ml-1m: leave one out, exact time order."""
    folder = Path(__file__).parents[1] / "results"
    rows, others = (as_rows(read_rows(folder / name)) for name in ("ml-1m/runs.jsonl", "quality/ten-minutes.jsonl"))
    filled = [row for row in with_references(rows, others) if row["data_fraction"] == 1.0]
    assert len(filled) == 13 and {row["popularity_nll"] for row in filled} == {7.606044883741202}
    assert {row["markov_nll"] for row in filled} == {6.887270045684118}
    parts = [row for row in with_references(rows, others) if row["data_fraction"] != 1.0]
    assert len(parts) == 9 and not any(row["popularity_nll"] for row in parts)  # fewer users train: other counts
