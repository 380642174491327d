"""What RecBole's models and metrics need of settings and data is said in one sentence, and what follows is followed."""

from __future__ import annotations

import pytest
from conftest import write_inter
from recbole_data import NAME, settings_of, write_made

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.runs.run import make_config

RATED = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
VALUES = {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
NONE, DYNAMIC = {"train_neg_sample_args": None}, {"train_neg_sample_args": {
    "distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 2}}  # fmt: skip
NO_DRAWS = "learns from items that a user has not taken beside those taken, but train_neg_sample_args draws none"
SAID = [
    ("DeepFM", {"threshold": None}, "DeepFM learns labels, but the interactions of 'made' have no column 'label'"),
    ("XGBoost", {"threshold": None}, "XGBoost learns labels"),
    ("BPR", VALUES | RATED, "eval_args.mode labeled measures labels, but the interactions of 'made' have no column"),
    ("ScaledSASRec", VALUES | RATED, "ScaledSASRec ranks items and knows no labels"),
    ("GRU4Rec", {"eval_args": {"mode": "labeled"}, "metrics": ["NDCG"]}, "NDCG ranks items, but eval_args.mode is"),
    ("DeepFM", {"metrics": ["GAUC"], "valid_metric": "GAUC"}, "GAUC ranks items, but eval_args.mode is"),
    ("BPR", NONE, f"BPR {NO_DRAWS}"),
    ("NeuMF", NONE, f"NeuMF {NO_DRAWS}"),
    ("KGCN", NONE, f"KGCN {NO_DRAWS}"),
    ("SASRec", NONE | {"loss_type": "BPR"}, f"SASRec {NO_DRAWS}"),
    ("MultiVAE", DYNAMIC, "MultiVAE trains on whole users: train_neg_sample_args.dynamic"),
    ("NCL", {"num_clusters": 1000}, "num_clusters is 1000, but must be at most 31 for 'made'"),
    ("SASRecCPR", {"reranker_CAN_NUM": "50,20"}, "reranker_CAN_NUM is 50,20, but must be at most 31 for 'made'"),
    ("DGCF", {"train_batch_size": 4096}, "a train_batch_size below 4096 draws fewer"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "settings", "says"), SAID)
def test_what_a_model_lacks_is_said_before_it_trains(folder, model, settings, says):
    write_made(folder)
    with pytest.raises(UserError) as told:
        recbole_scale.run(model, NAME, config_dict=settings_of(model) | settings)
    assert says in str(told.value) and not (folder / "results").exists()


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
