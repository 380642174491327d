"""RecBole's sequential models on our histories against stock RecBole: the same batches, the same numbers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from conftest import QUICK
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import SequentialDataset

import recbole_scale
from recbole_scale.data.baselines import ID_ONLY, BaselineDataset, RowDataLoader
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config

SMALL = {
    **QUICK,
    "epochs": 1,
    "embedding_size": 16,
    "metrics": ["Recall", "NDCG", "NLL", "ItemCoverage"],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 9,
}
NEGATIVES = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}}
NO_NEGATIVES = {"train_neg_sample_args": None}


def both(model, dataset, **settings):
    """The prepared run with rows on demand, and with RecBole's own table."""
    found = []
    for on_demand in (True, False):
        config = make_config(model, dataset, config_dict={**SMALL, **settings, "rows_on_demand": on_demand})
        found.append(prepare(config))
    ours, stock = found
    assert type(ours.dataset) is BaselineDataset and type(ours.train_data) is RowDataLoader
    assert type(stock.dataset) is SequentialDataset and type(stock.train_data) is TrainDataLoader
    return ours, stock


def seed():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)


def assert_equal_batches(ours, stock, epochs=2):
    """Fields that our rows have are equal bit by bit, batch by batch; RecBole's other fields are times and ratings."""
    for mine, theirs in ((ours.train_data, stock.train_data),) * epochs:
        seed()
        left = list(mine)
        seed()
        right = list(theirs)
        assert len(left) == len(right) == len(mine) > 1
        for a, b in zip(left, right, strict=True):
            assert set(b.columns) - set(a.columns) <= {"timestamp", "timestamp_list", "rating", "rating_list"}
            assert all(a[f].dtype == b[f].dtype and torch.equal(a[f], b[f]) for f in a.columns)
    for phase in ("valid_data", "test_data"):
        seed()
        left = list(getattr(ours, phase))
        seed()
        for a, b in zip(left, getattr(stock, phase), strict=True):
            assert all(torch.equal(a[0][f], b[0][f]) for f in a[0].columns)
            assert torch.equal(a[2], b[2]) and torch.equal(a[3], b[3])


MODELS = [("SASRec", NO_NEGATIVES), ("SASRec", NEGATIVES), ("GRU4Rec", NO_NEGATIVES), ("Caser", NO_NEGATIVES),
          ("BERT4Rec", NO_NEGATIVES)]  # fmt: skip


@pytest.mark.parametrize(("model", "settings"), MODELS)
@pytest.mark.parametrize("dataset", ["walk", "ml-100k"])
def test_batches_equal_stock_recboles(walk, model, settings, dataset):
    small = {} if dataset == "walk" else {"train_batch_size": 2048, "eval_batch_size": 512}
    if dataset == "ml-100k" and model == "BERT4Rec":  # its masking is a slow Python loop
        small |= {"val_interval": {"timestamp": "[0,876000000]"}}
    ours, stock = both(model, dataset, **settings, **small)
    assert_equal_batches(ours, stock, epochs=1 if model == "BERT4Rec" else 2)


SPLITS = [
    {"split": {"LS": "valid_only"}},
    {"split": {"LS": "test_only"}},
    {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"},
    {"split": {"LS": "valid_and_test"}, "mode": "uni20"},
]


@pytest.mark.parametrize("eval_args", SPLITS)
@pytest.mark.parametrize("normalize", [True, False])
def test_other_splits_and_sampled_evaluation_equal_stock(walk, eval_args, normalize):
    settings = {"eval_args": {"order": "TO", **eval_args}, "normalize_all": normalize, **NEGATIVES}
    ours, stock = both("GRU4Rec", "walk", **settings, metrics=["Recall"], valid_metric="Recall@10")
    seed()
    left = [list(loader) for loader in (ours.train_data, ours.valid_data, ours.test_data)]
    seed()
    right = [list(loader) for loader in (stock.train_data, stock.valid_data, stock.test_data)]
    assert any(left[1]) or any(left[2])
    for a, b in zip(itertools.chain(*left), itertools.chain(*right), strict=True):
        a, b = (a, b) if not isinstance(a, tuple) else (a[0], b[0])
        assert all(torch.equal(a[f], b[f]) for f in a.columns)


@pytest.mark.parametrize(("model", "settings"), MODELS)
def test_training_gives_stock_recboles_metrics(walk, model, settings):
    results = []
    for on_demand in (True, False):
        config = {**SMALL, **settings, "epochs": 2, "rows_on_demand": on_demand}
        results.append(recbole_scale.run(model, "walk", config_dict=config))
    ours, stock = results
    assert ours["test_result"] == stock["test_result"] and ours["best_valid_result"] == stock["best_valid_result"]
    assert ours["run_id"] == stock["run_id"]  # the switch changes no number


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_ml_100k_metrics_equal_stock(folder, model):
    settings = {"epochs": 1, "train_batch_size": 2048, "val_interval": {"timestamp": "[0,885000000]"}, **NO_NEGATIVES}
    results = []
    for on_demand in (True, False):
        config = {**SMALL, **settings, "rows_on_demand": on_demand}
        results.append(recbole_scale.run(model, "ml-100k", config_dict=config)["test_result"])
    assert results[0] == results[1] and results[0]["nll"] > 0


@pytest.mark.parametrize("model", ID_ONLY)
def test_every_listed_model_reads_nothing_but_ids(walk, model):
    """One training step and one ranking give the same numbers on both paths, so no field is missing."""
    settings = {} if model in ("FPMC", "TransRec") else NO_NEGATIVES  # these two have no full softmax
    settings = {**settings, "reranker_CAN_NUM": 20}  # CPR's lists are longer than this data set
    numbers = []
    for prepared in both(model, "walk", **settings):
        network = build_model(prepared)
        seed()
        loss = network.calculate_loss(next(iter(prepared.train_data)).to(prepared.config["device"]))
        network.eval()
        seed()
        batch = next(iter(prepared.test_data))[0]
        try:
            scores = network.full_sort_predict(batch)
        except NotImplementedError:
            scores = network.predict(batch)
        numbers.append((sum(loss) if isinstance(loss, tuple) else loss, scores))
    assert torch.equal(numbers[0][0], numbers[1][0]) and torch.equal(numbers[0][1], numbers[1][1])


OTHER = {
    "a model with features": ("SASRecF", {"selected_features": ["class"]}),
    "a model with data of its own": ("DIEN", {"metrics": ["Recall", "NDCG"]}),
    "popularity sampling": ("SASRec", {**NEGATIVES, "train_neg_sample_args": {"distribution": "popularity"}}),
    "item features": ("SASRec", {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}}),
}


@pytest.mark.parametrize("why", OTHER)
def test_settings_that_need_recboles_table_get_it(walk, why):
    from recbole_scale.data.baselines import rows_on_demand

    model, settings = OTHER[why]
    assert not rows_on_demand(make_config(model, "walk", config_dict={**SMALL, **NO_NEGATIVES, **settings}))
    assert rows_on_demand(make_config("SASRec", "walk", config_dict={**SMALL, **NO_NEGATIVES}))


def test_mask_history_leaves_earlier_items_out_of_a_baselines_ranking(walk):
    config = make_config("GRU4Rec", "walk", config_dict={**SMALL, **NO_NEGATIVES, "mask_history": True})
    prepared = prepare(config)
    interaction, (row, item), _, target = next(iter(prepared.test_data))
    for i in range(len(interaction)):
        earlier = set(interaction["item_id_list"][i, : interaction["item_length"][i]].tolist())
        assert earlier - {target[i].item()} <= set(item[row == i].tolist())
