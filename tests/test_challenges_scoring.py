"""Ranks, metrics, intervals and rollouts against few-line references in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from challenge_data import TableRanker, cases_of, many_cases
from hypothesis import given
from hypothesis import strategies as st
from test_model import make_model

from recbole_scale.challenges import scoring
from recbole_scale.challenges.estimates import Estimate, case_metrics, estimate, rarefy
from recbole_scale.challenges.kinds.robustness import make_cases as noisy_cases
from recbole_scale.challenges.kinds.trajectory import Reencoder, roll_out, window_metrics
from recbole_scale.challenges.measuring import measure, measure_trajectory
from recbole_scale.challenges.scoring import rank_targets, score
from recbole_scale.challenges.table import Key, Measured, in_order, labels, reference, tidy
from recbole_scale.errors import UserError
from recbole_scale.model.incremental import CachedSteps

RNG = np.random.default_rng(0)


def table_ranker(n_items: int = 9, seed: int = 0, max_length: int = 50) -> TableRanker:
    return TableRanker(np.random.default_rng(seed).normal(size=(n_items + 1, n_items + 1)), max_length)


# Ranks ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=12), st.data())
def test_the_rank_is_the_place_in_the_sorted_list_and_equal_scores_go_by_id(values, data):
    target = data.draw(st.integers(1, len(values) - 1))
    hidden = data.draw(st.lists(st.integers(1, len(values) - 1), max_size=4))
    scores = torch.tensor([values], dtype=torch.float32)
    pairs = (np.zeros(len(hidden), dtype=np.int64), np.array(hidden, dtype=np.int64)) if hidden else None
    rank, nll = rank_targets(scores, torch.tensor([target]), pairs)
    left = [item for item in range(1, len(values)) if item == target or item not in hidden]
    order = sorted(left, key=lambda item: (-values[item], item))
    assert rank.tolist() == [1 + order.index(target)]
    weights = np.exp(np.array(values[1:], dtype=float))  # all items, whatever is masked
    np.testing.assert_allclose(nll.item(), -np.log(weights[target - 1] / weights.sum()), rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = torch.zeros(2, 5)
    scores[1, 3] = bad
    with pytest.raises(UserError, match="not finite"):
        rank_targets(scores, torch.tensor([1, 2]))


def test_batches_by_length_give_each_case_its_own_result(monkeypatch):
    monkeypatch.setattr(scoring, "SCORES_PER_BATCH", {"cpu": 1})  # 64 rows a batch
    ranker = table_ranker(max_length=7)
    rows = [(RNG.integers(1, 10, RNG.integers(1, 12)).tolist(), int(RNG.integers(1, 10))) for _ in range(200)]
    scored = score(ranker, cases_of(*rows))
    table = ranker.table.numpy()
    for i, (history, target) in enumerate(rows):
        order = 1 + np.argsort(-table[history[-1], 1:], kind="stable")
        assert scored.rank[i] == 1 + order.tolist().index(target)
        assert scored.top[i].tolist() == order.tolist()
    assert len(ranker.widths) == 4 and ranker.widths == sorted(ranker.widths)  # short ones are not padded to 7


def test_masking_takes_the_whole_history_out_beyond_what_the_model_reads():
    ranker = TableRanker(np.tile(np.arange(10.0)[::-1], (10, 1)), max_length=1)  # items rank by id
    cases = cases_of(([1, 2, 3], 5), ([4, 2, 2], 2))
    assert score(ranker, cases).rank.tolist() == [5, 2]
    masked = score(ranker, cases, mask_history=True)
    assert masked.rank.tolist() == [2, 2]  # a target in its own history stays
    assert masked.top[0, :2].tolist() == [4, 5]


# Metrics and intervals ------------------------------------------------------------------------------------------------


def test_metrics_of_single_cases_by_hand():
    found = case_metrics(np.array([1, 3, 11, 51]), np.array([0.1, 0.2, 0.3, 0.4]))
    assert found["hr@5"].tolist() == [1, 1, 0, 0]
    assert found["hr@10"].tolist() == [1, 1, 0, 0]
    assert found["hr@50"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(found["ndcg@5"], [1, 0.5, 0, 0])
    np.testing.assert_allclose(found["ndcg@50"], [1, 0.5, 1 / np.log2(12), 0])
    np.testing.assert_allclose(found["mrr"], [1, 1 / 3, 1 / 11, 1 / 51])
    assert set(found) == {"hr@5", "hr@10", "hr@50", "ndcg@5", "ndcg@10", "ndcg@50", "mrr", "nll"}


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = RNG.normal(3.0, 2.0, 4000)
    found = estimate({"x": values}, np.arange(4000), resamples=2000)["x"]
    half = 1.96 * values.std() / 4000**0.5
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose(found.interval(), (values.mean() - half, values.mean() + half), atol=0.1 * half)


def test_cases_of_one_user_are_drawn_together():
    values = np.repeat(RNG.normal(size=300), 10)  # ten equal cases a user: 300 independent numbers, not 3000
    found = estimate({"x": values}, np.repeat(np.arange(300), 10), resamples=2000)["x"]
    lower, upper = found.interval()
    assert upper - lower == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.15)


def test_equal_users_have_equal_resamples_so_that_ratios_are_paired():
    first = RNG.random(500)
    user = np.arange(500)
    one = estimate({"x": first}, user, resamples=200)["x"]
    ten = estimate({"x": 1.1 * first}, user, resamples=200)["x"]
    gain = ten.relative_to(one)
    assert gain.value == pytest.approx(0.1)
    np.testing.assert_allclose(gain.interval(), (0.1, 0.1))


def test_a_gain_over_nothing_is_not_a_number():
    none, some = Estimate(0.0, np.zeros(3), 4), Estimate(0.5, np.full(3, 0.5), 4)
    assert np.isnan(some.relative_to(none).value)
    assert np.isnan(some.relative_to(none).interval()).all()


def test_coverage_counts_distinct_items_and_its_interval_holds_the_truth():
    top = np.array([[1, 2], [2, 3], [1, 2]])
    assert estimate({}, np.arange(3), top, n_items=8, resamples=50)["coverage@2"].value == 3 / 8
    weights = 1.0 / np.arange(1, 401)
    weights /= weights.sum()
    rng = np.random.default_rng(1)
    lists = lambda: rng.choice(np.arange(1, 401), size=(300, 2), p=weights)  # noqa: E731
    truth = np.mean([len(np.unique(lists())) for _ in range(400)]) / 400
    held = 0
    for _ in range(60):
        lower, upper = estimate({}, np.arange(300), lists(), 400, resamples=200)["coverage@2"].interval()
        held += lower <= truth <= upper
    assert held >= 50  # of 60; 95 % would be 57


def test_rarefied_coverage_is_the_mean_over_drawn_lists_and_does_not_grow_with_their_number():
    rng = np.random.default_rng(2)
    weights = 1.0 / np.arange(1, 101)
    top = np.array([rng.choice(np.arange(1, 101), size=5, replace=False, p=weights / weights.sum()) for _ in range(60)])
    lists = np.bincount(top.reshape(-1), minlength=101)[1:]
    drawn = [len(np.unique(top[rng.choice(60, 12, replace=False)])) / 100 for _ in range(4000)]
    assert rarefy(lists, 60, 12) == pytest.approx(np.mean(drawn), abs=0.002)
    assert rarefy(lists, 60, 60) == len(np.unique(top)) / 100
    found = estimate({}, np.arange(60), top, 100, resamples=60, fewest=12)
    assert found["coverage@5_rarefied"].value == rarefy(lists, 60, 12)
    half = estimate({}, np.arange(30), top[:30], 100, resamples=60, fewest=12)["coverage@5_rarefied"]
    assert half.value == pytest.approx(found["coverage@5_rarefied"].value, rel=0.1)  # of the same model, half the users
    lower, upper = half.interval()
    assert lower < half.value < upper
    assert "coverage@5_rarefied" not in estimate({}, np.arange(60), top, 100, resamples=60)


def test_groups_are_compared_by_the_coverage_of_equally_many_cases():
    rows = [(RNG.integers(1, 10, 4).tolist(), int(RNG.integers(1, 10))) for _ in range(40)]
    cases = replace(cases_of(*rows), groups={"kind": np.repeat(["few", "many"], [10, 30])})
    cells, _ = measure(table_ranker(20), [cases], resamples=20)
    scored = score(table_ranker(20), cases)
    many = np.bincount(scored.top[10:].reshape(-1), minlength=21)[1:]
    found = {key.group: value.value for key, value in cells.items() if key.metric == "coverage@10_rarefied"}
    assert found == {"few": len(np.unique(scored.top[:10])) / 20, "many": pytest.approx(rarefy(many, 30, 10))}


# Measuring sets -------------------------------------------------------------------------------------------------------


def test_sets_that_differ_in_the_seed_alone_are_averaged():
    ranker = table_ranker()
    rows = [(RNG.integers(1, 10, 8).tolist(), int(RNG.integers(1, 10))) for _ in range(40)]
    sets = noisy_cases(cases_of(*rows), np.ones(10, dtype=int), ("replace",), (0.5,), seeds=3)
    cells, draws = measure(ranker, sets, resamples=20)
    assert draws == {("robustness", "replace", 0.5): 3}
    by_seed = [np.mean(score(ranker, cases).nll) for cases in sets]
    assert cells[Key("robustness", "clean", 0.0, "all", "nll")].value == pytest.approx(by_seed[0])
    assert cells[Key("robustness", "replace", 0.5, "all", "nll")].value == pytest.approx(np.mean(by_seed[1:]))
    noisy = cells[Key("robustness", "replace", 0.5, "all", "nll")]
    assert noisy.n == 40 and noisy.draw_error == pytest.approx(np.std(by_seed[1:], ddof=1) / np.sqrt(3))
    assert cells[Key("robustness", "clean", 0.0, "all", "nll")].draw_error is None


def about(size, n_blocks, n_parameters, seed=0, model="ScaledSASRec"):
    return {
        "dataset": "d", "fingerprint": "f", "model": model, "size": size, "n_blocks": n_blocks,
        "n_parameters": n_parameters, "seed": seed, "run_id": f"run{n_parameters}",
    }  # fmt: skip


def test_the_table_relates_each_value_to_the_reference_and_to_the_smallest_model():
    def cells(clean: float, noisy: float) -> dict[Key, Estimate]:
        name = ("robustness", "delete", 0.5, "all", "mrr")
        samples = np.ones(2)
        return {
            Key("robustness", "clean", 0.0, "all", "mrr"): Estimate(clean, clean * samples, 7),
            Key(*name): Estimate(noisy, noisy * samples, 7),
        }

    big, small = Measured(about("small", 786, 900), cells(0.4, 0.3)), Measured(about("tiny", 98, 99), cells(0.2, 0.1))
    other = Measured(about(None, None, 50, model="GRU4Rec"), cells(0.1, 0.1))
    rows = tidy([big, small, other], "abc", False)
    picked = {(row["run_id"], row["setting"]): (row["change"], row["gain"]) for row in rows}
    assert picked["run900", "clean"] == (None, pytest.approx(1.0))
    assert picked["run900", "delete"] == (pytest.approx(-0.25), pytest.approx(2.0))
    assert picked["run99", "delete"] == (pytest.approx(-0.5), None)
    assert picked["run50", "clean"] == (None, pytest.approx(-0.5))  # also against ScaledSASRec's smallest
    assert {row["commit"] for row in rows} == {"abc"} and {row["n"] for row in rows} == {7}


def test_references_are_the_challenges_own():
    def key(*parts):
        return Key(*parts, "mrr")

    known = {key("long_tail", "r", None, g): None for g in ("all", "G1", "G4")}
    known |= {key("cold_start", "last", level, "all"): None for level in (5, 50)}
    known |= {key("multi_domain", s, None, "to books"): None for s in ("mix", "diff")}
    known |= {key("trajectory", "greedy", level, "all"): None for level in (1, 10)}
    assert reference(key("long_tail", "r", None, "G4"), known) == key("long_tail", "r", None, "G1")
    assert reference(key("long_tail", "r", None, "all"), known) is None
    assert reference(key("cold_start", "last", 5, "all"), known) == key("cold_start", "last", 50, "all")
    assert reference(key("multi_domain", "diff", None, "to books"), known) == key(
        "multi_domain", "mix", None, "to books"
    )
    short = key("multi_domain", "mix_short", None, "to books")  # as long as diff: what is lost is not lost by length
    assert reference(key("multi_domain", "diff", None, "to books"), known | {short: None}) == short
    assert reference(key("trajectory", "greedy", 10, "all"), known) == key("trajectory", "greedy", 1, "all")
    assert reference(key("trajectory", "greedy", 1, "all"), known) is None


def test_labels_tell_equal_models_apart():
    found = labels([about("tiny", 98304, 1), about("tiny", 98304, 2, seed=1), about(None, None, 3, model="SASRec")])
    assert found == ["ScaledSASRec 98.3K seed 0", "ScaledSASRec 98.3K seed 1", "SASRec"]
    assert labels([about("tiny", 98304, 1), about("tiny", 98304, 2)])[1] == "ScaledSASRec 98.3K seed 0 run2"
    assert labels([about(None, 98304, 1), about("base", 1_572_864, 2)]) == ["ScaledSASRec 98.3K", "ScaledSASRec 1.57M"]
    cut = {**about("tiny", 98304, 2), "dataset": "d-cut10"}  # in a report beside those of the whole data
    assert labels([about("tiny", 98304, 1), cut]) == ["ScaledSASRec 98.3K"] * 2


def test_models_go_from_the_smallest_to_the_largest_and_baselines_come_last():
    given = [about(None, None, 10, model="GRU4Rec"), about("base", 900, 2), about(None, None, 5, model="Caser")]
    given += [about("tiny", 90, 1), about(None, 90, 3)]
    ordered = in_order([Measured(model, {}) for model in given])
    assert [model.about["n_parameters"] for model in ordered] == [1, 3, 2, 10, 5]


def test_a_gain_without_an_interval_is_a_row_that_can_be_written():
    key = Key("long_tail", "r", None, "all", "mrr")
    none_drawn, some = Estimate(0.1, np.zeros(1), 9), Estimate(0.2, np.ones(1), 9)
    rows = tidy(
        [Measured(about("tiny", 9, 1), {key: none_drawn}), Measured(about("base", 99, 2), {key: some})], None, True
    )
    assert (rows[1]["gain"], rows[1]["gain_lower"], rows[1]["gain_upper"]) == (pytest.approx(1.0), None, None)


# Rollouts -------------------------------------------------------------------------------------------------------------


def ring_ranker(n_items: int = 9) -> TableRanker:
    """The next item on a ring is the best, the one after it the second, and so on."""
    step = (np.arange(n_items)[None, :] - np.arange(n_items)[:, None] - 1) % n_items
    table = np.zeros((n_items + 1, n_items + 1))
    table[1:, 1:] = -step
    return TableRanker(table)


def windows_of(*rows):
    cases = cases_of(*((history, target[0]) for history, target in rows))
    object.__setattr__(cases, "target", np.array([target for _, target in rows]))
    return cases


def test_a_greedy_rollout_walks_on_from_its_own_items_and_truth_from_the_true_ones():
    cases = windows_of(([4, 1], [2, 3, 7]), ([5], [7, 8, 8]))
    greedy, truth = roll_out(ring_ranker(), cases, ("greedy", "truth"))
    assert greedy.fed.tolist() == [[2, 3, 4], [6, 7, 8]]
    assert greedy.rank.tolist() == [[1, 1, 4], [2, 2, 1]]  # 7 is fourth after 3; 7 second after 5, 8 second after 6
    assert truth.fed.tolist() == [[2, 3, 7], [7, 8, 8]]
    assert truth.rank.tolist() == [[1, 1, 4], [2, 1, 9]]  # after 8 comes 9, and 8 itself last
    assert greedy.first[:, :4].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]
    assert greedy.first.shape == (2, 50) and not greedy.first[:, 9:].any()  # there are nine items


def test_a_masked_rollout_never_repeats_an_item():
    cases = windows_of(([2, 1], [4, 3, 3]))
    (greedy,) = roll_out(ring_ranker(), cases, ("greedy",), mask_history=True)
    assert greedy.fed.tolist() == [[3, 4, 5]]
    assert greedy.rank.tolist() == [[2, 7, 6]]  # above 3, the last after itself: 4 to 9, then 5 to 9
    assert greedy.first[0, :3].tolist() == [3, 4, 5]


def test_a_sampled_rollout_is_the_same_for_the_same_seed_and_follows_the_probabilities():
    table = np.full((4, 4), np.log([1.0, 0.2, 0.3, 0.5]))
    cases = windows_of(*[([1], [1, 1])] * 4000)
    (first,), (again,), (other,) = (roll_out(TableRanker(table), cases, ("sampled",), seed) for seed in (1, 1, 2))
    assert first.fed.tolist() == again.fed.tolist() != other.fed.tolist()
    np.testing.assert_allclose(np.bincount(first.fed.reshape(-1), minlength=4)[1:] / 8000, [0.2, 0.3, 0.5], atol=0.03)


def test_the_recall_of_a_window_counts_distinct_items():
    target = np.array([[1, 2, 2, 3], [5, 5, 5, 5]])
    found = window_metrics(np.array([[2, 2, 9, 3], [5, 1, 2, 3]]), target)
    assert found["recall@window"].tolist() == [2 / 3, 1.0]
    assert set(found) == {"recall@window"}  # too short for hr@5


def test_metrics_of_a_window_as_a_set_by_hand():
    items = np.array([[7, 1, 7, 2, 9, 8, 3, 11, 12, 13], [9, 8, 7, 6, 5, 4, 10, 11, 12, 13]])
    target = np.array([[1, 2, 2, 3, 7], [10, 14, 15, 16, 17]])
    found = window_metrics(items, target)
    gain = 1 / np.log2(np.arange(2, 12))  # of places 1 to 10
    assert found["recall@window"].tolist() == [3 / 4, 0.0]  # of 1 2 3 7 the first five have 7 1 2
    assert found["hr@5"].tolist() == [1, 0] and found["hr@10"].tolist() == [1, 1]
    np.testing.assert_allclose(found["ndcg@5"], [gain[[0, 1, 3]].sum() / gain[:4].sum(), 0])  # 7 counts once
    np.testing.assert_allclose(found["ndcg@10"], [gain[[0, 1, 3, 6]].sum() / gain[:4].sum(), gain[6] / gain[:5].sum()])


def test_trajectory_metrics_by_step():
    cases = windows_of(([4, 1], [2, 3, 7]), ([5], [7, 8, 8]))
    cells, _ = measure_trajectory(ring_ranker(), [cases], resamples=10)
    assert cells[Key("trajectory", "greedy", 3, "all", "mrr")].value == pytest.approx((1 / 4 + 1) / 2)
    assert cells[Key("trajectory", "truth", 3, "all", "mrr")].value == pytest.approx((1 / 4 + 1 / 9) / 2)
    # greedy 2 3 4 holds two of 2 3 7, and 6 7 8 both of 7 8
    assert cells[Key("trajectory", "greedy", None, "all", "recall@window")].value == pytest.approx((2 / 3 + 1) / 2)
    assert Key("trajectory", "truth", None, "all", "recall@window") not in cells
    assert cells[Key("trajectory", "one list", None, "all", "hr@50")].value == 1.0


def test_the_rows_of_a_sampled_rollout_say_that_they_were_drawn():
    _, draws = measure_trajectory(ring_ranker(), [windows_of(([1], [2, 3]))], ("sampled", "truth"), resamples=5)
    assert draws == {("trajectory", "sampled", level): 1 for level in (1, 2, None)}


class ModelRanker:
    """A ScaledSASRec without RecBole's data, with kept keys or without."""

    device = torch.device("cpu")
    any_width = True

    def __init__(self, model, keep: bool) -> None:
        self.model, self.keep, self.kept = model.eval(), keep, 0
        self.n_items, self.max_length = model.n_items - 1, model.shape.max_length

    def scores(self, user, items, length):
        names = (self.model.ITEM_SEQ, self.model.ITEM_SEQ_LEN)
        return self.model.full_sort_predict(dict(zip(names, map(torch.from_numpy, (items, length)), strict=True)))

    def stepper(self, user, items, length, steps):
        if self.keep and items.shape[1] + steps - 1 <= self.max_length:
            self.kept += 1
            return CachedSteps(self.model, torch.from_numpy(items), torch.from_numpy(length), steps)
        return Reencoder(self, user, items, length)


