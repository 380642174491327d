"""`async_checkpoints`: what is written in a thread is the state as it was, in order, and lost by no kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
import torch
from conftest import QUICK

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.training import run_checkpoints
from recbole_scale.training.background import Background
from recbole_scale.training.checkpoint import load_checkpoint, save_checkpoint


def test_later_steps_do_not_change_what_is_written(tmp_path):
    weights, epochs = torch.zeros(1000), [{"epoch": 0}]
    go, there, background = threading.Event(), tmp_path / "last.pth", Background(on=True)
    background.do(go.wait)
    background.do(save_checkpoint, background.copied({"state_dict": {"w": weights}, "epochs": epochs}), there)
    weights += 1
    epochs.append({"epoch": 1})
    assert not there.exists()
    go.set()
    background.join()
    found = load_checkpoint(there)
    assert not found["state_dict"]["w"].any() and found["epochs"] == [{"epoch": 0}]


def test_writes_keep_their_order_and_no_more_than_two_wait():
    go, done, background = threading.Event(), [], Background(on=True)
    background.do(lambda: (go.wait(), done.append(1)))
    background.do(done.append, 2)
    third = threading.Thread(target=background.do, args=(done.append, 3))
    third.start()
    third.join(0.1)
    assert third.is_alive() and done == []  # the host's memory holds two copies, not three
    go.set()
    third.join()
    background.join()
    assert done == [1, 2, 3]


def test_a_failed_write_is_raised_and_what_follows_it_is_not_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    background = Background(on=True)
    background.do(save_checkpoint, {"state_dict": {}}, tmp_path / "file" / "best.pth")
    background.do(save_checkpoint, {"state_dict": {}}, tmp_path / "last.pth")
    with pytest.raises(UserError, match=r"best.pth could not be written"):
        background.join()
    background.join()
    assert not (tmp_path / "last.pth").exists()


def test_without_a_thread_nothing_is_copied_and_all_is_written_at_once(tmp_path):
    background, state = Background(on=False), {"state_dict": {"w": torch.ones(2)}}
    assert background.copied(state) is state
    background.do(save_checkpoint, state, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").exists()


KILLED = """
import sys, threading, torch
from recbole_scale.training import checkpoint
from recbole_scale.training.background import Background
background = Background(on=True)
save = torch.save
def half(state, handle):
    save(state, handle)
    handle.flush()
    print("half", flush=True)
    threading.Event().wait()
background.do(checkpoint.save_checkpoint, background.copied({"state_dict": {"w": torch.zeros(9)}}), sys.argv[1])
background.join()
checkpoint.torch.save = half
background.do(checkpoint.save_checkpoint, background.copied({"state_dict": {"w": torch.ones(9)}}), sys.argv[1])
background.join()
"""


def test_kill_9_while_the_thread_writes_leaves_the_older_checkpoint(tmp_path):
    path = tmp_path / "last.pth"
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not load_checkpoint(path)["state_dict"]["w"].any()


def test_a_run_stopped_while_a_checkpoint_is_written_ends_with_the_same_numbers(walk, monkeypatch, caplog):
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    settings = {**QUICK, "train_batch_size": 64, "save_step": 3, "optimizer_switch": True, "switch_at_epoch": 1,
                "sgd_epochs": 1, "results_file": None}  # fmt: skip
    expected = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    for path in walk.glob("saved/*"):
        path.unlink()
    written, original = [], run_checkpoints.save_checkpoint

    def save(state, path):
        assert threading.current_thread() is not threading.main_thread()
        written.append(path)
        original(state, path)

    def stop(self, epoch, step):
        save_last(self, epoch, step)
        if (epoch, step) == (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(run_checkpoints, "save_checkpoint", save)
    save_last = ScaledSASRecTrainer._save_last
    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", stop)
    with pytest.raises(KeyboardInterrupt):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "async_checkpoints": True})
    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save_last)
    assert len(written) > 3
    resumed = recbole_scale.run(
        "ScaledSASRec", "walk", config_dict={**settings, "async_checkpoints": True}, resume="auto"
    )
    assert "at epoch 1, step 3" in caplog.text
    for name in ("test_result", "best_valid_result", "run_id"):
        assert resumed[name] == expected[name]
