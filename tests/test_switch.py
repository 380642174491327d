"""The optimizer switch: when it happens, what SGD starts from, that nothing else changes, and resume on both sides."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.settings import ScaledSASRecSettings
from recbole_scale.settings.keys import LEARNERS
from recbole_scale.training.checkpoint import load_checkpoint
from recbole_scale.training.optimizers import KERNELS, build_optimizer
from recbole_scale.training.switching import Switch
from recbole_scale.training.trainer import ScaledSASRecTrainer

SMALL = {**QUICK, "train_batch_size": 64, "warmup_steps": 5, "learning_rate": 0.01, "valid_metric": "NLL"}
FORCED = {**SMALL, "epochs": 4, "switch_at_epoch": 2, "sgd_epochs": 3, "save_step": 7, "sgd_lr_schedule": "cosine",
          "sgd_learning_rate": 0.1}  # fmt: skip


def last_row(folder: Path):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


def curve(row):
    return [{k: v for k, v in e.items() if k != "targets_per_second"} for e in row["evaluations"]]


def rule(**changes):
    settings = {"epochs": 9, "optimizer_switch": True, "switch_patience": 2, "switch_at_epoch": None, "sgd_epochs": 5,
                "stopping_step": 4, "sgd_learning_rate": 0.1, "sgd_momentum": 0.9}  # fmt: skip
    return Switch.from_config({**settings, **changes})


def test_the_three_reasons_to_switch():
    patient = rule()
    assert patient.reason(4, False, 1, 2, "nll") is None
    assert patient.reason(10, True, 2, 7, "nll") == "no better nll for 2 evaluations since epoch 7"
    assert patient.reason(9, False, 1, 7, "nll") == "epochs of the first phase used up"
    assert patient.first_phase_patience(4) == 2
    forced = rule(switch_at_epoch=3, optimizer_switch=False)
    assert forced.on and forced.first_phase_patience(4) == float("inf")
    assert [forced.reason(e, False, 9, 0, "nll") for e in (2, 3)] == [None, "switch_at_epoch 3"]
    assert rule(switch_patience=None).first_phase_patience(4) == 4  # where early stopping would stop
    off = rule(optimizer_switch=False)
    assert off.first_phase_patience(4) == 4 and off.reason(9, True, 5, 0, "nll") is None


@pytest.mark.parametrize(
    "mistake, says",
    [
        ({"switch_at_epoch": 0}, "switch_at_epoch is 0, but must be a whole number from 1, or empty"),
        ({"switch_at_epoch": 10}, "switch_at_epoch is 10"),
        ({"switch_patience": 0}, "switch_patience is 0"),
        ({"sgd_epochs": "all"}, "sgd_epochs is 'all'"),
        ({"sgd_learning_rate": -1}, "sgd_learning_rate is -1"),
        ({"sgd_momentum": 1}, "sgd_momentum is 1"),
    ],
)
def test_mistakes_are_found_before_training(mistake, says):
    with pytest.raises(UserError, match=says):
        ScaledSASRecSettings.read({"epochs": 9, **mistake})


def test_the_first_phase_is_the_run_without_the_switch_bit_for_bit(walk):
    settings = {**SMALL, "epochs": 8, "stopping_step": 2, "learning_rate": 0.05, "lr_schedule": "constant"}
    plain = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    without = last_row(walk)
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "optimizer_switch": True, "sgd_epochs": 2})
    row = last_row(walk)
    first, second = row["phases"]
    assert curve(row)[: len(curve(without))] == curve(without)
    assert (first["phase"], first["optimizer"], first["reason"]) == ("adam", "adamw", "start")
    assert first["best_valid_nll"] == without["best_valid_nll"] and first["best_epoch"] == without["best_epoch"]
    assert second["first_epoch"] == without["epochs"]
    assert re.fullmatch(
        r"no better nll for 2 evaluations since epoch \d+|epochs of the first phase used up", second["reason"]
    )
    assert [e["phase"] for e in row["evaluations"]][without["epochs"] :] == ["sgd"] * (
        row["epochs"] - without["epochs"]
    )
    assert row["best_valid_nll"] == second["best_valid_nll"] <= first["best_valid_nll"]
    kept = load_checkpoint(next(walk.glob("saved/*.phase1.best.pth")))["state_dict"]
    for name, value in load_checkpoint(plain["checkpoint"])["state_dict"].items():
        assert torch.equal(kept[name], value)


def test_patience_counts_evaluations_without_a_gain(walk):
    settings = {**SMALL, "epochs": 30, "learning_rate": 0.1, "lr_schedule": "constant", "switch_patience": 2}
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "optimizer_switch": True, "sgd_epochs": 1})
    row = last_row(walk)
    first, second = row["phases"]
    assert second["reason"] == f"no better nll for 2 evaluations since epoch {first['best_epoch']}"
    assert second["first_epoch"] == first["best_epoch"] + 3 < 30


def test_sgd_ends_when_it_has_converged_in_its_turn(walk):
    settings = {**SMALL, "switch_at_epoch": 2, "sgd_epochs": 30, "sgd_learning_rate": 5.0, "stopping_step": 2}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = last_row(walk)
    best = row["phases"][1]["best_epoch"]  # too high a rate: soon nothing is gained
    assert row["epochs"] == best + 1 + 2 < 2 + 30
    log = next((walk / "log").rglob("*.log")).read_text()
    assert f"stopped early: no better nll since epoch {best}" in log


def test_sgd_starts_from_the_best_model_and_is_torchs_sgd(walk):
    """Against a plain torch loop over the same batches: weights after the second phase."""
    settings = {**SMALL, "epochs": 2, "hidden_dropout_prob": 0.0, "switch_at_epoch": 2, "sgd_epochs": 2,
                "sgd_learning_rate": 0.02, "sgd_momentum": 0.8, "clip_grad_norm": None}  # fmt: skip
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    last = load_checkpoint(next(p for p in walk.glob("saved/*.last.pth") if "phase1" not in p.name))
    assert [e["epoch"] for e in last["progress"]["evaluations"]] == [0, 1, 2, 3]
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=settings))
    model = build_model(prepared)
    model.load_state_dict(load_checkpoint(next(walk.glob("saved/*.phase1.best.pth")))["state_dict"])
    reference = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.8, foreach=False)
    for epoch in (2, 3):
        prepared.train_data.set_epoch(epoch)
        for batch in prepared.train_data:
            reference.zero_grad()
            model.calculate_loss(batch).backward()
            reference.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(last["state_dict"][name], value, atol=1e-5, rtol=1e-4)


def test_log_tensorboard_and_checkpoint_tell_the_phase_and_the_reason(walk):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recbole_scale.run("ScaledSASRec", "walk", config_dict=FORCED)
    text = next((walk / "log").rglob("*.log")).read_text()
    assert re.search(r"epoch   1  train NLL .* adam lr ", text) and re.search(r"epoch   2  train NLL .* sgd lr ", text)
    assert re.search(
        r"epoch   2  switched from adamw to sgd, on from the best model, of epoch 1: switch_at_epoch 2", text
    )
    events = EventAccumulator(str(next((walk / "log_tensorboard").iterdir())))
    events.Reload()
    assert [point.value for point in events.Scalars("Phase")] == [1, 1, 2, 2, 2]
    assert b"switch_at_epoch 2" in events.Tensors("Phase/text_summary")[0].tensor_proto.string_val[0]
    files = {p.name.split(".", 1)[1]: load_checkpoint(p) for p in walk.glob("saved/*.pth")}
    models = {"best.pth", "best-ranking.pth", "last.pth"}
    assert set(files) == models | {f"phase1.{name}" for name in models}
    assert [p["phase"] for p in files["last.pth"]["progress"]["optimization"]["phases"]] == ["adam", "sgd"]
    assert files["last.pth"]["progress"]["optimization"]["phases"] == last_row(walk)["phases"]
    first = next(iter(files["phase1.last.pth"]["optimizer"]["state"].values()))
    second = next(iter(files["last.pth"]["optimizer"]["state"].values()))
    assert "exp_avg" in first and set(second) == {"momentum_buffer"}  # both optimizers' state


KILLED = """
import os, signal, sys
from recbole_scale import cli
from recbole_scale.training.run_checkpoints import RunCheckpoints
from recbole_scale.training.trainer import ScaledSASRecTrainer
name, at, after = sys.argv.pop(1).split(",")
hooks = RunCheckpoints if name == "keep_first_phase" else ScaledSASRecTrainer
original, calls = getattr(hooks, name), []
def hooked(self, *a, **k):
    if hooks is RunCheckpoints or self.second_phase:
        calls.append(1)
    if len(calls) == int(at) and after == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(self, *a, **k)
    if len(calls) == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(hooks, name, hooked)
