"""``recbole-scale study``: a plan that fits its time, runs that go on where they stopped, the page."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import walk_rows
from pyarrow import parquet
from pyarrow.csv import read_csv
from study_rows_made import made_row
from worlds import hits_that_pay

from recbole_scale.errors import UserError
from recbole_scale.fit.study import _size
from recbole_scale.laws.loss import fit_power_law
from recbole_scale.model.sizes import rung_of
from recbole_scale.runs.prepared import LoadedData, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.signals import OutOfTime, within
from recbole_scale.study import command, planner
from recbole_scale.study.clock import Clock, Watch
from recbole_scale.study.command import main, time_given
from recbole_scale.study.counting import counting_rows
from recbole_scale.study.log import prepared_log
from recbole_scale.study.machines import Machines
from recbole_scale.study.options import parser
from recbole_scale.study.planner import SHAPES, Measured, Plan, make_plan, seeds_that_sharpen
from recbole_scale.study.running import MOST_BEYOND
from recbole_scale.sweep.engine import RowsFile, in_process
from recbole_scale.sweep.on_ray import _STOPPED, _on_worker
from recbole_scale.sweep.sweep import Grid, finished_rows, plan_sweep, quiet
from recbole_scale.training.trainer import ScaledSASRecTrainer

LAW = fit_power_law([1e3, 1e4, 1e5], [6.0, 5.6, 5.4], resamples=0)


def candidates(speed: float = 1e10) -> list[Measured]:
    """Every candidate on a machine of so many FLOP/s, with a softmax over 1,000 items."""
    found = []
    for rung in map(rung_of, SHAPES):
        width = int(rung.settings["hidden_size"])
        cost = (6 * rung.n_blocks + 6 * width * 1000) / speed
        found.append(Measured(rung.name, rung.n_blocks, width, cost, 3 * cost))
    return found


def plan_of(minutes: float, targets: int = 100_000, **options) -> Plan:
    return make_plan("made", candidates(), targets, 1000, 60 * minutes, **options)


@pytest.mark.parametrize("minutes", [2, 5, 60, 600])
def test_a_plan_fits_its_time_and_uses_it(minutes):
    plan = plan_of(minutes)
    cost = plan.tuning_seconds + plan.wall_seconds
    assert cost <= planner.SLACK * 60 * minutes
    assert len(plan.sizes) >= 3 and all(size.n <= 4 * plan.targets for size in plan.sizes)
    assert min(sum(shape == size.shape for shape, _ in plan.runs) for size in plan.sizes) >= 2
    if minutes == 5:
        assert cost > 0.5 * 60 * minutes


def test_more_time_and_more_data_buy_larger_sizes_and_longer_runs():
    short, long = plan_of(2), plan_of(60)
    assert long.sizes[-1].n >= short.sizes[-1].n and long.epochs >= short.epochs
    assert plan_of(6000, targets=10_000_000).sizes[-1].n > plan_of(6000, targets=100_000).sizes[-1].n
    assert math.log2(long.sizes[-1].n / long.sizes[0].n) >= 5


def test_runs_at_once_fit_more():
    alone, four = plan_of(3), plan_of(3, at_once=4)
    assert four.seconds() > 1.5 * alone.seconds()
    assert four.tuning_seconds + four.wall_seconds <= planner.SLACK * 180


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_the_seconds_of_runs_at_once_are_no_less_than_a_queue_of_them_takes(at_once):
    plan = replace(plan_of(5), at_once=at_once)
    free = [0.0] * at_once
    for run in plan.runs:  # each to the machine that is free first
        free.sort()
        free[0] += plan.seconds([run])
    assert plan.seconds() / at_once <= max(free) <= plan.wall_seconds * (1 + 1e-9)


def test_too_little_time_is_told_with_the_time_that_would_do():
    with pytest.raises(UserError, match=r"are too few for 'made' .* the smallest ladder takes about (\d+)"):
        plan_of(0.05)


def test_seeds_go_where_they_narrow_the_prediction_most_for_their_time():
    """With equal costs the ends of the ladder bend the law; a dear top is not worth its seeds."""
    plan = plan_of(60)
    same = replace(plan, sizes=tuple(replace(size, per_target=1e-5, per_user=0.0) for size in plan.sizes))
    added = seeds_that_sharpen(same, LAW, 4 * same.seconds([same.runs[0]]))
    assert len(added) == 4 and same.sizes[-1].shape in {shape for shape, _ in added}
    assert all((shape, seed) not in plan.runs for shape, seed in added)
    dear = replace(same, sizes=(*same.sizes[:-1], replace(same.sizes[-1], per_target=1.0)))
    assert dear.sizes[-1].shape not in {shape for shape, _ in seeds_that_sharpen(dear, LAW, 1e4)}


def test_a_plan_survives_its_file():
    plan = replace(plan_of(5), rate=0.01)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


@pytest.mark.parametrize(
    ("hours", "minutes", "expected"),
    [(["1"], None, (3600, False)), (None, ["2.5"], (150, False)), (["1", "more"], None, (3600, True))],
)
def test_a_time_is_read(hours, minutes, expected):
    assert time_given(hours, minutes) == expected


@pytest.mark.parametrize("hours", [None, ["0"], ["-1"], ["soon"], ["nan"], ["1", "less"], ["1", "more", "more"]])
def test_what_is_no_time_is_one_sentence(hours):
    with pytest.raises(UserError, match=r"--hours"):
        time_given(hours, None)


def test_sizes_are_names_counts_shapes_and_multiples():
    assert rung_of("tiny").n_blocks == rung_of("98.3K").n_blocks == rung_of("2x64").n_blocks == 98304
    assert rung_of("98.3K").settings == {"size": "tiny"}
    assert rung_of("5M").n_blocks == pytest.approx(5e6, rel=0.15)
    rows = [{"n_blocks": 100.0}, {"n_blocks": 4000.0}]
    assert _size("10x", rows, "n_blocks") == 40_000 and _size("2.5X", rows, "n_blocks") == 10_000
    with pytest.raises(UserError, match="nor 10x the largest"):
        _size("tenx", rows, "n_blocks")


def test_counting_is_counted_by_hand(walk):
    """Popularity and repeat-last against a loop over users on the written file."""
    loaded, settings = LoadedData(), {"topk": [5], "metrics": ["Recall", "NDCG", "NLL"], "MAX_ITEM_LIST_LENGTH": 10}
    ready = prepare(make_config("ScaledSASRec", "walk", [], quiet(settings)), loaded)
    popular, repeated = counting_rows(ready)
    histories: dict[str, list[str]] = {}
    for user, item, _ in sorted(walk_rows(), key=lambda row: row[2]):
        histories.setdefault(str(user), []).append(str(item))
    assert all(len(items) >= 3 for items in histories.values())
    train = [
        item for items in histories.values() for item in items[: -min(2, len(items) - 2)]
    ]  # RecBole: of three, one is held out
    n_items = len({item for items in histories.values() for item in items})
    nll = [-math.log((train.count(items[-1]) + 1) / (len(train) + n_items)) for items in histories.values()]
    assert popular["test_nll"] == pytest.approx(np.mean(nll)) and popular["n_items"] == n_items
    ranked = {item: train.count(item) for item in set(train)}
    surely = [sum(count >= ranked.get(items[-1], 0) for count in ranked.values()) <= 10 for items in histories.values()]
    maybe = [sum(count > ranked.get(items[-1], 0) for count in ranked.values()) < 10 for items in histories.values()]
    assert np.mean(surely) <= popular["test_metrics"]["recall@10"] <= np.mean(maybe)
    again = [items[-1] in list(dict.fromkeys(items[:-1][::-1]))[:10] for items in histories.values()]
    assert repeated["test_metrics"]["recall@10"] >= np.mean(again) and repeated["test_nll"] is None
    low, high = [], []  # without what the user had: the target's place among the others, ties against it and for it
    for items in histories.values():
        new = items[-1] not in items[:-1]
        others = [ranked.get(item, 0) for item in {f"i{i}" for i in range(40)} - set(items)]
        low.append(new and sum(count >= ranked.get(items[-1], 0) for count in others) < 10)
        high.append(new and sum(count > ranked.get(items[-1], 0) for count in others) < 10)
    assert popular["test_metrics_filtered"] == repeated["test_metrics_filtered"]
    assert np.mean(low) <= popular["test_metrics_filtered"]["recall@10"] <= np.mean(high) and np.mean(high) > 0


@pytest.fixture
def quick(monkeypatch):
    """A machine that is said to be fast, and plans of two epochs and two seeds."""
    monkeypatch.setattr(planner, "EPOCHS", (2,))
    monkeypatch.setattr(planner, "_MOST_SEEDS", 2)
    monkeypatch.setattr(planner, "_SIZES", (4,))
    told = [replace(size, per_target=1e-7, per_user=1e-7) for size in candidates()[:4]]
    monkeypatch.setattr(command, "measure", lambda *arguments: told)


def csv_of(path: Path) -> Path:
    lines = ["who,what,when", *(f"{user},{item},{time}" for user, item, time in walk_rows())]
    path.write_text("\n".join(lines) + "\n")
    return path


STUDY = ["--csv", "log.csv", "--user", "who", "--item", "what", "--time", "when", "--resamples", "100"]
SMALL = ["--MAX_ITEM_LIST_LENGTH=10", "--metrics=[Recall,NDCG,NLL]"]


@pytest.fixture
def pretend(monkeypatch):
    """Everything but the training: rows lie on a known curve, with a seed's noise."""
    rng, best_rate = np.random.default_rng(0), [0.003]

    def engine(rows_file, points, on_epoch):
        for point in points:
            shape = point.settings["n_layers"], point.settings["hidden_size"]
            hit = hits_that_pay(point.n_blocks) * math.exp(0.005 * rng.standard_normal())
            nll = 2.0 + (900.0 / point.n_blocks) ** 0.25 * math.exp(0.003 * rng.standard_normal())
            nll += 0.1 * math.log(point.settings["learning_rate"] / best_rate[0]) ** 2
            tests = {"recall@10": hit, "ndcg@10": hit / 2}
            same = {"run_id": point.run_id, "settings": point.settings, "dataset": point.dataset}
            row = made_row(shape, point.settings["seed"], test_nll=nll, best_valid_nll=nll, n_items=40, n_users=60,
                           test_metrics=tests, **same)  # fmt: skip
            RowsFile(rows_file).record(point, row)
            yield point, row

    there = Machines(1, 1, False, lambda rows_file, gate: partial(engine, rows_file))
    monkeypatch.setattr(command, "machines", lambda options, loaded: nullcontext(there))
    return best_rate


