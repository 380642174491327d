"""Cases of each challenge against histories worked out by hand; leaks; groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from challenge_data import cases_of, histories_of, many_cases, plain
from conftest import write_inter
from hypothesis import given
from hypothesis import strategies as st

from recbole_scale.challenges import windows
from recbole_scale.challenges.cases import leave_one_out
from recbole_scale.challenges.export import export
from recbole_scale.challenges.kinds import cold_start, long_tail, multi_domain, robustness
from recbole_scale.challenges.measuring import groups_of
from recbole_scale.data.splits import split_histories
from recbole_scale.errors import UserError

LEAVE_ONE_OUT = {"LS": "valid_and_test"}
LOG = histories_of([1, 2, 3, 4, 5], [2, 3, 1], [1, 1, 2, 6], [5], [4, 5])
SPLIT = split_histories(LOG, LEAVE_ONE_OUT)


def base():
    return leave_one_out(LOG, SPLIT)


def test_the_base_cases_are_the_test_rows_with_all_before_them():
    assert plain(base()) == [([1, 2, 3, 4], [5]), ([2, 3], [1]), ([1, 1, 2], [6])]
    assert base().user.tolist() == [1, 2, 3]  # users 4 and 5 have too few interactions to hold one out


def test_training_counts_leave_out_valid_and_test_items():
    # train: 1 2 3 | 2 3 | 1 1 | 5 | 4 5 (RecBole gives a user of two rows no valid one)
    assert SPLIT.item_counts(LOG, 6, everybody=True).tolist() == [0, 3, 2, 2, 1, 2, 0]


def test_padded_rows_are_the_last_items_with_zeros_on_the_right():
    items, length = base().padded(np.array([0, 1]), 3)
    assert items.tolist() == [[2, 3, 4], [2, 3, 0]]
    assert length.tolist() == [3, 2]


def test_taking_and_cutting_cases_keeps_their_parts_together():
    part = replace(base(), groups={"g": np.array(["a", "b", "c"])}).take(np.array([2, 0])).last(2)
    assert plain(part) == [([1, 2], [6]), ([3, 4], [5])]
    assert part.groups["g"].tolist() == ["c", "a"]
    assert part.user.tolist() == [3, 1] and part.case.tolist() == [2, 0]


# Long tail ------------------------------------------------------------------------------------------------------------


def test_equal_items_puts_a_quarter_of_the_items_in_each_group():
    counts = np.array([0, 1, 100, 5, 7, 7, 0, 3, 50])  # ranked: 2 8 4 5 3 7 1 6
    group = long_tail.item_groups(counts, "equal_items")
    assert [np.flatnonzero(group[1:] == g).tolist() for g in range(4)] == [[1, 7], [3, 4], [2, 6], [0, 5]]


def test_equal_interactions_puts_a_quarter_of_the_interactions_in_each_group():
    counts = np.array([0, 40, 20, 20, 10, 5, 5, 0])
    # middles of the items' interactions among 100: 20, 50, 70, 85, 92.5, 97.5; quarters end at 25, 50, 75
    assert long_tail.item_groups(counts, "equal_interactions")[1:].tolist() == [0, 2, 2, 3, 3, 3, 3]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.sampled_from(long_tail.RULES))
def test_a_more_popular_item_is_never_nearer_the_tail(counts, rule):
    counts = np.array([0, *counts])
    group = long_tail.item_groups(counts, rule)[1:]
    order = np.argsort(-counts[1:], kind="stable")
    assert (np.diff(group[order]) >= 0).all()
    assert ((group >= 0) & (group <= 3)).all()


def test_long_tail_groups_by_the_target_alone():
    counts = SPLIT.item_counts(LOG, 6, everybody=True)
    (cases,) = long_tail.make_cases(base(), counts, "equal_items")
    assert plain(cases) == plain(base())
    # ranked 1 2 3 5 4 6: places 0, 1/6, 2/6, ...
    assert cases.groups["popularity"].tolist() == ["G3", "G1", "G4"]


def test_an_unknown_group_rule_is_one_sentence():
    with pytest.raises(UserError, match=r"group_rule 'equal_item' is none of .*did you mean 'equal_items'"):
        long_tail.item_groups(np.array([0, 1, 2]), "equal_item")


# Cold start -----------------------------------------------------------------------------------------------------------


def test_cold_start_has_the_same_users_at_each_length_and_short_ones_apart():
    sets = cold_start.make_cases(base(), (1, 2, 3))
    assert [(s.setting, s.level, plain(s)) for s in sets] == [
        ("last", 1, [([4], [5]), ([2], [6])]),
        ("last", 2, [([3, 4], [5]), ([1, 2], [6])]),
        ("last", 3, [([2, 3, 4], [5]), ([1, 1, 2], [6])]),
        ("all", 1, [([4], [5]), ([3], [1]), ([2], [6])]),
        ("all", 2, [([3, 4], [5]), ([2, 3], [1]), ([1, 2], [6])]),
        ("all", 3, [([2, 3, 4], [5]), ([2, 3], [1]), ([1, 1, 2], [6])]),
        ("short", 2, [([2, 3], [1])]),
        ("short", 3, [([1, 1, 2], [6])]),
    ]
    assert sets[0].dropped == {"history shorter than 3": 1}


def test_users_who_are_all_too_short_are_one_sentence():
    with pytest.raises(UserError, match=r"at least 50 items, but the longest before a test item has 4"):
        cold_start.make_cases(base())
    with pytest.raises(UserError, match="the longest before a test item has 0;"):
        cold_start.make_cases(base().take(np.zeros(len(base().lengths), dtype=bool)))


# Multi-domain ---------------------------------------------------------------------------------------------------------

DOMAIN_OF = np.array([-1, 0, 0, 1, 2, 1, 1])  # items 1 2: books, 3 5 6: films, 4: games


def test_diff_has_no_item_of_the_targets_domain_and_mix_the_same_cases():
    log = cases_of(([1, 3, 4], 5), ([3, 5], 6), ([1, 2, 5], 2))
    mix, short, diff = multi_domain.make_cases(log, DOMAIN_OF, ["books", "films", "games"])
    assert plain(mix) == [([1, 3, 4], [5]), ([1, 2, 5], [2])]  # the second has only films before a film
    assert plain(diff) == [([1, 4], [5]), ([5], [2])]
    assert plain(short) == [([3, 4], [5]), ([5], [2])]  # as long as diff, the most recent items
    assert mix.dropped == {"no item of another domain in the history": 1}
    assert mix.groups["target domain"].tolist() == diff.groups["target domain"].tolist() == ["to films", "to books"]
    assert mix.groups["domains"].tolist() == diff.groups["domains"].tolist() == ["3 domains", "2 domains"]


def test_one_domain_only_is_one_sentence():
    with pytest.raises(UserError, match="no history holds an item of another domain"):
        multi_domain.make_cases(base(), np.zeros(7, dtype=int), ["books"])


def write_domains(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [f"u{i}\t{item}\t{i}\t{domain}" for i, (item, domain) in enumerate(rows)]
    path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float\tdomain:token", *lines]) + "\n")
    return path


def test_an_item_belongs_to_its_most_frequent_domain_and_equals_to_the_first_by_name(tmp_path):
    rows = [("x", "toys"), ("x", "books"), ("x", "toys"), ("y", "toys"), ("y", "books"), ("z", "art"), ("w", "toys")]
    path = write_domains(tmp_path / "d.inter", rows)
    found, names = multi_domain.read_domains(path, np.array(["[PAD]", "z", "y", "x"]))
    assert names == ["art", "books", "toys"]
    assert found.tolist() == [-1, 0, 1, 2]


def test_no_domain_column_is_one_sentence(tmp_path):
    write_inter(tmp_path / "d.inter", [("u", "i", 1)])
    with pytest.raises(UserError, match="needs a column 'domain:token', the columns are user_id, item_id, timestamp"):
        multi_domain.read_domains(tmp_path / "d.inter", np.array(["[PAD]", "i"]))


def test_an_item_that_the_file_lacks_is_one_sentence(tmp_path):
    path = write_domains(tmp_path / "d.inter", [("x", "toys")])
    with pytest.raises(UserError, match="there is no item 'q'"):
        multi_domain.read_domains(path, np.array(["[PAD]", "x", "q"]))


# Robustness -----------------------------------------------------------------------------------------------------------

COUNTS = np.array([0, 30, 1, 1, 1, 1, 1, 1, 1, 20])
RATIO = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 1.0])


@given(many_cases(), st.sampled_from(robustness.KINDS), RATIO, st.integers(0, 3))
def test_noise_is_the_same_for_the_same_seed_and_leaves_the_rest_alone(cases, kind, ratio, seed):
    noisy = robustness.disturb(cases, kind, ratio, seed, COUNTS)
    again = robustness.disturb(cases, kind, ratio, seed, COUNTS)
    assert plain(noisy) == plain(again)
    assert noisy.target is cases.target and noisy.case is cases.case and noisy.user is cases.user
    assert (noisy.lengths >= 1).all()
    assert (noisy.setting, noisy.level, noisy.seed) == (kind, ratio, seed)


def is_subsequence(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


@given(many_cases(), RATIO)
def test_delete_takes_its_share_keeps_the_order_and_at_least_one(cases, ratio):
    noisy = robustness.disturb(cases, "delete", ratio, 0, COUNTS)
    for (before, _), (after, _) in zip(plain(cases), plain(noisy), strict=True):
        wanted = min(round_half_up(ratio * len(before)), len(before) - 1)
        assert len(after) == len(before) - wanted
        assert is_subsequence(after, before)


def round_half_up(value: float) -> int:
    return int(round(value, 6) + 0.5)


@given(many_cases(), RATIO, st.sampled_from(["replace", "replace_popular"]))
def test_replace_changes_its_share_of_places_and_never_to_the_target(cases, ratio, kind):
    noisy = robustness.disturb(cases, kind, ratio, 0, COUNTS)
    for (before, (target,)), (after, _) in zip(plain(cases), plain(noisy), strict=True):
        assert len(after) == len(before)
        changed = [new for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) == round_half_up(ratio * len(before))
        assert target not in changed and all(1 <= item <= 9 for item in changed)


@given(many_cases(), RATIO)
def test_swap_is_a_permutation_that_moves_its_share(cases, ratio):
    numbered = replace(cases, items=np.arange(len(cases.items), dtype=np.int32))  # every item is another
    noisy = robustness.disturb(numbered, "swap", ratio, 0, COUNTS)
    for (before, _), (after, _) in zip(plain(numbered), plain(noisy), strict=True):
        assert sorted(after) == before
        wanted = round_half_up(ratio * len(before))
        moved = sum(old != new for old, new in zip(before, after, strict=True))
        assert moved == (wanted if wanted >= 2 else 0)


@given(many_cases(), RATIO)
def test_insert_adds_its_share_of_other_items(cases, ratio):
    noisy = robustness.disturb(cases, "insert", ratio, 0, COUNTS)
    for (before, (target,)), (after, _) in zip(plain(cases), plain(noisy), strict=True):
        assert len(after) == len(before) + round_half_up(ratio * len(before))
        assert is_subsequence(before, after)
        if target not in before:
            assert target not in after


def test_noise_by_popularity_draws_popular_items():
    counts = np.array([0, 900, 50, 25, 25, 0])
    drawn = robustness.popular(np.random.default_rng(0), counts)(100_000)
    share = np.bincount(drawn, minlength=6)[1:] / 100_000
    np.testing.assert_allclose(share, (counts[1:] + 1) / (counts[1:] + 1).sum(), atol=0.005)


def test_noise_falls_on_every_place_alike():
    cases = cases_of(*[(list(range(1, 11)), 11)] * 3000)
    left = robustness.disturb(cases, "delete", 0.3, 0, np.ones(12, dtype=int))
    np.testing.assert_allclose(np.bincount(left.items, minlength=11)[1:11] / 3000, 0.7, atol=0.04)


def test_robustness_has_one_clean_set_and_every_kind_ratio_and_seed():
    sets = robustness.make_cases(base(), np.ones(7, dtype=int), ("delete", "swap"), (0.2, 0.5), 2, history_length=2)
    assert len(sets) == 9
    assert [(s.setting, s.level, s.seed) for s in sets][:4] == [
        ("clean", 0.0, None),
        ("delete", 0.2, 0),
        ("delete", 0.2, 1),
        ("delete", 0.5, 0),
    ]
    assert plain(next(iter(sets))) == [([3, 4], [5]), ([2, 3], [1]), ([1, 2], [6])]  # what a model of length 2 reads
    with pytest.raises(UserError, match=r"noise 'delet' is none of"):
        robustness.make_cases(base(), np.ones(7, dtype=int), ("delet",))
    with pytest.raises(UserError, match=r"ratio 1.5"):
        robustness.make_cases(base(), np.ones(7, dtype=int), ratios=(1.5,))


# Windows of the trajectory --------------------------------------------------------------------------------------------


def window_folder(tmp_path: Path, window: int = 2) -> tuple[Path, list[tuple[str, str, int]]]:
    """Three users in a mixed order: a has 8 interactions, b 7 with equal times, c 6."""
    rows = [("a", f"i{t}", t) for t in range(1, 9)]
    rows += [("b", f"i{9 - t}", 5) for t in range(1, 8)]
    rows += [("c", f"i{t}", 10 * t) for t in range(1, 7)]
    rows = [rows[i] for i in (20, 0, 8, 3, 1, 9, 2, 10, 11, 15, 4, 12, 5, 6, 13, 7, 14, 16, 17, 18, 19)]
    write_inter(tmp_path / "log" / "log.inter", rows)
    folder, with_window, without = windows.write_window_data(tmp_path / "log" / "log.inter", tmp_path / "out", window)
    assert (with_window, without) == (2, 1)
    return folder, rows


def test_the_cut_file_keeps_the_order_and_leaves_the_windows_out(tmp_path):
    folder, rows = window_folder(tmp_path)
    assert folder == tmp_path / "out" / "log-cut2"
    held_out = {("a", "i7"), ("a", "i8"), ("b", "i3"), ("b", "i2")}  # b's times are equal: the file's order counts
    lines = (folder / "log-cut2.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float"
    assert lines[1:] == ["\t".join(map(str, row)) for row in rows if row[:2] not in held_out]
    table = [line.split("\t") for line in (folder / "log-cut2.windows").read_text().splitlines()]
    assert table[0] == ["user_id:token", "item_id:token", "timestamp:float", "step:float", "before:float"]
    assert sorted(table[1:]) == [
        ["a", "i7", "7", "1", "6"],
        ["a", "i8", "8", "2", "6"],
        ["b", "i2", "5", "2", "5"],
        ["b", "i3", "5", "1", "5"],
    ]


USERS = np.array(["[PAD]", "c", "a", "b"])
ITEMS = np.array(["[PAD]", *(f"i{n}" for n in range(1, 9))])
CUT = histories_of([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [8, 7, 6, 5, 4])


def test_windows_are_the_targets_after_whole_histories(tmp_path):
    folder, _ = window_folder(tmp_path)
    (cases,) = windows.make_cases(folder / "log-cut2.windows", CUT, USERS, ITEMS)
    found = dict(zip(cases.user.tolist(), plain(cases), strict=True))
    assert found == {2: ([1, 2, 3, 4, 5, 6], [7, 8]), 3: ([8, 7, 6, 5, 4], [3, 2])}


def test_windows_with_an_item_no_history_has_are_dropped_and_counted(tmp_path):
    folder, _ = window_folder(tmp_path)
    tokens = ITEMS.copy()
    tokens[8] = "other"
    (cases,) = windows.make_cases(folder / "log-cut2.windows", CUT, USERS, tokens)
    assert cases.user.tolist() == [3]
    assert cases.dropped == {"item of the window in no history": 1}


def test_a_model_whose_training_may_have_seen_the_window_is_refused(tmp_path):
    folder, _ = window_folder(tmp_path)
    seen = histories_of([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4])
    with pytest.raises(UserError, match="user 'a' has 6 interactions before the window, but 8 in the data"):
        windows.make_cases(folder / "log-cut2.windows", seen, USERS, ITEMS)


def test_a_model_whose_training_filtered_interactions_out_is_refused_and_told_so(tmp_path):
    folder, _ = window_folder(tmp_path)
    filtered = histories_of([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5], [8, 7, 6, 5, 4])
    with pytest.raises(UserError, match=r"user 'a' has 6 .* but 5 in the data .* filter it first"):
        windows.make_cases(folder / "log-cut2.windows", filtered, USERS, ITEMS)


def test_windows_that_were_cut_short_are_one_sentence(tmp_path):
    folder, _ = window_folder(tmp_path)
    path = folder / "log-cut2.windows"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="the rows are not whole windows with the steps 1 to 2"):
        windows.make_cases(path, CUT, USERS, ITEMS)


def test_data_without_windows_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*log.windows; --make_trajectory_data writes one"):
        windows.make_cases(tmp_path / "log.windows", CUT, USERS, ITEMS)


def test_users_all_too_short_for_a_window_are_one_sentence(tmp_path):
    write_inter(tmp_path / "log.inter", [("u", f"i{t}", t) for t in range(6)])
    with pytest.raises(UserError, match=r"no user has 15 interactions, .* the most one has is 6"):
        windows.write_window_data(tmp_path / "log.inter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_export_of_a_window_is_a_part_for_each_step_with_the_truth_before_it(tmp_path):
    folder, _ = window_folder(tmp_path)
    sets = windows.make_cases(folder / "log-cut2.windows", CUT, USERS, ITEMS)
    split = split_histories(CUT, LEAVE_ONE_OUT)
    parts = export(tmp_path, "made", sets, CUT, split, (USERS, ITEMS), history_length=3)
    assert parts == ["ids", "train", "valid", "trajectory-truth-1", "trajectory-truth-2"]
    second = (tmp_path / "made" / "made.trajectory-truth-2.inter").read_text().splitlines()
    assert sorted(second[1:]) == ["a\ti5 i6 i7\ti8", "b\ti5 i4 i3\ti2"]


# Leaks and groups, for every challenge --------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn):
    """Histories in which every interaction is an item of its own: an item tells user and place. And items' domains."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8).filter(lambda found: max(found) >= 5))
    ends = np.cumsum(lengths).tolist()
    rows = [list(range(end - n + 1, end + 1)) for end, n in zip(ends, lengths, strict=True)]
    domains = draw(st.lists(st.integers(0, 2), min_size=ends[-1], max_size=ends[-1]))
    return histories_of(*rows), np.array([-1, *domains])


