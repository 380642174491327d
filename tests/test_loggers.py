"""RecBole's switches for watching a run keep working: progress bars, TensorBoard, wandb, the log file."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

from conftest import QUICK

import recbole_scale


def test_tensorboard_holds_training_and_validation_curves(walk):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    folders = list((walk / "log_tensorboard").iterdir())
    events = EventAccumulator(str(folders[0]))
    events.Reload()
    assert [point.step for point in events.Scalars("Loss/Train")] == [0, 1]
    assert len(events.Scalars("Valid/nll")) == 2


def test_the_log_file_holds_the_settings_the_plan_and_the_epochs(walk):
    recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "seed": 7})
    first, second = sorted((path.read_text() for path in (walk / "log").rglob("*.log")), key=lambda text: "= 7" in text)
    assert "seed = 2020" in first and "seed = 7" in second
    for words in ("Training Hyper Parameters", "own shape: 2 layers x 16", "epoch   1  train NLL", "targets/s"):
        assert words in first and words in second


def test_wandb_gets_the_same_numbers(walk, monkeypatch):
    logged = []
    fake = SimpleNamespace(
        __spec__=ModuleSpec("wandb", None),
        run=None,
        init=lambda **kwargs: setattr(fake, "run", SimpleNamespace(summary={})),
        define_metric=lambda *a, **k: None,
        log=lambda metrics, commit=True: logged.append(metrics),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "log_wandb": True})
    valid = [entry for entry in logged if "valid/nll" in entry]
    assert [entry["valid_step"] for entry in valid] == [0, 1]
    assert result["best_valid_result"]["nll"] in [entry["valid/nll"] for entry in valid]
    assert fake.run.summary["eval/nll"] == result["nll"]


def test_progress_bars_follow_show_progress(walk, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # a file gets none
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "show_progress": True})
    assert "train   0" in capfd.readouterr().err
    recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    assert "train   0" not in capfd.readouterr().err
