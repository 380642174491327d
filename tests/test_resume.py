"""A run that is killed and resumed ends with the numbers of one that never was; checkpoints are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.training.checkpoint import load_checkpoint, save_checkpoint

ARGUMENTS = ["--model=ScaledSASRec", "--dataset=walk", "--epochs=6", "--hidden_size=32", "--inner_size=128",
             "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=64", "--show_progress=False", "--save_step=7",
             "--topk=[5,10]"]  # fmt: skip


def command(*more):
    return [sys.executable, "-m", "recbole_scale", *ARGUMENTS, *more]


def last_row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


NUMBERS = ("test_metrics", "best_valid_metrics", "best_epoch", "interactions_seen", "run_id", "epochs")


def numbers(row):
    """All that a resumed run must reproduce to the last bit; seconds and speeds are not among it."""
    curve = [{k: v for k, v in e.items() if k != "targets_per_second"} for e in row["evaluations"]]
    return [row[name] for name in NUMBERS], curve


def kill_after(folder, seconds_in_training):
    """Start the run, wait until it trains, and kill -9 it some time later."""
    process = subprocess.Popen(
        command("--resume", "auto"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not list(folder.glob("saved/*.last.pth")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds_in_training)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return process.returncode


def test_kill_9_and_resume_auto_gives_the_same_numbers_bit_for_bit(tmp_path):
    rows = walk_rows(n_users=400, n_items=50)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_inter(folder / "dataset" / "walk" / "walk.inter", rows)
    subprocess.run(command(), cwd=whole, check=True, capture_output=True)
    codes = [kill_after(killed, wait) for wait in (0.15, 0.4, 0.7)]
    assert -signal.SIGKILL in codes, "no run was killed while it trained"
    done = subprocess.run(command("--resume", "auto"), cwd=killed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout + done.stderr
    assert numbers(last_row(killed)) == numbers(last_row(whole))


def test_stopping_between_any_two_saves_gives_the_same_numbers(walk, monkeypatch):
    """The same inside one process, at chosen places: within an epoch, before and after an evaluation."""
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    settings = {**QUICK, "epochs": 3, "train_batch_size": 64, "save_step": 3}
    expected = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    saves = []
    original = ScaledSASRecTrainer._save_last

    class Stop(Exception):
        pass

    for stop_at in (1, 2, 5, 9):
        saves.clear()

        def save_then_stop(self, epoch, step, stop_at=stop_at):
            original(self, epoch, step)
            saves.append((epoch, step))
            if len(saves) == stop_at:
                raise Stop

        for path in walk.glob("saved/*"):
            path.unlink()
        monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save_then_stop)
        with pytest.raises(Stop):
            recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
        monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", original)
        resumed = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, resume="auto")
        assert resumed["test_result"] == expected["test_result"], saves[-1]
        assert resumed["best_valid_result"] == expected["best_valid_result"], saves[-1]


def test_resuming_a_finished_run_trains_nothing_and_reports_the_same(walk):
    first = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    again = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume="auto")
    assert again["test_result"] == first["test_result"]
    assert last_row(walk)["interactions_seen"] > 0


def test_more_epochs_from_a_finished_run(walk):
    first = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    path = first["checkpoint"].replace(".best.", ".last.")
    longer = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "epochs": 3}, resume=path)
    assert longer["run_id"] != first["run_id"]
    before = load_checkpoint(path)["progress"]["seconds"]
    assert 0 < before < last_row(walk)["seconds_total"]
    assert [e["epoch"] for e in last_row(walk)["evaluations"]] == [0, 1, 2]


def test_checkpoints_load_without_unpickling_and_build_the_same_model(walk):
    from recbole.quick_start import load_data_and_model

    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    for path in (result["checkpoint"], result["checkpoint"].replace(".best.", ".last.")):
        assert "state_dict" in torch.load(path, weights_only=True)
        config, model, _, _, _, test_data = load_data_and_model(path)
    assert config["hidden_size"] == QUICK["hidden_size"]
    state = load_checkpoint(result["checkpoint"])["state_dict"]
    _, model, _, _, _, _ = load_data_and_model(result["checkpoint"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert len(test_data.dataset) > 0


def test_wrong_checkpoints_are_one_sentence(walk):
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    best, last = result["checkpoint"], result["checkpoint"].replace(".best.", ".last.")
    (walk / "cut.pth").write_bytes((walk / last).read_bytes()[:5000])
    (walk / "text.pth").write_text("no checkpoint at all")
    torch.save({"state_dict": {}, "config": UserError("pickled")}, walk / "pickled.pth")
    for path, says in (
        (walk / "none.pth", "there is no checkpoint"),
        (walk / "cut.pth", "damaged"),
        (walk / "text.pth", "damaged"),
        (walk / "pickled.pth", "pickled Python objects"),
        (best, "no training state"),
    ):
        with pytest.raises(UserError, match=says):
            recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume=str(path))
    with pytest.raises(UserError, match="n_layers is 2 there and 1 here"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "n_layers": 1}, resume=last)
    write_inter(walk / "dataset" / "walk" / "walk.inter", [*walk_rows()[::-1]])
    changed = walk_rows(seed=1)
    write_inter(walk / "dataset" / "walk" / "walk.inter", changed)
    with pytest.raises(UserError, match=r"other data|another model"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume=last)


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path):
    path = tmp_path / "saved" / "a.pth"
    save_checkpoint({"state_dict": {"w": torch.zeros(10)}}, path)
    code = (
        "import resource, signal, sys, torch\n"
        "from recbole_scale.errors import exit_code\n"
        "from recbole_scale.training.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "state = {'state_dict': {'w': torch.ones(100_000)}}\n"
        "sys.exit(exit_code(lambda: save_checkpoint(state, sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.zeros(10))
    assert [p.name for p in path.parent.iterdir()] == ["a.pth"]  # no temporary file is left


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


@pytest.mark.parametrize("lost", ["last", "best", "best is gone"])
def test_auto_begins_anew_where_the_runs_own_checkpoint_is_damaged_and_a_path_is_refused(walk, caplog, lost):
    first = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    best = walk / first["checkpoint"]
    last = best.with_name(best.name.replace(".best.", ".last."))
    harmed = last if lost == "last" else best
    flip_a_bit(harmed) if lost != "best is gone" else harmed.unlink()
    if lost == "last":
        with pytest.raises(UserError, match="damaged"):
            recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume=str(last))
    damaged = harmed.read_bytes() if harmed.exists() else None
    again = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume="auto")
    assert again["test_result"] == first["test_result"]
    aside = harmed.with_name(f"{harmed.name}.damaged")
    if damaged:
        assert f"{harmed.name} is damaged (its checksum is wrong) and set aside as {aside.name}" in caplog.text
        assert aside.read_bytes() == damaged
    else:
        assert f"its best model saved/{best.name} is not there" in caplog.text and not aside.exists()


def test_auto_goes_on_from_the_older_of_two_checkpoints_where_the_newer_is_damaged(walk, caplog):
    first = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    stem = str(walk / first["checkpoint"]).removesuffix(".best.pth")
    os.mkdir(f"{stem}.last.dcp")
    with open(f"{stem}.last.dcp/index.json", "w") as index:
        index.write('{"format": "half of')
    caplog.set_level("INFO")
    again = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK, resume="auto")
    assert again["test_result"] == first["test_result"] and os.path.isdir(f"{stem}.last.dcp.damaged")
    assert "last.pth at epoch 2" in caplog.text
