"""The verdict is right in four made-up worlds, and its numbers are those of the known curve."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from study_rows_made import made_row
from worlds import hits_that_pay, world

from recbole_scale.fit.conclusions import past_sentence, unlearnt_smallest
from recbole_scale.fit.law_output import as_json, as_text
from recbole_scale.fit.rows import Question
from recbole_scale.model.sizes import scaled_shape
from recbole_scale.report.commands import next_commands
from recbole_scale.report.costs import Costs, forward_flops
from recbole_scale.report.gains import banded, recent
from recbole_scale.report.page import answer_text, as_page
from recbole_scale.report.report import Study, make_study
from recbole_scale.report.sections import evidence_section, key_figures
from recbole_scale.report.verdict import decide
from recbole_scale.report.whatif import curves

RIGHT = {"pays": "Yes", "does not": "No", "nothing learnt": "Not known yet", "cannot be known": "Not known yet"}


def study_of(name: str, seed: int, **changes) -> Study:
    return make_study(world(name, seed), replace(Question(resamples=100), **changes))


def words(name: str, seeds: range) -> Counter:
    return Counter(decide(study_of(name, seed)).word for seed in seeds)


@pytest.mark.parametrize("name", RIGHT)
def test_the_verdict_of_a_made_up_world_is_right(name):
    assert words(name, range(2))[RIGHT[name]] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_the_verdict_is_right_in_19_of_20_seeds(name):
    found = words(name, range(20))
    assert found[RIGHT[name]] >= 19, found


def test_rows_whose_larger_sizes_are_worse_decide_by_themselves():
    """A law only falls, so what it says beyond the best size is contradicted by the runs: it is not asked there."""
    rows = world("does not", 0)
    for row in rows:
        over = max(0.0, np.log2(row["n_blocks"] / 98304))
        row["test_nll"] += 0.03 * over
        row["test_metrics"] = {name: value / (1 + 0.03 * over) for name, value in row["test_metrics"].items()}
    study = make_study(rows, Question(resamples=100, predict=("10x", "6.14K")))
    verdict = decide(study)
    assert verdict.word == "No" and verdict.gain is None
    assert verdict.reason.startswith("the largest size, 1.57M, is already worse than 98.3K, by 0.1")
    text = as_text(study.found)
    assert "The largest size, 1.57M, is worse than 98.3K, by 0.1" in text and "--holdout 197K,786K,1.57M" in text
    assert "at n_blocks = 15.7M: not told, since 1.57M is already worse than 98.3K" in text
    assert "at n_blocks = 6.14K, one run" in text
    assert "no law for HR@10: it is 0.1" in text and "less than 0.2" in text
    assert [bool(one["not_told_since"]) for one in as_json(study.found)["predictions"]] == [True, False]
    assert not past_sentence(rows, "n_parameters", "test_nll")
    few = [row for row in rows if row["n_blocks"] >= 24576 * 4]  # too few sizes are left for a law up to the best
    assert past_sentence(few, "n_blocks", "test_nll").endswith("no power law holds past that.")
    page = as_page(study, [])
    assert "not told, since 1.57M is already worse" in page
    # what it costs is told of the size that is best, and nothing of a band that is not told
    size = "98.3K"
    assert re.search(f"one training run [^;]* at {size}; serving a user [^;]* at {size}; memory [^;]* at {size} ", page)
    assert (
        "measured, not predicted; runs of one size differ by 0.0" in page and "where the width comes from" not in page
    )
    (step,) = next_commands(study, verdict, Costs(study.choice.fitted), "rows.jsonl")
    assert "--shapes 8x128 --seeds 4 5 6 " in step.line and step.line.count(" --tune 4 ") == 1
    assert step.gives.startswith("See whether 1.57M is worse for its rate alone: 4 rates, 3 runs of the best, about ")


def test_a_ranking_that_falls_with_size_is_no_yes_by_the_loss():
    rows = world("pays", 0)
    for row in rows:
        row["test_metrics"] = {name: 0.01 / value for name, value in row["test_metrics"].items()}
    verdict = decide(make_study(rows, Question(resamples=100)))
    assert (
        verdict.word == "No"
        and verdict.reason.startswith("HR@10 is 0.0")
        and "whatever the loss does" in verdict.reason
    )


def test_where_nothing_was_learnt_nothing_is_predicted():
    study = make_study(world("nothing learnt", 0), Question(resamples=100, predict=("10x",)))
    assert "at n_blocks = 15.7M: not told, since the smallest has not learnt yet" in as_text(study.found)
    assert as_json(study.found)["predictions"][0]["not_told_since"] == "the smallest has not learnt yet"
    assert unlearnt_smallest(study.rows, "unique_interactions", "test_nll").startswith(
        "the smallest amount of data (570K)"
    )
    verdict = decide(study)
    assert verdict.gain is None and verdict.at_then is None and verdict.sure is None
    page = as_page(study, [])
    assert "No sliders: the smallest has not learnt yet." in page and "one training run 1.6 h at 1.57M;" in page
    assert not any(
        word in page for word in ("Now, at", "At 10x", 'id="whatif"', "Further laws", "Rollout", "training FLOPs")
    )
    assert "On made, the smallest size (6.14K) has not learnt yet" in answer_text(study)
    assert answer_text(study).endswith("). Train longer before asking about size.")


def test_what_is_promised_at_ten_times_the_size_holds_on_the_known_curve():
    inside = 0
    for seed in range(4):
        verdict = decide(study_of("pays", seed))
        value, low, high = verdict.at_then
        inside += low <= hits_that_pay(verdict.then) <= high
        assert value == pytest.approx(hits_that_pay(verdict.then), rel=0.06)
        assert verdict.gain[0] * np.log2(10) == pytest.approx(verdict.at_then[0] - verdict.at_now[0])
    assert inside >= 3


def test_what_a_doubling_must_win_decides():
    study = study_of("pays", 0)
    true = (hits_that_pay(1572864 * 10) - hits_that_pay(1572864)) / np.log2(10)
    assert decide(study, 0.3 * true).word == "Yes"
    assert decide(study, 3 * true).word == "No"
    assert decide(study, decide(study).gain[0]).word == "Not known yet"


def test_why_nothing_is_known_is_said():
    reason = decide(study_of("nothing learnt", 0)).reason
    assert "no run learnt anything" in reason and "guessing among 3.71K items" in reason
    rows = [{**row, "popularity_nll": 4.0} for row in world("pays", 0)]
    study = make_study(rows, Question(resamples=100))
    assert "than counting items does" in decide(study).reason and not decide(study).learnt
    for nothing in (study, study_of("nothing learnt", 0)):  # nor does the page show what a law would be
        shown = key_figures(nothing, decide(nothing)) + evidence_section(nothing, decide(nothing), [])
        assert "alpha" not in shown and "floor of the law" not in shown and "limit" not in shown
    paying = study_of("pays", 0)
    assert "alpha =" in key_figures(paying, decide(paying))
    single = [row for row in world("pays", 0) if row["seed"] == 1][:3]
    verdict = decide(make_study(single, Question(resamples=100)))
    assert verdict.word == "Not known yet" and "too few runs" in verdict.reason
    two = decide(make_study(single[:2], Question(resamples=100)))
    assert two.word == "Not known yet" and "at least 3 different sizes" in two.reason


def test_without_a_ranking_metric_the_loss_decides_in_nats():
    rows = [{**row, "test_metrics": None} for row in world("pays", 0)]
    verdict = decide(make_study(rows, Question(resamples=100), worth=0.01))
    assert verdict.metric is None and "nats" in verdict.reason and verdict.worth == 0.01


def test_a_law_that_bends_more_than_the_runs_do_decides_nothing_alone():
    """Steep at first, then a straight rise in log N: a saturating law flattens out too early."""
    rng, rows = np.random.default_rng(0), []
    for index, shape in enumerate(((2, 16), (2, 32), (2, 64), (4, 64), (4, 128), (8, 128))):
        hit = (0.17, 0.215, 0.235, 0.2386, 0.2475, 0.2517)[index]
        rows += [made_row(shape, seed, test_metrics={"recall@10": hit + 0.0006 * rng.standard_normal()})
                 for seed in (1, 2, 3)]  # fmt: skip
    study = make_study(rows, Question(resamples=100))
    seen = recent(study, "recall@10", 1572864)
    assert seen.gain == pytest.approx((0.2517 - 0.2386) / 3, rel=0.1) and seen.low == 196608
    verdict = decide(study)
    assert verdict.word == "Not known yet"  # the band knows of other forms
    assert verdict.gain[2] > seen.gain > verdict.gain[0]


def bent() -> Study:
    """A law whose band misses what the largest runs have won by far, in losses: they alone fall on."""
    rows = [{**row, "test_metrics": None} for row in world("does not", 0)]
    for row in rows:
        if row["n_blocks"] >= 786432:
            row["test_nll"] -= 0.1 * np.log2(row["n_blocks"] / 393216)
    return make_study(rows, Question(resamples=100))


@pytest.mark.parametrize(
    "study", [bent(), study_of("pays", 0), study_of("cannot be known", 1)], ids=["bent", "pays", "open"]
)
def test_the_band_of_the_sliders_is_that_of_the_verdict(study):
    verdict = decide(study)
    known = curves(study, verdict, Costs(study.choice.fitted))
    key = "hits" if verdict.metric else "loss"
    law = study.deciding.metric_laws[verdict.metric] if verdict.metric else study.deciding.law
    at = int(np.argmin(np.abs(np.log(np.array(known["n"]) / verdict.then))))
    assert known[key][at] == pytest.approx(verdict.at_then, rel=2e-3)
    assert known[key][known["now"]] == pytest.approx(verdict.at_now, rel=2e-3)
    assert ("allows for it" in verdict.reason) == (verdict.metric is None)
    drawn, own = np.array(known[key]), np.array([banded(law, n) for n in known["n"]])
    assert np.isclose(drawn[: known["now"] + 1], own[: known["now"] + 1], rtol=1e-3).all()
    assert np.isclose(drawn[-1], own[-1], rtol=1e-3).all() == (verdict.metric is not None)  # only the bent one is moved


def test_an_open_verdict_names_the_command_that_decides_it():
    study = study_of("cannot be known", 1)
    verdict, costs = decide(study), Costs(study.choice.fitted)
    steps = next_commands(study, verdict, costs, "my rows.jsonl")
    line = steps[0].line
    assert line.startswith("recbole-scale sweep --dataset made --shapes ") and "--rows 'my rows.jsonl'" in line
    assert "--hidden_act=gelu" in line and "--n_layers" not in line and "--epochs 8" in line
    assert steps[0].minutes > 0
    first = study_of("nothing learnt", 1)
    (learn,) = next_commands(first, decide(first), Costs(first.choice.fitted), "runs.jsonl")
    assert "--epochs 24" in learn.line and "--shapes 2x16" in learn.line


def test_a_law_that_is_not_identified_has_no_constants_on_the_page():
    single = make_study([row for row in world("pays", 0) if row["seed"] == 1], Question(resamples=100))
    assert not single.found.law.identified
    shown = evidence_section(single, decide(single), []).split("NDCG@10: limit")[0]
    assert "L(N) = E + (x0 / N)^alpha, not identified: the 95\u00a0% band of" in shown and "<td>alpha</td>" not in shown
    paying = study_of("pays", 0)
    assert "<td>alpha</td>" in evidence_section(paying, decide(paying), [])


def test_costs_follow_the_runs():
    costs = Costs(world("pays", 0))
    large = made_row((8, 128))
    assert costs.of(1572864).hours == pytest.approx(large["seconds_train"] / 3600)
    ten = costs.of(15728640)
    assert ten.hours > 8 * costs.of(1572864).hours and ten.memory_mb > costs.of(1572864).memory_mb
    shape = costs.shape(98304)
    d, items, length = 64, 3706, 50
    by_hand = length * 2 * (2 * 4 * d * d + 2 * 8 * d * d) + length * 2 * 4 * length * d + 2 * d * items
    assert forward_flops(shape) == by_hand
    for n in (1e5, 1e6, 1e8):
        layers, width = scaled_shape(n, 8, 128)
        assert 12 * layers * width**2 == pytest.approx(n, rel=0.2) and width % 8 == 0


def test_the_sources_of_the_width_add_up():
    shares = study_of("pays", 0).found.law.width(1e8)
    assert set(shares) == {"noise", "size", "form"} and sum(shares.values()) == pytest.approx(1.0)


def test_runs_stopped_while_they_learn_do_not_say_no():
    rows = world("does not", 0)
    for row in rows:
        if row["n_blocks"] == 1572864:
            row["evaluations"] = [{"epoch": 0, "valid_nll": 6.3}, {"epoch": 1, "valid_nll": 6.1}]
    study = make_study(rows, Question(resamples=100))
    verdict = decide(study)
    assert verdict.word == "Not known yet" and "still fell by 0.200 nats in the last epoch" in verdict.reason
    first = next_commands(study, verdict, Costs(study.choice.fitted), "runs.jsonl")[0]
    assert "--shapes 8x128" in first.line and "--epochs 24" in first.line and "learn to its end" in first.gives


def test_what_twice_the_epochs_won_says_whether_a_no_stands():
    """It is asked before a drop in the last epoch: of runs twice as long as the law's, else of those half as long."""
    rows = world("does not", 0)
    large = [row for row in rows if row["n_blocks"] == 1572864]
    for row in large:
        row["evaluations"] = [{"epoch": 0, "valid_nll": 6.3}, {"epoch": 1, "valid_nll": 6.1}]
    for epochs, won, word in (
        (16, 0.05, "Not known yet"),
        (16, 0.001, "No"),
        (4, 0.05, "Not known yet"),
        (4, 0.001, "No"),
    ):
        by = won if epochs == 16 else -won
        longer = [
            {**row, "run_id": f"{row['run_id']}-{epochs}", "best_valid_nll": row["best_valid_nll"] - by,
             "epochs": epochs, "settings": {**row["settings"], "epochs": epochs}} for row in large
        ]  # fmt: skip
        verdict = decide(make_study([*rows, *longer], Question(resamples=100)))
        assert verdict.word == word, (epochs, won)
        told = (
            f"{max(epochs, 8)} epochs lower the valid loss by 0.050 nats against {min(epochs, 8)}, so longer runs may"
        )
        assert (told in verdict.reason) == (won == 0.05)


