"""E for all users: what the band holds over many samples of users, and where its files come from."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_scale.data.texts import joined
from recbole_scale.errors import UserError
from recbole_scale.fit.rows import Question
from recbole_scale.fit.study import answer
from recbole_scale.fit.users import population_of, population_text
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.laws.users import population_floor

X = np.repeat(np.geomspace(6e3, 2e6, 6), 2)
FLOOR, USERS = 5.0, 400


def losses_of(seed, noise=0.0005):
    """Losses [n, U] of a sample of users who differ in their floor, sd 1 nat, about a population of known floor."""
    rng = np.random.default_rng(seed)
    of_user = FLOOR + rng.standard_normal(USERS)
    runs = (1500 / X) ** 0.58 + FLOOR * noise * rng.standard_normal(len(X))
    return of_user + runs[:, None]


def test_users_of_several_rows_are_drawn_whole():
    losses = losses_of(0)  # two rows of a user are the same: half as many users as rows
    law = fit_power_law(X, losses.mean(axis=1), resamples=120)
    twice, users = np.repeat(losses, 2, axis=1), np.repeat(np.arange(losses.shape[1]), 2)
    once = population_floor(law, losses, resamples=600)
    assert population_floor(law, twice, users, resamples=600).of_both == pytest.approx(once.of_both)
    as_rows = population_floor(law, twice, resamples=600)  # as if every row were a user: too sure
    assert np.diff(as_rows.of_users)[0] == pytest.approx(np.diff(once.of_users)[0] / np.sqrt(2), rel=0.15)
    with pytest.raises(UserError, match="users of rows"):
        population_floor(law, losses, users)


def test_the_band_by_both_holds_the_floor_of_the_population_where_that_of_the_runs_does_not():
    hits = []
    for seed in range(40):
        losses = losses_of(seed)
        found = population_floor(fit_power_law(X, losses.mean(axis=1), resamples=120), losses, resamples=200, seed=seed)
        hits.append([low <= FLOOR <= high for low, high in (found.of_runs, found.of_users, found.of_both)])
    runs, _, both = np.mean(hits, axis=0)
    assert both >= 0.85 > runs + 0.2  # 40 draws at 95 %: below 0.85 less than once in a hundred times


def test_the_spread_by_users_is_that_of_a_mean_over_users():
    losses = losses_of(0, noise=0.0)
    found = population_floor(fit_power_law(X, losses.mean(axis=1), resamples=120), losses, resamples=800)
    expected = 2 * 1.96 * losses[0].std() / np.sqrt(USERS)  # every user's floor moves E alone
    assert found.of_users[1] - found.of_users[0] == pytest.approx(expected, rel=0.15)


def test_what_cannot_be_said_of_users_is_refused():
    losses = losses_of(0)
    law = fit_power_law(X, losses.mean(axis=1), resamples=100)
    with pytest.raises(UserError, match="the law has 12 runs"):
        population_floor(law, losses[1:])
    with pytest.raises(UserError, match="no band"):
        population_floor(fit_power_law(X, losses.mean(axis=1), resamples=0), losses)


def test_the_files_of_a_sweep_are_read_in_the_order_of_their_users(tmp_path):
    losses, rows = losses_of(1), []
    names = np.array([f"u{i:03}" for i in range(USERS)], dtype=object)
    rng = np.random.default_rng(0)
    for i, (x, loss) in enumerate(zip(X, losses, strict=True)):
        order = rng.permutation(USERS)
        text, ends = joined(names[order])
        np.savez(tmp_path / f"r{i}.npz", rank=np.ones(USERS, np.int32), nll=loss[order].astype(np.float32),
                 user_text=text, user_ends=ends)  # fmt: skip
        rows.append({"status": "ok", "run_id": f"r{i}", "dataset": "d", "model": "M", "n_blocks": x, "n_layers": 2,
                     "d_model": x, "seed": i % 2, "unique_interactions": 1000, "test_nll": loss.mean()})  # fmt: skip
    found = answer(rows, Question(resamples=100))
    one = population_of(found, str(tmp_path))
    own = [losses[int(row["run_id"][1:])] for row in found.choice.fitted]
    assert one.of_users == pytest.approx(population_floor(found.law, np.array(own), resamples=100).of_users, abs=1e-4)
    assert "by the 400 users" in population_text(one)
    (tmp_path / "r3.npz").unlink()
    with pytest.raises(UserError, match=r"r3\.npz: no whole file of users"):
        population_of(found, str(tmp_path))
