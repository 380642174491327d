"""Losses that are not finite, and spikes: steps left out, returns to the last good checkpoint, never a bad one."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.training.checkpoint import load_checkpoint
from recbole_scale.training.guard import MAX_ROLLBACKS, Guard
from recbole_scale.training.optimizers import build_optimizer, guarded_step
from recbole_scale.training.trainer import ScaledSASRecTrainer

SMALL = {**QUICK, "train_batch_size": 64, "save_step": 4}


def last_row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


@pytest.fixture
def poison(monkeypatch):
    """Multiply the loss by NaN (or another factor) wherever a function of the trainer says so."""

    def install(factor):
        loss, step = ScaledSASRec.calculate_loss, ScaledSASRecTrainer._train_step

        def calculate_loss(self, interaction):
            return loss(self, interaction) * getattr(self, "factor", 1.0)

        def train_step(self, *arguments):
            self.model.factor = factor(self)
            step(self, *arguments)

        monkeypatch.setattr(ScaledSASRec, "calculate_loss", calculate_loss)
        monkeypatch.setattr(ScaledSASRecTrainer, "_train_step", train_step)

    return install


def test_spikes_are_measured_against_the_running_median():
    rng, guard, losses = np.random.default_rng(0), Guard(1.5), []
    expected, was_high = 0, False
    for step in range(400):
        loss = float(rng.uniform(4, 6)) * (2 if step in (5, 50, 51, 52, 200, 399) else 1)
        remark = guard.see(loss, 1.0)
        high = len(losses) >= 20 and loss > 1.5 * np.median(losses[-100:])
        started = high and not was_high
        assert (remark is not None) == started, step
        expected += started
        was_high = high
        losses.append(loss)
    assert guard.spikes == expected == 3  # 5 is too early; 50 to 52 are one
    silent = Guard(None)
    assert not any(silent.see(value, 1.0) for value in [1.0] * 30 + [100.0])


def test_bad_losses_and_norms_count_and_a_good_one_ends_the_row():
    guard = Guard(2.0)
    assert "not finite" in guard.see(float("nan"), 1.0)
    assert "2 in a row" in guard.see(5.0, float("inf"))
    assert not guard.must_go_back() and guard.see(5.0, 1.0) is None and guard.in_a_row == 0
    for _ in range(3):
        guard.see(math.inf, 1.0)
    assert guard.must_go_back() and guard.skipped_steps == 5 and guard.recent == [5.0]
    before = guard.state_dict()
    other = Guard(2.0)
    other.went_back(before)
    assert (other.skipped_steps, other.rollbacks, other.rate_factor, other.in_a_row) == (5, 1, 0.5, 0)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("learner", ["adamw", "adam", "sgd", "adagrad", "rmsprop"])
def test_a_step_left_out_changes_neither_weights_nor_state(learner, wait):
    """With and without the host waiting, also as the very first step; the steps after it are those of a plain run."""
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2)]
    models.append(copy.deepcopy(models[0]))
    guarded, plain = (build_optimizer(model, learner, 0.1, 0.01) for model in models)
    for number, good in enumerate((False, True, False, False, True)):
        gradients = [torch.randn_like(p) for p in models[0].parameters()]
        for model in models:
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient if good else torch.full_like(p, float("nan"))
        before = copy.deepcopy((models[0].state_dict(), guarded.state_dict()["state"])) if number else None
        guarded_step(guarded, torch.tensor(good), wait)
        if good:
            plain.step()
        elif before:
            torch.testing.assert_close((models[0].state_dict(), guarded.state_dict()["state"]), before, atol=0, rtol=0)
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(p, q), number


def test_one_bad_step_is_left_out_and_logged(walk, poison):
    poison(lambda trainer: float("nan") if trainer.global_step == 4 else 1.0)
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**SMALL, "seed": 5})
    row = last_row(walk)
    assert (row["skipped_steps"], row["rollbacks"]) == (1, 0)
    assert all(math.isfinite(e["train_nll"]) for e in row["evaluations"])
    log = next((walk / "log").rglob("*.log")).read_text()
    assert re.search(r"epoch 0, batch 4 of \d+ \(step 4\): loss nan", log)


def test_three_in_a_row_go_back_and_halve_the_rate(walk, poison, monkeypatch):
    poison(lambda trainer: float("nan") if trainer.global_step in (10, 11, 12) and trainer.guard.rollbacks < 2 else 1.0)
    saved, rates = [], {}
    save, step = ScaledSASRecTrainer._save_last, ScaledSASRecTrainer._train_step

    def save_and_check(self, epoch, at):
        save(self, epoch, at)
        state = load_checkpoint(self.last_file)
        assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
        saved.append((epoch, at, state["progress"]["guard"]["rate_factor"]))

    def note_rate(self, *arguments):
        step(self, *arguments)
        rates.setdefault(self.global_step - 1, []).append(self.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save_and_check)
    monkeypatch.setattr(ScaledSASRecTrainer, "_train_step", note_rate)
    recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)
    row = last_row(walk)
    assert (row["skipped_steps"], row["rollbacks"]) == (6, 2)
    assert saved[:5] == [(0, 0, 1.0), (0, 4, 1.0), (0, 8, 1.0), (0, 8, 0.5), (0, 8, 0.25)]
    assert rates[8] == pytest.approx([rates[8][0] / k for k in (1, 2, 4)]) and len(rates[7]) == 1
    assert row["epochs"] == 2 and row["interactions_seen"] == 2 * 942
    log = next((walk / "log").rglob("*.log")).read_text()
    assert "back to batch 8 of epoch 0 with the learning rate x 0.5 (return 1 of at most 5)" in log


def test_looking_at_the_losses_late_gives_the_same_run(walk, poison, monkeypatch):
    """As on a GPU, where the device leaves bad steps out and the host reads the losses every so many steps."""
    bad = {3, 10, 11, 12, 30}
    poison(lambda trainer: float("nan") if trainer.global_step in bad and trainer.guard.rate_factor == 1 else 1.0)
    results = []
    for number, look_every in enumerate((1, 7)):
        module = sys.modules["recbole_scale.training.trainer"]
        original = ScaledSASRecTrainer.__init__

        def with_interval(self, *arguments, original=original, look_every=look_every):
            original(self, *arguments)
            self.losses.look_every = look_every

        monkeypatch.setattr(ScaledSASRecTrainer, "__init__", with_interval)
        monkeypatch.setattr(module, "guarded_step", lambda o, good, wait, late=number: guarded_step(o, good, not late))
        settings = {**SMALL, "save_step": 6, "checkpoint_dir": f"saved{number}"}
        results.append(recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)["test_result"])
        row = last_row(walk)
        assert (row["skipped_steps"], row["rollbacks"]) == (4, 1)
    assert results[0] == results[1]


def test_a_loss_that_stays_bad_ends_in_one_sentence_with_a_good_checkpoint(walk, poison):
    poison(lambda trainer: float("inf") if trainer.global_step > 5 else 1.0)
    with pytest.raises(
        UserError, match=rf"not finite 3 steps in a row .* after {MAX_ROLLBACKS} returns .* lower learn"
    ):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)
    state = load_checkpoint(next(walk.glob("saved/*.last.pth")))
    assert state["progress"]["global_step"] == 4 and state["progress"]["guard"]["rollbacks"] == MAX_ROLLBACKS
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_without_checkpoints_there_is_nothing_to_go_back_to(walk, poison):
    poison(lambda trainer: float("nan") if trainer.global_step > 5 else 1.0)
    with pytest.raises(UserError, match="nothing to go back to"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL, saved=False)


def test_weights_that_are_not_finite_are_never_written(walk, monkeypatch):
    """A last step of an epoch can break the weights without a bad loss; the epoch is then trained again."""
    step, broken = ScaledSASRecTrainer._train_step, []

    def break_once(self, *arguments):
        step(self, *arguments)
        if self.global_step == self.steps_per_epoch and not broken:
            broken.append(1)
            self.model.final_norm.weight.data[0] = float("inf")

    monkeypatch.setattr(ScaledSASRecTrainer, "_train_step", break_once)
    recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)
    row = last_row(walk)
    assert broken and (row["skipped_steps"], row["rollbacks"], row["epochs"]) == (0, 1, 2)
    for path in walk.glob("saved/*.pth"):
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["state_dict"].values())


def test_a_run_stopped_after_a_return_keeps_the_lower_rate(walk, poison, monkeypatch):
    poison(lambda trainer: float("nan") if trainer.global_step in (10, 11, 12) and trainer.guard.rollbacks < 1 else 1.0)
    expected = recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)["test_result"]
    for path in walk.glob("saved/*"):
        path.unlink()
    save = ScaledSASRecTrainer._save_last

    class Stop(Exception):
        pass

    def save_then_stop(self, epoch, at):
        save(self, epoch, at)
        if self.guard.rollbacks:
            raise Stop

    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save_then_stop)
    with pytest.raises(Stop):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)
    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save)
    assert recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL, resume="auto")["test_result"] == expected
    assert (last_row(walk)["skipped_steps"], last_row(walk)["rollbacks"]) == (3, 1)


def test_spikes_of_a_run_are_logged_and_counted(walk, poison):
    poison(lambda trainer: 3.0 if trainer.global_step == 30 else 1.0)
    recbole_scale.run("ScaledSASRec", "walk", config_dict=SMALL)
    row = last_row(walk)
    assert (row["spikes"], row["skipped_steps"]) == (1, 0)
    log = next((walk / "log").rglob("*.log")).read_text()
    assert re.search(r"epoch 1, batch \d+ of \d+ \(step 30\): loss .* is a spike: [23]\.\d+ x the median", log)


ONE_RANK_IS_BAD = """
import sys, torch
import recbole_scale
from recbole_scale import cli
from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.training import group
from recbole_scale.training.trainer import ScaledSASRecTrainer as Trainer
loss, step, fit = ScaledSASRec.calculate_loss, Trainer._train_step, Trainer.fit
ScaledSASRec.calculate_loss = lambda self, batch: loss(self, batch) * self.factor
def train_step(self, *a):
    bad = group.rank() == 1 and self.global_step in (2, 10, 11, 12) and self.guard.rollbacks == 0
    self.model.factor = float("nan") if bad else 1.0
    step(self, *a)
def fit_and_compare(self, *a, **k):
    result = fit(self, *a, **k)
    mine = [(self.guard.state_dict(), {n: p.tolist() for n, p in self.model.state_dict().items()})]
    assert all(other == mine for other in group.gather(mine))
    return result
Trainer._train_step, Trainer.fit = train_step, fit_and_compare
if __name__ == "__main__":
    sys.exit(cli.run_recbole_command())
"""


def test_all_processes_decide_the_same_when_one_has_a_bad_loss(tmp_path):
    write_inter(tmp_path / "dataset" / "walk" / "walk.inter", walk_rows())
    (tmp_path / "bad.py").write_text(ONE_RANK_IS_BAD)
    arguments = [f"--{k}={v}" for k, v in {**SMALL, "model": "ScaledSASRec", "dataset": "walk"}.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "bad.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr[:6000]
    row = last_row(tmp_path)
    assert (row["processes"], row["skipped_steps"], row["rollbacks"]) == (2, 4, 1)
