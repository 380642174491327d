"""recommend: the same lists as ranking by hand, raw ids, files of histories, bounded work, whole files or none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.serving.command import main
from recbole_scale.serving.recommend import load_trained, recommend

SETTINGS = {**QUICK, "epochs": 1, "metrics": ["Recall", "NLL"], "valid_metric": "NLL", "embedding_size": 16}


def checkpoint(model="ScaledSASRec", **settings):
    return recbole_scale.run(model, "walk", config_dict={**SETTINGS, **settings})["checkpoint"]


def expected_lists(trained, topk, mask=False):
    """Item tokens by user token, one user at a time, histories sorted here."""
    rows = pd.DataFrame(walk_rows(), columns=["user", "item", "time"]).sort_values(["user", "time"], kind="stable")
    tokens = trained.dataset.field2token_id
    found = {}
    for user, group in rows.groupby("user"):
        items = [tokens["item_id"][item] for item in group["item"]]
        recent = items[-10:]
        batch = {
            "user_id": torch.tensor([tokens["user_id"][user]]),
            "item_id_list": torch.tensor([recent + [0] * (10 - len(recent))]),
            "item_length": torch.tensor([len(recent)]),
        }
        with torch.no_grad():
            scores = trained.network.full_sort_predict(batch)[0]
        scores[0] = -torch.inf
        if mask:
            scores[torch.tensor(items)] = -torch.inf
        order = [int(i) for i in torch.argsort(scores, descending=True)[:topk] if scores[i] > -torch.inf]
        found[user] = [(str(trained.items[i]), float(scores[i])) for i in order]
    return found


def read(path):
    frame = pd.read_csv(path, dtype={"user_id": str}) if str(path).endswith("csv") else pq.read_table(path).to_pandas()
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score"]
    assert all(group["rank"].tolist() == list(range(1, len(group) + 1)) for _, group in frame.groupby("user_id"))
    return {user: list(zip(group["item_id"], group["score"], strict=True)) for user, group in frame.groupby("user_id")}


@pytest.mark.parametrize("model", ["ScaledSASRec", "Caser", "FMLPRec", "SHAN", "BERT4Rec"])
@pytest.mark.parametrize("mask", [False, True])
def test_lists_of_all_users_equal_ranking_one_by_one(walk, model, mask):
    if model == "SHAN" and mask:
        pytest.skip("once is enough")
    path = checkpoint(model, **({"short_item_length": 2} if model == "SHAN" else {}))
    trained = load_trained(path)
    summary = recommend(trained, "all", "out/recs.parquet", topk=7, mask_history=mask, batch_size=16)
    found = read("out/recs.parquet")
    if model == "SHAN":
        assert summary.users == len(found) == 60
        return
    expected = expected_lists(trained, 7, mask)
    assert set(found) == set(expected) and summary.rows == sum(map(len, expected.values()))
    for user, rows in expected.items():
        np.testing.assert_allclose([s for _, s in found[user]], [s for _, s in rows], rtol=1e-4, atol=1e-5)
        assert [item for item, _ in found[user]] == [item for item, _ in rows]


@pytest.mark.parametrize("kind", ["lines", "atomic"])
def test_files_of_histories_give_the_lists_of_the_data_set(walk, kind):
    trained = load_trained(checkpoint())
    recommend(trained, "all", "all.csv", topk=5)
    rows = walk_rows()
    if kind == "atomic":
        write_inter(walk / "users.txt", [*rows, ("u1", "never seen", 99), ("stranger", "i3", 5), ("nobody", "x", 1)])
    else:
        frame = pd.DataFrame(rows, columns=["user", "item", "time"]).sort_values("time", kind="stable")
        lines = [f"{user} {' '.join(group['item'])}" for user, group in frame.groupby("user")]
        lines[0] += " never-seen"
        (walk / "users.txt").write_text("\n".join([*lines, "", "stranger i3", "nobody x y"]) + "\n")
    summary = recommend(trained, "users.txt", "some.csv", topk=5, batch_size=7)
    found, everyone = read("some.csv"), read("all.csv")
    stranger = found.pop("stranger")
    assert len(stranger) == 5 and set(found) == set(everyone)
    for user in everyone:
        assert [item for item, _ in found[user]] == [item for item, _ in everyone[user]]
    left_out = 2 if kind == "atomic" else 3
    assert (summary.unknown_items, summary.users_without_items, summary.unknown_users) == (left_out, 1, 1)
    assert f"{left_out} interactions with items the model does not know" in str(summary)


def test_a_long_file_is_read_and_written_in_blocks(walk, monkeypatch):
    from recbole_scale.serving import recommend as module
    from recbole_scale.serving import users

    trained = load_trained(checkpoint())
    (walk / "users.txt").write_text("".join(f"v{i} i1 i{i % 40}\n" for i in range(3000)))
    sizes, original = [], module.rank

    def watched(trained, chunk, *rest):
        sizes.append((len(chunk.number), len(chunk.items)))
        return original(trained, chunk, *rest)

    monkeypatch.setattr(module, "rank", watched)
    monkeypatch.setattr(users, "text_blocks", lambda path: _small_blocks(path))
    recommend(trained, "users.txt", "out.parquet", topk=3, batch_size=64)
    assert max(size for size, _ in sizes) <= 64 and sum(size for size, _ in sizes) == 3000
    assert pq.ParquetFile("out.parquet").metadata.num_row_groups == len(sizes)  # written as they came


def _small_blocks(path):
    from recbole_scale.prepare.sources import Block

    lines = path.read_bytes().splitlines(keepends=True)
    for start in range(0, len(lines), 500):
        yield Block(str(path), b"".join(lines[start : start + 500]), start + 1)


def test_nothing_is_left_when_ranking_fails(walk, monkeypatch):
    trained = load_trained(checkpoint())
    (walk / "recs.csv").write_text("older")
    monkeypatch.setattr(trained.network, "full_sort_predict", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recommend(trained, "all", "recs.csv", topk=3)
    assert (walk / "recs.csv").read_text() == "older"
    assert not [name for name in os.listdir(walk) if name.endswith(".tmp")]


def test_mistakes_are_one_sentence(walk):
    path = checkpoint()
    trained = load_trained(path)
    for arguments, sentence in (
        (("all", "recs.txt", 5), "must end in .parquet or .csv"),
        (("all", "recs.csv", 41), "--topk is 41, but must be from 1 to 40, the items of the data set"),
        (("none.txt", "recs.csv", 5), "there is no file none.txt; --users takes 'all' or a file"),
        (("all", "recs.csv", 5, False, 0), "--batch_size is 0, but must be at least 1"),
        (("all", "recs.csv", 5, False, -1), "--batch_size is -1, but must be at least 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            recommend(trained, *arguments)
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_trained("saved/none.pth")
    write_inter(walk / "dataset" / "walk" / "walk.inter", [*walk_rows(), ("u1", "i1", 99)])
    with pytest.raises(UserError, match=r"is not the one that .* was trained on"):
        load_trained(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"user_id,item_id\nJos\xe9,i1\n", "cannot be read as UTF-8 text with commas"),
        (b"user_id,item_id\nu1,i1,i2\n", "its rows have more columns than its header, which has 2"),
        (b"user_id,item_id\nu1,i1\nu2,i1,i2\n", "cannot be read as UTF-8 text with commas"),
        (b"user_id,item_id,item_id\nu1,i1,i2\n", "line 1: there are two columns 'item_id'"),
        (b"user_id,item_id\n", "nobody got a list, and recs.csv was not written: 0 users"),
        (b"user_id,item_id\nu1,nothing\n", "nobody got a list, and recs.csv was not written: 0 users, 0 rows; 1 "),
        (b"", "nobody got a list"),
    ],
)
def test_a_file_of_users_that_is_none_leaves_the_lists_there_are(walk, content, says):
    Path("users.csv").write_bytes(content)
    Path("recs.csv").write_text("older")
    with pytest.raises(UserError, match=says):
        recommend(load_trained(checkpoint()), "users.csv", "recs.csv", topk=3)
    assert Path("recs.csv").read_text() == "older"
    Path("users.csv").write_bytes(b"\xef\xbb\xbfuser_id,item_id\r\nu1,i1\r\n")  # a spreadsheet's
    assert recommend(load_trained(checkpoint()), "users.csv", "recs.csv", topk=3).users == 1


def test_the_command(walk, capsys):
    with pytest.raises(UserError, match="was trained on 'walk', not on 'other'"):
        main(["--checkpoint", checkpoint(), "--out", "recs.csv", "--dataset", "other"])
    main(["--checkpoint", checkpoint(), "--out", "recs.csv", "--topk", "3", "--mask_history"])
    assert "recs.csv: 60 users" in capsys.readouterr().out
    with pytest.raises(UserError, match="no sequential model"):
        main(["--checkpoint", checkpoint("Pop", load_col={"inter": ["user_id", "item_id"]}), "--out", "a.csv"])