def test_kept_keys_give_what_encoding_again_gives(monkeypatch):
    monkeypatch.setattr(scoring, "SCORES_PER_BATCH", {"cpu": 1})
    model = make_model(40, MAX_ITEM_LIST_LENGTH=20, hidden_size=32, inner_size=64)
    rows = [(RNG.integers(1, 41, RNG.integers(1, 30)).tolist(), RNG.integers(1, 41, 6).tolist()) for _ in range(200)]
    rollouts = []
    for keep in (True, False):
        ranker = ModelRanker(model, keep)
        rollouts.append(roll_out(ranker, windows_of(*rows), ("greedy", "sampled", "truth"), seed=3))
        assert (ranker.kept > 0) == keep
    for kept, again in zip(*rollouts, strict=True):
        np.testing.assert_array_equal(kept.fed, again.fed)
        np.testing.assert_array_equal(kept.rank, again.rank)
        np.testing.assert_allclose(kept.nll, again.nll, atol=2e-5)


@given(many_cases(), st.integers(1, 4), st.integers(2, 8))
def test_encoding_again_always_reads_the_last_items(cases, steps, max_length):
    class Recorder(TableRanker):
        def scores(self, user, items, length):
            seen.append([row[:n].tolist() for row, n in zip(items, length, strict=True)])
            return super().scores(user, items, length)

    seen: list[list[list[int]]] = []
    ranker = Recorder(np.zeros((10, 10)), max_length)
    items, length = cases.padded(np.arange(len(cases)), min(max_length, int(cases.lengths.max())))
    stepper = Reencoder(ranker, cases.user, items, length)
    fed: list[np.ndarray] = []
    for step in range(steps):
        stepper.scores()
        wanted = [[*cases.history(i).tolist(), *(int(f[i]) for f in fed)][-max_length:] for i in range(len(cases))]
        assert seen[-1] == wanted
        fed.append(np.full(len(cases), 1 + step))
        stepper.feed(fed[-1])
