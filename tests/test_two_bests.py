"""A run keeps the best model by NLL and by ranking, tests both, and stops by what it says it stops by."""

from __future__ import annotations

import itertools
import json
import math
import os

import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import run_checkpoints
from recbole_scale.training.best import Best, Bests, ranking_metric
from recbole_scale.training.checkpoint import link_checkpoint, load_checkpoint
from recbole_scale.training.trainer import ScaledSASRecTrainer

# no dropout, 942 targets: NLL is best at the fourth epoch, NDCG at the eighth
UNEVEN = {**QUICK, "epochs": 10, "hidden_size": 32, "hidden_dropout_prob": 0.0, "learning_rate": 0.01,
          "train_batch_size": 64, "lr_schedule": "constant", "stopping_step": 100, "warmup_steps": 5}  # fmt: skip


def last_row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


def test_an_equal_metric_is_no_gain_and_nan_is_beaten():
    best = Best("ndcg@10", bigger=True)
    seen = [best.see(epoch, {"ndcg@10": score}) for epoch, score in enumerate((0.1, 0.1, 0.2, 0.2, 0.15, 0.2))]
    assert seen == [True, False, True, False, False, False]
    assert (best.epoch, best.score, best.waited) == (2, 0.2, 3)
    best.see(6, {"ndcg@10": 0.1}, counts=False)
    assert best.waited == 0
    loss = Best("nll", bigger=False)
    assert [loss.see(e, {"nll": v}) for e, v in enumerate((math.nan, 5.0, math.nan, 4.0))] == [True, True, False, True]


def test_which_metrics_choose():
    def kinds(valid_metric, bigger, metrics, topk=(5, 10)):
        return [(best.metric, best.bigger) for best in Bests(valid_metric, bigger, metrics, topk).all]

    assert kinds("NDCG@10", True, ["NDCG", "NLL"]) == [("ndcg@10", True), ("nll", False)]
    assert kinds("NLL", False, ["Recall", "NLL"], [20, 50]) == [("nll", False), ("recall@20", True)]
    assert kinds("NLL", False, ["NLL", "ItemCoverage"]) == [("nll", False)]
    assert kinds("MRR@5", True, ["MRR"]) == [("mrr@5", True)]
    assert ranking_metric(["ItemCoverage", "Hit", "MRR"], [3]) == "MRR@3"


@pytest.mark.parametrize(
    "settings, expected",
    [({}, "NDCG@10"), ({"topk": [7]}, "NDCG@7"), ({"metrics": ["NLL"]}, "NLL"), ({"valid_metric": "NLL"}, "NLL")],
)
def test_the_default_is_a_ranking_metric_that_is_measured(walk, settings, expected):
    config = make_config("ScaledSASRec", "walk", config_dict={**QUICK, **settings})
    assert config["valid_metric"] == expected and config["valid_metric_bigger"] == (expected != "NLL")


@pytest.mark.parametrize("valid_metric", ["NDCG@10", "NLL"])
def test_both_are_kept_tested_and_in_the_row(walk, valid_metric):
    settings = {**UNEVEN, "valid_metric": valid_metric}
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = last_row(walk)
    by_nll = min(row["evaluations"], key=lambda e: e["valid_nll"])["epoch"]
    by_rank = max(row["evaluations"], key=lambda e: e["valid_ndcg@10"])["epoch"]
    assert by_nll != by_rank, "the two must differ for this test to tell"
    assert (row["best_epoch_nll"], row["best_epoch_ranking"]) == (by_nll, by_rank)
    chosen, other = ("nll", "ranking") if valid_metric == "NLL" else ("ranking", "nll")
    assert row["best_epoch"] == row[f"best_epoch_{chosen}"] and row["valid_metric"] == valid_metric
    assert row["test_metrics"] == row[f"test_metrics_{chosen}"] != row[f"test_metrics_{other}"]
    assert row["test_nll"] == row["test_metrics_nll"]["nll"] == result["nll"]
    assert row["best_valid_nll"] == row["evaluations"][by_nll]["valid_nll"] <= row["best_valid_metrics"]["nll"]
    assert result["test_result"]["nll"] == row["test_metrics"]["nll"]
    config = make_config("ScaledSASRec", "walk", config_dict=settings)
    prepared = prepare(config)
    for path, kind in (
        (result["checkpoint"], chosen),
        (result["checkpoint"].replace(".best.", f".best-{other}."), other),
    ):
        trainer = ScaledSASRecTrainer(config, build_model(prepared))
        trainer.eval_collector.data_collect(prepared.train_data)
        assert load_checkpoint(path)["epoch"] == row[f"best_epoch_{kind}"]
        found = trainer.evaluate(prepared.test_data, model_file=path)
        assert dict(found) == pytest.approx(row[f"test_metrics_{kind}"], abs=1e-6)