def test_a_stopped_study_goes_on_and_more_time_adds_runs(folder, quick, pretend, capsys, monkeypatch):
    csv_of(folder / "log.csv")
    assert main([*STUDY, "--minutes", "5", *SMALL]) == 0
    said = capsys.readouterr().out
    study = folder / "studies" / "log"
    page = (study / "page.html").read_text()
    rows = finished_rows(str(study / "runs.jsonl"))
    assert "page: studies/log/page.html" in said and "3 tries" in said and "held out of the fit" in said
    assert len(rows) == 8 and len({row["n_blocks"] for row in rows}) == 4
    assert {row["settings"]["lr_rule"] for row in rows} == {"width"}  # and one rate for all sizes by it
    assert len({row["settings"]["learning_rate"] for row in rows}) == 1
    text = re.sub(r"<[^>]*>", "", page)
    for shown in ("Would a bigger model pay on log?", "Popularity", "Repeat last", "--minutes 5 more"):
        assert shown in text
    lines = (study / "runs.jsonl").read_text().splitlines()
    (study / "runs.jsonl").write_text("\n".join(lines[:5]) + "\n")  # as if it had been stopped there
    (study / "page.html").unlink()
    before = (folder / "dataset" / "log" / "log.inter").stat().st_mtime_ns
    assert main([*STUDY, "--minutes", "5", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "going on with the plan" in said and "5 of 8 runs finished already" in said
    assert len(finished_rows(str(study / "runs.jsonl"))) == 8 and (study / "page.html").exists()
    assert (folder / "dataset" / "log" / "log.inter").stat().st_mtime_ns == before
    monkeypatch.setattr(planner, "_MOST_SEEDS", 3)
    assert main([*STUDY, "--minutes", "500", "more", *SMALL]) == 0
    assert "4 runs more in 8.3 h" in capsys.readouterr().out
    assert len(finished_rows(str(study / "runs.jsonl"))) == 12
    shutil.copytree(folder / "dataset" / "log", folder / "dataset" / "other")
    (folder / "dataset" / "other" / "log.inter").rename(folder / "dataset" / "other" / "other.inter")
    with pytest.raises(UserError, match="holds a study of 'log', not 'other'"):
        main(["--dataset", "other", "--out", "studies/log", "--minutes", "5", *SMALL])


@pytest.mark.parametrize(
    ("best", "tried", "chosen"),
    [(0.003, 3, "0.003"), (0.014, 4, "0.009"), (0.0001, 5, "0.000111")],
)
def test_rates_beyond_the_edge_are_tried_where_the_best_lies_there(folder, quick, pretend, capsys, best, tried, chosen):
    """Twice at most, and said; all sizes share the rate by the width rule."""
    pretend[0] = best
    csv_of(folder / "log.csv")
    assert main([*STUDY, "--minutes", "5", *SMALL]) == 0
    said, study = capsys.readouterr().out, folder / "studies" / "log"
    assert len(finished_rows(str(study / "tries.jsonl"))) == tried and f"learning rate {chosen} at" in said
    assert ("at the edge of the tries, so a better one may lie beyond" in said) == (best == 0.0001)
    assert len({row["settings"]["learning_rate"] for row in finished_rows(str(study / "runs.jsonl"))}) == 1


def test_no_run_begins_that_cannot_end_in_time_by_the_pace_of_those_before(monkeypatch):
    """An artificial clock, and runs that take twice as long as planned."""
    now = [0.0]
    points = [SimpleNamespace(run_id=f"{i}", label=f"run {i}", settings={}) for i in range(6)]
    cost = dict(zip("012345", (10.0, 20.0, 30.0, 50.0, 20.0, 10.0), strict=True))

    def twice_as_long(point, *more):
        now[0] += 2 * cost[point.run_id]
        return {"run_id": point.run_id, "status": "ok"}

    monkeypatch.setattr("recbole_scale.sweep.engine.run_point", twice_as_long)
    watch = Watch(cost, Clock(0.0, 200.0, lambda: now[0]), keep=15.0)
    ended = [point.run_id for point, _ in in_process(LoadedData(), RowsFile("r.jsonl"), watch)(points, None)]
    assert ended == ["0", "1", "2", "4", "5"] and now[0] == 180
    assert watch.told() == "left for lack of time: run 3"


@pytest.mark.parametrize("engine", ["in process", "on Ray's worker"])
def test_a_run_that_the_clock_stops_goes_on_later_with_the_same_numbers(walk, monkeypatch, engine):
    """The clock strikes within the third step, which is slow."""
    settings = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "topk": [5], "train_batch_size": 64}
    (point,) = plan_sweep(Grid("walk", (rung_of("1x8"),), (1,), settings=settings), LoadedData())
    begin = in_process(LoadedData(), RowsFile("rows.jsonl"))

    def trained() -> dict:
        Path("rows.jsonl").unlink(missing_ok=True)
        (row,) = [row for _, row in begin([point], lambda *more: None)]
        return row

    expected = trained()
    Path("rows.jsonl").unlink()
    original, steps = ScaledSASRecTrainer._train_step, []

    def slow(self, batch, count):
        steps.append(count)
        if len(steps) == 3:
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
            time.sleep(0.1)
        return original(self, batch, count)

    monkeypatch.setattr(ScaledSASRecTrainer, "_train_step", slow)
    if engine == "in process":
        watch = Watch({point.run_id: 1.0}, Clock(0.0, 3600.0, lambda: 0.0))
        assert list(in_process(LoadedData(), RowsFile("rows.jsonl"), watch)([point], lambda *more: None)) == []
        assert watch.told().startswith("stopped when the time was over, to go on later: 1x8 seed 1")
    else:
        board = SimpleNamespace(note=SimpleNamespace(remote=lambda *noted: None))
        assert _on_worker(point, torch.get_num_threads(), board, "rows.jsonl", time.time() + 3600, ".") == _STOPPED
    assert len(steps) == 3 and not Path("rows.jsonl").exists() and list(Path("saved").glob("*.last.pth"))
    assert trained()["test_nll"] == expected["test_nll"]
    assert sum(steps) == expected["interactions_seen"]  # no step twice


def test_time_that_is_over_ends_only_what_is_inside():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), within(0.01):
        time.sleep(60)
    with within(60.0):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGALRM) is before
    with pytest.raises(KeyError), within(60.0):
        raise KeyError


