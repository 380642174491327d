"""Small histories by hand, and a ranker whose scores are known, for the tests of the challenges."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from recbole_scale.challenges.cases import Cases, ends_of
from recbole_scale.data.histories import Histories


def histories_of(*rows: list[int]) -> Histories:
    """Histories of users 1, 2, ... as given."""
    return Histories(
        np.array([item for row in rows for item in row], dtype=np.int32),
        np.arange(1, len(rows) + 1, dtype=np.int32),
        ends_of(np.array([len(row) for row in rows])),
    )


def cases_of(*rows: tuple[list[int], int]) -> Cases:
    """Cases of (history, target)."""
    return Cases(
        challenge="overall",
        setting="test",
        level=None,
        case=np.arange(len(rows)),
        user=np.arange(1, len(rows) + 1),
        items=np.array([item for history, _ in rows for item in history], dtype=np.int32),
        offsets=ends_of(np.array([len(history) for history, _ in rows])),
        target=np.array([[target] for _, target in rows]),
    )


def plain(cases: Cases) -> list[tuple[list[int], list[int]]]:
    """(history, targets) of every case."""
    return [(cases.history(i).tolist(), cases.target[i].tolist()) for i in range(len(cases))]


@st.composite
def many_cases(draw: st.DrawFn, n_items: int = 9) -> Cases:
    """Cases of any histories of at least one item."""
    item = st.integers(1, n_items)
    rows = draw(st.lists(st.tuples(st.lists(item, min_size=1, max_size=25), item), min_size=1, max_size=6))
    return cases_of(*rows)


class TableRanker:
    """Scores that are a fixed row per last item of the history, [V + 1, V + 1]."""

    device = torch.device("cpu")
    any_width = True

    def __init__(self, table: np.ndarray, max_length: int = 50) -> None:
        self.table = torch.as_tensor(table, dtype=torch.float32)
        self.n_items, self.max_length = self.table.shape[1] - 1, max_length
        self.widths: list[int] = []

    def scores(self, user: np.ndarray, items: np.ndarray, length: np.ndarray) -> torch.Tensor:
        """The row of each history's last item."""
        assert (length >= 1).all() and items.shape[1] <= self.max_length
        self.widths.append(items.shape[1])
        return self.table[items[np.arange(len(items)), length - 1]].clone()
