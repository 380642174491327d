"""What RecBole's models and metrics need of settings and data is said in one sentence, and what follows is followed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_inter
from recbole.config import Config
from recbole.model.general_recommender import BPR
from recbole_data import NAME, settings_of, write_made

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.plugin.demands import LABELLED_TYPES, failures_told
from recbole_scale.plugin.register import find_model, model_names
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.terminal import say_once

RATED = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
LABELED = {"eval_args": {"mode": "labeled"}}
VALUES = {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
NONE, DYNAMIC = {"train_neg_sample_args": None}, {"train_neg_sample_args": {
    "distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 2}}  # fmt: skip
NO_DRAWS = "learns from items that a user has not taken beside those taken, but train_neg_sample_args draws none"
TIMELESS = {"load_col": {"inter": ["user_id", "item_id"]}, "eval_args": {"order": "TO"}}
PRICED = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]},
          "selected_features": ["price"]}  # fmt: skip
SAID = [
    ("DeepFM", {"threshold": None}, "DeepFM learns labels, but the interactions of 'made' have no column 'label'"),
    ("XGBoost", {"threshold": None}, "XGBoost learns labels"),
    ("BPR", VALUES | RATED, "eval_args.mode labeled measures labels, but the interactions of 'made' have no column"),
    ("ScaledSASRec", VALUES | RATED, "ScaledSASRec ranks items and knows no labels"),
    ("GRU4Rec", LABELED | {"metrics": ["NDCG"]}, "NDCG ranks items, but eval_args.mode is labeled"),
    ("DeepFM", {"metrics": ["GAUC"], "valid_metric": "GAUC"}, "GAUC ranks items, but eval_args.mode is"),
    ("DeepFM", {"eval_args": {"mode": "full"}}, "AUC measures labels, but eval_args.mode is full, which ranks items"),
    ("XGBoost", {"eval_args": {"mode": "full"}}, "XGBoost predicts labels and ranks no items"),
    *((model, NONE, f"{model} {NO_DRAWS}") for model in ("BPR", "NeuMF", "DIN", "KGCN", "MKR", "NCL", "TransRec")),
    ("SASRec", NONE | {"loss_type": "BPR"}, f"SASRec {NO_DRAWS}"),
    ("MultiVAE", DYNAMIC, "MultiVAE trains on whole users: train_neg_sample_args.dynamic"),
    ("NCL", {"num_clusters": 1000}, "num_clusters is 1000, but must be at most 31 for 'made'"),
    ("SASRecCPR", {"reranker_CAN_NUM": "50,20"}, "reranker_CAN_NUM is 50,20, but must be at most 31 for 'made'"),
    ("DGCF", {"train_batch_size": 4096}, "a train_batch_size below 4096 draws fewer"),
    ("BPR", TIMELESS, "eval_args go by time, but 'made' is read without 'timestamp'; name it in load_col"),
    ("LightGBM", {"epochs": 0}, "epochs is 0, but LightGBM keeps the best of one round or more"),
    ("XGBoost", {"eval_step": 0}, "eval_step is 0, but XGBoost keeps the best of one round or more"),
    ("XGBoost", {"threshold": None, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
     "XGBoost learns labels, but the interactions of 'made' have no column 'label'"),
    ("XGBoost", {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}, "order": "RO"}}, "is held out for valid by"),
    ("SASRecF", PRICED, "selected_features: 'price' holds numbers; numerical_features must name it, too"),
    ("DSSM", {"load_col": {**RATED["load_col"], "item": ["item_id", "price"]}}, "numerical_features must name 'price'"),
    ("S3Rec", PRICED | {"item_attribute": "price", "numerical_features": ["price"]}, "which holds numbers; S3Rec"),
    ("SHAN", {"short_item_length": 99}, "RecBole refuses this: short_item_length can't longer than"),
    ("AutoInt", {"attention_size": 7}, "RecBole's AutoInt fails as it is set (AssertionError: embed_dim must be div"),
]  # fmt: skip
ONCE_IT_TRAINS = {
    "GRU4Rec": ({"learner": "sparse_adam"}, "learner sparse_adam needs sparse gradients, and GRU4Rec has none"),
    "CKE": (
        {"reg_weights": [1]},
        r"RecBole's CKE fails as it is set \(IndexError: list index out of range; cke.py, line",
    ),
    "BERT4Rec": (
        {"MAX_ITEM_LIST_LENGTH": 1, "mask_ratio": 1.0},
        r"loss of BERT4Rec is no number \(nan\); often .* mask_ratio masks no",
    ),
}


@pytest.mark.parametrize("model", ONCE_IT_TRAINS)
def test_what_only_training_shows_is_said_in_a_sentence(folder, model):
    write_made(folder)
    settings, says = ONCE_IT_TRAINS[model]
    with pytest.raises(ValueError if model == "BERT4Rec" else UserError, match=says) as told:
        recbole_scale.run(model, NAME, config_dict=settings_of(model) | settings)
    assert isinstance(told.value, UserError)
    if place := re.search(r"the traceback is in (.*\.log)\)", str(told.value)):
        assert f"{model.lower()}.py" in Path(place[1]).read_text()
    assert (model == "CKE") == bool(place)


def test_a_model_of_ones_own_keeps_its_bug(folder):
    """It may fail in what it calls of RecBole's; that is no failing of a model of RecBole's."""

    class Own(BPR):
        def calculate_loss(self, interaction):
            return self.loss(interaction, None)

    write_made(folder)
    prepared = prepare(make_config(Own, NAME, config_dict=settings_of("BPR")))
    with pytest.raises(TypeError), failures_told(prepared.config):
        Own(prepared.config, prepared.train_data._dataset).calculate_loss(torch.ones(3))


@pytest.mark.parametrize(("model", "settings", "says"), SAID)
def test_what_a_model_lacks_is_said_before_it_trains(folder, model, settings, says):
    """A dry run says it too, but for what DGCF draws for a batch."""
    write_made(folder)
    with pytest.raises(UserError) as told:
        recbole_scale.run(model, NAME, config_dict=settings_of(model) | settings, dry_run=model != "DGCF")
    assert says in str(told.value) and not (folder / "results").exists()


@pytest.mark.parametrize("model", ["BPR", "NCL", "XGBoost"])
def test_recboles_own_call_says_it_where_its_trainer_begins(folder, model):
    """Three loops of training; data are read and split before, without a word."""
    from recbole.quick_start import objective_function

    write_made(folder)
    lacking = {"threshold": None} if model == "XGBoost" else NONE
    with pytest.raises(UserError, match="learns "):
        objective_function(settings_of(model) | lacking | {"model": model, "dataset": NAME}, saved=False)


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in model_names() if find_model(name).type not in LABELLED_TYPES])
def test_just_what_trains_without_negatives_is_let_through(folder, monkeypatch, model):
    """The rule against the training itself, for every model that does not learn the data's labels."""
    from recbole.utils import get_trainer

    from recbole_scale.plugin import demands

    write_made(folder)
    asked, refused = demands._check_negatives, []
    monkeypatch.setattr(demands, "_check_negatives", lambda *_: None)
    prepared = prepare(make_config(model, NAME, config_dict=settings_of(model) | NONE))
    config = prepared.config
    try:
        asked(config, prepared.train_data, labelled=False)
    except UserError:
        refused.append(model)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, build_model(prepared))
    try:
        trainer.fit(prepared.train_data, None, saved=False, verbose=False)
    except (KeyError, NotImplementedError, UserError):
        assert refused
    else:
        assert not refused


