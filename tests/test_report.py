"""The report says what the rows and a known law say, in two sentences; its page is whole, safe and needs no network."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from study_rows_made import SHAPES, TRUTH, WHOLE, full_study, law_of, made_row, made_rows, ndcg_of

from recbole_scale.challenges.table import COLUMNS as CHALLENGE_COLUMNS
from recbole_scale.errors import UserError, exit_code
from recbole_scale.fit.lengths import doublings, length_sentences
from recbole_scale.fit.rows import Question, as_rows, choose
from recbole_scale.fit.sizes import SizeMean, ends_of, overfits_after, size_means
from recbole_scale.fit.study import answer
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.report import next_runs as report_next
from recbole_scale.report.challenges import (
    challenges_section,
    coverage_trend,
    labelled,
    noise_of_draws,
    read_challenges,
    trained_how_often,
)
from recbole_scale.report.command import main
from recbole_scale.report.commands import next_seeds, shape_name, sweep_line
from recbole_scale.report.findings import _apart, headline, last_step, worth_up_to
from recbole_scale.report.page import answer_text
from recbole_scale.report.report import Study, make_study
from recbole_scale.report.sections import evidence_section, key_figures
from recbole_scale.report.verdict import decide

SCRIPT = Path(__file__).parents[1] / "run_scripts" / "report.py"
SMALL, LARGE = 12 * 16**2, 12 * 4 * 128**2
QUICK = Question(resamples=100)
HOSTILE = '<script>alert("x")</script>&\'$a$'


def test_filtered_metrics_and_the_kind_of_an_nll_stand_beside_the_others(tmp_path):
    """A masked run's own lists are the filtered ones; a loss of scores is marked."""
    rows = [{**row, "test_metrics_filtered": {"ndcg@10": 0.4321, "recall@10": 0.8765}} for row in full_study()]
    base = {**rows[0], "n_layers": None, "d_model": None, "n_parameters": 1000, "test_nll": 2.5}
    kinds = {"Caser": "scores", "Markov": "probabilities", "GRU4Rec": "likelihood"}
    others = [{**base, "model": model, "run_id": model, "nll_kind": kind} for model, kind in kinds.items()]
    others[1] |= {"settings": {"mask_history": True}, "test_metrics": {"ndcg@10": 0.1234, "recall@10": 0.2345}}
    for name, content in (("rows", rows), ("others", others)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    page = tmp_path / "page.html"
    assert main(["--rows", str(tmp_path / "rows.jsonl"), "--others", str(tmp_path / "others.jsonl"), "--out", str(page),
                 "--resamples", "100"]) == 0  # fmt: skip
    content = page.read_text()
    cells = {row[0]: row for row in re.findall(r"<td[^>]*>([^<]*)</td>" * 8, content) if row[0] in kinds}
    sizes = re.search(r"<h2>Sizes</h2>.*?</section>", content, re.DOTALL)[0]
    beside = re.search(r"<h2>Beside other models</h2>.*?</section>", content, re.DOTALL)[0]
    for part in (sizes, beside):
        assert "NDCG@10 filtered" in part and "HR@10 filtered" in part and "0.4321" in part and "0.8765" in part
    assert cells["Caser"][4] == "2.5000 (of scores)" and cells["Markov"][4] == "2.5000 (-log p)"
    assert cells["GRU4Rec"][4] == "2.5000"
    markov = re.search(r"<tr><td[^>]*>Markov</td>.*?</tr>", beside, re.DOTALL)[0]
    assert markov.count("0.1234") == markov.count("0.2345") == 2
    assert "NDCG@10 filtered" in re.search(r"<h2>Runs</h2>.*", content, re.DOTALL)[0]


class Page(HTMLParser):
    """Collects tags, attributes and text of a page, and whether every tag is closed."""

    VOID = ("meta", "path", "use", "rect", "br", "input")

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def challenge_row(challenge, group, n, value, **columns):
    """One row of a challenge."""
    known = {"challenge": challenge, "group": group, "metric": "ndcg@10", "value": value, "n": 50, "lower": 0.9 * value,
             "upper": 1.1 * value, "dataset": "made", "model": "ScaledSASRec", "n_blocks": n, "n_parameters": n,
             "run_id": str(n), "setting": "equal_items"}  # fmt: skip
    return {**dict.fromkeys(CHALLENGE_COLUMNS), **known, **columns}


@cache
def exact():
    """The study of rows that lie on the known law."""
    return make_study(made_rows(), QUICK)


@cache
def noisy():
    """The same with noise of 0.1 %."""
    return make_study(made_rows(0.001), QUICK)


@cache
def full():
    """A study with everything."""
    return make_study(full_study(), QUICK)


def sentences(rows):
    study = rows if isinstance(rows, Study) else make_study(rows, QUICK)
    return headline(study.choice, study.found, study.refusal, "test_nll", study.worth, study.metric)


def test_the_first_sentence_states_what_the_known_law_gives():
    first, _ = sentences(exact())
    drop = law_of(SMALL) - law_of(LARGE)
    assert first == (
        f"On made, 256x more parameters (3.07K to 786K without embeddings) lower the test loss by {drop:.3f} nats, "
        f"from {law_of(SMALL):.3f} to {law_of(LARGE):.3f} (the law gives {drop:.3f}, 95 % band {drop:.3f} to "
        f"{drop:.3f}), and take NDCG@10 from {ndcg_of(SMALL):.4f} to {ndcg_of(LARGE):.4f}."
    )


def test_the_second_sentence_solves_the_known_law_for_the_last_worthwhile_size():
    alpha = TRUTH["alpha"]
    limit = TRUTH["n0"] * (0.01 / (1 - 2**-alpha)) ** (-1 / alpha)  # a doubling of it is worth 0.01 nats
    assert law_of(limit) - law_of(2 * limit) == pytest.approx(0.01)
    _, second = sentences(exact())
    gain = law_of(LARGE) - law_of(2 * LARGE)
    assert f"a doubling of 786K is worth {gain:.3f} nats" in second and "extrapolated" in second
    assert f"not beyond about {limit / 1e6:.3g}M parameters" in second
    law = noisy().found.law
    value, lower, upper = worth_up_to(law)
    assert lower < limit < upper and lower < value < upper
    study = replace(exact(), worth=0.05)
    limit = TRUTH["n0"] * (0.05 / (1 - 2**-alpha)) ** (-1 / alpha)
    assert f"It is not worth it beyond about {limit / 1e3:.3g}K parameters" in answer_text(study)


def test_overfitting_at_the_top_is_said_with_its_epoch():
    over = made_row((8, 128), epochs=12, overfit=0.15, test_nll=law_of(LARGE) + 0.04)
    study = make_study([*made_rows(0.0005), over], QUICK)
    first, second = sentences(study)
    assert "256x more parameters (3.07K to 786K without" in first
    assert second.startswith("It is not worth it beyond 786K on this data: at 1.57M the loss is 0.04")
    assert "its valid loss rises after epoch 7" in second
    assert "--holdout 1.57M" in report_next.advice(study.sizes, study.ends, study.ladder, study.found)[0]


def test_the_answer_rests_on_held_out_runs_too_and_says_what_the_judged_law_gave():
    """Held out, the top does better than the smaller sizes promise: the answer must not be deaf to it."""
    rows = [{**row, "test_nll": row["test_nll"] - 0.02 * (row["n_blocks"] > 98304)} for row in made_rows(0.0001)[:-1]]
    study = make_study(rows, replace(QUICK, holdout=("197K", "small")))
    whole = make_study(rows, QUICK)
    (first, second), (limit, *_) = sentences(study), worth_up_to(whole.found.law)
    assert "(the law fitted up to 98.3K gives" in first
    assert f"about {limit / 1e6:.3g}M parameters" in second and "without the held-out sizes)" in second
    assert study.deciding.law.constants() == whole.found.law.constants() != study.found.law.constants()
    assert report_next.next_runs(study.deciding, 1e8)[0].what == "3 seeds at a new size, 3.15M"


def test_a_held_out_top_that_is_worse_decides_nothing():
    rows = [*made_rows(0.0005), made_row((8, 128), epochs=12, overfit=0.15, test_nll=law_of(LARGE) + 0.04)]
    study = make_study(rows, replace(QUICK, holdout=("1.57M",)))
    assert study.found.whole is not None and study.deciding is study.found


def test_a_part_of_the_data_is_said():
    rows = [made_row(shape, seed, d=WHOLE // 2) for shape in SHAPES for seed in (1, 2)]
    assert sentences(rows)[0].startswith("On made with 50% of its users in training, 256x more parameters")


def test_a_top_within_the_noise_is_not_called_worse():
    noisy = [made_row(shape, seed, test_nll=law_of(12 * shape[0] * shape[1] ** 2) + 0.05 * (seed - 2))
             for shape in SHAPES for seed in (1, 2, 3)]  # fmt: skip
    rows = [*noisy, made_row((8, 128), test_nll=law_of(LARGE) + 0.02)]
    ends = ends_of(size_means(rows, "test_nll", None))
    assert ends.noise == pytest.approx(0.05)
    assert ends.best.n == LARGE and ends.large.loss > ends.best.loss and not ends.over_the_top
    rows[-1]["test_nll"] += 0.15  # 2.9 standard errors, which one of six other sizes has by chance in 4 of 100 cases
    assert not ends_of(size_means(rows, "test_nll", None)).over_the_top
    rows[-1]["test_nll"] += 0.05
    assert ends_of(size_means(rows, "test_nll", None)).over_the_top


def test_no_gain_one_size_and_two_sizes_are_said_as_they_are():
    rising = [made_row(shape, test_nll=5 + 0.1 * index) for index, shape in enumerate(SHAPES[:4])]
    first, second = sentences(rising)
    assert "more parameters do not lower the test loss: of 4 sizes the smallest (3.07K)" in first
    assert "Whether it pays beyond 3.07K is not settled" in second and "this may be noise" in second
    first, second = sentences([made_row((2, 64))])
    assert "only one size was trained (98.3K" in first
    assert second == "How far it pays is not known: a law needs at least 3 different sizes, but there is 1: 98.3K."
    _, second = sentences([made_row((2, 64)), made_row((1, 16))])
    assert second.startswith("How far it pays is not known: a law needs at least 3")


def test_a_law_that_is_not_identified_is_not_sold_as_one():
    rng = np.random.default_rng(3)
    rows = [made_row(shape, seed, rng=rng, noise=0.01) for shape in SHAPES[2:5] for seed in (1, 2)]
    study = make_study(rows, QUICK)
    assert not study.found.law.identified
    text = answer_text(study)
    assert "How far it pays is not identified" in text and "worth it beyond" not in text
    assert "cannot be told from no gain" in text or " now " in text
    boxes = key_figures(study, decide(study))
    assert "no constants" in boxes and "alpha =" not in boxes and "E =" not in boxes


def world(loss, noise=0.0005, seeds=(1, 2, 3), shapes=SHAPES, **columns):
    """Rows whose loss is ``loss(n)`` with even noise."""
    rng = np.random.default_rng(0)
    return [made_row(shape, seed, test_nll=loss(12 * shape[0] * shape[1] ** 2) * np.exp(noise * rng.standard_normal()),
                     **columns) for shape in shapes for seed in seeds]  # fmt: skip


def measured_means(rows):
    sizes = sorted({row["n_blocks"] for row in rows})
    return sizes, [float(np.mean([row["test_nll"] for row in rows if row["n_blocks"] == n])) for n in sizes]


def test_where_bigger_is_better_the_law_and_the_last_step_agree():
    rows = world(lambda n: 4.0 + (5e4 / n) ** 0.3)
    (first, second), (sizes, means) = sentences(rows), measured_means(rows)
    assert f"from {means[0]:.3f} to {means[-1]:.3f}" in first
    assert second.startswith("It still pays at the largest size trained") and "extrapolated" in second
    assert means[-2] - means[-1] > 0.01 * np.log2(sizes[-1] / sizes[-2])


def test_where_bigger_is_no_better_the_law_and_the_last_step_agree():
    rows = world(lambda n: 5.0 + (1e3 / n) ** 1.5)
    (_, second), (sizes, means) = sentences(rows), measured_means(rows)
    assert second.startswith("It is not worth it beyond about")
    assert means[-2] - means[-1] < 0.01 * np.log2(sizes[-1] / sizes[-2])


def test_where_nothing_was_learnt_nothing_is_said_of_size():
    rows = world(lambda n: np.log(3706) - 0.02, n_items=3706)
    first, second = sentences(rows)
    assert "has not learnt yet" in first and f"guessing among all items ({np.log(3706):.3f})" in first
    assert second == "Train longer before asking about size."
    counted = world(law_of, n_items=3706, popularity_nll=law_of(SMALL) - 0.01)
    assert "not below that of popularity" in sentences(counted)[0]
    learnt = world(law_of, n_items=3706, popularity_nll=7.5)
    assert sentences(learnt)[0].endswith("(Uniform guessing 8.218, popularity 7.500 nats.)")


def test_where_the_form_is_wrong_the_law_does_not_decide_against_the_measured_steps():
    """A fast and a slow term: the law of one term flattens, and the runs go on gaining."""

    def two_terms(n):
        return 4.0 + 0.5 * (3e3 / n) ** 1.2 + 1.2 * (1e4 / n) ** 0.05

    rows = world(two_terms, noise=0.0002)
    (_, second), (sizes, means) = sentences(rows), measured_means(rows)
    step = (means[-2] - means[-1]) / np.log2(sizes[-1] / sizes[-2])
    assert step > 0.02
    if not second.startswith("It still pays"):
        assert f"still won {step:.3f}" in second
    study = make_study(rows, QUICK)
    assert (study.deciding or study.found).law.interval(8 * sizes[-1])[0] < two_terms(8 * sizes[-1])


def test_a_law_against_its_last_step_is_not_settled():
    sizes = [SizeMean(n, 2, loss, 0.001, None, None) for n, loss in ((1e4, 6.0), (1e5, 5.5), (4e5, 5.4))]
    law = fit_power_law([1e4, 1e5, 4e5] * 3, [6.0, 5.5, 5.499] * 3, resamples=100)
    step = last_step(sizes, 0.001, law)
    spread = np.median(law.fit.errors.noise.of_runs(np.array([[0.625], [1.0]])), axis=0) * [5.5, 5.4]
    assert step.gain == pytest.approx(0.05)
    assert step.error == pytest.approx(np.sqrt((spread**2 / 2).sum()) / 2, rel=1e-3)  # the larger one is less noisy
    assert last_step(sizes, None, replace(law, fit=replace(law.fit, errors=None))).gain == step.gain
    assert step.by_law == pytest.approx(float(law.predict(1e5) - law.predict(4e5)) / 2)
    said = _apart(step, 2e5, "", "a doubling lowers the loss by less than 0.01 nats", False)
    assert "not settled" in said and "100K to 400K, still won 0.050 ± " in said


def test_a_law_that_is_not_identified_says_the_range_against_now():
    rng = np.random.default_rng(3)
    rows = [made_row(shape, seed, rng=rng, noise=0.01) for shape in SHAPES[2:5] for seed in (1, 2)]
    study = make_study(rows, QUICK)
    low, high = study.found.law.interval(10 * study.ends.large.n)
    first, second = sentences(study)
    assert "the law gives" not in first
    assert f"{low:.2f} to {high:.2f} nats, now {study.ends.large.loss:.2f}" in second


def test_overfitting_needs_most_runs_and_more_than_a_wiggle():
    flat, over = made_row((2, 64)), made_row((2, 64), seed=2, overfit=0.2)
    assert overfits_after([flat]) is None and overfits_after([over]) == 5
    assert overfits_after([flat, over]) is None and overfits_after([flat, over, over]) == 5
    assert overfits_after([made_row((2, 64), overfit=0.005)]) is None


def test_repeats_and_other_shapes_do_not_enter_the_law():
    study = full()
    chosen = study.choice.fitted
    assert sorted({(row["n_layers"], row["d_model"]) for row in chosen}) == sorted([*SHAPES, (8, 128)])
    assert len(chosen) == len({(row["n_blocks"], row["seed"]) for row in chosen})
    tries = [row for row in study.rows if row["d_model"] == 64 and row["n_layers"] == 2 and row["seed"] == 1]
    (taken,) = [row for row in chosen if row["n_blocks"] == 98304 and row["seed"] == 1]
    assert taken["best_valid_nll"] == min(r["best_valid_nll"] for r in tries if r["unique_interactions"] == WHOLE)
    assert not {(1, 90), (8, 32), (32, 16)} & {(row["n_layers"], row["d_model"]) for row in study.ladder}
    notes = " ".join(study.choice.notes)
    assert (
        "3 runs repeat a shape with other settings, such as epochs or dropout (1 setting a size to compare)" in notes
        and "of 4 shapes near 98.3K the law takes 2 x 64" in notes
    )


def test_data_laws_are_those_that_fit_power_law_gives():
    study = full()
    where = {"n_blocks": "6144"}
    found = answer(study.ladder, Question(x="unique_interactions", where=where, resamples=QUICK.resamples))
    assert study.data_laws[6144.0].bands() == found.law.bands()


def test_a_condition_holds_for_every_part_of_the_page():
    study = make_study(full_study(), replace(QUICK, where={"data_fraction": "1"}))
    assert {row["data_fraction"] for row in study.rows + study.ladder} == {1} and not study.data_laws


def test_a_run_that_failed_and_was_finished_later_did_not_fail():
    rows = made_rows(0.001)
    again = {**rows[-1], "run_id": rows[0]["run_id"]}
    never = {**rows[-1], "run_id": "never"}
    assert [row["run_id"] for row in make_study([again, never, never, *rows[:-1]], QUICK).failed] == ["never"]


def test_the_gradient_of_the_design_is_that_of_the_law():
    sizes = np.geomspace(3e3, 8e5, 6)
    law = fit_power_law(sizes, [law_of(n) for n in sizes], resamples=0)

    def log_loss(log_e, a, alpha):
        return np.log(np.exp(log_e) + np.exp(a - alpha * np.log(sizes)))

    at = np.array([np.log(law.E), law.alpha * np.log(law.x0), law.alpha])
    step = 1e-6
    numeric = [(log_loss(*(at + step * unit)) - log_loss(*(at - step * unit))) / (2 * step) for unit in np.eye(3)]
    assert report_next.log_gradient(law, sizes) == pytest.approx(np.stack(numeric, axis=1), rel=1e-5, abs=1e-8)


def test_the_width_of_the_design_is_that_of_many_refits():
    sizes, noise, target = np.repeat(np.geomspace(3e3, 3e6, 7), 3), 0.001, 1e7
    truth = np.array([law_of(n) for n in sizes])
    law = fit_power_law(sizes, truth, resamples=0)
    rng = np.random.default_rng(0)
    refits = [
        fit_power_law(sizes, truth * np.exp(noise * rng.standard_normal(21)), resamples=0).predict(target)
        for _ in range(100)
    ]
    assert report_next.half_width(law, sizes, target, noise) == pytest.approx(1.96 * np.std(refits), rel=0.3)


def test_next_runs_are_ranked_and_costed():
    found = noisy().found
    steps = report_next.next_runs(found, 1e8)
    assert [step.after for step in steps] == sorted(step.after for step in steps)
    assert all(step.after < step.before for step in steps)
    assert steps[0].n == 4 * LARGE and steps[0].what == "3 seeds at a new size, 3.15M"
    (tiny,) = [step for step in steps if step.n == 98304]
    cost = made_row((2, 64))["flops_total"]
    assert tiny.flops == pytest.approx(3 * cost) and tiny.hours == pytest.approx(3 * cost / 1e10 / 3600)


def test_advice_names_single_seeds_early_stops_and_missing_data():
    rows = [*made_rows(0.001, shapes=SHAPES[:4]), made_row((4, 128), epochs=3)]
    study = make_study(rows, QUICK)
    said = " ".join(report_next.advice(study.sizes, study.ends, study.ladder, study.found))
    assert "One seed only at 786K" in said and "At 786K the valid loss still fell" in said
    assert "--fractions" in said and "Overfitting" not in said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a full study, with challenges and with hostile text in every place a row has for text."""
    folder = tmp_path_factory.mktemp("report")
    bad = {"dataset": HOSTILE, "commit": HOSTILE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    rows = [{**row, **bad, "run_id": f"{HOSTILE}{index}", "size": row.get("size") and HOSTILE + str(row["n_blocks"])}
            for index, row in enumerate(full_study())]  # fmt: skip
    for row in rows:
        if row.get("settings"):
            row["settings"] = {**row["settings"], HOSTILE: HOSTILE}
        if row["status"] == "failed":
            row["error"] = HOSTILE
        if row["model"] == "GRU4Rec":
            row["model"] = HOSTILE
    challenges = [
        challenge_row(name, group, n, 0.1 * index, dataset=HOSTILE, setting=HOSTILE, model=HOSTILE, run_id=str(n))
        for name in ("long_tail", HOSTILE) for index, n in enumerate((6144, 98304), 1) for group in ("G1", HOSTILE)
    ]  # fmt: skip
    out = folder / "page.html"
    arguments = ["--rows", str(write(folder / "runs.jsonl", rows)), "--out", str(out), "--resamples", "100"]
    arguments += ["--challenges", str(write(folder / "challenges.jsonl", challenges)), "--predict", "829M"]
    assert main([*arguments, "--figures", str(folder / "figures")]) == 0
    return out


def test_converged_is_a_run_of_twice_the_epochs_and_no_small_last_drop():
    sizes = [SizeMean(98304.0, 1, 5.5, 0.0, None, None)]
    short, long = made_row((2, 64), epochs=8), made_row((2, 64), epochs=16)
    short["best_valid_nll"], long["best_valid_nll"] = 5.40, 5.37
    (said,) = report_next.convergence([short, long], sizes)
    assert said == (
        "At 98.3K, 16 epochs lower the valid loss by 0.030 nats against 8: 8 are not enough, and whether 16 are is not "
        "known."
    )
    long["best_valid_nll"] = 5.399
    assert report_next.convergence([short, long], sizes)[0].endswith("8 are enough.")
    (said,) = report_next.convergence([short], sizes)
    assert said.startswith("Whether 8 epochs are enough is not known")


def test_what_twice_the_epochs_win_is_told_by_pairs_of_one_seed_and_setting():
    """The mean of all runs of a length would hold tries of other rates, and seeds that only one length has."""
    rows = []
    for seed, luck in ((1, 0.03), (2, 0.0), (3, -0.03)):
        for epochs, loss in ((8, 5.40), (16, 5.397)):
            rows.append(
                made_row((2, 64), seed, epochs=epochs, best_valid_nll=loss + luck + 1e-4 * seed * (epochs == 8))
            )
    bad = made_row((2, 64), 1, epochs=16, best_valid_nll=6.0)
    bad["settings"] = {**bad["settings"], "learning_rate": 1.0}
    (one,) = doublings([*rows, bad])
    assert (one.n, one.epochs, one.pairs, one.enough) == (98304.0, 8.0, 3, True)
    assert one.won == pytest.approx(0.0032) and one.error == pytest.approx(4.303 * 1e-4 / np.sqrt(3), rel=1e-3)
    rows[1]["best_valid_nll"] -= 0.03  # one pair of three apart: the others say enough, this one not
    (one,) = doublings(rows)
    assert one.enough is None and length_sentences([one])[0].endswith("whether 8 are enough cannot be told.")


def test_lengths_without_a_common_setting_or_seed_are_compared_by_their_best():
    rows = [made_row((2, 64), seed, epochs=epochs, best_valid_nll=loss) for seed, epochs, loss in
            ((1, 8, 5.5), (1, 8, 5.4), (2, 16, 5.3))]  # fmt: skip
    for rate, row in enumerate(rows):
        row["settings"] = {**row["settings"], "learning_rate": float(rate)}
    (one,) = doublings(rows)
    assert one.won == pytest.approx(0.1) and one.pairs == 1 and np.isnan(one.error) and one.enough is False


def test_a_drop_in_the_decay_of_wsd_is_no_sign_of_runs_stopped_early():
    rows = made_rows(seeds=(1, 2))[:-1]
    for row in rows:
        row["evaluations"][-1]["valid_nll"] -= 0.2
    assert any("still fell" in said for said in report_next.advice(*advised(rows)))
    for row in rows:
        row["settings"]["lr_schedule"] = "wsd"
    assert not any("still fell" in said for said in report_next.advice(*advised(rows)))


def advised(rows):
    study = make_study(rows, Question(resamples=0))
    return study.sizes, study.ends, study.ladder, study.found


def test_the_page_is_whole_and_holds_its_parts(made):
    page = Page(made.read_text())
    assert not page.open
    assert page.tags.count("h1") == 1 and page.tags.count("svg") == 10  # nine of the study, and the long tail
    for heading in ("The law and its evidence", "Move the size", "Sizes", "Size and data together", "Where size helps",
                    "Beside other models", "What would sharpen the estimate next", "Runs"):  # fmt: skip
        assert heading in page.text
    assert "256x more parameters" in page.text
    assert not list(made.parent.glob("*.partial"))
    assert {path.suffix for path in (made.parent / "figures").iterdir()} == {".png", ".pdf"}


def test_nothing_from_rows_becomes_markup(made):
    content, page = made.read_text(), Page(made.read_text())
    assert content.count("<script") == page.tags.count("script") == 1 and "alert" in page.text  # the page's own
    assert {"img", "iframe", "link", "object", "form"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_needs_no_network(made):
    page = Page(made.read_text())
    loaded = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert all(value.startswith("#") for value in loaded)
    assert "@import" not in made.read_text() and not re.search(r"url\((?!#)", made.read_text())
    assert any(value and value.startswith("default-src 'none'") for _, value in page.attributes)


def test_the_page_knows_both_themes_paper_and_phones(made):
    content = made.read_text()
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 32rem", "width=device-width"):
        assert rule in content
    named = set(re.findall(r"var\(--(\w+)\)", content))
    assert named <= set(re.findall(r"--(\w+): #", content.split("@media")[0]))


def test_two_runs_give_the_same_page(tmp_path):
    rows = write(tmp_path / "runs.jsonl", made_rows(0.001))
    for name in ("a.html", "b.html"):
        main(["--rows", str(rows), "--out", str(tmp_path / name), "--resamples", "100", "--holdout", "small"])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    text = Page((tmp_path / "a.html").read_text()).text
    assert "held out" in text and "Rollout" in text


def test_runs_are_listed_with_settings_seed_and_commit(made):
    text = Page(made.read_text()).text
    own = [index for index, row in enumerate(full_study()) if row["status"] == "ok" and row["model"] != "GRU4Rec"]
    assert len(own) > 30 and all(f"{HOSTILE}{index}" in text for index in own)
    assert "hidden_act = gelu" in text and "1 x 16" in text and "commit = " in text


def test_challenge_gains_are_relative_to_the_smallest():
    rows = [
        challenge_row("long_tail", group, n, value)
        for group, n, value in (
            ("G1", 10_000, 0.2),
            ("G1", 1_000_000, 0.3),
            ("G4", 10_000, 0.02),
            ("G4", 1_000_000, 0.06),
        )
    ]
    text = Page(challenges_section(rows, "made")).text
    assert "ScaledSASRec 1M" in text and "largest over smallest" in text and "equal_items" not in text
    assert "+50%" in text and "+200%" in text
    assert challenges_section([], "made") == ""


def test_what_short_histories_cover_and_what_draws_leave_open_are_said():
    rows = [
        challenge_row("cold_start", "all", n, value, metric="coverage@10", setting="last", level=level, run_id=str(n),
                      **({} if n == 6144 else {"gain": value / 0.413 - 1, "gain_lower": 0.21, "gain_upper": 0.25}))
        for n, five in ((6144, 0.413), (98_304, 0.509), (786_432, 0.508))
        for level, value in ((5.0, five), (50.0, 0.45))
    ]  # fmt: skip
    said = (
        "Of the last 5 items alone the lists cover 0.413 at 6.14K, 0.509 at 98.3K, 0.508 at 786K of all items: +23% "
        "from the smallest size to the largest (+21% to +25%)."
    )
    assert coverage_trend(labelled(rows)) == said and coverage_trend(rows[:2]) == ""
    again = [{**row, "value": row["value"] + 0.01, "seed": 2, "run_id": row["run_id"] + "b"} for row in rows]
    assert coverage_trend(labelled([*rows, *again])) == (  # means over seeds, and no interval that is of one of them
        "Of the last 5 items alone the lists cover 0.418 at 6.14K, 0.514 at 98.3K, 0.513 at 786K of all items: +23% "
        "from the smallest size to the largest."
    )
    once, twice = "Each model was trained once", "Each model was trained 2 times"
    assert trained_how_often(rows).startswith(once) and trained_how_often([*rows, *again]).startswith(twice)
    assert trained_how_often([*rows, *again[:2]]).startswith("Each model was trained 1 to 2 times")
    page = challenges_section(rows, "d")
    page = html.unescape(str(page))
    assert said in page and "Coverage@10" in page and once in page and "another training seed" in page
    drawn = [
        challenge_row("robustness", "all", 6144, 0.1, setting="delete", level=level, noise_seeds=3, draw_error=error)
        for level, error in ((0.1, 0.0004), (0.5, 0.0012))
    ]
    left = "Noise is drawn 3 times, which leaves"
    assert noise_of_draws(drawn) == f"{left} a standard error of at most 0.0012 in a value."
    assert noise_of_draws([{**row, "draw_error": None} for row in drawn]) == f"{left} an unknown error."  # older rows
    drawn[1]["noise_seeds"] = 10
    assert noise_of_draws(drawn).startswith("Noise is drawn 3 to 10 times")  # as the terminal has it
    assert noise_of_draws(rows) == ""
    seeded = [{**row, "seed": 1} for row in rows]
    resumed = [{**row, "run_id": row["run_id"] + "c"} for row in seeded]  # the same seed once more is no other training
    assert trained_how_often([*seeded, *resumed]).startswith(once)


def test_the_gain_of_the_largest_has_an_interval_only_where_that_is_of_the_same_gain():
    def table_of(gain):
        rows = [challenge_row("long_tail", "G4", n, value) for n, value in ((10_000, 0.02), (1_000_000, 0.06))]
        rows[1] |= {"gain": gain, "gain_lower": 1.5, "gain_upper": 2.5}
        return Page(challenges_section(rows, "made")).text

    assert "+200% (+150% to +250%)" in table_of(2.0)
    assert "+200%" in table_of(1.8) and "+150%" not in table_of(1.8)  # relative to another run of the smallest


def test_groups_of_different_size_show_the_coverage_of_equally_many_cases_alone():
    short = [
        challenge_row("cold_start", "all", 6144, value, metric=metric, setting=setting, level=5.0)
        for setting, metric, value in (("short", "coverage@10", 0.1111), ("short", "coverage@10_rarefied", 0.2222),
                                       ("last", "coverage@10", 0.3333))
    ]  # fmt: skip
    text = Page(challenges_section(short, "made")).text
    assert "0.2222" in text and "0.3333" in text and "0.1111" not in text


def test_a_run_whose_row_stands_there_twice_counts_once_with_its_newest(tmp_path):
    from recbole_scale.runs.records import read_rows

    first, failed, again, other = (
        {**made_row((2, 64)), "run_id": "a", "test_nll": loss, "status": status, "data_digest": digest}
        for loss, status, digest in ((6.0, "ok", "d"), (None, "failed", "d"), (5.9, "ok", "d"), (5.8, "ok", "e"))
    )
    path = write(tmp_path / "runs.jsonl", [first, failed, again, other, {**other, "run_id": None}])
    assert [row["test_nll"] for row in as_rows(read_rows(path))] == [None, 5.9, 5.8, 5.8]
    apart = [again, {**again, "model": "SASRec"}, {**again, "dataset": "other"}]  # a name of a run is no more than that
    assert len(as_rows(read_rows(write(tmp_path / "apart.jsonl", [*apart, again])))) == 3


def test_counts_survive_rows_that_lack_them(tmp_path):
    from recbole_scale.runs.records import read_rows

    path = write(tmp_path / "runs.jsonl", [made_row((2, 64)), {"status": "failed"}])
    row = as_rows(read_rows(path))[0]
    assert (row["n_layers"], row["seed"]) == (2, 1) and isinstance(row["n_layers"], int)
    assert as_rows(read_rows(path))[1]["n_layers"] is None
    assert choose([row], Question()).fitted[0]["n_blocks"] == 98304


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rows", "absent.jsonl"], "there is no results file absent.jsonl"),
        (["--dataset", "mode"], "no row has dataset 'mode', only made; did you mean 'made'?"),
        (["--holdout", "huge"], "--holdout huge matches no row"),
        (["--predict", "tinny"], "did you mean 'tiny'?"),
        (["--resamples", "5"], "at least 80 resamples"),
        (["--resamples", "2000000000"], "at most 100,000 (or 0 for no band)"),
        (["--resamples", "9" * 40], "argument --resamples: is 99999999999999999999..., but must be a whole number"),
        (["--seed", "-1"], "argument --seed: is -1, but must be at least 0"),
        (["--holdout", "3.07K,6.14K,24.6K,tiny,197K,small"], "leaves no run to fit a law to"),
        (["--worth", "0"], "--worth is a number of nats above 0"),
        (["--loss", "test_nl"], "did you mean 'test_nll'?"),
        (["--challenges", "absent.jsonl"], "there is no results file absent.jsonl"),
        (
            ["--challenges", "bad.jsonl"],
            "bad.jsonl, row 2: no row of recbole-scale challenges, for it has no column 'setting'",
        ),
        (["--out", "runs.jsonl/page.html"], "runs.jsonl/page.html"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(folder, capsys, arguments, sentence):
    write(folder / "runs.jsonl", made_rows(0.001))
    write(folder / "bad.jsonl", [challenge_row("a", "all", 1, 0.5), {"challenge": "a"}])
    before = sorted(folder.iterdir())
    assert exit_code(lambda: main(["--rows", "runs.jsonl", "--resamples", "100", *arguments])) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and sentence in message and message.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_case_measured_twice_counts_once(tmp_path):
    rows = [challenge_row("long_tail", "G1", 100, value) for value in (0.1, 0.2)]
    (kept,) = read_challenges(write(tmp_path / "c.jsonl", rows))
    assert kept["value"] == 0.2


def test_challenges_of_another_data_set_are_left_out(tmp_path):
    rows = write(tmp_path / "runs.jsonl", made_rows(0.001))
    scored = [challenge_row("long_tail", group, n, 0.1) for group in ("G1", "G4") for n in (100, 200)]
    write(tmp_path / "c.jsonl", [*scored, *(dict(row, dataset="made-not", group="elsewhere") for row in scored)])
    out = tmp_path / "page.html"
    main(["--rows", str(rows), "--challenges", str(tmp_path / "c.jsonl"), "--out", str(out), "--resamples", "100"])
    assert "Long-tail items" in out.read_text() and "elsewhere" not in out.read_text()


def test_other_models_come_from_their_own_file_and_never_into_the_law(tmp_path):
    rows = write(tmp_path / "runs.jsonl", made_rows(0.001))
    gru = {**made_row((2, 64)), "model": "GRU4Rec", "n_layers": None, "n_blocks": None, "test_nll": 6.123}
    ours = made_row((16, 256), test_nll=9.0)
    more = [{**gru, "model": "FMLPRec", "best_valid_nll": 1.0}, {**gru, "model": "SASRec", "unique_interactions": 99}]
    elsewhere = {**gru, "dataset": "elsewhere", "model": "Caser"}
    others = write(tmp_path / "others.jsonl", [gru, elsewhere, ours, *more])
    out = tmp_path / "page.html"
    main(["--rows", str(rows), "--others", str(others), "--out", str(out), "--resamples", "100"])
    text = Page(out.read_text()).text
    assert "GRU4Rec" in text and "6.1230" in text and "Caser" not in text and "9.0000" not in text
    assert "FMLPRec" in text and "SASRec" in text.replace("ScaledSASRec", "")  # one seed each, and none hides another
    assert "256x more parameters (3.07K to 786K without" in text


def test_a_report_is_about_size():
    with pytest.raises(UserError, match="cannot be about unique_interactions"):
        make_study(made_rows(), Question(x="unique_interactions"))


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "recbole-scale report --rows" in capsys.readouterr().out
    assert 'run_verb(["report"' in SCRIPT.read_text()


def test_valid_and_test_loss_with_other_best_sizes_are_told():
    rows = world(lambda n: 5.0 + (1e3 / n) ** 0.5)  # best by either: 786K
    for row in rows:
        row["best_valid_nll"] = row["test_nll"] - 0.05
    assert not any("is not settled" in note for note in answer(rows, QUICK).notes)
    for row in rows:
        row["best_valid_nll"] += 0.2 * (row["n_blocks"] == LARGE)
    clause = "the best size is 197K by the valid loss and 786K by the test loss, so which of the two is better is not"
    assert f"{clause} settled" in answer(rows, QUICK).notes
    study = make_study(rows, QUICK)
    assert clause in evidence_section(study, decide(study), [])
    del rows[0]["best_valid_nll"]
    assert not any("is not settled" in note for note in answer(rows, QUICK).notes)


def test_a_new_size_is_a_shape_that_is_known_where_there_is_one():
    smaller = world(lambda n: 5.0 + (1e3 / n) ** 0.5, shapes=SHAPES[1:5])  # 2x16 to 4x64
    study = make_study(smaller, QUICK)
    assert shape_name(study, 12 * 4 * 64**2) == "4x64"
    assert shape_name(study, 4 * 12 * 4 * 64**2) == "4x128"  # small, not the 6x104 of the largest run's proportions
    assert shape_name(study, 12 * 4 * 64**2 * 2) == "5x80"
    elsewhere = world(lambda n: 5.1 + (1e3 / n) ** 0.5, shapes=[(5, 81)], epochs=2)  # run, but not for this law
    assert shape_name(make_study(smaller + elsewhere, QUICK), 12 * 4 * 64**2 * 2) == "5x81"


def test_runs_to_add_have_the_rate_of_their_own_size_and_new_sizes_tune_theirs():
    rates = {12 * layers * width**2: 0.0015 * 64 / width for layers, width in SHAPES[1:5]}
    rows = world(lambda n: 5.0 + (1e3 / n) ** 0.5, shapes=SHAPES[1:5], settings={})
    for row in rows:
        rate = rates[row["n_blocks"]]
        row["settings"] = {"seed": row["seed"], "learning_rate": rate, "lr_schedule": "wsd"}
        tried = {"1": 6.0, "2": 6.1, "3": 6.2}
        row["tuning"] = {
            "learning_rate": rate, "valid_nll": tried, "seed": 4, "epochs": 6, "at_the_edge": False
        }  # fmt: skip
    study = make_study(rows, QUICK)
    line = sweep_line(study, [24_576], next_seeds(study, 24_576, 2), "rows.jsonl")
    assert line == (
        "recbole-scale sweep --dataset made --shapes 2x32 --seeds 5 6 --epochs 8 --rows rows.jsonl"
        " --learning_rate=0.003 --lr_schedule=wsd"
    )
    assert sweep_line(study, [786_432], [1], "rows.jsonl") == (
        "recbole-scale sweep --dataset made --shapes 4x128 --seeds 1 --epochs 8 --tune 3 --tune_seed 4 --tune_epochs 6"
        " --rows rows.jsonl --lr_schedule=wsd"
    )
    for row in rows:
        del row["tuning"]
    line = sweep_line(make_study(rows, QUICK), [786_432, 3_145_728], [1], "rows.jsonl")
    assert "--shapes 4x128 10x160 " in line and "--learning_rate=0.0015 " in line and "--tune" not in line


def test_where_the_largest_size_is_worse_there_are_no_sliders_to_promise_more(tmp_path):
    rows = world(lambda n: (5.0 + (1e3 / n) ** 0.5) * (1.02 if n == LARGE else 1.0), test_metrics={})
    write(tmp_path / "rows.jsonl", rows)
    assert main(["--rows", str(tmp_path / "rows.jsonl"), "--resamples", "100", "--out", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "No sliders: 786K is already worse than 197K, and the law only falls." in page and 'id="whatif"' not in page
    write(tmp_path / "rows.jsonl", world(lambda n: 5.0 + (1e3 / n) ** 0.5))
    assert main(["--rows", str(tmp_path / "rows.jsonl"), "--resamples", "100", "--out", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "No sliders" not in page and 'id="whatif"' in page