def test_one_epoch_that_is_best_by_both_is_tested_once(walk, monkeypatch):
    calls = []
    original = ScaledSASRecTrainer.evaluate
    monkeypatch.setattr(
        ScaledSASRecTrainer, "evaluate", lambda self, data, **k: calls.append(k) or original(self, data, **k)
    )
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "epochs": 1})
    row = last_row(walk)
    assert len(calls) == 2  # valid, test
    assert row["test_metrics_nll"] == row["test_metrics_ranking"] == row["test_metrics"]


def test_a_run_stopped_between_the_two_files_ends_with_the_same_numbers(walk, monkeypatch):
    settings = {**UNEVEN, "epochs": 8}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    expected = last_row(walk)
    for path in walk.glob("saved/*"):
        path.unlink()

    class Stop(Exception):
        pass

    calls = itertools.count()

    def stop_sometimes(path, twin):
        at = next(calls)
        if at in (1, 4):
            raise Stop
        link_checkpoint(path, twin)
        if at in (2, 3):
            raise Stop

    monkeypatch.setattr(run_checkpoints, "link_checkpoint", stop_sometimes)
    stopped = 0
    while True:
        try:
            recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, resume="auto")
            break
        except Stop:
            stopped += 1
    assert stopped >= 2
    found = last_row(walk)
    for name in ("test_metrics", "test_metrics_nll", "test_metrics_ranking", "best_epoch_nll", "best_epoch_ranking"):
        assert found[name] == expected[name], name


def test_a_link_is_a_copy_that_later_writes_leave_alone(tmp_path, monkeypatch):
    ours, twin = tmp_path / "a.best.pth", tmp_path / "a.best-nll.pth"
    for linked in (True, False):
        ours.write_bytes(b"one")
        link_checkpoint(str(ours), str(twin))
        link_checkpoint(str(ours), str(twin))  # two names of one file already
        (tmp_path / "new").write_bytes(b"two")
        os.replace(tmp_path / "new", ours)
        assert (ours.read_bytes(), twin.read_bytes()) == (b"two", b"one"), linked
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.best-nll.pth", "a.best.pth"]

        def no_links(*a):
            raise OSError(95, "no links here")

        monkeypatch.setattr(os, "link", no_links)


def test_a_run_stops_at_as_many_evaluations_without_a_gain_as_it_says(walk):
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**UNEVEN, "epochs": 40, "stopping_step": 2})
    row = last_row(walk)
    assert row["epochs"] == row["best_epoch"] + 1 + 2 < 40


def test_wsd_decays_where_it_would_have_stopped(walk):
    settings = {**UNEVEN, "epochs": 60, "stopping_step": 2, "lr_schedule": "wsd"}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = last_row(walk)
    log = next((walk / "log").rglob("*.log")).read_text()
    assert "for 2 evaluations since epoch" in log and "the learning rate falls from here on" in log
    losses = [e["train_nll"] for e in row["evaluations"]]
    assert row["epochs"] < 60 and min(losses) == losses[-1]  # the decay went on to its end and the loss fell with it
