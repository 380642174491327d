"""Histories, splits and rows against brute force and against RecBole's own dataset."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import QUICK, walk_rows, write_inter
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_scale.data import histories
from recbole_scale.data.dataset import HistoryDataset
from recbole_scale.data.histories import Histories, ragged_ranges, time_order
from recbole_scale.data.splits import Split, split_histories
from recbole_scale.errors import UserError

interactions = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=60)


@given(interactions)
@settings(max_examples=100, deadline=None)
def test_histories_are_in_exact_time_order_with_ties_in_file_order(rows):
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    histories = Histories.from_columns(user, item, time)
    for i, who in enumerate(histories.users):
        own = [(t, at, it) for at, (u, it, t) in enumerate(rows) if u == who]
        expected = [it for _, _, it in sorted(own)]
        assert histories.items[histories.offsets[i] : histories.offsets[i + 1]].tolist() == expected
    assert histories.lengths.sum() == len(rows)


def test_times_that_float32_would_merge_keep_their_order():
    time = np.array([1_700_000_002.0, 1_700_000_001.0, 1_700_000_000.0])
    assert len(set(time.astype(np.float32))) == 1
    assert Histories.from_columns(np.ones(3, int), np.array([3, 2, 1]), time).items.tolist() == [1, 2, 3]


@given(interactions, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_rows_before_a_position_equal_brute_force(rows, max_length):
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    histories = Histories.from_columns(user, item, time)
    positions = np.arange(len(rows))
    inputs, length = histories.inputs_before(positions, max_length)
    for position in positions:
        start = histories.offsets[histories.owner(np.array([position]))[0]]
        expected = histories.items[max(start, position - max_length) : position].tolist()
        assert length[position] == len(expected)
        assert inputs[position].tolist() == expected + [0] * (max_length - len(expected))


SPLITS = [
    {"LS": "valid_and_test"},
    {"LS": "valid_only"},
    {"LS": "test_only"},
    {"RS": [0.8, 0.1, 0.1]},
    {"RS": [3, 1, 1]},
]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.sampled_from(SPLITS))
@settings(max_examples=200, deadline=None)
def test_train_valid_and_test_targets_partition_the_interactions(lengths, rule):
    lengths = np.array(lengths)
    offsets = np.r_[0, np.cumsum(lengths)]
    histories = Histories(np.arange(offsets[-1]), np.arange(len(lengths)), offsets)
    split = split_histories(histories, rule)
    parts = [split.targets(histories, phase) for phase in ("train", "valid", "test")]
    first = offsets[:-1][lengths > 0]
    assert sorted(np.concatenate([first, *parts]).tolist()) == list(range(offsets[-1]))
    for early, late in ((0, 1), (0, 2), (1, 2)):  # within a user, earlier parts come first
        for owner in range(len(lengths)):
            a = parts[early][histories.owner(parts[early]) == owner]
            b = parts[late][histories.owner(parts[late]) == owner]
            assert not len(a) or not len(b) or a.max() < b.min()


def test_ragged_ranges():
    assert ragged_ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_an_unknown_split_is_one_sentence():
    three = Histories(np.array([1, 2, 3]), np.array([1]), np.array([0, 3]))
    for rule, sentence in (({"XX": [0.8, 0.1, 0.1]}, "leave-one-out"), ({"RS": [0, 1, 1]}, "leave-one-out")):
        with pytest.raises(UserError, match=sentence):
            split_histories(three, rule)
    with pytest.raises(UserError, match="these histories have no times"):
        split_histories(three, {"TS": [0.8, 0.1, 0.1]})
    with pytest.raises(UserError, match="group_by is 'item'"):
        split_histories(three, {"RS": [0.8, 0.1, 0.1]}, "item")
    assert isinstance(split_histories(three, {"LS": "test_only"}), Split)


def rows_of(loader, fields):
    """All rows of an evaluation loader, sorted by user."""
    parts = {field: [] for field in fields}
    for interaction, _, _, _ in loader:
        for field in fields:
            parts[field].append(interaction[field].numpy())
    columns = {field: np.concatenate(values) for field, values in parts.items()}
    order = np.argsort(columns["user_id"], kind="stable")
    return {field: values[order] for field, values in columns.items()}


FIELDS = ("user_id", "item_id", "item_id_list", "item_length")


def prepared(model: str, dataset: str, **settings):
    config = Config(model, dataset, config_dict={"train_neg_sample_args": None, "rows_on_demand": False, **settings})
    data = create_dataset(config)
    return config, data, data_preparation(config, data)


@pytest.mark.parametrize("split", [SPLITS[0], SPLITS[1], SPLITS[3]])
def test_rows_equal_recboles_own_dataset(folder, split, monkeypatch):
    """SASRec takes RecBole's SequentialDataset here, ScaledSASRec ours: the same rows in all three parts."""
    monkeypatch.setattr("sys.argv", ["test"])
    write_inter(folder / "dataset" / "walk" / "walk.inter", [*walk_rows(), ("two", "i1", 1), ("two", "i2", 2)])
    args = {"split": split, "order": "TO", "mode": "full", "group_by": "user"}
    both = {m: prepared(m, "walk", eval_args=args, MAX_ITEM_LIST_LENGTH=10) for m in ("SASRec", "ScaledSASRec")}
    assert isinstance(both["ScaledSASRec"][1], HistoryDataset) and not isinstance(both["SASRec"][1], HistoryDataset)
    for phase in (1, 2):
        if split == SPLITS[1] and phase == 2:
            continue
        theirs, ours = (rows_of(both[m][2][phase], FIELDS) for m in ("SASRec", "ScaledSASRec"))
        for field in FIELDS:
            np.testing.assert_array_equal(ours[field], theirs[field], err_msg=f"{field} in part {phase}")
    # a window's targets are RecBole's training rows
    theirs = both["SASRec"][2][0]._dataset.inter_feat
    loader = both["ScaledSASRec"][2][0]
    ours = np.concatenate([loader.batch(step)["target_list"].numpy().ravel() for step in range(len(loader))])
    assert sorted(ours[ours > 0].tolist()) == sorted(theirs["item_id"].tolist())


