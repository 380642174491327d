"""RecBole's evaluation settings by hand (RS, LS; RO, TO; full, uni, pop), and that each difference has a test."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "differences-from-recbole.md"
TIMES = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.fixture
def distinct(folder):
    """Users whose items are all different, so that a sampled item is none of theirs."""
    rows = list({(user, item): (user, item, time) for user, item, time in walk_rows()}.values())
    write_inter(folder / "dataset" / "walk" / "walk.inter", rows)
    return rows


def pairs(loader):
    data = loader._dataset
    names = [data.field2id_token[field] for field in ("user_id", "item_id")]
    users, items = (data.inter_feat[field].numpy() for field in ("user_id", "item_id"))
    return list(zip(names[0][users].tolist(), names[1][items].tolist(), strict=True))


@pytest.mark.parametrize("mode", ["full", "uni20", "pop20"])
@pytest.mark.parametrize("order", ["RO", "TO"])
@pytest.mark.parametrize("split", [{"RS": [0.8, 0.1, 0.1]}, {"LS": "valid_and_test"}])
def test_what_is_held_out_and_what_it_is_ranked_among(distinct, split, order, mode):
    eval_args = {"split": split, "order": order, "group_by": "user", "mode": mode}
    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error", "eval_batch_size": 64}
    prepared = prepare(make_config("BPR", "walk", config_dict={**own, **TIMES, "eval_args": eval_args}))
    parts = [pairs(loader) for loader in (prepared.train_data, prepared.valid_data, prepared.test_data)]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted((user, item) for user, item, _ in distinct)
    lengths = Counter(user for user, *_ in distinct)
    test = Counter(user for user, _ in parts[2])
    for user, length in lengths.items():
        share = int(0.1 * length) or int(length > 2)
        assert test[user] == (share if "RS" in split else int(length > 1))
    if order == "TO":  # nothing held out is earlier than what its user trains on
        time = {(user, item): t for user, item, t in distinct}
        last = {user: max(time[user, item] for u, item in parts[0] if u == user) for user in lengths}
        assert all(time[pair] >= last[pair[0]] for pair in parts[1] + parts[2])
    seen = {(user, item) for part in parts for user, item in part}
    batches = list(prepared.test_data)
    if mode == "full":
        assert sum(len(batch[0]) for batch in batches) == len(test)
        return
    names = [prepared.dataset.field2id_token[field] for field in ("user_id", "item_id")]
    for rows, at, positive_at, _ in batches:
        users, items = names[0][rows["user_id"].numpy()], names[1][rows["item_id"].numpy()]
        right = np.zeros(len(rows), bool)
        count = Counter(at.tolist())
        positives = Counter(positive_at.tolist())
        assert all(count[row] == 21 * positives[row] for row in count)  # each held-out item among 20 others
        right = [(user, item) in seen for user, item in zip(users, items, strict=True)]
        assert sum(right) == sum(positives.values())  # the others are items that the user never had


def test_metrics_that_need_the_number_of_items_work(walk):
    names = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage", "NDCG"]
    found = recbole_scale.run("GRU4Rec", "walk", config_dict={**QUICK, "epochs": 1, "metrics": names,
                              "valid_metric": "NDCG@5", "embedding_size": 8})["test_result"]  # fmt: skip
    assert all(np.isfinite(found[f"{name.lower()}@{k}"]) for name in names for k in (5, 10))
    assert 0 < found["itemcoverage@5"] <= found["itemcoverage@10"] <= 1


def test_the_choice_of_gpus_is_left_alone(walk, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error", "use_gpu": False}
    prepare(make_config("ScaledSASRec", "walk", config_dict=own))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_every_difference_has_a_test_that_is_there():
    text = DOCUMENT.read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10 and all(re.search(r"`test_\w+\.py::test_\w+` \|$", line) for line in rows)
    for file, name in re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", text):
        written = Path(__file__).with_name(file).read_text("utf-8")
        assert not name or f"def {name}(" in written, (file, name)
