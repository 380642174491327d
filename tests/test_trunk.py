"""Runs of several lengths under wsd share their trunk: the numbers they have alone, in fewer steps, also if stopped."""

from __future__ import annotations

import json
import re

import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.sweep import command
from recbole_scale.training.trainer import ScaledSASRecTrainer

WSD = {**QUICK, "lr_schedule": "wsd", "decay_share": 0.3, "train_batch_size": 64, "warmup_steps": 8,
       "learning_rate": 0.01, "stopping_step": 100}  # fmt: skip
NUMBERS = ("test_metrics", "test_metrics_nll", "test_metrics_ranking", "best_epoch", "best_epoch_nll", "epochs",
           "interactions_seen", "best_valid_metrics")  # fmt: skip


def numbers(row):
    curve = [{k: v for k, v in e.items() if k != "targets_per_second"} for e in row["evaluations"]]
    return [row[name] for name in NUMBERS], curve


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(epochs, folder, **more):
    settings = {**WSD, "epochs": epochs, "checkpoint_dir": folder, "state": "error", "results_file": f"{folder}.jsonl"}
    return recbole_scale.run("ScaledSASRec", "walk", config_dict=settings | more, resume="auto")


@pytest.fixture
def steps(monkeypatch):
    """Steps trained so far."""
    count = []
    original = ScaledSASRecTrainer._train_step
    monkeypatch.setattr(ScaledSASRecTrainer, "_train_step", lambda self, *a: count.append(1) or original(self, *a))
    return count


def test_a_damaged_trunk_is_set_aside_and_trained_anew(walk, steps):
    for epochs in (2, 5):
        run(epochs, "alone")
    run(2, "shared", share_trunk=True)
    (kept,) = (walk / "shared").glob("*trunk*.last.pth")
    kept.write_bytes(kept.read_bytes()[:-100])
    run(5, "shared", share_trunk=True)
    assert kept.with_name(f"{kept.name}.damaged").is_file()
    expected, found = rows_of(walk / "alone.jsonl"), rows_of(walk / "shared.jsonl")
    assert [numbers(row) for row in found] == [numbers(row) for row in expected] and found[1]["trunk_step"] == 0


# 10 x 0.7 = 7 and 20 x 0.7 = 14 are ends of epochs (near enough), 5 x 0.7 = 3.5 and 2 x 0.7 = 1.4 lie inside one
@pytest.mark.parametrize("budgets", [(2, 5), (10, 20)])
def test_a_run_from_the_trunk_is_the_run_made_alone(walk, steps, budgets):
    for epochs in budgets:
        run(epochs, "alone")
    alone = len(steps)
    for epochs in budgets:
        run(epochs, "shared", share_trunk=True)
    expected, found = rows_of(walk / "alone.jsonl"), rows_of(walk / "shared.jsonl")
    assert [numbers(row) for row in found] == [numbers(row) for row in expected]
    assert [row["run_id"] for row in found] == [row["run_id"] for row in expected]
    assert found[0]["trunk_step"] == 0 == expected[1]["trunk_step"] < found[1]["trunk_step"]
    assert len(steps) - alone == alone - found[1]["trunk_step"]  # the trunk was trained once
    kept = sorted(path.name for path in (walk / "shared").glob("*trunk*"))
    assert len(kept) == 3 and len({name.split(".")[0] for name in kept}) == 1  # the furthest, and its bests


def test_other_settings_have_another_trunk(walk, steps):
    run(2, "shared", share_trunk=True)
    before = len(steps)
    run(4, "shared", share_trunk=True, learning_rate=0.02)
    run(3, "shared", share_trunk=True, seed=1)
    assert [row["trunk_step"] for row in rows_of(walk / "shared.jsonl")] == [0, 0, 0]
    assert len(steps) > before * 3


def test_a_sweep_of_several_epochs_shares_the_trunk_and_resumes(walk, steps, monkeypatch):
    arguments = ["--dataset", "walk", "--shapes", "2x16x2", "--seeds", "1", "2", "--epochs", "2", "3", "5"]
    arguments += [f"--{key}={value}" for key, value in WSD.items() if key not in ("epochs", "warmup_steps", "topk")]
    arguments += ["--topk=[5, 10]", "--n_layers=2", "--hidden_size=16"]
    arguments = [
        a for a in arguments if not a.startswith(("--n_layers", "--hidden_size", "--inner", "--n_heads", "--show"))
    ]
    keep, calls = ScaledSASRecTrainer._save_last, []

    class Stop(BaseException):
        pass

    def stop_once(self, epoch, step):
        keep(self, epoch, step)
        calls.append(1)
        if len(calls) == 6:
            raise Stop

    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", stop_once)
    with pytest.raises(Stop):
        command.main([*arguments, "--rows", "swept.jsonl"])
    assert command.main([*arguments, "--rows", "swept.jsonl"]) == 0
    swept = {row["run_id"]: row for row in rows_of(walk / "swept.jsonl")}
    assert len(swept) == 6 and sum(row["trunk_step"] > 0 for row in swept.values()) == 4
    for row in swept.values():
        settings = {**row["settings"], "share_trunk": False, "checkpoint_dir": "alone", "results_file": "alone.jsonl"}
        recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
        alone = rows_of(walk / "alone.jsonl")[-1]
        assert alone["run_id"] == row["run_id"] and numbers(alone) == numbers(row)


def test_a_sweep_of_several_epochs_keeps_the_lengths_unless_patience_is_set(walk):
    """With a rate of nothing no evaluation is a gain, which would begin the decay after one."""
    settings = {
        k: v for k, v in WSD.items() if k not in ("stopping_step", "warmup_steps", "epochs", "topk", "show_progress")
    }
    quiet = {"learning_rate": 1e-12, "valid_metric": "Recall@10"}
    arguments = [f"--{key}={value}" for key, value in {**settings, **quiet}.items()]
    arguments = [a for a in arguments if not a.startswith(("--n_layers", "--hidden_size", "--inner", "--n_heads"))]
    arguments += ["--dataset", "walk", "--shapes", "2x16x2", "--epochs", "6", "12", "--topk=[5, 10]"]
    assert command.main([*arguments, "--rows", "kept.jsonl"]) == 0
    assert [row["epochs"] for row in rows_of(walk / "kept.jsonl")] == [6, 12]
    (walk / "patience.yaml").write_text("stopping_step: 2\nwarmup_steps: 3\n")
    assert command.main([*arguments, "--config_files", "patience.yaml", "--rows", "cut.jsonl"]) == 0
    rows = rows_of(walk / "cut.jsonl")
    assert all(row["epochs"] < asked for row, asked in zip(rows, (6, 12), strict=True))
    assert {row["settings"]["warmup_steps"] for row in rows} == {3}


def test_the_plan_counts_a_shared_trunk_once(walk, capsys):
    grid = ["--dataset", "walk", "--shapes", "2x16x2", "--lr_schedule=wsd", "--decay_share=0.25", "--dry_run"]
    told = []
    for epochs in (["8"], ["4", "8"], ["4", "8", "--share_trunk=False"]):
        assert command.main([*grid, "--epochs", *epochs, "--topk=[5]", "--rows", "r.jsonl"]) == 0
        told.append(float(re.search(r"to go: (\S+) FLOP", capsys.readouterr().out)[1]))
    assert told == pytest.approx([8 * told[0] / 8, (4 + 8 - 3) * told[0] / 8, (4 + 8) * told[0] / 8], rel=1e-2)