OF_LABELS = ["AUC", "LogLoss"], "AUC"
RANKED = ["Recall", "MRR", "NDCG", "Hit", "Precision"]
BY_MODE = [
    ("BPR", "labeled", {}, OF_LABELS),
    ("BPR", {"valid": "labeled"}, {}, OF_LABELS),
    ("BPR", {"valid": "labeled", "test": "uni20"}, {}, OF_LABELS),
    ("BPR", {"valid": "pop20", "test": "labeled"}, {"valid_metric": "LogLoss"}, (OF_LABELS[0], "LogLoss")),
    ("BPR", "labeled", {"metrics": "RMSE"}, (["RMSE"], "RMSE")),
    ("BPR", "uni20", {"metrics": "AUC"}, (["AUC"], "AUC")),
    ("BPR", {"test": "uni20"}, {}, (RANKED, "MRR@10")),
    ("SASRec", "labeled", {}, OF_LABELS),
    ("SASRec", "uni20", {"valid_metric": "NDCG@5"}, (["Recall", "NDCG", "ItemCoverage"], "NDCG@5")),
    ("DIN", "labeled", {}, OF_LABELS),
    ("KGCN", "labeled", {}, OF_LABELS),
    ("FM", None, {}, OF_LABELS),
    ("FM", "uni20", {}, OF_LABELS),
    ("FM", "full", {"topk": [3]}, (RANKED, "MRR@3")),
    ("FM", "full", {"valid_metric": "NDCG@10"}, (RANKED, "NDCG@10")),
]


