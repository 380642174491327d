"""Which runs ``--runs`` compares, and which file is a run's checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.challenges import models
from recbole_scale.challenges.of_runs import checkpoints_of_runs, compared, files_of
from recbole_scale.errors import UserError

ONE = {**QUICK, "epochs": 1}


def run(run_id, d_model, valid_nll, seed=1, data_fraction=1.0, model="ScaledSASRec", dropout=0.1):
    ours = model == "ScaledSASRec"
    return {
        "run_id": run_id, "model": model, "n_layers": 2 if ours else None, "d_model": d_model if ours else None,
        "n_blocks": 24 * d_model**2 if ours else None, "unique_interactions": int(1000 * data_fraction), "seed": seed,
        "data_fraction": data_fraction, "best_valid_nll": valid_nll, "dataset": "d", "status": "ok",
        "settings": {"hidden_dropout_prob": dropout},
    }  # fmt: skip


def test_runs_on_fewer_users_and_settings_that_lost_are_left_out():
    runs = [
        run("tenth", 16, 6.5, data_fraction=0.1),  # first and smallest: gains over it would be of data, not of size
        run("worse", 16, 6.05, dropout=0.5),  # the lowest loss of one run, not the lowest mean
        run("too", 16, 6.45, seed=2, dropout=0.5),
        run("better", 16, 6.1),
        run("again", 16, 6.3, seed=2),
        run("gru", 0, 6.0, model="GRU4Rec"),
        run("sas", 0, 6.4, model="SASRec", data_fraction=1.0),
        run("large", 64, 5.9),
        run("lost", 64, 6.0, dropout=0.5),
    ]
    notes: list[str] = []
    assert [r["run_id"] for r in compared(runs, notes)] == ["better", "again", "large", "gru", "sas"]
    assert notes[0] == "1 run on fewer users than the others left out"
    assert len(notes) == 2 and notes[1].startswith("3 runs repeat a shape with other settings")
    assert "of the first 2 of every size the one of lowest mean valid loss is taken" in notes[1]


def test_runs_that_all_had_fewer_users_are_compared():
    assert len(compared([run("a", 16, 6.0, data_fraction=0.5), run("b", 32, 6.0, data_fraction=0.5)], [])) == 2


def test_the_file_of_a_run_is_found_by_name_or_settings_and_other_files_do_not_matter(walk):
    ours, gru = (recbole_scale.run(model, "walk", config_dict=ONE) for model in ("ScaledSASRec", "GRU4Rec"))
    copied = Path("saved", "my-small.pth")
    shutil.copy(ours["checkpoint"], copied)
    Path("saved", "alien.pth").write_bytes(b"no checkpoint at all")
    last = Path(ours["checkpoint"].replace(".best.pth", ".last.pth"))
    assert last.exists()
    ids = [gru["run_id"], ours["run_id"]]
    assert files_of(ids, "saved") == {ids[0]: gru["checkpoint"], ids[1]: ours["checkpoint"]}
    os.remove(ours["checkpoint"])
    assert files_of(ids, "saved")[ids[1]] == str(copied)
    os.remove(copied)
    assert files_of(ids, "saved") == {ids[0]: gru["checkpoint"]}  # not the last state, which is another model


def test_runs_without_any_checkpoint_are_one_sentence(folder):
    Path("runs.jsonl").write_text(json.dumps(run("0123456789", 16, 6.0)) + "\n")
    with pytest.raises(UserError, match=r"saved has no checkpoint of the 1 run on 'd'; --checkpoint_dir names it"):
        checkpoints_of_runs("runs.jsonl", "d", "saved")


def test_two_checkpoints_of_one_run_are_refused(walk):
    best = recbole_scale.run("ScaledSASRec", "walk", config_dict=ONE)["checkpoint"]
    with pytest.raises(UserError, match="are checkpoints of one run"):
        models.open_checkpoints([best, best.replace(".best.pth", ".last.pth")])
