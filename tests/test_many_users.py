"""Logs of many users: a stated sample is ranked, and nothing is kept as an object a user that could be an array."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.data import histories
from recbole_scale.data.hashed import drawn_users, share_of_user
from recbole_scale.data.histories import sort_by_time, time_order
from recbole_scale.data.texts import Names
from recbole_scale.data.windows import Windows, batch_windows
from recbole_scale.errors import UserError
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.settings import run_id


def test_names_are_an_array_of_objects_without_being_one():
    texts = ["[PAD]", "b", "é", "a", "long " * 20]
    plain, names = np.array(texts, dtype=object), Names("[PAD]", pa.array(texts[1:]))
    for index in (2, -1, np.int64(3), [1, 3, 3], np.array([-1, 0]), np.zeros(0, int), slice(1, 4), slice(4, 2)):
        assert np.array_equal(names[index], plain[index])
    assert len(names) == 5 and list(names) == texts and "_whole" not in vars(names)
    for index in (slice(None, None, -1), plain == "a", np.array([[1, 2], [3, 4]])):
        assert np.array_equal(names[index], plain[index])
    assert names.tolist() == texts and names.shape == (5,) and (names == "a").tolist() == (plain == "a").tolist()
    assert np.asarray(names).dtype == object
    with pytest.raises(IndexError):
        names[5]
    with pytest.raises(IndexError):
        names[np.array([1, 5])]


@pytest.mark.parametrize("by_user", [True, False])
def test_rows_sorted_where_they_lie_are_those_of_the_whole_order(monkeypatch, by_user):
    monkeypatch.setattr(histories, "ROWS_AT_ONCE", 50)
    rng = np.random.default_rng(0)
    user, time, item = rng.integers(0, 40, 400), rng.integers(0, 9, 400) + 0.5, np.arange(400, dtype=np.int32)
    user = np.sort(user) if by_user else user
    expected = np.lexsort((time, user))
    assert np.array_equal(time_order(user, time), expected)
    sorted_time = time.copy()
    sort_by_time(user, sorted_time, item)
    assert np.array_equal(item, expected) and np.array_equal(sorted_time, time[expected])


@pytest.mark.parametrize("longest", [50, 40_000])
def test_batches_are_those_of_a_sort_by_length_and_chance(longest):
    length = np.random.default_rng(1).integers(1, longest, 300)
    windows = Windows(np.arange(300), length, 0 * length)
    found = batch_windows(windows, 3 * longest, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    order = np.lexsort((rng.permutation(300), -length))
    batches, at = [], 0
    while at < 300:
        batches.append(order[at : at + max(1, 3 * longest // length[order[at]])])
        at += len(batches[-1])
    expected = [batches[i] for i in rng.permutation(len(batches))]
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_drawn_users_are_the_same_nested_and_not_those_that_train():
    names = np.array(["[PAD]", *(f"u{n}" for n in range(4000))], dtype=object)
    users, counts = np.arange(1, 4001), np.arange(4000) % 4  # a quarter has no row
    few, many = (drawn_users(names, users, counts, most) for most in (500, 1000))
    assert few[1] == (500, 3000) and len(few[0]) == 500 and (counts[few[0]] > 0).all()
    assert set(few[0]) < set(many[0]) and (np.diff(many[0]) > 0).all()
    other = np.random.default_rng(0).permutation(4000)  # the same names in another order of ids
    shuffled = drawn_users(np.r_[names[:1], names[1:][other]], users, counts[other], 500)[0]
    assert set(names[1:][other][shuffled]) == set(names[1:][few[0]])
    trains = share_of_user(names[1:])[few[0]] < 0.3
    assert abs(trains.mean() - 0.3) < 4 * (0.3 * 0.7 / 500) ** 0.5
    assert drawn_users(names, users, counts, 9999)[1] == (3000, 3000)


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_the_sample_is_ranked_as_the_same_users_are_among_all(walk, model):
    own = {} if model == "ScaledSASRec" else {"train_neg_sample_args": None, "metrics": ["Recall", "NDCG", "NLL"]}
    settings = {**QUICK, **own, "epochs": 1, "per_user_file": "all.npz"}
    whole = recbole_scale.run(model, "walk", config_dict=settings)
    sampled = recbole_scale.run(
        model, "walk", config_dict={**settings, "per_user_file": "some.npz", "test_users": 13, "valid_users": 7}
    )
    everyone, some = read_per_user("all.npz"), read_per_user("some.npz")
    assert len(some["user"]) == 13 and sampled["run_id"] != whole["run_id"]
    places = [everyone["user"].tolist().index(name) for name in some["user"]]
    assert np.array_equal(some["rank"], everyone["rank"][places])
    np.testing.assert_allclose(some["nll"], everyone["nll"][places], rtol=1e-5)
    if model == "ScaledSASRec":
        rows = [json.loads(line) for line in (walk / "results" / "runs.jsonl").read_text().splitlines()]
        assert (rows[1]["users_valid"], rows[1]["users_tested"]) == (7, 13)
        assert rows[1]["users_dropped"] == rows[0]["users_dropped"]
        told = next(path.read_text() for path in (walk / "log").rglob("*.log") if "ranked:" in path.read_text())
        assert "ranked: valid 7 of 58 users, test 13 of 60 users, drawn by a hash of their names" in told


def test_what_reads_recboles_own_table_refuses_a_sample(walk):
    with pytest.raises(UserError, match="test_users is for runs that read rows on demand, and BPR does not"):
        recbole_scale.run("BPR", "walk", config_dict={**QUICK, "test_users": 5}, dry_run=True)


def test_a_comparison_refuses_a_sample_before_its_first_run(walk):
    from recbole_scale.compare.runs import Budget, plan_runs

    def plan(model):
        return plan_runs("walk", ["ScaledSASRec", model], [1], Budget(epochs=1), {"valid_users": 9})

    assert len(plan("GRU4Rec")) == 2
    with pytest.raises(UserError, match="valid_users is for runs that read rows on demand, and Pop does not"):
        plan("Pop")


def test_runs_that_rank_everybody_keep_their_name(walk):
    config = make_config("ScaledSASRec", "walk", config_dict=QUICK)
    name = run_id(config)
    for key in ("valid_users", "test_users"):
        config.final_config_dict.pop(key)
    assert run_id(config) == name
    assert run_id(make_config("ScaledSASRec", "walk", config_dict={**QUICK, "test_users": 5})) != name


def test_planning_makes_no_object_a_user(walk):
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=QUICK))
    names = prepared.dataset.field2id_token["user_id"]
    assert isinstance(names, Names) and "_whole" not in vars(names)
    loader = prepared.test_data
    assert isinstance(vars(loader)["dataset"], range) and len(vars(loader)["dataset"]) == loader.sample_size == 60
