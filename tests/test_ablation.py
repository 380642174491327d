"""The ablation benchmark on small data: one training gives both rows of SO, finished trainings are passed over."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import ablation
import dropout_trial

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.model.sizes import SHAPE_KEYS, load_size, rung_of

QUICK = ["MAX_ITEM_LIST_LENGTH=10", "train_batch_size=256", "topk=[5,10]", "warmup_steps=5"]


def test_a_shape_is_the_model_that_a_sweep_makes_of_it():
    medium = load_size("medium")
    assert ablation.shape_settings("12x256") == {"size": "medium", **{key: medium[key] for key in SHAPE_KEYS}}
    for shape in ("2x1200", "24x32", "12x32"):
        assert ablation.shape_settings(shape) == rung_of(shape).settings
    for wrong in ("2", "x64", "0x64", "2x64x3", "axb"):
        with pytest.raises(UserError, match=r"not of the form|do not divide"):
            ablation.shape_settings(wrong)


def test_without_lad_all_layers_have_the_mean_rate():
    arguments = argparse.Namespace(dropout=[0.3, 0.1], checkpoint_dir="c", data_path=Path("d"), settings=["epochs=3"])
    on, off = (ablation.settings_of(arguments, "24x64", 1, lad) for lad in (True, False))
    assert (on["dropout_bottom"], on["dropout_top"]) == (0.3, 0.1)
    assert off["dropout_bottom"] == off["dropout_top"] == pytest.approx(0.2) and off["epochs"] == 3
    assert {k for k in on if on[k] != off[k]} == {"dropout_bottom", "dropout_top"}


def test_the_table_is_the_papers_and_effects_are_paired():
    losses = {(True, True): 1.0, (False, True): 1.5, (True, False): 2.0, (False, False): 4.0}
    rows = [
        {"shape": "2x64", "n_blocks": 98304, "seed": s, "lad": a, "so": b, "test_nll": loss + s}
        for (a, b), loss in losses.items()
        for s in (1, 2, 3)
    ]
    text = ablation.tables(rows, "test_nll").splitlines()
    assert text[0] == "| test_nll, mean ± sd over seeds | 2x64 (98,304) |"
    assert text[2:6] == ["| LAD + SO | 3.0000 ± 1.0000 |", "| without LAD | 3.5000 ± 1.0000 |",
                         "| without SO | 4.0000 ± 1.0000 |", "| neither | 6.0000 ± 1.0000 |"]  # fmt: skip
    assert "| LAD, with SO | -0.5000 (-0.5000 to -0.5000) |" in text
    assert "| both | -3.0000 (-3.0000 to -3.0000) |" in text


def test_an_effect_has_its_interval_and_is_told_from_none_only_outside_of_it():
    # Student's t of two degrees of freedom: 4.303 standard errors, here of sd 0.1 and three seeds
    assert ablation.effect([-0.3, -0.2, -0.4]) == "-0.3000 (-0.5484 to -0.0516)"
    assert ablation.effect([-0.2, -0.1, -0.3]) == "-0.2000 (-0.4484 to +0.0484), not distinguishable"
    assert ablation.effect([-0.2]) == "-0.2000, one seed" and ablation.effect([]) == ""


def test_the_document_tells_the_committed_rows():
    told = (Path(ablation.__file__).parents[1] / "docs" / "scaling.md").read_text("utf-8")
    committed = Path(ablation.__file__).parents[1] / "results" / "ablation.jsonl"
    table = ablation.tables(ablation.read(committed), "test_nll")
    assert table in told
    switch = [line for line in table.splitlines() if line.startswith("| SO, ")]
    assert len(switch) == 2 and all(line.count("not distinguishable") == 2 for line in switch)


def test_the_benchmark_runs_resumes_and_agrees_with_plain_runs(walk):
    script = Path(ablation.__file__)
    command = [sys.executable, str(script), "--dataset", "walk", "--shapes", "2x32", "3x16", "--seeds", "1",
               "--epochs", "2", "--out", "out.jsonl", *QUICK, "sgd_epochs=1"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert first.returncode == 0, first.stderr[-2000:]
    text = (walk / "out.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(r["shape"], r["lad"], r["so"]) for r in rows] == [
        (shape, lad, so) for shape in ("2x32", "3x16") for lad in (True, False) for so in (False, True)
    ]
    assert {r["epochs"] for r in rows if r["so"]} == {3} and {r["epochs"] for r in rows if not r["so"]} == {2}
    assert first.stdout.startswith("| test_nll") and "| neither |" in first.stdout
    assert not list((walk / "saved" / "ablation").glob("*.pth"))
    (walk / "out.jsonl").write_text(
        "".join(text.splitlines(keepends=True)[:6]) + text.splitlines()[6][:30]
    )  # killed while writing
    second = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert second.returncode == 0 and second.stderr.count("done in") == 1
    again = [json.loads(line) for line in (walk / "out.jsonl").read_text().splitlines()]
    assert [r["test_nll"] for r in again] == [r["test_nll"] for r in rows]
    assert second.stdout == first.stdout
    settings = {**rows[0]["settings"], "checkpoint_dir": "plain", "optimizer_switch": False}
    plain = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    assert plain["nll"] == rows[0]["test_nll"]  # the run without the switch, trained by itself


def test_the_trial_of_dropout_chooses_by_valid_loss_and_tells_fresh_seeds():
    def row(pair, seed, valid, test):
        settings = {"dropout_bottom": pair[0], "dropout_top": pair[1]}
        return {"n_layers": 2, "d_model": 16, "seed": seed, "status": "ok", "best_valid_nll": valid, "test_nll": test,
                "settings": settings}  # fmt: skip

    best = {"uniform": (0.2, 0.2), "falling": (0.6, 0.0), "rising": (0.0, 0.2)}
    rows = [
        # the least test loss is that of a pair that valid loss does not choose
        row(pair, seed, 5.0 + seed / 10 + (pair != best[kind]), 9.0 - 3 * (pair != best[kind]))
        for kind, pairs in dropout_trial.ARMS.items()
        for pair in pairs
        for seed in (1, 2)
    ]
    assert dropout_trial.winners(rows, "2x16", [1, 2]) == best
    rows += [
        row(pair, seed, 5.0, 6.0 + seed / 100 + {"uniform": 0, "falling": 0.01 * (seed - 10), "rising": 0.5}[kind])
        for kind, pair in best.items()
        for seed in (11, 12, 13)
    ]
    text = dropout_trial.table(rows, "2x16", best, [11, 12, 13]).splitlines()
    assert text[2] == "| uniform, best of 5 | 0.2 to 0.2 | 6.1200 |  |"
    assert text[3] == "| falling, best of 5 | 0.6 to 0 | 6.1400 | +0.0200 (-0.0048 to +0.0448), not distinguishable |"
    assert text[4] == "| rising, best of 2 | 0 to 0.2 | 6.6200 | +0.5000 (+0.5000 to +0.5000) |"


def test_the_trial_trains_what_is_missing_with_one_rate_after_the_embedding(walk, monkeypatch, capsys):
    monkeypatch.setattr(dropout_trial, "ARMS", {"uniform": [(0.0, 0.0), (0.2, 0.2)], "falling": [(0.4, 0.0)]})
    words = ["dropout_trial.py", "--dataset", "walk", "--shapes", "2x16", "--seeds", "1", "--fresh", "2", "3",
             "--fraction", "0.5", "--epochs", "1", "--rows", "rows.jsonl", "--topk=5,10",
             "--MAX_ITEM_LIST_LENGTH=10"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            dropout_trial.main()
        assert ended.value.code == 0
    rows = ablation.read(walk / "rows.jsonl")
    assert len(rows) == len({row["run_id"] for row in rows}) == 3 + 2 * 2
    assert {row["settings"]["dropout_embedding"] for row in rows} == {0.1}
    assert capsys.readouterr().out.count("| falling, best of 1 | 0.4 to 0 |") == 2
