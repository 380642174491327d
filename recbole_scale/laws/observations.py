"""The rows a law is fitted to: checked, in logs, and in an order of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recbole_scale.errors import UserError
from recbole_scale.laws.fitting import Array
from recbole_scale.text import show_count

MIN_SIZES = 3


@dataclass(frozen=True)
class Observations:
    """Checked rows in an order that does not depend on the caller's, so that the bands do not either."""

    logs: Array  # [n, K] log of the sizes
    y: Array  # [n] log of the losses
    groups: NDArray[np.intp]  # [n] run of each row, from 0
    order: NDArray[np.intp]  # row i here is row order[i] of the caller

    @property
    def sizes(self) -> NDArray[np.intp]:
        """[n] the size of each row as a number from 0; on a grid the first axis is the one that is tuned."""
        return np.unique(self.logs[:, 0], return_inverse=True)[1].reshape(-1)

    def places(self, logs: Array) -> Array:
        """``logs`` [m, K] scaled so that these rows span 0 to 1."""
        start = self.logs.min(axis=0)
        return (logs - start) / (self.logs.max(axis=0) - start)

    @classmethod
    def check(
        cls, axes: dict[str, ArrayLike], target: dict[str, ArrayLike], groups: Sequence[Any] | None
    ) -> Observations:
        """Build from named columns; raises :class:`UserError` with one sentence on the first thing wrong."""
        columns = {name: column_of(name, values) for name, values in (axes | target).items()}
        first = next(iter(columns))
        for name, column in columns.items():
            if len(column) != len(columns[first]):
                raise UserError(f"{name} has {len(column)} rows but {first} has {len(columns[first])}")
        for name in axes:
            sizes = np.unique(columns[name])
            if len(sizes) < MIN_SIZES:
                there = f"there {'is' if len(sizes) == 1 else 'are'} {len(sizes)}"
                known = " and ".join(map(show_count, sizes))
                what = "amounts of data" if name == "d" else "sizes"
                raise UserError(f"a law needs at least {MIN_SIZES} different {what}, but {there}: {known}")
        (y,) = (np.log(columns[name]) for name in target)
        logs = np.stack([np.log(columns[name]) for name in axes], axis=1)
        labels = np.array([repr(index) for index in range(len(y))] if groups is None else [repr(g) for g in groups])
        if len(labels) != len(y):
            raise UserError(f"groups has {len(labels)} rows but {first} has {len(y)}")
        order = np.lexsort((labels, y, *logs.T[::-1]))
        if groups is None:
            return cls(logs[order], y[order], np.arange(len(y)), order)
        _, place, codes = np.unique(labels[order], return_index=True, return_inverse=True)
        return cls(logs[order], y[order], np.argsort(np.argsort(place))[codes.reshape(-1)], order)


def column_of(name: str, values: ArrayLike) -> Array:
    """``values`` as finite numbers above 0, or one sentence on the first that is none."""
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers") from None
    if column.ndim != 1 or not len(column):
        raise UserError(f"{name} must be a list of at least one number, not of shape {column.shape}")
    for row, value in enumerate(column):
        if not np.isfinite(value) or value <= 0.0:
            raise UserError(f"row {row} of {name} is {value:g}, but every row must be a finite number above 0")
    return column
