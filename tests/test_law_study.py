"""The command that fits a law to rows: what it picks, what it writes, and what it says to a mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_rows_made import SHAPES, made_row
from worlds import world

from recbole_scale.errors import UserError, exit_code
from recbole_scale.fit.command import main, range_of
from recbole_scale.fit.joint import joint_answer, joint_rows
from recbole_scale.fit.law_output import skill_sentence
from recbole_scale.fit.more import more_of, prices
from recbole_scale.fit.more_output import more_sentences, price_table
from recbole_scale.fit.rows import Question, choose
from recbole_scale.fit.study import answer, estimate_flops
from recbole_scale.fit.tries import best_settings
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.laws.metrics import fit_metric_law
from recbole_scale.laws.rollout import Judgement, rollout, widening
from recbole_scale.report.command import main as report_main
from recbole_scale.text import counted, milliseconds, parse_count, show_count, show_reach

SCRIPT = Path(__file__).parents[1] / "run_scripts" / "fit_power_law.py"
LADDER = (("a", 1, 20), ("b", 1, 32), ("c", 2, 32), ("d", 2, 64), ("e", 4, 64), (None, 4, 128), ("large", 8, 128))
TRUTH = {"E": 5.0, "n0": 900.0, "alpha": 0.25, "d0": 3000.0, "beta": 0.3}
ITEMS, LENGTH = 3706, 50


def make_row(size, layers, width, seed, interactions, rng, noise):
    n = 12 * layers * width**2
    cost = 6 * n + 12 * layers * LENGTH * width + 6 * width * ITEMS
    nll = TRUTH["E"] + (TRUTH["n0"] / n) ** TRUTH["alpha"] + (TRUTH["d0"] / interactions) ** TRUTH["beta"]
    nll *= np.exp(noise * rng.standard_normal())
    return {
        "status": "ok",
        "dataset": "ml-1m",
        "model": "ScaledSASRec",
        "size": size,
        "n_layers": layers,
        "d_model": width,
        "n_blocks": n,
        "n_blocks_exact": n + 13 * layers * width,
        "seed": seed,
        "interactions_seen": 20 * interactions,
        "unique_interactions": interactions,
        "flops_per_interaction": cost,
        "flops_total": cost * 20 * interactions,
        "best_valid_nll": nll - 0.05,
        "test_nll": nll,
        "test_metrics": {"ndcg@10": 0.25 / (1 + (9e3 / n) ** 0.5), "itemcoverage@10": 0.5},
    }


def make_rows(noise=0.001, fractions=(1.0, 0.5, 0.25, 0.1)):
    rng = np.random.default_rng(0)
    rows = [
        make_row(*rung, seed, int(570_000 * fraction), rng, noise)
        for fraction in fractions
        for rung in LADDER
        for seed in range(3 if fraction == 1.0 else 1)
    ]
    return [*rows, {"status": "failed", "dataset": "ml-1m", "model": "ScaledSASRec", "error": "out of memory"}]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))
    return path


@pytest.fixture(scope="module")
def written(rows_file, tmp_path_factory):
    """One full run of the command: its folder and its law.json."""
    out = tmp_path_factory.mktemp("out")
    asked = ["--holdout", "1.57M,786K", "--predict", "829M", "--joint", "--resamples", "200", "--out", str(out)]
    assert main(["--rows", str(rows_file), *asked]) == 0
    return out, json.loads((out / "law.json").read_text())


def test_held_out_sizes_are_not_fitted_and_are_judged(written):
    _, law = written
    assert len(law["fitted_rows"]) == 15 and max(row["x"] for row in law["fitted_rows"]) == 196_608
    assert [judged["x"] for judged in law["held_out"]] == [786_432, 1_572_864]
    for judged in law["held_out"]:
        assert judged["runs"] == 3 and judged["largest_fitted"] == 196_608
        assert judged["signed_error"] == pytest.approx(judged["predicted"] / judged["observed"] - 1)
        assert abs(judged["signed_error"]) < 0.01
        assert judged["covered"] == (judged["lower"] <= judged["observed"] <= judged["upper"])
    assert [judged["sizes_fitted"] for judged in law["rollout"]] == [3] * 4 + [4] * 3 + [5] * 2 + [6]
    assert not any("host" in key or "path" in key for key in law)


def test_the_prediction_has_bands_metrics_and_a_cost(written):
    _, law = written
    (prediction,) = law["predictions"]
    truth = TRUTH["E"] + (TRUTH["n0"] / 8.29e8) ** TRUTH["alpha"] + (TRUTH["d0"] / 570_000) ** TRUTH["beta"]
    value, lower, upper = prediction["loss"]
    assert lower < value < upper and lower < truth < upper
    assert prediction["metrics"]["ndcg@10"][0] == pytest.approx(0.25 / (1 + (9e3 / 8.29e8) ** 0.5), rel=1e-3)
    assert set(law["metric_laws"]) == {"ndcg@10"}  # coverage is no ranking metric
    assert prediction["flops"] == pytest.approx(6 * 8.29e8 * 20 * 570_000, rel=0.15)


def test_the_joint_law_uses_every_row(written):
    _, law = written
    for name, (lower, upper) in law["joint"]["bands_95"].items():
        assert lower <= TRUTH[name] <= upper, name
    budgets = law["joint"]["budgets"]
    assert [row["n"] for row in budgets] == sorted(row["n"] for row in budgets)
    assert budgets[-1]["extrapolates"]


def test_what_was_held_out_is_fitted_too_beside_the_judged_law(written):
    _, law = written
    everything = answer(make_rows(), Question(predict=("829M",), resamples=200))
    assert law["held_out_fitted_too"]["constants"] == pytest.approx(everything.law.constants())
    assert law["held_out_fitted_too"]["predictions"][0]["loss"] == pytest.approx(everything.predictions[0].loss)
    assert law["held_out_fitted_too"]["constants"] != law["constants"] and everything.whole is None


def test_the_rollout_and_the_held_out_table_give_one_fit_one_band(written):
    _, law = written
    assert law["held_out"] == [judged for judged in law["rollout"] if judged["sizes_fitted"] == 5]


def test_figures_are_written(written):
    out, _ = written
    for name in ("law", "metrics"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not list(out.glob("*.partial"))


def test_a_metric_that_some_runs_lack_is_fitted_to_the_others():
    rows = make_rows(fractions=(1.0,))[:-1]
    rows[0]["test_metrics"]["ndcg@10"] = None
    rows[1]["test_metrics"] = None
    found = answer(rows, Question(resamples=100))
    assert found.metric_laws["ndcg@10"].limit == pytest.approx(0.25, rel=1e-3)
    assert "2 of 21 fitted runs lack NDCG@10" in found.notes
    assert set(more_of(rows, found).of_loss) == {"ndcg@10"}


def test_a_metric_is_at_most_1_however_wide_its_band():
    x = np.array([1e3, 4e3, 1.6e4, 6.4e4, 2.6e5])
    law = fit_metric_law(x, 0.8 / (1 + (1e3 / x) ** 0.5) * (1 + 0.01 * np.sin(x)), resamples=100).widened(50.0)
    assert float(law.interval(1e9)[1]) <= 1.0 and law.draws([1e9]).max() <= 1.0


def test_joint_refused_leaves_the_rest(tmp_path, capsys):
    """One amount of data: the law in size is written all the same, with what equal FLOPs tell."""
    path = tmp_path / "runs.jsonl"
    rows = [made_row(shape, seed, epochs=epochs) for shape in SHAPES[1:] for seed in (1, 2) for epochs in (6, 12, 24)]
    rng = np.random.default_rng(0)
    for row in rows:
        row["test_nll"] += 0.5 / row["epochs"] + 0.002 * rng.standard_normal()
        row["best_valid_nll"] = row["test_nll"] - 0.05
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--rows", str(path), "--joint", "--predict", "8x128", "--resamples", "100", "--out", str(tmp_path / "o")]
    assert main(asked) == 0
    text, law = capsys.readouterr().out, json.loads((tmp_path / "o" / "law.json").read_text())
    assert "note: no joint law in size and data: a law needs at least 3 different amounts of data" in text
    assert law["joint"]["best_sizes_at_equal_flops"] and "taken: epochs 24" in text
    twice = law["more"]["twice_the_epochs"]
    assert [(one["n"], one["epochs"], one["pairs"]) for one in twice[:2]] == [(6144, 6, 2), (6144, 12, 2)]
    predicted = law["more"]["repeated_data"]["predictions"]
    assert [(one["n"], one["epochs"]) for one in predicted] == [(1_572_864, epochs) for epochs in (6, 12, 24)]
    assert all(low < value < high for value, low, high in (one["loss"] for one in predicted))
    found = answer(rows, Question(resamples=100))
    more = more_of(rows, found)
    for most, end in ((150.0, "to 150)"), (200.0, "to 200 or more)")):
        wide = replace(more.repeated, draws=np.full_like(more.repeated.draws, most))
        assert more_sentences(replace(more, repeated=wide), found)[-1].endswith(end)
    table = text.split("by the law of size and repeated data, one run\n")[1].splitlines()[1:5]
    assert [line.split()[:2] for line in table[1:]] == [["1.57M", "6"], ["1.57M", "12"], ["1.57M", "24"]]
    # the page has the same table
    page = tmp_path / "page.html"
    assert report_main(["--rows", str(path), "--predict", "8x128", "--resamples", "100", "--out", str(page)]) == 0
    shown = page.read_text("utf-8").split("What longer training gives")[1].split("</table>")[0]
    body = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in shown.split("<tr>")[2:]]
    assert [cells[:3] for cells in body] == [line.split()[:3] for line in table[1:]]


def test_cells_off_the_joint_law_are_noticed():
    rows = make_rows(noise=0.0005)[:-1]
    assert not any("cells miss" in note for note in joint_answer(rows, Question(resamples=80)).notes)
    for row in rows:
        row["test_nll"] *= 1.02 if row["d_model"] == 64 else 1.0
    notes = joint_answer(rows, Question(resamples=80)).notes
    assert any("cells miss the joint law by more than their runs differ" in note for note in notes)


def test_a_size_is_named_by_its_shape_as_well(rows_file, tmp_path, capsys):
    asked = ["--rows", str(rows_file), "--resamples", "0", "--out", str(tmp_path)]
    assert main([*asked, "--holdout", "8x128", "--predict", "4x128,8x256"]) == 0
    law = json.loads((tmp_path / "law.json").read_text())
    assert {one["x"] for one in law["held_out"]} == {1_572_864}
    assert [one["x"] for one in law["predictions"]] == [786_432, 6_291_456]
    with pytest.raises(UserError, match="nor one size or shape of the rows"):
        main([*asked, "--x", "flops_total", "--predict", "8x256"])
    capsys.readouterr()


def test_the_table_names_what_it_shows(rows_file, tmp_path, capsys):
    main(["--rows", str(rows_file), "--holdout", "large", "--resamples", "100", "--out", str(tmp_path)])
    text, written_to = capsys.readouterr().out.split("\nwritten to")
    assert "law.json" in written_to
    assert "test_nll against n_blocks, 18 runs of 6 sizes" in text
    assert "error above 0: predicted too high" in text and "held-out sizes fitted too, identified" in text
    assert "unique_interactions is held at 570,000, one of 4 values" in text
    assert "held out" in text and "1.57M" in text and "rollout" in text
    assert "NDCG@10 = limit / (1 + (x0 / x)^alpha)" in text and "ndcg@" not in text  # metrics have one name everywhere
    tables = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(tables) > 9 and max(map(len, tables)) < 80  # sentences are folded by the terminal


def test_a_law_in_data_holds_one_size():
    found = answer(
        make_rows(), Question(x="unique_interactions", where={"size": "e"}, resamples=100, predict=("5.7M",))
    )
    assert {row["size"] for row in found.choice.fitted} == {"e"}
    assert len({row["unique_interactions"] for row in found.choice.fitted}) == 4
    cost = found.choice.fitted[0]["flops_per_interaction"]
    assert found.predictions[0].flops == pytest.approx(cost * 5.7e6 * 20, rel=1e-6)
    automatic = choose(make_rows(), Question(x="unique_interactions"))
    assert {row["n_blocks"] for row in automatic.fitted} == {12 * 8 * 128**2}
    assert "n_blocks is held at 1,572,864" in automatic.notes[0]


def test_a_law_in_size_is_of_the_whole_data_where_three_sizes_saw_it():
    rows = make_rows(fractions=(1.0, 0.5))
    for sizes, amount in ((3, 570_000), (2, 285_000)):
        whole = {12 * layers * width**2 for _, layers, width in LADDER[:sizes]}
        kept = [row for row in rows if row.get("unique_interactions") != 570_000 or row["n_blocks"] in whole]
        assert {row["unique_interactions"] for row in choose(kept, Question()).fitted} == {amount}


def test_rows_of_other_data_under_the_same_name_are_left_out():
    rows = [{**row, "data_fingerprint": "a", "split": {"LS": "valid_and_test"}} for row in make_rows()[:-1]]
    other = {**rows[0], "seed": 9, "test_nll": 1.0}
    odd = [{**other, "data_fingerprint": "b"}, {**other, "split": {"RS": [8, 1, 1]}}]
    chosen = choose([*odd, *rows], Question())
    assert min(row["test_nll"] for row in chosen.fitted) > 5 and len(chosen.fitted) == 21
    assert "2 rows of other data or another split" in chosen.notes[0]
    silent = {**other, "data_fingerprint": None, "split": None, "seed": 10}
    assert silent in choose([silent, *rows], Question()).fitted  # nothing is known against it


def test_a_law_in_data_takes_one_of_two_shapes_of_equal_n():
    rng = np.random.default_rng(0)
    rows = [
        make_row(None, *shape, 1, amount, rng, 0.0) for shape in ((4, 64), (16, 32)) for amount in (1e5, 3e5, 5e5, 6e5)
    ]
    assert {row["d_model"] for row in choose(rows, Question(x="unique_interactions")).fitted} == {64}
    others = [{**row, "n_blocks": None, "n_layers": None, "d_model": None} for row in rows[:4]]  # as of GRU4Rec
    assert len(choose(others, Question(x="unique_interactions")).fitted) == 4


def test_a_condition_can_be_zero():
    rows = [{**row, "skipped_steps": index % 2} for index, row in enumerate(make_rows()[:-1])]
    assert {row["skipped_steps"] for row in choose(rows, Question(where={"skipped_steps": "0"})).fitted} == {0}


def test_unequal_settings_are_named():
    rows = [{**row, "settings": {"seed": row["seed"], "n_layers": 2, "epochs": 10}} for row in make_rows()[:-1]]
    assert not any("tuning" in note for note in choose(rows, Question()).notes)
    rows[0]["settings"] = {**rows[0]["settings"], "learning_rate": 0.1}
    rows[0]["best_valid_nll"] = 0.0
    assert "not all given the same learning_rate: tuning is part" in choose(rows, Question()).notes[-1]


def test_rates_that_a_sweep_tuned_are_told_as_that():
    def tuned(row, rate, tries):
        chosen = {"learning_rate": rate, "valid_nll": dict.fromkeys(tries, 6.0), "at_the_edge": rate == 0.012}
        return {**row, "settings": {"seed": row["seed"], "epochs": 10, "learning_rate": rate}, "tuning": chosen}

    rows = [tuned(row, 0.012, "abc") if row["size"] == "a" else tuned(row, 0.006, "abcd") for row in make_rows()[:-1]]
    smallest = show_count(min(row["n_blocks"] for row in rows))
    told = "each size has the learning rate of lowest valid loss on another seed, of 3 to 4 tried; at"
    assert [note for note in choose(rows, Question()).notes if "learning" in note] == [
        f"{told} {smallest} it is the least or the largest tried"
    ]
    other = [{**row, "tuning": {**row["tuning"], "learning_rate": 0.003}} for row in rows]  # not what they have
    assert "tuning is part of what" in choose(other, Question()).notes[-1]
    mixed = [
        {**rows[0], "tuning": None, "settings": {"seed": 1, "epochs": 10}},
        *rows[1:],
    ]  # one kept its size's own rate
    assert "tuning is part of what" in choose(mixed, Question()).notes[-1]


def test_sizes_off_the_law_are_noticed_and_widen_the_band():
    rng = np.random.default_rng(5)
    rows = make_rows(fractions=(1.0,))[:-1]
    off = {rung[1:]: np.exp(0.005 * rng.standard_normal()) for rung in LADDER}
    tilted = [{**row, "test_nll": row["test_nll"] * off[row["n_layers"], row["d_model"]]} for row in rows]
    plain, found = answer(rows, Question(resamples=200)), answer(tilted, Question(resamples=200))
    assert plain.law.lack_of_fit > 0.01 > found.law.lack_of_fit
    assert any("unequal tuning" in note for note in found.notes)


def test_costs_are_exact_at_the_rows_and_absent_without_flops():
    rows = make_rows(fractions=(1.0,))[:-1]
    at_largest = estimate_flops(rows, "n_blocks", 12 * 8 * 128**2)
    assert at_largest == pytest.approx(max(row["flops_total"] for row in rows))
    assert estimate_flops([{"n_blocks": 1e4}], "n_blocks", 1e5) is None


def test_a_metric_that_cannot_be_fitted_is_a_note():
    rows = [{**row, "test_metrics": {"ndcg@10": 0.0}} for row in make_rows(fractions=(1.0,))[:-1]]
    found = answer(rows, Question(resamples=100))
    assert not found.metric_laws and any("no law for NDCG@10" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "value"), [("829M", 829e6), ("98.3K", 98300), ("1.57m", 1.57e6), ("0.8B", 8e8), ("1e6", 1e6), ("5", 5)]
)
def test_counts_are_read(text, value):
    assert parse_count(text) == pytest.approx(value)


def test_counts_are_written_and_words_are_no_counts():
    assert [counted(n, "run") for n in (0, 1, 2, 1234)] == ["0 runs", "1 run", "2 runs", "1,234 runs"]
    assert counted(1, "row", 5) == "    1 row"
    assert [show_reach(value) for value in (0.458, 98_304, 1.39e20, np.inf)] == [
        "less than 100", "98.3K", "more than 10T", "more than 10T"]  # fmt: skip
    assert [milliseconds(value) for value in (0.4444, 164.6, 1650)] == ["0.444 ms", "165 ms", "1,650 ms"]
    assert [show_count(value) for value in (829_440_000, 98_304, 999_999, 12.0, 3e40)] == [
        "829M",
        "98.3K",
        "1M",
        "12",
        "3e+40",
    ]
    assert [parse_count(text) for text in ("large", "", "-3", "1e999", "M")] == [None] * 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "ml-1"], "no row has dataset 'ml-1', only ml-1m; did you mean 'ml-1m'?"),
        (["--model", "GRU4Rec"], "no row has model 'GRU4Rec', only ScaledSASRec"),
        (["--x", "n_block"], "--x n_block is none of"),
        (["--loss", "nll"], "--loss nll is none of"),
        (["--holdout", "xlarge"], "--holdout xlarge matches no row; there are a (4.8K)"),
        (["--holdout", "a,b,c,d,e"], "at least 3 different sizes, but there are 2: 786K and 1.57M"),
        (["--holdout", "a,b,c,d,e,786K,large"], "leaves no run to fit a law to"),
        (["--predict", "huge"], "--predict huge is neither a count such as 829M"),
        (["--where", "sise=a"], "--where names the column 'sise', which no row has; did you mean 'size'?"),
        (["--where", "size"], "--where size is not of the form COLUMN=VALUE"),
        (["--resamples", "5"], "at least 80 resamples"),
    ],
)
def test_mistakes_are_told_in_one_sentence(rows_file, tmp_path, capsys, arguments, says):
    command = ["--rows", str(rows_file), "--out", str(tmp_path / "out"), *arguments]
    assert exit_code(lambda: main(command)) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_data_sets_must_be_told_apart():
    rows = make_rows()
    with pytest.raises(UserError, match="several kinds of dataset"):
        choose([*rows, {**rows[0], "dataset": "ml-1m-cut10"}], Question())
    with pytest.raises(UserError, match="several kinds of model"):
        choose([*rows, {**rows[0], "model": "SASRec"}], Question())
    with pytest.raises(UserError, match=r"no finished run \(status ok\) among 1 row$"):
        choose(rows[-1:], Question())


def test_the_script_runs_and_shows_an_example(tmp_path):
    shown = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "examples:" in shown.stdout and "--holdout large,xlarge --predict 829M" in shown.stdout
    missing = [sys.executable, str(SCRIPT), "--rows", "none.jsonl"]
    failed = subprocess.run(missing, capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "none.jsonl" in failed.stderr


def test_one_setting_for_all_seeds_of_a_size_and_as_many_tries_everywhere():
    def run(d_model, seed, rate, valid):
        settings = {"learning_rate": rate, "seed": seed}
        place = {"model": "M", "n_layers": 2, "d_model": d_model, "n_blocks": 24 * d_model**2, "seed": seed}
        return {**place, "unique_interactions": 9, "best_valid_nll": valid, "settings": settings}

    # the lowest single run is of rate 2, the lowest mean of rate 1
    rows = [run(d, seed, rate, valid) for d in (16, 32) for rate, losses in ((1, (5.0, 5.2)), (2, (4.9, 5.6)))
            for seed, valid in enumerate(losses)]  # fmt: skip
    notes: list[str] = []
    assert {row["settings"]["learning_rate"] for row in best_settings(rows, notes)} == {1}
    assert "4 runs repeat a shape" in notes[0] and "(2 settings a size to compare)" in notes[0]
    assert notes[0].endswith("the same for all its seeds; taken: learning_rate 1")
    extra = run(16, 0, 3, 1.0)  # a third try at one size is not compared with two at the other
    assert extra not in best_settings([*rows, extra], [])


def test_sizes_are_compared_after_equally_many_epochs():
    """Long runs of one size and short ones of another would be a law of training, whichever row comes first."""

    def run(d_model, epochs, valid):
        place = {"model": "M", "n_layers": 2, "d_model": d_model, "n_blocks": 24 * d_model**2, "seed": 1}
        return {**place, "unique_interactions": 9, "best_valid_nll": valid, "settings": {"epochs": epochs}}

    small = [run(d, epochs, 5.0 - epochs / 100) for d in (16, 32) for epochs in (6, 12, 24)]
    notes: list[str] = []
    kept = best_settings([*small, run(64, 24, 4.7)], notes)
    assert [row["settings"]["epochs"] for row in kept] == [24, 24, 24]
    assert "the first of every size is taken, for all its seeds; taken: epochs 24" in notes[0]
    kept = best_settings([*small, run(64, 6, 4.9), run(64, 12, 5.0)], notes)  # each size its best of 6 and 12
    assert [row["settings"]["epochs"] for row in kept] == [12, 12, 6]
    assert notes[1].endswith("taken: epochs 12 at 6.14K, 24.6K and 6 at 98.3K")
    one_more = [*small[:1], {**small[0], "settings": {"epochs": 6, "rate": 2}}]
    best_settings(one_more, notes)
    assert notes[2].startswith("1 run repeats a shape with other settings")


def test_the_tries_of_equal_settings_do_not_flatter_the_mean():
    """Four settings that differ in nothing: choosing for each seed was worth -0.022 nats and shrank the spread."""
    rng = np.random.default_rng(0)
    chosen, spread = [], []
    for _ in range(200):
        rows = [{"model": "M", "n_blocks": 1, "seed": seed, "settings": {"rate": rate}, "unique_interactions": 1,
                 "best_valid_nll": rng.normal(0, 0.02)} for rate in range(4) for seed in range(3)]  # fmt: skip
        losses = [row["best_valid_nll"] for row in best_settings(rows, [])]
        assert len(losses) == 3
        chosen.append(np.mean(losses))
        spread.append(np.var(losses, ddof=1))
    assert -0.022 < np.mean(chosen) < 0.0  # the best of four means of three: 1.03 * 0.02 / sqrt(3) = 0.012
    assert np.sqrt(np.mean(spread)) == pytest.approx(0.02, rel=0.15)


def test_the_joint_law_is_judged_on_held_out_sizes_and_rolled_out(written):
    joint = written[1]["joint"]
    assert {one["n"] for one in joint["held_out"]} == {786432.0, 1572864.0}
    assert all(one["runs"] and one["lower"] < one["upper"] for one in joint["held_out"])
    assert {one["sizes_fitted"] for one in joint["rollout"]} == {3, 4, 5, 6}


def test_the_joint_law_takes_rows_by_data_for_each_parameter():
    rows = make_rows()
    kept, held, axis = joint_rows(rows, Question(d_over_n=(1.0, 20.0)))
    assert axis == "n_blocks" and not held and len(kept) < sum(row["status"] == "ok" for row in rows)
    assert all(1 <= row["unique_interactions"] / row["n_blocks"] <= 20 for row in kept)
    with pytest.raises(UserError, match="--d_over_n"):
        joint_rows(rows, Question(d_over_n=(1e9, 1e10)))
    assert range_of("1:100") == (1.0, 100.0) and range_of(":5") == (0.0, 5.0)
    with pytest.raises(UserError, match="LOW:HIGH"):
        range_of("5")


def test_the_price_of_a_per_cent_is_the_time_over_the_gain():
    def run(n, seconds, ndcg):
        return {"n_blocks": n, "seconds_train": seconds, "test_metrics": {"ndcg@10": ndcg}, "seconds_evaluate": 3.0,
                "n_users": 6000}  # fmt: skip

    start, first, second = prices(
        [run(1e4, 100.0, 0.10), run(1e5, 700.0, 0.12), run(1e6, 5000.0, 0.12)], "ndcg@10", 3.6
    )
    assert (start.n, start.metric, start.gain, start.seconds) == (1e4, 0.10, None, None)
    assert first.gain == pytest.approx(20.0) and first.seconds == pytest.approx(30.0) and np.isnan(first.error)
    assert first.money == pytest.approx(0.03) and start.serving_ms == first.serving_ms == pytest.approx(0.5)
    assert second.seconds is None and second.money is None
    seeds = [run(1e4, 100.0, 0.10 + off) for off in (-0.01, 0.01)] + [
        run(1e5, 700.0, 0.11 + off) for off in (-0.01, 0.01)
    ]
    _, noisy = prices(seeds, "ndcg@10", None)
    one = np.sqrt((2 * 0.1**2 + 2 * (0.01 / 0.11) ** 2) / 2)  # relative noise of a run
    assert noisy.error == pytest.approx(100 * 1.1 * one) and noisy.gain == pytest.approx(10) and noisy.seconds is None
    assert price_table([start, noisy])[2][2:4] == [f"+10.0 ± {2 * noisy.error:.1f} %", "no clear gain"]


def lines_of(rows, tmp_path, capsys, *options):
    """What the command prints about rows, in one line."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert main(["--rows", str(tmp_path / "rows.jsonl"), "--resamples", "100", "--out", str(tmp_path), *options]) == 0
    return " ".join(capsys.readouterr().out.split())


