"""The generator: same seed, same bytes; counts as asked; and the predictors' NLL are what the formulas say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.prepare import synthetic
from recbole_scale.prepare.readers import read_raw
from recbole_scale.prepare.synthetic import SyntheticProcess, SyntheticSettings, main, write_synthetic

SHIPPED = Path(__file__).resolve().parents[1] / "dataset" / "synthetic"
SMALL = SyntheticSettings(users=4_000, items=500, interactions=400_000, seed=7)


@pytest.fixture(scope="module")
def process() -> SyntheticProcess:
    return SyntheticProcess(SMALL)


@pytest.fixture(scope="module")
def log(process: SyntheticProcess) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(chunk) for chunk in process.chunks()], ignore_index=True)


def shipped_card() -> dict:
    return json.loads((SHIPPED / "synthetic.json").read_text())


def test_the_shipped_file_is_what_its_card_generates_bit_for_bit(tmp_path):
    told = shipped_card()
    made = write_synthetic(SyntheticSettings(**told["settings"]), tmp_path / "synthetic")
    assert (tmp_path / "synthetic" / "synthetic.inter").read_bytes() == (SHIPPED / "synthetic.inter").read_bytes()
    told.pop("made_by")
    assert made == told
    assert told["sha256"] == hashlib.sha256((SHIPPED / "synthetic.inter").read_bytes()).hexdigest()


def test_the_shipped_file_has_the_counts_its_card_tells():
    told, log = shipped_card(), read_raw("inter", [SHIPPED / "synthetic.inter"]).log
    assert len(log) == told["interactions"] == told["settings"]["interactions"]
    assert log.columns["user"].used() == told["settings"]["users"]
    assert log.columns["domain"].used() == told["settings"]["domains"]
    assert 0.95 * told["settings"]["items"] <= log.columns["item"].used() <= told["settings"]["items"]
    assert (SHIPPED / "synthetic.inter").stat().st_size < 700_000


def test_another_seed_gives_another_log(tmp_path):
    few = SyntheticSettings(users=20, items=60, interactions=300, seed=1)
    one, again, other = (
        write_synthetic(settings, tmp_path / name)["sha256"]
        for settings, name in ((few, "a"), (few, "b"), (replace(few, seed=2), "c"))
    )
    assert one == again != other


def test_counts_lengths_and_times_are_as_asked(process, log):
    lengths = log.groupby("user").size().to_numpy()
    assert len(log) == SMALL.interactions and len(lengths) == SMALL.users
    assert (lengths == process.lengths()).all() and lengths.min() >= SMALL.min_length
    assert lengths.max() > 4 * np.median(lengths), "some histories are far longer than most"
    assert log["item"].between(1, SMALL.items).all()
    assert log.groupby("user")["time"].diff().dropna().min() >= 1, "time moves on within a user"
    assert (process.cells_of(log["item"].to_numpy())[0] == log["domain"]).all()


def test_many_chunks_join_without_a_seam(process, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_INTERACTIONS", 50_000)
    chunks = list(process.chunks())
    assert len(chunks) > 4
    users = np.concatenate([chunk["user"] for chunk in chunks])
    assert (np.bincount(users)[1:] == process.lengths()).all() and (np.diff(users) >= 0).all()
    assert max(len(chunk["user"]) for chunk in chunks) < 60_000, "memory is bounded by the chunk"


def nll_of(process: SyntheticProcess, log: pd.DataFrame, kind: str) -> np.ndarray:
    """Negative log likelihood, in nats, of every third or later interaction of a user, under the true predictor."""
    share = np.empty(SMALL.items + 1)
    share[process.item_names] = process.item_given_cell
    domain, topic = process.cells_of(log["item"].to_numpy())
    user = log["user"].to_numpy()
    at = np.flatnonzero(user[2:] == user[:-2]) + 2
    pairs = process.topic_pairs
    if kind == "best":
        chance = process.domain_kernel[domain[at - 1], domain[at]]
        chance = chance * process.topic_kernel[topic[at - 2], topic[at - 1], topic[at]]
    elif kind == "markov":
        first = np.einsum("ij,ijk->jk", pairs, process.topic_kernel) / pairs.sum(axis=0)[:, None]
        chance = process.domain_kernel[domain[at - 1], domain[at]] * first[topic[at - 1], topic[at]]
    else:
        chance = process.domain_weights[domain[at]] * pairs.sum(axis=0)[topic[at]]
    return -np.log(chance * share[log["item"].to_numpy()[at]])


@pytest.mark.parametrize("kind", ["best", "markov", "popularity"])
def test_known_nll_is_what_the_predictor_scores(kind, process, log):
    """Within four standard errors (of user means, for interactions of one user are not independent)."""
    scores = nll_of(process, log, kind)
    user = log["user"].to_numpy()
    means = pd.Series(scores).groupby(user[2:][user[2:] == user[:-2]]).mean()
    weights = process.lengths() - 2
    error = np.sqrt(np.average((means - scores.mean()) ** 2, weights=weights) * (weights**2).sum()) / weights.sum()
    assert abs(scores.mean() - process.known_nll()[kind]) < 4 * error
    assert error < 0.02


def test_the_margins_are_wide(process):
    nll = process.known_nll()
    assert nll["best"] + 0.5 < nll["markov"] < nll["popularity"] < nll["uniform"]
    shipped = shipped_card()["nats_per_interaction"]
    assert shipped["markov"] - shipped["best"] > 0.9, "a first-order chain is a nat behind"
    assert shipped["popularity"] - shipped["best"] > 1.5


def fitted_nll(train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...], items: int, context: bool) -> float:
    """Counts with a share of popularity mixed in (10 pseudo-counts), fitted on one half of the users."""
    popularity = (np.bincount(train[1], minlength=items + 1) + 0.5) / (len(train[1]) + 0.5 * items)
    if not context:
        return float(-np.log(popularity[test[1]]).mean())
    counts = np.zeros((items + 1, items + 1))
    np.add.at(counts, (train[0], train[1]), 1)
    chance = (counts[test[0], test[1]] + 10 * popularity[test[1]]) / (counts.sum(axis=1)[test[0]] + 10)
    return float(-np.log(chance).mean())


def test_fitted_popularity_and_markov_reach_their_bounds_and_not_less():
    """Predictors that know nothing of cells, learnt from half the users and scored on the other half."""
    few = SyntheticSettings(users=2_000, items=60, interactions=300_000, seed=11, domains=3)
    process = SyntheticProcess(few)
    (chunk,) = process.chunks()
    user, item = chunk["user"], chunk["item"]
    at = np.flatnonzero(user[1:] == user[:-1]) + 1
    half = user[at] % 2 == 0
    halves = [(item[at[part] - 1], item[at[part]]) for part in (half, ~half)]
    nll = process.known_nll()
    popularity, markov = (fitted_nll(*halves, few.items, context) for context in (False, True))
    assert abs(popularity - nll["popularity"]) < 0.03
    assert nll["markov"] - 0.02 < markov < nll["markov"] + 0.04
    assert markov > nll["best"] + 0.3, "no first-order model comes near an order-2 one"


def test_order_two_can_be_learnt_from_the_items(process, log):
    """A count model of the last two topics, fitted on half the users, comes within 0.03 nats of the best."""
    _, topic = process.cells_of(log["item"].to_numpy())
    user = log["user"].to_numpy()
    at = np.flatnonzero(user[2:] == user[:-2]) + 2
    train, test = at[user[at] % 2 == 0], at[user[at] % 2 == 1]
    counts = np.full((process.topics,) * 3, 0.1)
    np.add.at(counts, (topic[train - 2], topic[train - 1], topic[train]), 1)
    learnt = (counts / counts.sum(axis=2, keepdims=True))[topic[test - 2], topic[test - 1], topic[test]]
    known = process.topic_kernel[topic[test - 2], topic[test - 1], topic[test]]
    assert -0.01 < np.log(known).mean() - np.log(learnt).mean() < 0.03


def test_popularity_is_skewed(log):
    counts = np.sort(log["item"].value_counts().to_numpy())[::-1]
    assert counts[:50].sum() > 3 * counts[-250:].sum() / 5, "a tenth of the items far outweighs its share"
    assert counts[:50].sum() / counts.sum() > 0.35


def test_first_positions_have_the_same_popularity_as_later_ones(process, log):
    """The chain starts in its stationary state, so cold users are no other population."""
    place = log.groupby("user").cumcount().to_numpy()
    _, topic = process.cells_of(log["item"].to_numpy())
    stationary = process.topic_pairs.sum(axis=0)
    for position in (0, 1, 2):
        found = np.bincount(topic[place == position], minlength=process.topics) / SMALL.users
        assert np.abs(found - stationary).max() < 5 * np.sqrt(0.25 / SMALL.users)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"users": 0}, "users must be 1 or more"),
        ({"interactions": 10}, "too few for 4000 users"),
        ({"items": 4}, "cannot fill"),
        ({"second_order": 0.95}, "sum to at most 1"),
        ({"stay": 1.0}, "probabilities"),
    ],
)
def test_contradicting_settings_are_one_sentence(change, told):
    with pytest.raises(UserError, match=told):
        SyntheticProcess(replace(SMALL, **change))


def test_a_user_of_one_interaction_and_one_item_are_possible():
    tiny = SyntheticSettings(users=3, items=1, interactions=4, domains=1, min_length=1)
    (chunk,) = SyntheticProcess(tiny).chunks()
    assert len(chunk["user"]) == 4 and set(chunk["item"]) == {1}
    assert SyntheticProcess(tiny).known_nll() == pytest.approx(
        dict.fromkeys(("best", "markov", "popularity", "uniform"), 0)
    )


def test_the_command_writes_the_file_and_tells_the_bounds(tmp_path, capsys):
    arguments = ["--users", "30", "--items", "80", "--interactions", "400", "--seed", "3", "--out", str(tmp_path / "x")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    told = json.loads((tmp_path / "x" / "x.json").read_text())["nats_per_interaction"]
    assert "wrote 400 interactions" in out
    assert all(f"{name:<12}{nats:.4f}" in out for name, nats in told.items())
    header = (tmp_path / "x" / "x.inter").read_text().splitlines()[0]
    assert header == "user_id:token\titem_id:token\ttimestamp:float\tdomain:token"


def test_a_model_trained_on_the_shipped_file_beats_the_best_popularity_by_far(tmp_path, monkeypatch):
    """25,000 interactions do not teach all of the second order; that popularity is left far behind they do show."""
    root = Path(__file__).resolve().parents[1]
    known = json.loads((root / "dataset" / "synthetic" / "synthetic.json").read_text())["nats_per_interaction"]
    monkeypatch.chdir(tmp_path)
    settings = {"data_path": str(root / "dataset"), "epochs": 12, "show_progress": False, "train_batch_size": 512}
    result = recbole_scale.run("ScaledSASRec", "synthetic", config_dict=settings)
    assert known["best"] < result["nll"] < known["popularity"] - 0.3