def test_a_log_whose_law_is_known_gives_the_known_answer(folder, quick, pretend, capsys, monkeypatch):
    monkeypatch.setattr(planner, "_MOST_SEEDS", 4)
    csv_of(folder / "log.csv")
    assert main([*STUDY, "--minutes", "5", "--predict", "10x", *SMALL]) == 0
    assert "\nYes: the runs promise" in capsys.readouterr().out
    assert main([*STUDY, "--minutes", "5", "--worth_hits", "0.2", *SMALL]) == 0
    assert "\nNo: the runs promise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "name", "where"),
    [
        ("--csv", "log.csv", []),
        pytest.param("--parquet", "log.parquet", ["--ray_address", "local"], marks=pytest.mark.slow),
        pytest.param("--csv", "log.parquet", ["--jobs", "2"], marks=pytest.mark.slow),
    ],
)
def test_from_a_file_to_a_page_by_real_runs(folder, monkeypatch, capsys, option, name, where):
    """Candidates are timed and trained: three sizes, one seed, one epoch."""
    monkeypatch.setattr(planner, "EPOCHS", (1,))
    monkeypatch.setattr(planner, "_FIRST_SEEDS", 1)
    monkeypatch.setattr(planner, "_MOST_SEEDS", 1)
    monkeypatch.setattr(planner, "RATES", (0.003, 0.009))
    csv_of(folder / "log.csv")
    if name.endswith("parquet"):
        parquet.write_table(read_csv(folder / "log.csv"), folder / name)
        (folder / "log.csv").unlink()
    if where:
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    columns = [option, name, *STUDY[2:]]
    assert main([*columns, "--hours", "0.5", "--sizes", "1x8", "2x8", "1x16", *where, *SMALL]) == 0
    study = folder / "studies" / "log"
    rows = finished_rows(str(study / "runs.jsonl"))
    assert len(rows) == 3 and all(row["epochs"] == 1 and row["test_nll"] > 0 for row in rows)
    assert {row["users_tested"] for row in rows} == {60} and {row["users_dropped"] for row in rows} == {0}
    assert 2 <= len(finished_rows(str(study / "tries.jsonl"))) <= 2 + MOST_BEYOND
    assert "users tested" in (study / "page.html").read_text() and not list((study / "saved").glob("*.pth"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "needs a time"),
        (["--minutes", "5"], "needs one log"),
        (["--minutes", "5", "--csv", "log.csv"], "--csv needs --user, --item, --time"),
        (["--minutes", "5", "--csv", "a", "--parquet", "b"], "needs one log"),
        (["--minutes", "5", "--dataset", "walk", "--user", "u"], "--user names a column of a file"),
        (["--minutes", "5", "--dataset", "walk", "more"], "belongs to no option|not of the form"),
        (["--minutes", "5", "more", "--dataset", "walk"], "no study in studies/walk to sharpen"),
        (["--minutes", "5", "--dataset", "walk", "--sizes", "tiny", "small"], "a law needs at least 3"),
        (["--minutes", "5", "--dataset", "walk", "--factor", "0.5"], "--factor is a number above 1, not 0.5"),
        (["--minutes", "5", "--dataset", "walk", "--worth_hits", "0"], "--worth_hits is a number above 0, not 0"),
        (["--minutes", "5", "--dataset", "walk", "--predict", "10x,4x64,huge"], "size 'huge' is none of tiny"),
        (
            ["--minutes", "5", "--csv", "x", "--user", "u", "--item", "i", "--time", "t", "--dataset", "a/b"],
            "dataset is 'a/b'",
        ),
        (["--minutes", "5", "--dataset", "walk", "--epochs=5"], "decides epochs itself: as many as the time allows"),
        (["--minutes", "5", "--dataset", "walk", "--metrics=[Recall]"], "a study fits a law of NLL"),
        (["--minutes", "5", "--dataset", "walk", "--sizes", "tinny", "1x8", "2x8"], "did you mean 'tiny'"),
    ],
)
def test_a_mistake_is_one_sentence_and_runs_nothing(walk, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        main([*arguments, "--MAX_ITEM_LIST_LENGTH=10"] if arguments else arguments)
    assert not (walk / "studies").exists() or not list((walk / "studies").rglob("*.jsonl"))


def test_a_messy_file_is_read_by_the_options_of_prepare(folder):
    """As a spreadsheet saves it: semicolons, dates of the country, a quote in a title, a row that is none."""
    rows = ["Kunde;Artikel;Am", *(f'J\u00f6rg {n};12" Vinyl;31/12/2019 18:0{n % 10}' for n in range(12)), "x;y;soon"]
    Path("log.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    words = ["--csv", "log.csv", "--user", "Kunde", "--item", "Artikel", "--time", "Am", "--hours", "1"]
    more = ["--encoding", "cp1252", "--id_quotes", "replace", "--time_format", "%d/%m/%Y %H:%M", "--bad_rows", "drop"]
    assert prepared_log(parser().parse_args([*words, *more]), "dataset") == "log"
    text = Path("dataset/log/log.inter").read_text("utf-8")
    assert text.count("\n") == 13 and "J\u00f6rg 3\t12\u2033 Vinyl\t1577815380\n" in text
    assert prepared_log(parser().parse_args([*words, *more]), "dataset") == "log"  # which is there
    other = [*words, *more, "--where", "Artikel=x"]
    with pytest.raises(UserError, match=r"dataset/log was made of log\.csv with other options; --dataset log alone"):
        prepared_log(parser().parse_args(other), "dataset")
    with pytest.raises(UserError, match="--bad_rows tells how a file is read, and --dataset log is prepared"):
        prepared_log(parser().parse_args(["--dataset", "log", "--bad_rows", "drop"]), "dataset")
    assert Path("dataset/log/log.inter").read_text("utf-8") == text


def test_a_damaged_plan_is_named(walk):
    (walk / "studies" / "walk").mkdir(parents=True)
    (walk / "studies" / "walk" / "plan.json").write_text('{"sizes": 3}')
    with pytest.raises(UserError, match=r"plan.json is no plan of a study"):
        main(["--dataset", "walk", "--minutes", "5", "--MAX_ITEM_LIST_LENGTH=10"])


@pytest.mark.slow
def test_ml_100k_in_minutes_gives_a_page(folder, capsys):
    assert main(["--dataset", "ml-100k", "--minutes", "3"]) == 0
    page = (folder / "studies" / "ml-100k" / "page.html").read_text()
    assert "Would a bigger model pay on ml-100k?" in page and "95 % band" in page


@pytest.mark.slow
def test_the_packaged_synthetic_log_is_learnt_beyond_counting(folder):
    """Real runs on a log whose best loss is known: no run beats it, and the largest beats popularity."""
    source = Path(__file__).parents[1] / "dataset" / "synthetic"
    shutil.copytree(source, folder / "dataset" / "synthetic")
    known = json.loads((source / "synthetic.json").read_text())["nats_per_interaction"]
    assert main(["--dataset", "synthetic", "--minutes", "3.5"]) == 0
    rows = finished_rows(str(folder / "studies" / "synthetic" / "runs.jsonl"))
    losses = [row["test_nll"] for row in rows]
    assert known["best"] < min(losses) < known["popularity"]