def test_every_ml_100k_user_is_tested_on_the_latest_interaction(folder, monkeypatch):
    """RecBole's float32 times get 4 of 943 users wrong; both our dataset and, with the plugin, RecBole's do not."""
    monkeypatch.setattr("sys.argv", ["test"])
    for model in ("ScaledSASRec", "SASRec"):
        config = Config(model, "ml-100k", config_dict={"train_neg_sample_args": None, "rows_on_demand": False})
        data = create_dataset(config)
        frame = data.inter_feat.copy()
        last = frame.groupby("user_id")["timestamp"].transform("max") == frame["timestamp"]
        latest = frame[last].groupby("user_id")["item_id"].agg(set)
        test = data_preparation(config, data)[2]
        rows = rows_of(test, ("user_id", "item_id"))
        assert len(rows["user_id"]) == 943
        wrong = [u for u, i in zip(rows["user_id"], rows["item_id"], strict=True) if i not in latest[u]]
        assert wrong == []


def test_mask_history_leaves_out_every_earlier_item_but_the_target(walk, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test"])
    _, data, (_, _, test) = prepared("ScaledSASRec", "walk", mask_history=True, **QUICK)
    histories = data.histories
    for interaction, (rows, items), _, targets in test:
        for row in range(len(targets)):
            user = int(interaction["user_id"][row])
            at = int(np.flatnonzero(histories.users == user)[0])
            history = histories.items[histories.offsets[at] : histories.offsets[at + 1] - 1]
            masked = set(items[rows == row].tolist())
            assert masked == set(history.tolist()) - {int(targets[row])}


def test_times_further_apart_than_float64_counts_keep_users_apart():
    """Spans beyond 2**53 (nanoseconds of a year are 3e16), negative times too: the order is that of two keys."""
    assert time_order(np.array([0, 1, 0]), np.array([5.0, 1.0, 9007199254740996.0])).tolist() == [0, 2, 1]
    rng = np.random.default_rng(0)
    for low, high in ((0, 2**54), (-(2**56), 2**57), (-(2**61), 2**61), (-(2**63), 2**63), (1, 2**70)):
        user = rng.integers(0, 3, 500)
        time = np.floor(rng.uniform(low, high, 500))
        time[::7] = time[0]
        assert time_order(user, time).tolist() == np.lexsort((time, user)).tolist()


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_rows_that_lie_user_by_user_are_sorted_in_parts_to_the_same_order(monkeypatch, rows):
    monkeypatch.setattr(histories, "ROWS_AT_ONCE", rows)
    rng = np.random.default_rng(rows)
    for user in (np.sort(rng.integers(0, 9, 60)), rng.integers(0, 9, 60)):
        time = rng.integers(0, 5, 60).astype(float)  # ties
        assert time_order(user, time).tolist() == np.lexsort((time, user)).tolist()


def test_the_name_of_the_data_does_not_depend_on_how_much_is_hashed_at_once(monkeypatch):
    tokens = np.array(["[PAD]", "a", "b", "c"], dtype=object)
    made = histories.Histories(np.array([1, 2, 3], np.int32), np.array([1], np.int32), np.array([0, 3]))
    data = SimpleNamespace(uid_field="u", iid_field="i", field2id_token={"u": tokens[:2], "i": tokens}, histories=made)
    found = histories.data_fingerprint(data)
    monkeypatch.setattr(histories, "TEXTS_AT_ONCE", 1)
    assert histories.data_fingerprint(data) == found
    parts = [b"[PAD]\na", b"[PAD]\na\nb\nc", *(a.tobytes() for a in (made.items, made.users, made.offsets))]
    assert hashlib.sha256(b"".join(parts)).hexdigest()[:16] == found
