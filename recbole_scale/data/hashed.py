"""Users chosen by a hash of their names: the same in every run, split and process. Plain numpy and pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def share_of_user(tokens: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each user's token, float64 [U]: a hash, the same in every run, split and process.

    Users below a fraction f are a fraction f of all, and belong to every larger fraction too.
    """
    hashed = pd.util.hash_array(np.asarray(tokens, dtype=object), categorize=False)
    return (hashed >> np.uint64(11)).astype(np.float64) / 2.0**53


def drawn_users(names: Any, users: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, tuple[int, int]]:
    """At most ``most`` of the users with rows, drawn by a hash of their names: the same in every run and process.

    The hash is another than that of ``data_fraction``, so that users who train are ranked as often as others.

    Args:
        names: of user ids 0, 1, ...
        users: id of each history's user, [U]; ready-made rows repeat them.
        counts: rows of each history, [U].
        most: users that are drawn where there are more.

    Returns:
        indices of the histories of the drawn users, ascending, and how many users are drawn of how many with rows.
    """
    there = np.unique(users[counts > 0])
    hashed = pd.util.hash_array(np.asarray(names[there], dtype=object), hash_key="ranked users  16", categorize=False)
    drawn = np.sort(there[np.argsort(hashed, kind="stable")[:most]])
    return np.flatnonzero(np.isin(users, drawn) & (counts > 0)), (len(drawn), len(there))
