"""Windows: every interaction but a user's first is a target exactly once, and never in its own input."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
from conftest import SHARED_DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_scale.data.windows import batch_windows, cut_windows, gather_windows, padding_share

counts = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def cut(count, max_length, stride, seed):
    count = np.array(count)
    start = np.cumsum(count) - count
    rng = None if seed is None else np.random.default_rng(seed)
    return start, count, cut_windows(start, count, max_length, stride, rng)


@given(counts, st.integers(1, 12), st.data(), st.one_of(st.none(), st.integers(0, 99)), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_each_target_once_with_the_right_inputs(count, max_length, data, seed, budget):
    stride = data.draw(st.integers(1, max_length))
    start, count, windows = cut(count, max_length, stride, seed)
    items = np.arange(1, count.sum() + 1)  # item id = position + 1, so that ids tell positions
    rng = None if seed is None else np.random.default_rng(seed)
    batches = batch_windows(windows, budget, rng)
    seen = []
    for batch in batches:
        inputs, targets = gather_windows(items, windows, batch)
        assert inputs.shape == targets.shape
        assert inputs.shape[1] <= max_length
        assert inputs.size <= max(budget, inputs.shape[1])  # one window may exceed the budget, more may not
        row, column = targets.nonzero()
        assert (targets[row, column] == inputs[row, column] + 1).all()  # the next interaction, never itself
        assert ((np.diff(inputs, axis=1) == 1) | (inputs[:, 1:] == 0)).all()  # consecutive, padding at the end
        seen += targets[row, column].tolist()
    owned = [range(s + 2, s + c + 1) for s, c in zip(start, count, strict=True)]
    assert sorted(seen) == sorted(position for own in owned for position in own)
    assert windows.n_targets == len(seen)


@given(counts, st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_no_window_crosses_users(count, max_length, seed):
    _, count, windows = cut(count, max_length, max_length, seed)
    owner_of = np.repeat(np.arange(len(count)), count)
    first, last = owner_of[windows.start], owner_of[windows.start + windows.length]
    assert (first == last).all()


def test_a_stride_gives_targets_at_least_that_much_context():
    _, _, windows = cut([200], 50, 10, 3)
    late = windows.start > 0
    assert (windows.context[late] >= 40).all()


@given(counts, st.integers(1, 12), st.data(), st.one_of(st.none(), st.integers(0, 99)))
@settings(max_examples=50, deadline=None)
def test_a_history_is_cut_only_where_it_is_longer_than_a_window(count, max_length, data, seed):
    start, count, windows = cut(count, max_length, data.draw(st.integers(1, max_length)), seed)
    fits = (count > 1) & (count - 1 <= max_length)
    for begin, length in zip(start[fits], count[fits] - 1, strict=True):
        at = np.flatnonzero((windows.start >= begin) & (windows.start < begin + length))
        assert len(at) == 1 and (windows.length[at[0]], windows.context[at[0]]) == (length, 0)


def test_phases_move_the_cuts_and_a_seed_fixes_them():
    cuts = [cut([200] * 5, 50, 50, seed)[2].start.tolist() for seed in (1, 1, 2)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_padding_stays_under_five_percent_on_ml_1m():
    path = SHARED_DATA / "ml-1m.inter.xz"
    if not path.exists():
        pytest.skip("ML-1M is not beside this checkout")
    with lzma.open(path, "rt") as file:
        users = np.array([line.split("\t", 1)[0] for line in file][1:]).astype(int)
    count = np.bincount(users)[1:] - 2
    windows = cut_windows(np.cumsum(count) - count, count, 50, 50, np.random.default_rng(0))
    batches = batch_windows(windows, 2048, np.random.default_rng(0))
    shapes = [(len(batch), windows.length[batch].max()) for batch in batches]
    assert padding_share(windows, shapes) < 0.05
    assert windows.n_targets == 1_000_209 - 3 * 6_040
