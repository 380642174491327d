"""What would fail after training is looked at before: parts without rows, features, places to write to."""

from __future__ import annotations

import pytest
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.runs.run import make_config

ONE = {**QUICK, "epochs": 1}
STOCK = {
    "epochs": 1, "topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "train_neg_sample_args": None,
    "show_progress": False, "hidden_size": 16, "inner_size": 16,
}  # fmt: skip


def split(rule, value):
    return {"split": {rule: value}, "order": "TO", "group_by": "user", "mode": "full"}


@pytest.mark.parametrize(
    ("eval_args", "valid", "test"),
    [
        (split("LS", "test_only"), False, True),
        (split("LS", "valid_only"), True, False),
        (split("RS", [0.8, 0.0, 0.2]), False, True),
    ],
)
@pytest.mark.parametrize(("model", "settings"), [("ScaledSASRec", ONE), ("GRU4Rec", STOCK)])
def test_a_split_without_valid_or_test_trains_as_recboles_does(walk, model, settings, eval_args, valid, test):
    result = recbole_scale.run(model, "walk", config_dict={**settings, "eval_args": eval_args})
    assert bool(result["best_valid_result"]) == valid and bool(result["test_result"]) == test


def test_the_share_to_train_on_is_above_nothing(walk):
    with pytest.raises(UserError, match="the first above 0"):
        make_config("BPR", "walk", config_dict={"eval_args": split("RS", [0, 0.5, 0.5])})


def test_histories_too_short_for_the_split_are_told_first(walk):
    write_inter(walk / "dataset" / "walk" / "walk.inter", [row for row in walk_rows() if row[2] <= 2])
    with pytest.raises(UserError, match="leave-one-out needs users of three"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=ONE)


@pytest.mark.parametrize(
    "load_col", [None, {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}]
)
def test_files_of_features_beside_the_log_are_left_alone(walk, load_col):
    plain = recbole_scale.run("ScaledSASRec", "walk", config_dict=ONE)
    (walk / "dataset" / "walk" / "walk.item").write_text("item_id:token\tprice:float\ni1\t3\ni2\t4\n")
    (walk / "dataset" / "walk" / "walk.user").write_text("user_id:token\tage:float\nu1\t3\n")
    beside = recbole_scale.run("ScaledSASRec", "walk", config_dict={**ONE, "load_col": load_col})
    assert beside["test_result"] == plain["test_result"]


def test_features_that_are_not_loaded_or_no_numbers_are_named(walk):
    with pytest.raises(UserError, match="selected_features: 'class' is not loaded; load_col must name it"):
        recbole_scale.run("SASRecF", "walk", config_dict=STOCK)
    (walk / "dataset" / "walk" / "walk.item").write_text("item_id:token\tprice:float\ni1\t3\ni2\t\u2014\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]}
    with pytest.raises(UserError, match=r"walk.item, line 3, column 2 \(price\): '\u2014' is not a number"):
        recbole_scale.run("SASRecF", "walk", config_dict={**STOCK, "selected_features": ["price"], "load_col": columns})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("results_file", "file/rows.jsonl"), ("results_file", "."), ("per_user_file", "/proc/x.npz"),
        ("per_user_file", "file/x.npz"), ("checkpoint_dir", "file"), ("checkpoint_dir", "/proc/none"),
    ],
)  # fmt: skip
def test_places_that_cannot_be_written_are_told_before_training(walk, caplog, key, value):
    (walk / "file").write_text("")
    with pytest.raises(UserError, match=key):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**ONE, key: value})
    assert "train nll" not in caplog.text
