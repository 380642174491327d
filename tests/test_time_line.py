"""One time line for all users (eval_args.split TS): nothing in training is later than what is validated or tested."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.data.histories import Histories
from recbole_scale.data.splits import split_histories
from recbole_scale.data.time_units import as_time, mixed_units
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config

DAY = 86_400
START = 1_600_000_000


def spread_rows():
    """The walk with users who come and go over a year, at times that no float32 can tell apart."""
    rng = np.random.default_rng(3)
    first = {f"u{user}": int(rng.integers(0, 300 * DAY)) for user in range(60)}
    return [(user, item, START + first[user] + 37 * time) for user, item, time in walk_rows()]


@pytest.fixture
def year(folder):
    write_inter(folder / "dataset" / "year" / "year.inter", spread_rows())
    return folder


def parts_by_hand(rows, first, last):
    """Targets (user, item, time) of train, valid and test: all but each user's first, by their time."""
    by_user = {}
    for row in sorted(rows, key=lambda row: (row[0], row[2])):
        by_user.setdefault(row[0], []).append(row)
    targets = [row for group in by_user.values() for row in group[1:]]
    return [
        sorted((user, item) for user, item, time in targets if low <= time < high)
        for low, high in ((0, first), (first, last), (last, 10**12))
    ]


def parts_of(prepared):
    """Targets (user, item) that the loaders' data sets hold."""
    found = []
    for loader in (prepared.train_data, prepared.valid_data, prepared.test_data):
        data = loader._dataset
        names = [data.field2id_token[field] for field in ("user_id", "item_id")]
        users, items = (data.inter_feat[field].numpy() for field in ("user_id", "item_id"))
        found.append(sorted(zip(names[0][users].tolist(), names[1][items].tolist(), strict=True)))
    return found


def prepared_for(model, split, group_by="user", **settings):
    eval_args = {"split": split, "order": "TO", "group_by": group_by, "mode": "full"}
    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "eval_args": eval_args, "state": "error"}
    return prepare(make_config(model, "year", config_dict={**own, **settings}))


TABLE = {"rows_on_demand": False}
GENERAL = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("GRU4Rec", {}), ("GRU4Rec", TABLE)])
def test_targets_are_cut_at_the_two_times(year, model, more):
    first, last = START + 200 * DAY + 13, START + 270 * DAY + 7
    assert parts_of(prepared_for(model, {"TS": [first, last]}, **more)) == parts_by_hand(spread_rows(), first, last)


def test_a_general_model_is_cut_at_the_same_times_its_users_first_rows_included(year):
    first, last = START + 200 * DAY + 13, START + 270 * DAY + 7
    times = {(user, item, time) for user, item, time in spread_rows()}
    train, _, test = parts_of(prepared_for("BPR", {"TS": [first, last]}, **GENERAL))
    assert len(train) == sum(time < first for *_, time in times)
    assert sorted(test) == sorted((user, item) for user, item, time in times if time >= last)
    assert parts_of(prepared_for("BPR", {"TS": [first, last]}))[0] == train  # it names the times itself
    with pytest.raises(UserError, match="is read without 'timestamp'"):
        prepared_for("BPR", {"TS": [first, last]}, load_col={"inter": ["user_id", "item_id"]})


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("GRU4Rec", {}), ("SASRec", TABLE)])
@pytest.mark.parametrize("split", [{"TS": [0.6, 0.2, 0.2]}, {"RS": [0.6, 0.2, 0.2]}])
def test_shares_and_ratios_without_groups_cut_the_same_time_line_for_every_model(year, model, more, split):
    found = parts_of(prepared_for(model, split, None, **more))
    by_user = {}
    for user, _, time in spread_rows():
        by_user.setdefault(user, []).append(time)
    times = np.sort(np.concatenate([np.sort(group)[1:] for group in by_user.values()]))
    held_out = int(0.2 * len(times))
    first, last = times[len(times) - 2 * held_out], times[len(times) - held_out]
    assert found == parts_by_hand(spread_rows(), first, last)
    assert abs(len(found[2]) - held_out) <= 2 and len(found[0]) > len(found[1]) > 0