def test_no_command_asks_for_a_size_that_has_no_shape():
    """A quarter of 768 parameters is no model: one layer of 8 has 768."""
    rows = [made_row(shape, seed, rng=np.random.default_rng(seed), noise=0.002)
            for shape in ((1, 8), (1, 16), (2, 32), (2, 64)) for seed in (1, 2)]  # fmt: skip
    study = make_study(rows, Question(resamples=100))
    steps = next_commands(study, decide(study), Costs(study.choice.fitted), "runs.jsonl")
    assert steps and not any("--shapes 1x8 --seeds 1 " in step.line for step in steps)


def test_a_smallest_size_that_has_not_learnt_leaves_the_verdict_open():
    rows = [{**row, "popularity_nll": 5.95} for row in world("does not", 0)]
    for row in rows:
        if row["n_blocks"] == 6144:
            row["test_nll"] = 5.96
    verdict = decide(make_study(rows, Question(resamples=100)))
    assert verdict.word == "Not known yet" and not verdict.learnt
    assert "the smallest size (6.14K) has not learnt yet" in verdict.reason


def test_a_size_that_ranks_better_is_judged_by_its_ranking_though_its_loss_is_worse():
    rows = world("pays", 0)
    for row in rows:
        row["test_nll"] += 0.3 * (row["n_blocks"] == 1572864)
    study = make_study(rows, Question(resamples=100))
    verdict = decide(study)
    assert study.ends.over_the_top and verdict.now == 1572864
    assert "by the loss the largest size, 1.57M, is worse than 786K" in verdict.reason
    for row in rows:
        if row["n_blocks"] == 1572864:
            row["test_metrics"] = {name: 0.8 * value for name, value in row["test_metrics"].items()}
    assert decide(make_study(rows, Question(resamples=100))).now == 786432
