"""A plan says minutes: a few steps timed, the start and the evaluations counted."""

from __future__ import annotations

import pytest

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


def test_a_step_that_would_take_too_long_is_not_tried(walk, monkeypatch):
    monkeypatch.setattr(timing, "MOST_FLOPS", 1.0)
    text = recbole_scale.run("ScaledSASRec", "walk", config_dict=dict(QUICK), dry_run=True)["plan"]
    assert "not timed: one step alone" in text


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
