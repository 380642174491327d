"""A plan says minutes: a few steps timed, the start and the evaluations counted."""

from __future__ import annotations

import pytest
from recbole_data import NAME, settings_of, write_made

import recbole_scale
from recbole_scale.runs import timing
from recbole_scale.runs.timing import Speed
from recbole_scale.sweep.sweep import Point, seconds_left

QUICK = {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10, "topk": [5], "epochs": 7}


def test_a_dry_run_says_minutes_and_what_they_are_made_of(walk):
    text = recbole_scale.run("ScaledSASRec", "walk", config_dict=dict(QUICK), dry_run=True)["plan"]
    line = next(line for line in text.splitlines() if line.startswith("  time "))
    for part in ("about", "on this machine", "start", "7 epochs of", "ranking", "timed on 3 steps"):
        assert part in line


def test_long_steps_are_timed_once(walk, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0.0)
    text = recbole_scale.run("ScaledSASRec", "walk", config_dict=dict(QUICK), dry_run=True)["plan"]
    assert text.splitlines()[-1].endswith("; timed on 1 step)")


def test_a_step_that_would_take_too_long_is_not_tried(walk, monkeypatch):
    monkeypatch.setattr(timing, "MOST_FLOPS", 1.0)
    text = recbole_scale.run("ScaledSASRec", "walk", config_dict=dict(QUICK), dry_run=True)["plan"]
    assert "not timed: one step alone" in text


KINDS = ["BPR", "CKE", "DIN", "GRU4Rec", "MKR", "NCL", "Pop", "RecVAE", "S3Rec", "XGBoost"]  # a trainer or loader each


@pytest.mark.parametrize("model", KINDS)
def test_a_dry_run_of_recboles_models_says_minutes_too_and_leaves_no_folder(folder, model):
    write_made(folder)
    settings = {**settings_of(model), "state": "error", "epochs": 7, "checkpoint_dir": "saved"}
    line = recbole_scale.run(model, NAME, config_dict=settings, dry_run=True)["plan"].splitlines()[-1]
    if model == "XGBoost":
        assert line == "  time       not timed: trees grow in whole rounds"
        return
    epochs = {"Pop": "1 epoch of", "S3Rec": "1 epoch of"}.get(model, "7 epochs of")  # RecBole's; its pre-training
    assert line.startswith("  time       about ") and "timed on 3 steps" in line and epochs in line
    assert ("ranking" in line) == (model != "S3Rec")
    assert not list(folder.glob("log_tensorboard*")) and not list(folder.glob("saved/*"))


def test_a_pass_is_its_median_step_times_its_steps(monkeypatch):
    """Six batches of 9 (the first, which warms up), 1, 2, 4, ... seconds: three are timed, and all six counted."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "MOST_SECONDS", 100.0)
    batches = timing._FirstBatches([9.0, 1.0, 2.0, 4.0, 50.0, 50.0])
    for _ in range(2):  # as RecVAE goes over its data several times an epoch
        for seconds in batches:
            now[0] += seconds
    assert batches.passes == [6 * 2.0, 6 * 2.0]
    monkeypatch.setattr(timing, "MOST_SECONDS", 5.0)
    short = timing._FirstBatches([9.0, 1.0])
    for seconds in short:  # one step was long enough
        now[0] += seconds
    assert short.passes == [2 * 9.0]


def test_the_whole_is_start_epochs_and_rankings(walk, monkeypatch):
    monkeypatch.setattr(timing, "_age", lambda: 10.0)
    monkeypatch.setattr(timing, "_measure_trainer", lambda prepared, network: (100, 5.0, 2.0))
    settings = {**QUICK, "eval_step": 4, "stopping_step": 0}
    plan = recbole_scale.run("GRU4Rec", "walk", config_dict=settings, dry_run=True)["plan"]
    told = "about 9 min on this machine (start 10 s, 100 epochs of 5 s, ranking 2 s each; timed on 3 steps)"
    assert plan.endswith(f"  time       {told}")  # 10 + 100 x 5 + (25 + 1) x 2 = 562 s
    settings["stopping_step"] = 10
    plan = recbole_scale.run("GRU4Rec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert plan.endswith(f"  time       at most {told}")


def test_the_time_of_a_run_by_hand():
    assert Speed(per_target=0.01, per_user=0.1, start=4.0).seconds(targets=100, epochs=3, users=10) == pytest.approx(
        11.0
    )


def test_a_sweeps_estimate_counts_start_and_evaluation():
    """Of 21 s that a run took one was training: three more such runs take 63 s and not 3."""
    row = {"flops_per_interaction": 1e3, "flops_total": 1e6, "seconds_train": 1.0, "seconds_total": 21.0, "threads": 2,
           "epochs": 10}  # fmt: skip
    point = Point("x", "d", {}, (), "id", 100, targets=100, epochs=10, flops=1e6)
    assert seconds_left([point] * 3, [row], 2) == pytest.approx(63.0)
    twice = Point("x", "d", {}, (), "id", 100, targets=100, epochs=20, flops=2e6)
    assert seconds_left([twice], [row], 2) == pytest.approx(42.0)