def with_loss(loss, noise=0.001, **columns):
    rng = np.random.default_rng(0)
    rows = [row for row in make_rows(fractions=(1.0,)) if row["status"] == "ok"]
    return [{**row, "test_nll": loss(row["n_blocks"]) * np.exp(noise * rng.standard_normal()), "n_items": ITEMS,
             **columns} for row in rows]  # fmt: skip


def test_nothing_learnt_is_told_before_the_law(tmp_path, capsys):
    guessing = np.log(ITEMS)
    told = lines_of(with_loss(lambda n: guessing if n < 1e4 else 5 + (900 / n) ** 0.25), tmp_path, capsys)
    assert f"Uniform guessing {guessing:.3f} nats." in told
    assert "The smallest size (4.8K) has not learnt yet" in told and "Train longer before asking about size." in told
    constant = re.compile(r" (E|x0|alpha|limit) [\d.,KMG]+ \[")
    assert not constant.search(told)
    assert not any(
        word in told for word in ("L = E", "rollout", "follows the loss", "costs, step by step", "E and its")
    )
    learnt = lines_of(with_loss(lambda n: 5 + (900 / n) ** 0.25, markov_nll=5.0), tmp_path, capsys)
    assert constant.search(learnt) and "not told" not in learnt
    assert "has not learnt" not in learnt and "No size is better than the last item alone" in learnt