@pytest.mark.parametrize("way", ["dict", "file", "words"])
@pytest.mark.parametrize(("model", "mode", "settings", "expected"), BY_MODE)
def test_metrics_that_are_not_set_follow_the_mode(folder, monkeypatch, way, model, mode, settings, expected):
    write_made(folder)
    asked = settings if mode is None else {**settings, "eval_args": {"mode": mode}}
    (folder / "asked.yaml").write_text(json.dumps(asked))
    words = [f"--{key}={json.dumps(value)}" for key, value in asked.items()]
    monkeypatch.setattr(sys, "argv", ["run_recbole", *words * (way == "words")])
    files, given = ["asked.yaml"] * (way == "file"), asked if way == "dict" else {}
    config = Config(model, NAME, files, given)
    assert (config["metrics"], config["valid_metric"]) == expected
    assert config["valid_metric_bigger"] == (expected[1] not in ("LogLoss", "RMSE"))


NAMED = [
    ("BPR", {"valid": "labeled", "test": "full"}, {}, "labeled measures labels and full ranks items"),
    ("FM", {"valid": "labeled", "test": "full"}, {"metrics": ["AUC"]}, "labeled measures labels and full ranks items"),
    ("BPR", "labeled", {"metrics": ["Recall"]}, "Recall ranks items, but eval_args.mode is labeled"),
    ("BPR", "labeled", {"valid_metric": "NDCG@10"}, "Recall ranks items, but eval_args.mode is labeled"),
    ("FM", "labeled", {"valid_metric": "NDCG@10"}, "NDCG@10 ranks items, but eval_args.mode is labeled"),
    ("FM", "full", {"valid_metric": "AUC"}, "AUC measures labels, but eval_args.mode is full"),
    ("BPR", "full", {"metrics": ["LogLoss"]}, "LogLoss measures labels, but eval_args.mode is full"),
    ("SASRec", {"test": "labeled"}, {"metrics": ["NLL"]}, "NLL ranks items, but eval_args.mode is"),
    ("XGBoost", "uni20", {"metrics": ["NDCG"]}, "XGBoost predicts labels and ranks no items"),
]


@pytest.mark.parametrize(("model", "mode", "settings", "says"), NAMED)
def test_metrics_that_are_set_and_do_not_fit_the_mode_are_refused(folder, model, mode, settings, says):
    write_made(folder)
    with pytest.raises(UserError, match=says):
        make_config(model, NAME, config_dict={**settings, "eval_args": {"mode": mode}})


