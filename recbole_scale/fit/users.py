"""E for all users, from the files of ``recbole-scale sweep --per_user DIR``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_scale.errors import UserError
from recbole_scale.fit.law_output import finite
from recbole_scale.fit.study import Answer
from recbole_scale.laws.users import Population, population_floor
from recbole_scale.runs.measuring import read_per_user


def population_of(found: Answer, folder: str) -> Population:
    """The floor of the law of ``found`` for all users.

    Raises:
        UserError: a run's file is missing, damaged, without losses or of other users.
    """
    if found.question.loss != "test_nll":
        raise UserError(f"--per_user holds test losses, but the law is of {found.question.loss}")
    columns, users = [], None
    for row in found.choice.fitted:
        path = Path(folder) / f"{row['run_id']}.npz"
        kept = read_per_user(path)
        if kept is None:
            raise UserError(f"{path}: no whole file of users; `sweep --per_user {folder}` writes one a run")
        order = np.argsort(kept["user"], kind="stable")  # rows of a user are in the order of the test
        names = kept["user"][order]
        if users is not None and not np.array_equal(users, names):
            raise UserError(f"{path}: other users than in the file of {found.choice.fitted[0]['run_id']}")
        users = names
        columns.append(kept["nll"][order].astype(np.float64))
    _, codes = np.unique(np.asarray(users, dtype=object), return_inverse=True)
    return population_floor(
        found.law, np.array(columns), codes, resamples=found.question.resamples, seed=found.question.seed
    )


def population_text(one: Population) -> str:
    """The same as a line."""
    (a, b), (c, d), (e, f) = one.of_runs, one.of_users, one.of_both
    return (
        f"E = {one.E:.4g} nats: 95 % band {a:.4g} to {b:.4g} by the runs, "
        f"{c:.4g} to {d:.4g} by the {one.users:,} users, {e:.4g} to {f:.4g} by both, the band for all users"
    )


def population_json(one: Population) -> dict[str, object]:
    """The same as plain JSON values."""
    bands = {"runs": list(one.of_runs), "users": list(one.of_users), "both": list(one.of_both)}
    return dict(finite({"users": one.users, "E": one.E, "bands_95": bands}))