def test_a_law_that_is_not_identified_shows_its_range_and_no_constants(tmp_path, capsys):
    flat = lines_of(with_loss(lambda n: 6.0), tmp_path, capsys)
    law = flat[: flat.index("rollout:")]
    assert "not identified" in law and "10x larger, at 15.7M: " in law and "cannot be told from no gain" in law
    assert law.count("alpha") == 1 and "the law has no skill against" in flat  # in the form alone
    steep = lines_of(with_loss(lambda n: 7 - 0.15 * np.log(n / 5e3)), tmp_path, capsys)
    assert re.search(r"now 6\.1[34] ± 0\.\d\d: a gain rollout:", steep)


def test_best_sizes_at_equal_flops_need_no_joint_law(tmp_path, capsys):
    """Of one amount of data, seen for several numbers of epochs, each with its own schedule."""
    rows = []
    for row in with_loss(lambda n: 5.0):
        for epochs in (1, 2, 4, 8, 16, 32) if row["seed"] == 0 else ():
            cost = row["flops_per_interaction"] * epochs * 57_000
            loss = 5 + (900 / row["n_blocks"]) ** 0.25 + (3e5 / (57_000 * epochs)) ** 0.5
            rows.append({**row, "epochs": epochs, "settings": {"epochs": epochs}, "unique_interactions": 57_000,
                         "interactions_seen": 57_000 * epochs, "flops_total": cost, "test_nll": loss,
                         "best_valid_nll": loss})  # fmt: skip
    told = lines_of(rows, tmp_path, capsys, "--joint")
    assert "no joint law in size and data: a law needs at least 3 different amounts of data" in told
    best = json.loads((tmp_path / "law.json").read_text())["joint"]["best_sizes_at_equal_flops"]
    found = [one for one in best if one["n"] is not None]
    assert found and all(one["lower"] <= one["n"] <= one["upper"] and one["n_by_the_law"] is None for one in found)
    assert [one["n"] for one in found] == sorted(one["n"] for one in found)  # a larger budget takes a larger size
    assert lines_of(make_rows(), tmp_path, capsys, "--joint").count("by the joint law") == 1


