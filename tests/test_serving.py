"""recommend without the training data: from a checkpoint and histories, by name, a catalogue, ties, an export."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.data.id_tables import packed, unpacked
from recbole_scale.errors import UserError
from recbole_scale.serving.command import main
from recbole_scale.serving.recommend import best_first, load_trained, recommend

SETTINGS = {**QUICK, "epochs": 1, "metrics": ["Recall", "NLL"], "valid_metric": "NLL", "embedding_size": 16}


def checkpoint(model="ScaledSASRec", **settings):
    return recbole_scale.run(model, "walk", config_dict={**SETTINGS, **settings})["checkpoint"]


def histories():
    frame = pd.DataFrame(walk_rows(), columns=["user_id", "item_id", "timestamp"])
    ordered = frame.sort_values(["user_id", "timestamp"], kind="stable")
    return {user: group["item_id"].tolist() for user, group in ordered.groupby("user_id")}


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec", "SRGNN", "FPMC", "Caser"])
def test_without_the_data_the_lists_are_those_with_it(walk, model):
    negatives = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}} if model == "FPMC" else {}
    path = checkpoint(model, **negatives)
    recommend(load_trained(path), "all", "all.csv", topk=5)
    expected = pd.read_csv("all.csv", dtype={"user_id": str})
    shutil.rmtree(walk / "dataset")
    found = recbole_scale.recommend(path, histories(), k=5)
    assert list(found.columns) == ["user_id", "item_id", "rank", "score"]
    order = ["user_id", "rank"]
    found, expected = (frame.sort_values(order).reset_index(drop=True) for frame in (found, expected))
    assert found["user_id"].tolist() == expected["user_id"].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-4, atol=1e-5)
    assert (found["item_id"] == expected["item_id"]).mean() > 0.99


def test_new_users_frames_catalogue_and_items_known_by_name_only(walk):
    path = checkpoint()
    rows = walk_rows()
    write_inter(walk / "dataset" / "walk" / "walk.inter", [row for row in rows if row[1] != "i7"])  # it left the data
    everyone = histories()
    one = recbole_scale.recommend(path, {"new": everyone["u1"] + ["i7"]}, k=40)
    assert len(one) == 40 and set(one["user_id"]) == {"new"} and "i7" in set(one["item_id"])
    catalogue = [f"i{n}" for n in range(20) if n != 7] + ["unheard of"]
    some = recbole_scale.recommend(path, {"new": everyone["u1"] + ["i7"]}, k=10, items=catalogue)
    kept = [item for item in one["item_id"] if item in catalogue][:10]
    assert some["item_id"].tolist() == kept  # the history is the same, i7 in it
    frame = pd.DataFrame(
        {"item_id": everyone["u1"][::-1], "user_id": "x", "timestamp": range(len(everyone["u1"]), 0, -1)}
    )
    by_time = recbole_scale.recommend(path, frame, k=5)
    plain = recbole_scale.recommend(path, {"x": everyone["u1"]}, k=5)
    pd.testing.assert_frame_equal(by_time, plain)
    ordered = recbole_scale.recommend(path, frame.drop(columns="timestamp")[::-1], k=5)
    pd.testing.assert_frame_equal(ordered, plain)
    assert len(recbole_scale.recommend(path, {"y": ["never seen"]}, k=5)) == 0
    assert len(recbole_scale.recommend(path, {}, k=5)) == 0
    masked = recbole_scale.recommend(path, {"x": everyone["u1"]}, k=5, mask_history=True)
    assert not set(masked["item_id"]) & set(everyone["u1"])
    for call, sentence in (
        (lambda: recbole_scale.recommend(path, frame.rename(columns={"item_id": "item"})), "no column 'item_id'"),
        (lambda: recbole_scale.recommend(path, {"x": ["i1"]}, items=["z"]), "knows none of the items"),
        (lambda: recbole_scale.recommend(path, {"x": ["i1"]}, k=99), "--topk is 99"),
        (lambda: recbole_scale.recommend(path, {"x": ["i1"]}, k=5, batch_size=0), "--batch_size is 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            call()


def test_the_command_with_a_catalogue_and_without_data(walk, capsys):
    path = checkpoint()
    shutil.rmtree(walk / "dataset")
    (walk / "users.txt").write_text("new i1 i2 i3\n")
    (walk / "catalogue.txt").write_text("i5\ni6\nnone\n")
    call = ["--checkpoint", path, "--users", "users.txt", "--topk", "5", "--out", "a.csv"]
    assert main([*call, "--items", "catalogue.txt"]) == 0
    assert "1 items to choose from that the model does not know" in capsys.readouterr().out
    assert sorted(pd.read_csv("a.csv")["item_id"]) == ["i5", "i6"]
    (walk / "users.txt").write_text("new zzz\n")
    with pytest.raises(UserError, match=r"nobody got a list, and a\.csv was not written"):
        main(call)
    assert sorted(pd.read_csv("a.csv")["item_id"]) == ["i5", "i6"]


def test_a_file_with_commas_is_read_or_refused(walk):
    path = checkpoint()
    (walk / "users.csv").write_text("user_id,item_id,timestamp\nnew,i1,2\nnew,i2,10\nold,i3,1\n")
    call = ["--checkpoint", path, "--users", "users.csv", "--topk", "3", "--out", "a.csv"]
    assert main(call) == 0
    found = pd.read_csv("a.csv")
    expected = recbole_scale.recommend(path, {"new": ["i1", "i2"], "old": ["i3"]}, k=3)
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    (walk / "users.csv").write_text("who,what\nnew,i1\n")
    with pytest.raises(UserError, match=r"users.csv, line 1: columns seem to be separated by commas"):
        main(call)


def test_a_model_of_ready_made_rows_takes_a_file_and_has_no_all(walk):
    rows = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    rows += [f"u{n}\ti{n % 9} i{(n + 1) % 9}\ti{(n + 2) % 9}" for n in range(30)]
    (walk / "dataset" / "b").mkdir()
    for part in ("train", "valid", "test"):
        (walk / "dataset" / "b" / f"b.{part}.inter").write_text("\n".join(rows) + "\n")
    settings = {
        **SETTINGS, "benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "train_neg_sample_args": None, "topk": [5],
        "metrics": ["NDCG"], "valid_metric": "NDCG@5",
    }  # fmt: skip
    path = recbole_scale.run("GRU4Rec", "b", config_dict=settings)["checkpoint"]
    (walk / "users.txt").write_text("new i1 i2\n")
    assert main(["--checkpoint", path, "--users", "users.txt", "--topk", "3", "--out", "a.csv"]) == 0
    with pytest.raises(UserError, match="holds no histories of its users; --users takes a file"):
        main(["--checkpoint", path, "--topk", "3", "--out", "b.csv"])


def test_equal_scores_are_in_the_order_of_ids():
    rng = np.random.default_rng(0)
    place = rng.permutation(12)
    scores = torch.tensor(rng.integers(0, 3, (200, 12)), dtype=torch.float32)
    index, values = best_first(scores, 5, place)
    for row in range(len(scores)):
        wanted = sorted(range(12), key=lambda column: (-float(scores[row, column]), place[column]))[:5]
        assert index[row].tolist() == wanted and values[row].tolist() == scores[row, wanted].tolist()


def test_tables_of_ids_survive_and_damage_is_told():
    names = np.array(["[PAD]", "a", "", "\u5546\u54c1", "x" * 3000], dtype=object)
    assert unpacked(packed(names)).tolist() == names.tolist()
    with pytest.raises(ValueError, match="damaged"):
        unpacked({**packed(names), "ends": torch.tensor([3, 2])})


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_an_exported_model_gives_equal_scores(walk, model):
    path = checkpoint(model)
    assert main(["--checkpoint", path, "--export", "model.pt2"]) == 0
    files = {"items.json": ""}
    program = torch.export.load("model.pt2", extra_files=files).module()
    trained = load_trained(path, with_data=False)
    assert json.loads(files["items.json"]) == trained.items.tolist()
    for batch in (1, 3, 17):
        lengths = torch.randint(1, 11, (batch,))
        items = torch.randint(1, 41, (batch, 10)) * (torch.arange(10) < lengths[:, None])
        rows = {"user_id": torch.zeros_like(lengths), "item_id_list": items, "item_length": lengths}
        with torch.no_grad():
            expected = trained.network.full_sort_predict(rows).view(batch, -1)
            found = program(items, lengths)
        torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-6)
        assert bool(torch.isneginf(found[:, 0]).all())
    with pytest.raises(UserError, match=r"must end in \.pt2"):
        main(["--checkpoint", path, "--export", "model.bin"])
