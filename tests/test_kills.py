"""A few random kills of every kind of command; ``tests/fuzz/kills.py --kills N`` does as many as one likes."""

from __future__ import annotations

import pytest
from kills import KINDS, torture


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_commands_end_with_the_same_numbers_and_leave_nothing(kind):
    found = torture(kind, kills=3, seed=0, seconds=600)
    assert found["kills"] >= 1 and found["ended"] >= 1
    assert not found["wrong"], found["told"]