@pytest.mark.parametrize("price", ["-3", "nan", "0", "much"])
def test_a_price_is_a_number_above_0(price, rows_file):
    with pytest.raises(UserError, match=r"price_per_hour.*must be a"):
        main(["--rows", str(rows_file), f"--price_per_hour={price}"])


@pytest.mark.parametrize("x", ["n_parameters", "flops_total", "n_blocks_exact"])
def test_a_law_can_be_in_any_count_of_size(x):
    rows = [{**row, "n_parameters": row.get("n_blocks", 0) + 50_000} for row in make_rows(fractions=(1.0,))]
    found = answer(rows, Question(x=x, resamples=80))
    assert found.law.predict(max(row[x] for row in found.choice.fitted)) > 0
    assert sorted({row[x] for row in found.choice.fitted})[0] == np.exp(found.law.fit.seen.logs.min()).round()


def test_forms_of_a_metric_are_told_apart_where_the_runs_do_and_open_ones_stay_open():
    rows = world("does not", 0)
    question = Question(resamples=100, predict=("10x",))
    found = answer(rows, question)
    told = more_sentences(more_of(rows, found), found)
    form = next(
        one for one in told if one.startswith("HR@10 by the Performance Law, another form: peaks at 89.5K (95 %")
    )
    assert form.endswith("; the runs are for the saturating law")
    rng = np.random.default_rng(0)
    for row in rows:
        row["test_metrics"] = {"recall@10": 0.2 + 0.01 * rng.standard_normal()}
    found = answer(rows, question)
    (first, second) = more_sentences(more_of(rows, found), found)
    assert first.startswith("whether HR@10 follows the loss these runs do not tell: logit = ")
    assert re.search(r"; its slope may be 0 or (more|less)$", first)
    assert second.endswith("; the runs do not tell the two apart")


