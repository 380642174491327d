"""Ladders of shapes: N as the paper counts it, heads that divide, equal-N shapes within 2 %."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_scale.data.hashed import share_of_user
from recbole_scale.errors import UserError
from recbole_scale.model.sizes import (
    SIZE_NAMES,
    equal_shapes,
    heads_of,
    named,
    nearest_size,
    rung_of,
    scaled_shape,
    shaped,
)

PAPER = {"tiny": 98_304, "small": 786_432, "base": 1_572_864, "medium": 9_437_184, "large": 75_497_472,
         "xlarge": 829_440_000}  # fmt: skip


def test_named_sizes_have_the_papers_n() -> None:
    assert {name: named(name).n_blocks for name in SIZE_NAMES} == PAPER


@given(st.integers(1, 48), st.integers(1, 1500))
def test_a_shape_says_what_it_is(layers: int, d_model: int) -> None:
    rung = shaped(f"{layers}x{d_model}")
    assert rung.n_blocks == 12 * layers * d_model**2
    assert rung.settings["inner_size"] == 4 * d_model
    assert d_model % rung.settings["n_heads"] == 0


def test_heads_follow_the_papers_small_sizes() -> None:
    assert [heads_of(d) for d in (8, 16, 64, 128, 256)] == [2, 2, 2, 4, 8]
    assert heads_of(7) == 1
    assert shaped("2x48x3").settings["n_heads"] == 3


def test_a_count_between_the_sizes_keeps_their_proportions() -> None:
    assert scaled_shape(12 * 3 * 96**2, 2, 64) == (3, 96)  # d_model / layers = 32 in both
    assert scaled_shape(12 * 4 * 64**2, 4, 64) == (4, 64)
    assert scaled_shape(100, 2, 64) == (1, 8)  # the smallest there is


def test_other_settings_come_from_the_nearest_size() -> None:
    assert nearest_size(6_144) == "tiny"
    assert nearest_size(196_608) == "tiny"
    assert nearest_size(442_368) == "small"
    assert nearest_size(2_000_000_000) == "xlarge"


@pytest.mark.parametrize("n_blocks", [98_304, 786_432, 9_437_184])
def test_equal_shapes_keep_n_within_two_percent(n_blocks: int) -> None:
    rungs = equal_shapes(n_blocks)
    assert len({rung.settings["n_layers"] for rung in rungs}) == len(rungs) >= 3
    assert all(abs(rung.n_blocks / n_blocks - 1) <= 0.02 for rung in rungs)


@pytest.mark.parametrize("text", ["2", "x64", "2x", "0x64", "2x0", "2x64x3", "tiny"])
def test_a_wrong_shape_is_told(text: str) -> None:
    with pytest.raises(UserError, match="shape"):
        shaped(text)


@pytest.mark.parametrize("text", ["10001x8", "1x1000001", "9" * 30 + "x8", "99999999999999999999999"])
def test_shapes_beyond_what_settings_take_are_refused_at_once(text: str) -> None:
    with pytest.raises(UserError, match="beyond 10,000 layers or 1,000,000 dimensions"):
        rung_of(text)


def test_no_equal_shapes_is_told() -> None:
    with pytest.raises(UserError, match="fewer than two shapes"):
        equal_shapes(100)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True), st.randoms())
def test_users_are_chosen_by_name_alone(tokens: list[str], random: object) -> None:
    shares = share_of_user(np.array(tokens))
    assert ((shares >= 0) & (shares < 1)).all()
    order = list(range(len(tokens)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert (share_of_user(np.array(tokens)[order]) == shares[order]).all()


def test_a_fraction_of_users_is_that_fraction() -> None:
    shares = share_of_user(np.arange(20_000).astype(str))
    for fraction in (0.1, 0.25, 0.5):  # 4 standard errors of a fair draw
        assert abs((shares < fraction).mean() - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / 20_000)