def all_sets(histories, split, domain_of):
    base = leave_one_out(histories, split)
    counts = split.item_counts(histories, len(domain_of) - 1, everybody=True)
    sets = [*long_tail.make_cases(base, counts), *cold_start.make_cases(base, (2, 4))]
    try:
        sets += multi_domain.make_cases(base, domain_of, ["a", "b", "c"])
    except UserError:
        assert not [1 for h, (t,) in plain(base) if any(domain_of[i] != domain_of[t] for i in h)]
    return sets, [*robustness.make_cases(base, counts, ratios=(0.3,), seeds=1)]


@given(logs())
def test_no_target_is_trained_on_or_stands_in_its_history_and_groups_partition(log):
    histories, domain_of = log
    split = split_histories(histories, LEAVE_ONE_OUT)
    trained = set(histories.items[split.targets(histories, "train")].tolist()) | set(
        histories.items[histories.offsets[:-1]].tolist()
    )
    quiet, noisy = all_sets(histories, split, domain_of)
    for number, cases in enumerate([*quiet, *noisy]):
        for i, (history, (target,)) in enumerate(plain(cases)):
            assert target not in trained
            assert target not in history
            if number < len(quiet):  # items rise with time within a user, and noise alone brings others in
                assert max(history) < target
                first = histories.offsets[cases.user[i] - 1]
                assert set(history) <= set(histories.items[first : target - 1].tolist())
        for labels in cases.groups.values():
            assert len(labels) == len(cases)
        groups = groups_of(cases)[1:]
        if groups:
            counted = np.concatenate([index for _, index in groups])
            assert (np.bincount(counted, minlength=len(cases)) == len(cases.groups)).all()


@given(st.lists(st.integers(1, 14), min_size=1, max_size=6).filter(lambda found: max(found) >= 8), st.integers(0, 99))
def test_the_cut_file_and_the_windows_share_nothing_and_miss_nothing(tmp_path_factory, lengths, seed):
    rows = [(f"u{u}", f"u{u}t{t}", t) for u, length in enumerate(lengths) for t in range(length)]
    np.random.default_rng(seed).shuffle(rows)
    folder = tmp_path_factory.mktemp("cut")
    write_inter(folder / "log" / "log.inter", rows)
    out, _, _ = windows.write_window_data(folder / "log" / "log.inter", folder / "out", window=3)
    kept, held_out = (
        [line.split("\t")[1] for line in (out / f"log-cut3.{kind}").read_text().splitlines()[1:]]
        for kind in ("inter", "windows")
    )
    assert sorted(kept + held_out) == sorted(row[1] for row in rows)
    expected = [f"u{u}t{t}" for u, n in enumerate(lengths) if n >= 8 for t in range(n - 3, n)]
    assert sorted(held_out) == sorted(expected)
