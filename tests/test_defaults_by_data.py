"""Defaults that the log decides: what the rule says, that the user's word wins, and that a run's id stays."""

from __future__ import annotations

import json

import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.data.defaults import by_data, sparseness
from recbole_scale.runs.run import make_config, prepare
from recbole_scale.settings import run_id
from recbole_scale.training.checkpoint import load_checkpoint

TINY = {"dropout_bottom": 0.1, "dropout_top": 0.1, "epochs": 30, "train_batch_size": 1024}
ML_1M, ML_100K, BEAUTY = (1_000_209, 6_040, 3_706), (100_000, 943, 1_682), (198_502, 22_363, 12_101)


def test_the_logs_of_the_evidence_get_what_was_best_there():
    assert sparseness(*ML_1M) == 0 and sparseness(*ML_100K) == pytest.approx(0, abs=0.01)
    assert by_data(TINY, {}, *ML_1M) == {} == by_data(TINY, {}, *ML_100K)
    assert by_data(TINY, {}, *BEAUTY) == {"dropout_bottom": 0.4, "dropout_top": 0.4, "epochs": 45}
    between = by_data(TINY, {}, 40_000, 1_000, 1_500)  # 32.7 interactions over sqrt(users x items)
    assert between == {"dropout_bottom": 0.24, "dropout_top": 0.24, "epochs": 37, "train_batch_size": 512}


def test_a_size_with_more_dropout_keeps_it_and_the_users_word_wins():
    small = {**TINY, "dropout_bottom": 0.45, "dropout_top": 0.15}
    assert by_data(small, {}, *BEAUTY) == {"dropout_top": 0.4, "epochs": 45}
    for key in ("dropout_bottom", "dropout_top", "dropout_rates", "hidden_dropout_prob"):
        assert by_data(TINY, {key: 0.1}, *BEAUTY) == {"epochs": 45}
    assert by_data(TINY, {"epochs": 30, "train_batch_size": 1024, "dropout_top": 0.1}, 900, 30, 30) == {}


def test_an_empty_or_tiny_log_is_no_error():
    for counts in ((0, 0, 0), (1, 1, 1), (3, 2, 2)):
        assert by_data(TINY, {}, *counts)["train_batch_size"] == 256


def test_a_run_takes_them_says_so_and_keeps_its_id(walk):
    settings = {**QUICK, "state": "error"}
    del settings["train_batch_size"]
    config = make_config("ScaledSASRec", "walk", config_dict=settings)
    before = run_id(config)
    prepared = prepare(config)
    assert run_id(config) == before
    assert config["dropout_bottom"] > 0.1 and prepared.train_data.token_budget == config["train_batch_size"] == 256
    plan = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert f"by data    dropout_bottom {config['dropout_bottom']:g} (not 0.1)" in plan
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = json.loads((walk / "results" / "runs.jsonl").read_text().splitlines()[-1])
    assert row["run_id"] == result["run_id"] == before
    assert row["by_data"] == {key: config[key] for key in ("dropout_bottom", "dropout_top", "train_batch_size")}
    assert load_checkpoint(result["checkpoint"])["config"]["dropout_bottom"] == config["dropout_bottom"]
    given = {**settings, "dropout_bottom": 0.1, "dropout_top": 0.1, "train_batch_size": 1024}
    assert "by data" not in recbole_scale.run("ScaledSASRec", "walk", config_dict=given, dry_run=True)["plan"]