def test_an_open_limit_is_called_that():
    law = fit_metric_law([1e3, 1e4, 1e5, 1e6], [0.1, 0.15, 0.18, 0.2], resamples=0)
    fit = replace(law.inner.fit, reasons=("unknown_floor", "floor"))
    assert replace(law, inner=replace(law.inner, fit=fit)).message == (
        "not identified: the 95 % band of the limit is wider than the whole gain over the sizes measured; "
        "the 95 % band of the limit reaches 1"
    )


def test_more_is_told_of_the_rows(written):
    more = written[1]["more"]
    assert set(more["metric_of_loss"]) and any("repeated data" in note for note in more["notes"])


def test_the_skill_of_a_rollout_is_against_no_change_and_a_line():
    x = np.repeat([1e4, 1e5, 1e6, 1e7], 2)
    loss = 5 + (1e3 / x) ** 0.5
    (one,) = rollout(x, loss, resamples=100)
    assert one.no_change == pytest.approx(5 + 1e-3**0.5) and one.skill(one.no_change) == pytest.approx(1.0, abs=1e-3)
    line = np.polyfit(np.log(x[:6]), loss[:6], 1)
    assert one.straight == pytest.approx(np.polyval(line, np.log(1e7)))
    assert one.tells is True
    text = skill_sentence([one])
    assert "the law 0.0000" in text and f"{abs(one.straight - one.observed):.4f}" in text