def test_the_metrics_that_are_taken_are_said(folder, caplog):
    write_made(folder)
    say_once.cache_clear()
    make_config("BPR", NAME, config_dict=LABELED)
    make_config("BPR", NAME, config_dict=LABELED)
    said = "eval_args.mode labeled measures labels; metrics, which are not set, are AUC, LogLoss"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_labels_choose_and_sampled_items_test(folder):
    """RecBole reads the validation's way of drawing off test's where the validation draws nothing, and fails."""
    write_made(folder)
    mode = {"eval_args": {"mode": {"valid": "labeled", "test": "uni20"}}, "threshold": {"rating": 3}, "epochs": 1}
    prepared = prepare(make_config("BPR", NAME, config_dict=mode))
    valid, test = prepared.valid_data, prepared.test_data
    assert len(valid.dataset) == len(valid._dataset) and all("label" in batch[0] for batch in valid)
    assert sum(len(batch[0]) for batch in valid) == len(valid._dataset)
    assert sum(len(batch[0]) for batch in test) == 21 * len(test._dataset)
    assert set(recbole_scale.run("BPR", NAME, config_dict=mode)["test_result"]) == {"auc", "logloss"}


def test_a_search_goes_by_the_metric_that_the_mode_gives(folder, capsys):
    """``run_hyper``'s plan, and RecBole's own HyperTuning."""
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning
    from test_search import hyper

    write_made(folder)
    (folder / "space.hyper").write_text("learning_rate choice [0.001,0.01]\n")
    asked = {"model": "BPR", "dataset": NAME, "epochs": 1, "threshold": {"rating": 3}, **LABELED}
    (folder / "fixed.yaml").write_text(json.dumps(asked | {"valid_metric": "LogLoss"}))
    code, out, err = hyper(
        capsys, "--model=BPR", f"--dataset={NAME}", "--params_file=space.hyper", "--dry_run",
        "--eval_args={mode: labeled}",
    )  # fmt: skip
    assert code == 0 and "auc" in out.lower(), err
    search = HyperTuning(objective_function, params_file="space.hyper", fixed_config_file_list=["fixed.yaml"])
    search.run()
    found = [result["best_valid_score"] for result in search.params2result.values()]
    assert len(found) == 2 and search.best_score == min(found)
    assert all(set(result["test_result"]) == {"auc", "logloss"} for result in search.params2result.values())


def test_labels_made_from_ratings_need_no_more_than_a_threshold(walk):
    rows = [(f"u{k % 20}", f"i{(3 * k) % 17}", 1 + k % 5) for k in range(300)]
    write_inter(walk / "dataset" / "rated" / "rated.inter", rows)
    text = (walk / "dataset" / "rated" / "rated.inter").read_text().replace("timestamp", "rating")
    (walk / "dataset" / "rated" / "rated.inter").write_text(text)
    found = recbole_scale.run("FM", "rated", config_dict={"threshold": {"rating": 3}, "epochs": 1})["test_result"]
    assert set(found) == {"auc", "logloss"} and 0 <= found["auc"] <= 1


FOLLOWS = [
    ("BPR", {"topk": [50, 100]}, "MRR@100"),
    ("BPR", {"topk": [5, 10]}, "MRR@10"),
    ("BPR", {"metrics": ["Recall"]}, "Recall@10"),
    ("BPR", {"metrics": ["GAUC"]}, "GAUC"),
    ("FM", {"metrics": ["LogLoss"]}, "LogLoss"),
    ("SASRec", {"topk": [3]}, "NDCG@3"),
]


@pytest.mark.parametrize(("model", "settings", "expected"), FOLLOWS)
def test_the_metric_that_chooses_follows_those_that_are_asked_for(folder, model, settings, expected):
    write_made(folder)
    assert make_config(model, NAME, config_dict=settings)["valid_metric"] == expected


@pytest.mark.parametrize("written", [-1, "-1"])
def test_gpu_id_of_minus_one_is_no_gpu(walk, monkeypatch, written):
    monkeypatch.setattr("recbole_scale.plugin.config._gpu_is_there", lambda: True)
    assert make_config("BPR", "walk", config_dict={"gpu_id": written})["device"].type == "cpu"
    assert make_config("BPR", "walk", config_dict={"gpu_id": "0"})["device"].type == "cuda"
