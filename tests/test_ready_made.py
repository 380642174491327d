"""Ready-made splits (benchmark_filename): ScaledSASRec sees the rows of the files, and RecBole's models the same."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.compare.runs import Budget, plan_runs
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config

FILES = {"benchmark_filename": ["train", "valid", "test"]}
SETTINGS = {**QUICK, "epochs": 1, **FILES, "topk": [5], "metrics": ["NDCG", "NLL"], "valid_metric": "NLL"}


def rows_made():
    """(user, items, target) of each part: users on a ring, rows of up to 14 items."""
    rng = np.random.default_rng(5)
    parts = {"train": [], "valid": [], "test": []}
    for part, count in (("train", 80), ("valid", 20), ("test", 25)):
        for n in range(count):
            start, length = int(rng.integers(30)), int(rng.integers(1, 15))
            ring = [f"i{(start + k) % 30}" for k in range(length + 1)]
            parts[part].append((f"u{n % 17}", ring[:-1], ring[-1]))
    return parts


@pytest.fixture
def ready(folder):
    (folder / "dataset" / "b").mkdir(parents=True)
    for part, rows in rows_made().items():
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        lines += [f"{user}\t{' '.join(items)}\t{target}" for user, items, target in rows]
        (folder / "dataset" / "b" / f"b.{part}.inter").write_text("\n".join(lines) + "\n")
    return folder


def test_every_row_is_one_target_behind_its_items(ready):
    prepared = prepare(make_config("ScaledSASRec", "b", config_dict={**SETTINGS, "state": "error"}))
    names = {field: prepared.dataset.field2id_token[field] for field in ("user_id", "item_id")}
    loader = prepared.train_data
    found = []
    for step in range(len(loader)):
        batch = loader.batch(step)
        for items, targets in zip(batch["item_id_list"].numpy(), batch["target_list"].numpy(), strict=True):
            at = np.flatnonzero(targets)
            assert len(at) == 1 and at[0] == np.flatnonzero(items)[-1]
            found.append((names["item_id"][items[items > 0]].tolist(), names["item_id"][targets[at[0]]]))
    made = rows_made()
    assert sorted(found) == sorted((items[-10:], target) for _, items, target in made["train"])
    assert loader.n_targets == len(made["train"])
    for phase, data in (("valid", prepared.valid_data), ("test", prepared.test_data)):
        rows = data._dataset.inter_feat[np.arange(len(made[phase]))]
        assert names["user_id"][rows["user_id"].numpy()].tolist() == [user for user, _, _ in made[phase]]
        assert names["item_id"][rows["item_id"].numpy()].tolist() == [target for _, _, target in made[phase]]
        lists = [
            names["item_id"][row[: int(n)].numpy()].tolist()
            for row, n in zip(rows["item_id_list"], rows["item_length"], strict=True)
        ]
        assert lists == [items[-10:] for _, items, _ in made[phase]]


def test_ours_and_recboles_are_trained_tested_and_compared_on_the_same_rows(ready):
    ours = recbole_scale.run("ScaledSASRec", "b", config_dict={**SETTINGS, "epochs": 8})
    theirs = recbole_scale.run("GRU4Rec", "b", config_dict={**SETTINGS, "embedding_size": 8})
    assert 0 < ours["nll"] < np.log(30) and 0 < theirs["nll"] < 5
    runs = plan_runs("b", ["GRU4Rec", "ScaledSASRec:tiny"], [1], Budget(epochs=1), dict(FILES))
    assert runs[0].digest == runs[1].digest is not None
    found = recbole_scale.recommend(ours["checkpoint"], {"new": ["i3", "i4"]}, k=3)
    assert len(found) == 3


def test_files_of_another_form_are_one_sentence(ready):
    for part in ("train", "valid", "test"):
        path = ready / "dataset" / "b" / f"b.{part}.inter"
        path.write_text("user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t1\n")
    with pytest.raises(UserError, match="item_id_list"):
        prepare(make_config("ScaledSASRec", "b", config_dict={**SETTINGS, "state": "error"}))


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_keys_left_out_of_eval_args_keep_leave_one_out(walk, model):
    config = make_config(
        model,
        "walk",
        config_dict={"eval_args": {"mode": "full"}, "topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5"},
    )
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"} and config["eval_args"]["order"] == "TO"