def test_a_rollout_that_missed_widens_the_bands():
    def missed(error):
        return Judgement(
            3, 1.0, 2.0, 5.0 + error, 5.0 + error - 0.196, 5.0 + error + 0.196, 5.0, 1, 0.0, True, 5.1, 5.0
        )

    assert widening([]) == 1.0 and widening([missed(0.05)] * 4) == 1.0
    assert widening([missed(0.3)] * 4) == pytest.approx(np.sqrt((4 * 9 + 4) / 8))
    law = fit_power_law([1e4, 1e5, 1e6] * 3, [6.0, 5.5, 5.3] * 2 + [6.01, 5.49, 5.31], resamples=100)
    (low, high), (lower, upper) = law.interval(1e7), law.widened(2.0).interval(1e7)
    assert np.log(upper / lower) == pytest.approx(2 * np.log(high / low), rel=0.02)


def test_a_metric_whose_rollout_missed_has_wider_bands():
    """Sizes off the saturating law by turns: the metric's own rollout misses, and its band is that much wider."""
    x = np.repeat(np.geomspace(1e4, 1e7, 6), 3)
    rng = np.random.default_rng(0)
    smooth = 0.2 / (1 + (2e4 / x) ** 0.5)
    bent = smooth * np.where(x < 5e5, 1.0, 0.9) * np.exp(0.001 * rng.standard_normal(len(x)))
    law = fit_metric_law(x, bent, resamples=120)
    factor = widening(rollout(x, bent, fit=fit_metric_law, resamples=120))
    assert factor > 1.5
    off, wider = (np.log(one.draws(1e8) / law.predict(1e8)) for one in (law, law.widened(factor)))
    np.testing.assert_allclose(wider, factor * off, atol=1e-12)  # every draw, and so the ends of the band
    rows = [row for row in make_rows(fractions=(1.0,)) if "n_blocks" in row]
    sizes = sorted({row["n_blocks"] for row in rows})
    for row in rows:
        at = sizes.index(row["n_blocks"]) + 0.001 * row["seed"]
        row["test_metrics"] = {"ndcg@10": 0.1 + 0.01 * at - 0.008 * max(at - 2.5, 0.0)}
    known = answer(rows, Question(resamples=120)).metric_laws["ndcg@10"]
    assert known.inner.fit.widening > 1.0


def test_e_is_said_to_hold_on_these_users():
    rows = [{**row, "test_nll_se": 0.02} for row in make_rows(fractions=(1.0,))]
    assert any("± 0.039 nats" in note for note in answer(rows, Question(resamples=80)).notes)
