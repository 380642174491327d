"""RecBole's evaluation settings by hand (RS, LS; RO, TO; full, uni, pop), and that each difference has a test."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, walk_rows, write_inter
from recbole_data import NAME, settings_of, write_made

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
    if mode == "full":
        assert sum(len(batch[0]) for batch in prepared.test_data) == len(test)
    else:
        assert_each_is_ranked_among_twenty_others(prepared, seen)


def assert_each_is_ranked_among_twenty_others(prepared, seen):
    """The others are items that the users never had (``seen`` None: that are not held out there); returns them."""
    names, others = [prepared.dataset.field2id_token[field] for field in ("user_id", "item_id")], []
    for rows, at, positive_at, positive in prepared.test_data:
        held_out = set(zip(positive_at.tolist(), names[1][positive.numpy()].tolist(), strict=True))
        users, items = names[0][rows["user_id"].numpy()], names[1][rows["item_id"].numpy()]
        count = Counter(at.tolist())
        positives = Counter(positive_at.tolist())
        assert all(count[row] == 21 * positives[row] for row in count)  # each held-out item among 20 others
        right = [pair in held_out for pair in zip(at.tolist(), items.tolist(), strict=True)]
        assert sum(right) == sum(positives.values()) == len(held_out)
        taken = [(user, item) in (seen or ()) for user, item in zip(users, items, strict=True)]
        assert seen is None or taken == right
        others += items[~np.array(right)].tolist()
    return others


@pytest.fixture
def skewed(folder):
    """Users of different items, some items far more popular than others, spread over one time line."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 81)
    rows = []
    for user in range(80):
        items = rng.choice(80, int(rng.integers(4, 25)), replace=False, p=weights / weights.sum())
        rows += [(f"u{user}", f"i{item}", 100 * user + k) for k, item in enumerate(items)]
    times = rng.permutation(len(rows))
    rows = [(user, item, int(time)) for (user, item, _), time in zip(rows, times, strict=True)]
    write_inter(folder / "dataset" / "walk" / "walk.inter", rows)
    return rows


ONE_LINE = [({"TS": [0.7, 0.15, 0.15]}, "user"), ({"RS": [0.7, 0.15, 0.15]}, None)]


@pytest.mark.parametrize("model", ["BPR", "GRU4Rec", "ScaledSASRec"])
@pytest.mark.parametrize(("split", "group_by"), ONE_LINE)
def test_one_time_line_is_cut_alike_for_sampled_rankings(skewed, model, split, group_by):
    """What is tested is the latest, whoever's it is; popN draws popular items more often than uniN."""
    time = {(user, item): t for user, item, t in skewed}
    firsts = 0 if model == "BPR" else 80  # nobody's targets
    drawn = {}
    for mode in ("uni20", "pop20"):
        eval_args = {"split": split, "order": "TO", "group_by": group_by, "mode": mode}
        own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error", "eval_batch_size": 64}
        prepared = prepare(make_config(model, "walk", config_dict={**own, **TIMES, "eval_args": eval_args}))
        parts = [pairs(loader) for loader in (prepared.train_data, prepared.valid_data, prepared.test_data)]
        times = [np.array([time[pair] for pair in part]) for part in parts]
        assert times[0].max() < times[1].min() and times[1].max() < times[2].min() and len(times[2]) > 100
        assert sum(map(len, parts)) == len(set().union(*parts)) == len(skewed) - firsts
        # RecBole's sequential models may take an item again: all but the held-out one are among the others
        others = assert_each_is_ranked_among_twenty_others(prepared, set(time) if model == "BPR" else None)
        popularity = Counter(item for _, item in parts[0])
        drawn[mode] = np.mean([popularity[item] for item in others])
    assert drawn["pop20"] > 1.3 * drawn["uni20"]


@pytest.mark.parametrize("mode", ["uni20", "pop20"])
def test_with_one_row_a_user_sampled_rankings_are_recboles(skewed, mode):
    import torch
    from recbole.data.dataloader import NegSampleEvalDataLoader

    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error", "eval_batch_size": 100}
    prepared = prepare(make_config("GRU4Rec", "walk", config_dict={**own, "eval_args": {"mode": mode}}))
    ours = prepared.test_data
    stock = NegSampleEvalDataLoader(prepared.config, ours._dataset, ours._sampler)
    drawn = []
    for loader in (ours, stock):
        np.random.seed(1)
        drawn.append(list(loader))
    assert type(ours) is not NegSampleEvalDataLoader and len(drawn[0]) == len(drawn[1]) > 10
    for (rows, *places), (others, *other_places) in zip(*drawn, strict=True):
        assert all(torch.equal(rows[name], others[name]) for name in others.columns)
        assert all(map(torch.equal, places, other_places))


def test_metrics_that_need_the_number_of_items_work(walk):
    names = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage", "NDCG"]
    found = recbole_scale.run("GRU4Rec", "walk", config_dict={**QUICK, "epochs": 1, "metrics": names,
                              "valid_metric": "NDCG@5", "embedding_size": 8})["test_result"]  # fmt: skip
    assert all(np.isfinite(found[f"{name.lower()}@{k}"]) for name in names for k in (5, 10))
    assert 0 < found["itemcoverage@5"] <= found["itemcoverage@10"] <= 1


@pytest.mark.parametrize("model", ["KGCN", "S3Rec", "RaCT"])
def test_such_metrics_work_over_a_knowledge_graph_and_after_pretraining(folder, model):
    """RecBole's collector looks for counts where those loaders have none, and pre-training never asks it."""
    write_made(folder)
    names = {"metrics": ["ItemCoverage", "AveragePopularity", "Recall"], "valid_metric": "Recall@5"}
    found = recbole_scale.run(model, NAME, config_dict=settings_of(model) | names)["test_result"]
    assert 0 < found["itemcoverage@3"] <= found["itemcoverage@5"] <= 1 <= found["averagepopularity@5"]


def test_general_models_read_times_where_these_order_their_rows(folder):
    """Seconds since 1970, which float32 would round to 64 of them."""
    write_made(folder)
    by_time = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}}
    data = prepare(make_config("BPR", NAME, config_dict=settings_of("BPR") | by_time))
    latest = {}
    for user, item, _, time in map(str.split, Path("dataset/made/made.inter").read_text().splitlines()[1:]):
        latest[user] = max(latest.get(user, (0, "")), (int(time), item))
    test = data.test_data._dataset
    ids = {kind: test.field2id_token[f"{kind}_id"] for kind in ("user", "item")}
    pairs = zip(test.inter_feat["user_id"].tolist(), test.inter_feat["item_id"].tolist(), strict=True)
    assert {ids["user"][u]: ids["item"][i] for u, i in pairs} == {user: item for user, (_, item) in latest.items()}


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