def test_training_windows_hold_nothing_from_after_the_cut(year):
    first = START + 200 * DAY
    prepared = prepared_for("ScaledSASRec", {"TS": [first, first + 50 * DAY]})
    late = {(user, item) for user, item, time in spread_rows() if time >= first}
    early = {(user, item) for user, item, time in spread_rows() if time < first}
    data = prepared.train_data._dataset
    histories = data.histories
    seen = set()
    for index in prepared.train_data.batches:
        windows = prepared.train_data.windows
        for start, length in zip(windows.start[index], windows.length[index], strict=True):
            user = data.field2id_token["user_id"][histories.users[histories.owner(np.array([start]))[0]]]
            items = data.field2id_token["item_id"][histories.items[start : start + length + 1]]
            seen |= {(user, item) for item in items}
    assert seen <= early and not seen & (late - early)
    alone = {user for user in {u for u, _ in early} if sum(u == user for u, _ in early) == 1}
    assert {user for user, _ in seen} == {user for user, _ in early} - alone


def test_dates_are_times_in_the_unit_of_the_file(year):
    dates = prepared_for("ScaledSASRec", {"TS": ["2021-04-01", "2021-05-15 12:30"]})
    numbers = prepared_for("ScaledSASRec", {"TS": [1_617_235_200, 1_621_081_800]})
    assert parts_of(dates) == parts_of(numbers)
    assert as_time("2021-04-01", np.array([1.6e12])) == 1_617_235_200_000
    assert as_time("2021-04-01T02:00+02:00", np.array([1.6e9])) == 1_617_235_200


def test_a_run_a_baseline_and_a_challenge_go_through_under_the_time_line(year):
    split = {"split": {"TS": [0.7, 0.15, 0.15]}, "order": "TO", "group_by": "user", "mode": "full"}
    settings = {**QUICK, "epochs": 1, "eval_args": split, "metrics": ["NDCG", "NLL"], "valid_metric": "NLL"}
    ours = recbole_scale.run("ScaledSASRec", "year", config_dict=settings)
    theirs = recbole_scale.run("GRU4Rec", "year", config_dict={**settings, "embedding_size": 8})
    assert 0 < ours["nll"] < 10 and 0 < theirs["nll"] < 10
    from recbole_scale.challenges.command import main

    main(
        [
            "--checkpoints",
            ours["checkpoint"],
            "--challenges",
            "long_tail",
            "robustness",
            "--seeds",
            "1",
            "--out",
            "found",
        ]
    )
    assert (year / "found").is_dir()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([1, 2], "leaves nothing to train on"),
        ([START + 400 * DAY, START + 500 * DAY], "leaves nothing"),
        ([START + 200 * DAY, START + 100 * DAY], "leaves nothing"),
        (["yesterday", START], "'yesterday' is no time"),
        (0.8, "two times"),
        ([0.5], "two times"),
    ],
)
def test_a_wrong_time_line_is_one_sentence(year, value, sentence):
    for model, more in (("ScaledSASRec", {}), ("SASRec", TABLE)):
        with pytest.raises(UserError, match=sentence):
            prepared_for(model, {"TS": value}, **more)


def test_a_user_who_comes_after_the_cut_is_not_trained_on_and_has_no_first_target():
    histories = Histories(np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2]), np.array([0, 3, 6]))
    split = split_histories(histories, {"TS": [3, 6]}, times=np.array([1.0, 2.0, 6.0, 5.0, 5.5, 7.0]))
    parts = [split.targets(histories, phase).tolist() for phase in ("train", "valid", "test")]
    assert parts == [[1], [4], [2, 5]] and split.train_counts.tolist() == [2, 0]


@pytest.mark.parametrize("pair", [("s", "ms"), ("ms", "us"), ("us", "ns"), ("s", "ns")])
def test_times_of_two_units_are_found_wherever_they_stand(pair):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    low = 1_500_000_000.0 * scale[pair[0]] + np.arange(50)
    high = 1_500_000_000.0 * scale[pair[1]] + np.arange(50)
    found = mixed_units(np.r_[high, low])
    assert found is not None and (found[0], found[2]) == pair and found[1] == low[0]
    assert mixed_units(low) is None and mixed_units(high) is None


@pytest.mark.parametrize("times", [[], [0, 1, 2], [1, 2.5, 9e15], np.arange(1e9, 4e12, 1e9), [0, 1.5e12, 1.6e12]])
def test_counts_and_long_ranges_are_no_mixture(times):
    assert mixed_units(np.array(times, dtype=float)) is None
