"""--resume: the numbers of a run that was never stopped, or one sentence; never the old result under a new name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import QUICK

import recbole_scale
from recbole_scale.errors import UserError

STOCK = {
    "epochs": 4, "embedding_size": 16, "hidden_size": 16, "inner_size": 32, "n_layers": 1, "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 64, "topk": [5], "metrics": ["Recall", "NLL"],
    "valid_metric": "NLL", "train_neg_sample_args": None, "show_progress": False, "stopping_step": 2,
}  # fmt: skip


def last_row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


@pytest.fixture
def trained(walk):
    first = recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)
    return first, first["checkpoint"].replace(".best.", ".last.")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learner": "sgd"}, "learner is 'adam.*' there and 'sgd' here"),
        ({"learning_rate": 0.5}, "learning_rate is .* there and 0.5 here"),
        ({"seed": 7}, "seed is 2020 there and 7 here"),
        ({"train_batch_size": 32}, "train_batch_size is 256 there and 32 here"),
        ({"dropout_bottom": 0.5, "topk": [5]}, "dropout_bottom is"),
        ({"epochs": 1}, "has trained 2 epochs, more than the 1 of these settings"),
        (
            {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "full"}},
            "eval_args is",
        ),
        ({"hidden_size": 32, "inner_size": 128}, "hidden_size is 16 there and 32 here"),
        ({"user_inter_num_interval": "[5,inf)"}, "other data|user_inter_num_interval"),
    ],
)
def test_settings_with_other_numbers_are_refused_by_name(walk, trained, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, **settings}, resume=trained[1])
    assert len((walk / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_more_epochs_are_another_run_that_says_where_it_came_from(walk, trained):
    longer = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "epochs": 3}, resume=trained[1])
    row = last_row(walk)
    assert longer["resumed_from"] == row["resumed_from"] == trained[0]["run_id"] != row["run_id"]
    assert [one["epoch"] for one in row["evaluations"]] == [0, 1, 2]


def test_another_place_for_files_changes_nothing(walk, trained):
    again = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "checkpoint_dir": "b"}, resume=trained[1])
    assert again["test_result"] == trained[0]["test_result"] and again["resumed_from"] is None


class Killed(Exception):
    pass


@pytest.mark.parametrize(("model", "last_save"), [("GRU4Rec", 2), ("BERT4Rec", 1), ("SASRec", 2)])
def test_recboles_models_go_on_to_the_same_numbers(walk, monkeypatch, model, last_save):
    from recbole.trainer.trainer import Trainer

    expected = recbole_scale.run(model, "walk", config_dict=STOCK)
    wanted = last_row(walk)
    assert wanted["epochs"] == 4
    saves, save = [], Trainer._save_checkpoint

    def stop_there(self, *arguments, **named):
        save(self, *arguments, **named)
        saves.append(self.saved_model_file)
        if len(saves) == last_save:
            raise Killed

    monkeypatch.setattr(Trainer, "_save_checkpoint", stop_there)
    with pytest.raises(Killed):
        recbole_scale.run(model, "walk", config_dict=STOCK)
    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = recbole_scale.run(model, "walk", config_dict=STOCK, resume=saves[-1])
    assert resumed["test_result"] == expected["test_result"]
    assert resumed["best_valid_result"] == expected["best_valid_result"]
    row = last_row(walk)
    curves = [[{k: v for k, v in one.items() if "second" not in k} for one in r["evaluations"]] for r in (wanted, row)]
    assert curves[0] == curves[1] and row["epochs"] == 4 and row["interactions_seen"] == wanted["interactions_seen"]


def test_a_checkpoint_of_recboles_that_lacks_the_draws_is_refused(walk):
    first = recbole_scale.run("GRU4Rec", "walk", config_dict={**STOCK, "epochs": 1})
    state = torch.load(first["checkpoint"], weights_only=True)
    del state["going_on"]
    torch.save(state, "old.pth")
    with pytest.raises(UserError, match="does not hold all that GRU4Rec needs to go on with the same numbers"):
        recbole_scale.run("GRU4Rec", "walk", config_dict={**STOCK, "epochs": 2}, resume="old.pth")
    with pytest.raises(UserError, match="learning_rate is"):
        settings = {**STOCK, "epochs": 2, "learning_rate": 0.7}
        recbole_scale.run("GRU4Rec", "walk", config_dict=settings, resume=first["checkpoint"])
    with pytest.raises(UserError, match="another model or data set"):
        recbole_scale.run("SASRec", "walk", config_dict=STOCK, resume=first["checkpoint"])
