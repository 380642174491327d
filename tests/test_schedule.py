"""The learning rate over a phase, and when running out of patience ends it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbole_scale.training.schedule import Schedule, decay_start


def test_each_schedule_is_its_formula():
    steps, total, warmup = np.arange(200), 160, 20
    rising = (steps + 1) / warmup
    done = np.clip((steps - warmup) / (total - warmup), 0, 1)
    falling = np.clip((steps - 120) / 40, 0, 1)  # a quarter of 160
    expected = {
        "constant": np.ones(200),
        "cosine": 0.1 + 0.9 * (1 + np.cos(np.pi * done)) / 2,
        "wsd": 0.1 + 0.9 * (1 - np.sqrt(falling)),
    }
    for kind, after in expected.items():
        schedule = Schedule(kind, warmup, 0.1, 0.25)
        found = [schedule.factor(int(step), total) for step in steps]
        np.testing.assert_allclose(found, np.where(steps < warmup, rising, after), rtol=1e-12)


def test_patience_waits_for_the_rate_to_fall():
    constant, cosine, wsd = (Schedule(kind, 20, 0.1, 0.25) for kind in ("constant", "cosine", "wsd"))
    assert constant.out_of_patience(0, 160) == "stop"
    assert [cosine.out_of_patience(step, 160) for step in (0, 89, 90, 159)] == ["wait", "wait", "stop", "stop"]
    assert cosine.factor(90, 160) == pytest.approx(0.55)  # half of the fall from 1 to 0.1
    assert [wsd.out_of_patience(step, 160) for step in (0, 119, 120, 159)] == ["decay", "decay", "wait", "wait"]


def test_a_stop_starts_the_decay_and_the_decay_has_its_share_of_the_shorter_run():
    schedule = Schedule("wsd", 5, 0.0, 0.2)
    assert schedule.start_decay(80, steps_per_epoch=10, epochs_done=8, epochs=50) == 10  # 2 of 10 epochs decay
    assert [schedule.factor(step, 500) for step in (79, 80, 90, 100)] == [1, 1, pytest.approx(1 - math.sqrt(0.5)), 0]
    assert schedule.out_of_patience(80, 500) == "wait"
    again = Schedule("wsd", 5, 0.0, 0.2)
    again.load_state_dict(schedule.state_dict())
    assert again.factor(90, 500) == schedule.factor(90, 500)
    assert Schedule("wsd").start_decay(10, 10, epochs_done=1, epochs=2) == 2  # never beyond the end


def test_the_warm_up_is_at_most_a_tenth_of_the_steps():
    assert [Schedule("cosine", None).warmup_of(total) for total in (5, 120, 2000, 10**6)] == [0, 12, 200, 200]
    short = Schedule("constant", None)
    assert [short.factor(step, 120) for step in (0, 5, 11, 12)] == [1 / 12, 0.5, 1, 1]
    assert Schedule("constant", 60).factor(29, 120) == 0.5  # a number that is given is taken


@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_a_run_of_any_length_has_a_decay(total):
    assert 0 <= decay_start(total, 0.2) == total - max(1, round(0.2 * total)) < total