sys.exit(cli.run_recbole_command())
"""
PLACES = [
    "keep_first_phase,1,before",  # the switch is due, nothing of it is written
    "keep_first_phase,1,after",  # the first phase's copies are written, the switch is not
    "_save_last,1,before",  # the model is switched in memory only
    "_save_last,1,after",  # the switch is written, no step of SGD taken
    "_train_step,3,after",  # SGD's first epoch, before a checkpoint of it
    "_save_checkpoint,1,after",  # SGD's first better model is written, the epoch is not
    "_save_last,4,after",  # within SGD's first epoch or at its end
]


def test_kill_9_around_the_switch_and_resume_auto_gives_the_same_numbers(tmp_path):
    arguments = [f"--{k}={v}" for k, v in {**FORCED, "model": "ScaledSASRec", "dataset": "walk"}.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder, *more, code=(sys.executable, "-m", "recbole_scale")):
        return subprocess.run([*code, *more, *arguments], cwd=folder, capture_output=True, text=True, env=environment)

    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows())
    assert start(folders[0]).returncode == 0
    (tmp_path / "killed.py").write_text(KILLED)
    for place in PLACES:  # each run goes on from where the one before was killed
        done = start(folders[1], place, "--resume=auto", code=(sys.executable, str(tmp_path / "killed.py")))
        assert done.returncode == -signal.SIGKILL, (place, done.stderr[-1500:])
    done = start(folders[1], "--resume=auto")
    assert done.returncode == 0, done.stderr[-2000:]
    whole, killed = (last_row(folder) for folder in folders)
    assert curve(killed) == curve(whole)
    for name in ("test_metrics", "best_valid_metrics", "best_epoch", "interactions_seen", "run_id", "phases"):
        assert killed[name] == whole[name], name
    files = [{p.name: load_checkpoint(p)["state_dict"] for p in folder.glob("saved/*.pth")} for folder in folders]
    assert len(files[0]) == 6 and files[0].keys() == files[1].keys()
    for name, state in files[0].items():
        for key, value in state.items():
            assert torch.equal(files[1][name][key], value), (name, key)


def test_the_second_phase_can_be_tried_again_from_the_end_of_the_first(walk):
    recbole_scale.run("ScaledSASRec", "walk", config_dict=FORCED)
    first = last_row(walk)
    kept = str(next(walk.glob("saved/*.phase1.last.pth")))
    again = {**FORCED, "sgd_learning_rate": 0.01}
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=again, resume=kept)
    row = last_row(walk)
    assert curve(row)[:2] == curve(first)[:2] and curve(row)[2] != curve(first)[2]
    assert [p["learning_rate"] for p in row["phases"]] == [0.01, 0.01] and first["phases"][1]["learning_rate"] == 0.1
    fresh_settings = {**again, "checkpoint_dir": "other"}
    assert recbole_scale.run("ScaledSASRec", "walk", config_dict=fresh_settings)["test_result"] == result["test_result"]


def test_a_finished_run_can_be_given_the_switch_afterwards(walk):
    plain = recbole_scale.run("ScaledSASRec", "walk", config_dict={**SMALL, "epochs": 2})
    path = plain["checkpoint"].replace(".best.", ".last.")
    switched = {**SMALL, "epochs": 2, "optimizer_switch": True, "sgd_epochs": 1}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=switched, resume=path)
    assert [p["first_epoch"] for p in last_row(walk)["phases"]] == [0, 2]


def test_without_checkpoints_the_best_weights_are_kept_in_memory(walk):
    settings = {**FORCED, "learning_rate": 0.1, "epochs": 5, "switch_at_epoch": 5, "lr_schedule": "constant"}

    def curve(saved: bool, seed: int) -> tuple[list[float], int]:
        config = make_config("ScaledSASRec", "walk", config_dict={**settings, "seed": seed})
        prepared = prepare(config)
        trainer = ScaledSASRecTrainer(config, build_model(prepared))
        trainer.fit(prepared.train_data, prepared.valid_data, saved=saved)
        return [e["valid_nll"] for e in trainer.evaluations], trainer.phases[0]["best_epoch"]

    # which epoch is best hangs on rounding; a test that tells needs one before the last
    seed, kept = next((seed, found) for seed in range(10) if (found := curve(False, seed))[1] < 4)
    assert curve(True, seed) == kept


def test_without_evaluations_the_switch_goes_on_from_the_last_weights(walk):
    settings = {**SMALL, "epochs": 2, "optimizer_switch": True, "sgd_epochs": 2, "eval_step": 0}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = last_row(walk)
    assert row["epochs"] == 4 and row["phases"][1]["reason"] == "epochs of the first phase used up"
    assert row["phases"][1]["best_epoch"] is None
    losses = [e["train_nll"] for e in row["evaluations"]]
    assert losses[2] < losses[0]


@pytest.mark.parametrize("learner", LEARNERS)
def test_one_kernel_updates_many_tensors(learner):
    """SGD in bfloat16 on a CPU goes without torch's fused kernel, which would leave most weights as they are."""
    for dtype in (torch.float32, torch.bfloat16):
        model = torch.nn.Linear(64, 64).to(dtype)
        before = model.weight.detach().clone()
        optimizer = build_optimizer(model, learner, 0.1, 0.0)
        kernels = {name for name in KERNELS if optimizer.param_groups[0].get(name)}
        fuses = learner in ("adamw", "adam", "sparse_adam") or (learner == "sgd" and dtype == torch.float32)
        assert kernels == ({"fused"} if fuses else {"foreach"})
        model.weight.grad, model.bias.grad = torch.ones_like(model.weight), torch.ones_like(model.bias)
        optimizer.step()
        assert (model.weight != before).all()


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "sparse_adam"])
def test_the_steps_are_those_of_torchs_own_optimizer(learner):
    names = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop"}
    torch.manual_seed(0)
    start, more = torch.randn(8, 8), {"momentum": 0.9} if learner == "sgd" else {}
    ours, theirs = (torch.nn.Linear(8, 8, bias=False) for _ in range(2))
    for model in (ours, theirs):
        model.weight.data.copy_(start)
    mine = build_optimizer(ours, learner, 0.1, 0.01)
    twin = getattr(torch.optim, names[learner])(theirs.parameters(), lr=0.1, weight_decay=0.01, **more)
    for step in range(4):
        for model, optimizer in ((ours, mine), (theirs, twin)):
            model.weight.grad = torch.sin(start * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-6)
    again = build_optimizer(ours, learner, 0.1, 0.01)
    again.load_state_dict(mine.state_dict())
    assert again.state_dict()["state"].keys() == twin.state_dict()["state"].keys()


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "sparse_adam"])
def test_every_learner_can_be_switched_with_one_layer(walk, learner):
    settings = {**SMALL, "learner": learner, "n_layers": 1, "epochs": 1, "optimizer_switch": True, "sgd_epochs": 1}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = last_row(walk)
    assert [p["optimizer"] for p in row["phases"]] == [learner, "sgd"] and row["epochs"] == 2
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "optimizer_switch": False})
    assert len(last_row(walk)["phases"]) == 1
