"""One id of 20,000 characters takes the memory of its text: no array of texts is as wide as the longest for all."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUICK, write_inter

import recbole_scale
from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.kinds import multi_domain
from recbole_scale.data.texts import joined, separated
from recbole_scale.runs.measuring import read_per_user, save_per_user
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config

LONG = "x" * 20_000
USERS = 1_500  # as wide as the longest: 1,500 x 20,000 x 4 bytes, 120 MB
LIMIT = 40 << 20
ROWS = {"benchmark_filename": ["train", "valid", "test"]}
COMMON = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error"}


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()


@pytest.fixture
def long_ids(folder):
    """A log with one long user and one long item, and the same as ready-made rows."""
    names = [LONG, *(f"u{n}" for n in range(USERS - 1))]
    items = {n: LONG if n == 7 else f"i{n}" for n in range(20)}
    rows = [(name, items[(number + k) % 20], k) for number, name in enumerate(names) for k in range(4)]
    write_inter(folder / "dataset" / "long" / "long.inter", rows)
    for part in ROWS["benchmark_filename"]:
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        lines += [f"{names[n]}\t{items[7]} {items[n % 5]}\t{items[n % 20]}" for n in range(100)]
        (folder / "dataset" / "long" / f"long.{part}.inter").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("ScaledSASRec", {}),
        ("GRU4Rec", {"train_neg_sample_args": None}),
        ("GRU4Rec", {"train_neg_sample_args": None, "rows_on_demand": False}),
        ("BPR", {}),
        ("ScaledSASRec", ROWS),
        ("GRU4Rec", {"train_neg_sample_args": None, **ROWS}),
    ],
)
def test_every_way_to_read_a_log(long_ids, model, more):
    config = make_config(model, "long", config_dict={**COMMON, **more})
    with little_memory():
        found = prepare(config)
    for field in ("user_id", "item_id"):
        assert LONG in found.dataset.field2id_token[field]
        assert found.dataset.field2id_token[field][found.dataset.field2token_id[field][LONG]] == LONG


def test_a_run_with_its_file_of_users(long_ids, walk):
    settings = {**QUICK, "epochs": 1, "topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5"}
    recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)  # what a first run imports is no memory of ids
    with little_memory():
        done = recbole_scale.run("ScaledSASRec", "long", config_dict={**settings, "per_user_file": "users.npz"})
        users = read_per_user("users.npz")
    assert LONG in users["user"] and len(users["user"]) == USERS
    with little_memory():
        found = recbole_scale.recommend(done["checkpoint"], {LONG: ["i1", LONG]}, k=3)
    assert len(found) == 3


def test_a_file_of_users_by_itself(tmp_path):
    names = np.array(["[PAD]", LONG, *(f"u{n}" for n in range(USERS))], dtype=object)
    ids = np.arange(1, USERS + 2)
    dataset = SimpleNamespace(uid_field="u", field2id_token={"u": names}, inter_feat={"u": ids})
    prepared = SimpleNamespace(
        test_data=SimpleNamespace(_dataset=dataset, uid_list=ids), config={"MODEL_TYPE": None}, dataset=dataset
    )
    hits = torch.ones(len(ids), 2, dtype=torch.int64)
    with little_memory():
        save_per_user(
            str(tmp_path / "u.npz"), prepared, type("Struct", (dict,), {"filtered": None})({"rec.topk": hits})
        )
        assert read_per_user(tmp_path / "u.npz")["user"].tolist() == names[1:].tolist()


def test_domains_of_cases():
    n = 1_500
    cases = Cases("overall", "test", None, np.arange(n), np.arange(n), np.tile([1, 2], n), np.arange(0, 2 * n + 1, 2),
                  np.ones((n, 1), dtype=np.int64))  # fmt: skip
    with little_memory():
        mix, *_ = multi_domain.make_cases(cases, np.array([-1, 0, 1]), [LONG, "b"])
    assert set(mix.groups["target domain"]) == {f"to {LONG}"}


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "ünï", "x" * 999]])
def test_texts_come_back_from_their_arrays(texts):
    assert separated(*joined(texts)).tolist() == texts


@pytest.mark.parametrize("ends", [[2, 1], [1, 2], [4, 3], [-1, 3], []])
def test_texts_whose_ends_contradict_them_are_damaged(ends):
    with pytest.raises(ValueError, match="damaged"):
        separated(np.frombuffer(b"abc", np.uint8), np.array(ends, dtype=np.int64))
