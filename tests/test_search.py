"""Search spaces, the search's folder, searches on real Ray and with Hyperopt, and what ``kill -9`` leaves of them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recbole_scale
from recbole_scale import cli
from recbole_scale.errors import UserError, exit_code
from recbole_scale.search import command
from recbole_scale.search.display import write_display
from recbole_scale.search.folder import Trial, locked, trials, write_json
from recbole_scale.search.outcome import Outcome, best_of, outcomes
from recbole_scale.search.plan import SearchPlan
from recbole_scale.search.space import Parameter, exhaustive, find_params_file, read_space, samples, space_size
from recbole_scale.settings import load_settings_file

SMALL = ["--hidden_size=16", "--inner_size=32", "--MAX_ITEM_LIST_LENGTH=10", "--topk=[5]", "--train_batch_size=64",
         "--metrics=[NDCG,NLL]"]  # fmt: skip


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_space(folder: Path, text: str) -> str:
    path = folder / "my.hyper"
    path.write_text(text)
    return str(path)


def hyper(capsys, *arguments: str) -> tuple[int, str, str]:
    """``run_hyper`` in this process."""
    code = exit_code(lambda: command.main(list(arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# Spaces -------------------------------------------------------------------------------------------------------------


def test_recboles_format_is_read_as_recbole_reads_it(tmp_path):
    text = """# a comment

n_layers choice [1, 2]
loss_type choice ['CE','BPR']
learner choice [adam, sgd]
mlp_hidden_size choice ['[64,64]','[32]']
attn_dropout_prob choice [None,0.5]
hidden_dropout_prob uniform 0.0,0.5
hidden_size quniform 16,64,16
learning_rate loguniform -8, -4
"""
    space = {p.name: p for p in read_space(write_space(tmp_path, text))}
    assert space["n_layers"].values == (1, 2) and space["loss_type"].values == ("CE", "BPR")
    assert space["learner"].values == ("adam", "sgd")
    assert space["mlp_hidden_size"].values == ([64, 64], [32])
    assert space["attn_dropout_prob"].values == (None, 0.5)
    assert space["learning_rate"].values == (-8, -4)
    assert space["hidden_size"].grid() == [16, 32, 48, 64]
    assert str(space["learning_rate"]) == "0.0003355 to 0.01832"


BAD_LINES = [
    ("learning_rate loguniform", "'learning_rate loguniform' is not of the form 'name kind values'"),
    ("learning_rat uniform 0,1", "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    ("learning_rate logunifrom -8,-4", "is none of choice, uniform, quniform, loguniform; did you mean 'loguniform'?"),
    ("n_layers choice 1,2", "is no list of values; choice takes [a,b,...]"),
    ("n_layers choice []", "is no list of values"),
    ("mlp_hidden_size choice [(64,64),(32,)]", "is no list of values"),
    ("n_layers choice [__import__('os').getpid()]", "is no list of values"),
    ("n_layers uniform 1", "has 1 numbers; uniform takes low,high"),
    ("n_layers quniform 1,4", "has 2 numbers; quniform takes low,high,q"),
    ("n_layers quniform 1,4,0", "has no positive step"),
    ("hidden_dropout_prob uniform 0.5,0.1", "does not run from low to high"),
    ("hidden_dropout_prob uniform a,b", "are not numbers"),
    ("hidden_dropout_prob uniform 0,inf", "are not numbers"),
    ("learning_rate loguniform 1e-4,1e-2", "so 0.0001 to 0.01 is written -9.21,-4.605"),
    ("valid_metric choice [NLL,NDCG@10]", "'valid_metric' cannot differ between the trials"),
]


@pytest.mark.parametrize("line, says", BAD_LINES, ids=[line for line, _ in BAD_LINES])
def test_a_bad_line_is_one_sentence_with_file_and_line(tmp_path, line, says):
    path = write_space(tmp_path, f"# first\n{line}\n")
    with pytest.raises(UserError) as raised:
        read_space(path)
    assert f"{path}, line 2" in str(raised.value) and says in str(raised.value)


def test_a_name_twice_an_empty_space_and_one_without_end_are_refused(tmp_path):
    with pytest.raises(UserError, match="longer than the"):  # what comes after it is not passed over in silence
        read_space(write_space(tmp_path, "n_layers choice [1,2]\n" * 1_000_000))
    with pytest.raises(UserError, match=r"line 2: 'n_layers' has a line already"):
        read_space(write_space(tmp_path, "n_layers choice [1]\nn_layers choice [2]\n"))
    with pytest.raises(UserError, match="no parameter to search"):
        read_space(write_space(tmp_path, "# nothing\n"))


PACKAGED = ["ScaledSASRec", "SASRec", "GRU4Rec", "Caser", "BERT4Rec", "FMLPRec"]


@pytest.mark.parametrize("model", PACKAGED)
def test_every_packaged_space_names_settings_of_its_model(folder, model):
    from recbole_scale.plugin.register import model_names
    from recbole_scale.runs.run import make_config

    if model not in model_names():
        pytest.skip(f"there is no model {model} yet")
    config = make_config(model, "ml-100k", None, {})
    for parameter in read_space(find_params_file(None, model)):
        assert parameter.name in config.final_config_dict, parameter.name
    assert find_params_file(f"properties/hyper/{model}.hyper", "other") == find_params_file(None, model)


def test_a_missing_params_file_is_one_sentence(folder):
    with pytest.raises(UserError, match=r"no params file SASrec.hyper; did you mean 'SASRec.hyper'"):
        find_params_file("SASrec.hyper", "SASRec")
    with pytest.raises(UserError, match="no packaged search space for NARM"):
        find_params_file(None, "NARM")


bounds = st.tuples(st.floats(-9, 3), st.floats(0.1, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(bounds, st.integers(0, 99))
def test_draws_stay_within_their_bounds(limits, seed):
    low, high = limits
    rng = np.random.default_rng(seed)
    for _ in range(20):
        assert low <= Parameter("x", "uniform", (low, high)).draw(rng) <= high
        assert math.exp(low) <= Parameter("x", "loguniform", (low, high)).draw(rng) <= math.exp(high)


@given(st.integers(0, 20), st.integers(1, 8), st.integers(1, 5), st.integers(0, 99))
def test_quniform_draws_whole_multiples_of_q(low, width, q, seed):
    parameter = Parameter("x", "quniform", (low, low + width, q))
    drawn = [parameter.draw(np.random.default_rng(seed + i)) for i in range(20)]
    assert all(isinstance(value, int) and value % q == 0 for value in drawn)
    assert set(drawn) <= set(parameter.grid())


def test_loguniform_is_uniform_in_the_logarithm():
    """As Hyperopt's: exp(uniform(low, high))."""
    rng = np.random.default_rng(0)
    drawn = np.log([Parameter("x", "loguniform", (-8, -4)).draw(rng) for _ in range(4000)])
    assert np.mean(drawn) == pytest.approx(-6, abs=0.06) and np.std(drawn) == pytest.approx(4 / math.sqrt(12), abs=0.03)


def test_more_samples_begin_with_the_same_ones_and_none_comes_twice():
    space = [Parameter("a", "choice", (1, 2, 3)), Parameter("b", "uniform", (0.0, 1.0))]
    first, more = (list(zip(range(n), samples(space, 7), strict=False)) for n in (5, 50))
    assert more[:5] == first and len({repr(s) for _, s in more}) == 50
    finite = [Parameter("a", "choice", (1, 2, 3)), Parameter("b", "quniform", (2, 6, 2))]
    every = list(samples(finite, 7))
    assert space_size(finite) == len(every) == len({repr(s) for s in every}) == 9
    assert every == exhaustive(finite, 7)
    with pytest.raises(UserError, match=r"cannot try every value of 'b' \(uniform\)"):
        exhaustive(space, 7)


# Plan and folder ----------------------------------------------------------------------------------------------------


def make_plan(folder: Path, **more) -> SearchPlan:
    given = {"space": [Parameter("learning_rate", "choice", (0.1, 0.01))], "metric": "nll", "bigger": False,
             "epochs": 20, "seed": 1, "settings": {}}  # fmt: skip
    return SearchPlan(folder=str(folder), model="ScaledSASRec", dataset="walk", **{**given, **more})


def test_what_ray_writes_down_holds_no_terminal(tmp_path):
    """Ray pickles its callbacks as a search begins; ours shows a bar on a terminal, which cannot be pickled."""
    from ray import cloudpickle

    from recbole_scale.search.progress import Progress
    from recbole_scale.search.ray_search import _Record

    main, other = os.openpty()
    with os.fdopen(main), os.fdopen(other, "w") as terminal:
        made = make_plan(tmp_path)
        progress = Progress(made, 1)
        progress.terminal = terminal
        with pytest.raises(Exception, match="tty"):
            cloudpickle.dumps(progress)
        assert cloudpickle.loads(cloudpickle.dumps(_Record(made, progress))).plan == made


@pytest.mark.parametrize("epochs, grace, factor", [(20, 2, 3), (27, 1, 3), (300, None, 3), (4, None, 2), (1, None, 2)])
def test_the_rungs_are_ashas(tmp_path, epochs, grace, factor):
    schedulers = pytest.importorskip("ray.tune.schedulers")
    plan = make_plan(tmp_path, epochs=epochs, grace_period=grace, reduction_factor=factor)
    asha = schedulers.ASHAScheduler(max_t=epochs, grace_period=plan.grace, reduction_factor=factor)
    assert plan.rungs == sorted(milestone for milestone, _ in asha._brackets[0]._rungs)


def test_a_plan_comes_back_from_its_folder(tmp_path):
    plan = make_plan(tmp_path, settings={"topk": [5]}, space=[Parameter("mlp_hidden_size", "choice", ([1, 2], [3]))])
    plan.save()
    again = SearchPlan.load(str(tmp_path))
    assert again == plan
    again.check_same(plan)
    again.num_samples = 99
    again.check_same(plan)  # more trials is the same search
    with pytest.raises(UserError, match=r"settings differs: topk is \[5\] there and None here"):
        make_plan(tmp_path, space=plan.space).check_same(plan)
    write_json(tmp_path / "search.json", plan.as_json() | {"space": []})
    with pytest.raises(UserError, match=r"search.json is damaged \(its space is empty\)"):
        SearchPlan.load(str(tmp_path))
    (tmp_path / "search.json").write_text('{"model": ')
    with pytest.raises(UserError, match=r"search.json is damaged"):
        SearchPlan.load(str(tmp_path))


def test_a_torn_evaluation_is_passed_over_and_a_repeated_one_counts_once(tmp_path):
    trial = Trial(tmp_path, 3)
    trial.begin({"learning_rate": 0.1})
    trial.add_evaluation(1, 5.0, 5.0)
    with open(trial.folder / "evaluations.jsonl", "a") as file:
        file.write('{"epoch": 2, "sc')
    trial.add_evaluation(2, 4.0, 4.0)
    trial.add_evaluation(2, 4.5, 4.5)
    assert [(e["epoch"], e["score"]) for e in trial.evaluations()] == [(1, 5.0), (2, 4.5)]
    assert [t.number for t in trials(tmp_path)] == [3] and trial.values == {"learning_rate": 0.1}


def test_the_best_trial_is_in_the_metrics_own_direction_and_never_a_failed_one(tmp_path):
    for number, (status, score) in enumerate([("finished", 0.5), ("finished", 0.7), ("stopped", 0.1), ("failed", 0)]):
        trial = Trial(tmp_path, number)
        trial.begin({"learning_rate": number})
        if status != "failed":
            trial.add_evaluation(1, score, score)
        trial.end(status, **({"best": score} if status != "failed" else {"error": "no"}))
    for bigger, best in ((True, 1), (False, 0)):
        found = outcomes(make_plan(tmp_path, bigger=bigger))
        assert best_of(found).number == best and found[-1].status == "failed"


@pytest.mark.parametrize("ending", [".html", ".svg", ".png", ".pdf"])
def test_the_trials_are_drawn_into_the_file_that_recbole_calls_display_file(tmp_path, ending):
    plan = SearchPlan(folder=str(tmp_path), model="A<b>", dataset="d", settings={}, space=[], metric="ndcg@10",
                      bigger=True, epochs=1, seed=1)  # fmt: skip
    found = [Outcome(n, {"n_layers": n, "x": "<i>"}, "finished", 1, score, {}) for n, score in ((2, 0.3), (1, 0.2))]
    path = tmp_path / f"p{ending}"
    write_display(str(path), plan, [*found, Outcome(3, {}, "failed", 0, None, {})])
    start = {".html": b"<!doctype html>", ".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[ending]
    content = path.read_bytes()
    assert content.startswith(start) and len(content) > 2000
    if ending == ".html":
        text = content.decode()
        assert "<td>1<td>0.2<td>" in text and text.index("<td>1<td>") < text.index("<td>2<td>")
        assert "<i>" not in text and "A<b>" not in text and "<script" not in text


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom recbole_scale.search.folder import locked\n"
         f"with locked({str(tmp_path)!r}):\n    print('held', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match="another process works in"), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):  # the lock went with its holder
        pass


def test_paths_are_absolute_for_workers_and_as_given_in_best_yaml(walk):
    plan = make_plan(walk, settings={"data_path": "dataset", "pre_model_path": "dataset", "train_batch_size": 8})
    sent = plan.trial_settings({"learning_rate": 1}, "/there")
    assert sent["data_path"] == sent["pre_model_path"] == str(walk / "dataset")
    assert sent["checkpoint_dir"] == "/there" and sent["learning_rate"] == 1 and sent["train_batch_size"] == 8
    assert plan.settings["data_path"] == "dataset"


# The command --------------------------------------------------------------------------------------------------------

MISTAKES = [
    (["--tool=Rey"], "--tool 'Rey' is none of Ray, Hyperopt; did you mean 'Ray'?"),
    (["--tool=Hyperopt", "--algo=tpe"], "--algo 'tpe' is none of"),
    (["--algo=bayes"], "--algo is for --tool=Hyperopt"),
    (["--early_stop=3"], "--early_stop is not for --tool=Ray"),
    (["--tool=Hyperopt", "--grace_period=2"], "--grace_period is not for --tool=Hyperopt"),
    (["--nproc=2"], "run_hyper decides nproc itself: each of its runs is one process"),
    (["--config_files=own.yaml"], "own.yaml: run_hyper decides checkpoint_dir itself: each trial's checkpoints"),
    (["--model=SASRek"], "no model 'SASRek'; did you mean 'SASRec"),
    (["--params_file=no.hyper"], "no params file no.hyper"),
    (["--learning_rat=1"], "unknown key 'learning_rat' among the settings; did you mean 'learning_rate'?"),
    (["--display_file=x.gif"], "--display_file x.gif: a picture's name ends in .html"),
    (["--dataset=wakl"], "there is no data set folder dataset/wakl; did you mean 'walk'?"),
    (["--num_samples=0"], "--num_samples must be from 1 to 100,000"),
    (["--cpus_per_trial=0"], "--cpus_per_trial must be above 0"),
    (["--reduction_factor=1"], "--reduction_factor must be from 1.1 to 1,000"),
    (["--gpu_id=1"], "CUDA_VISIBLE_DEVICES instead of --gpu_id"),
    (["--valid_metric=NDCG@7"], "valid_metric NDCG@7 is not measured"),
    (["--resume", "nowhere"], "there is no search to resume in nowhere"),
    (["--learning_rate=1e-3", "--params_file=one.hyper"], "every parameter of"),
]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cpus_per_trial=2"], "--cpus_per_trial is not for --tool=Hyperopt"),
        (["--no_halving"], "--no_halving is not for --tool=Hyperopt"),
        (["--tool=Ray"], "--resume takes tool from s/search.json; leave '--tool' out"),
        (["--algo=random"], "--resume takes algo from s/search.json"),
        (["--dataset=other"], "--resume takes dataset from s/search.json"),
        (["--params_file=x.hyper"], "--resume takes params_file from s/search.json"),
        (["--learning_rate=1"], "--resume takes learning_rate from s/search.json"),
    ],
)
def test_what_a_search_that_goes_on_cannot_take_is_told(walk, capsys, words, says):
    make_plan(walk / "s", tool="Hyperopt", algo="bayes").save()
    before = Path("s/search.json").read_bytes()
    code, _, err = hyper(capsys, "--resume", "s", *words)
    assert code == 2 and err.startswith(f"error: {says}") and Path("s/search.json").read_bytes() == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_search_as_it_ends_a_process_and_says_how_to_go_on(walk, capsys, monkeypatch, signum, code):
    path = write_space(walk, "learning_rate choice [0.1,0.01]\n")
    monkeypatch.setattr(command, "_search", lambda plan: lambda plan: os.kill(os.getpid(), signum))
    ended, _, err = hyper(capsys, "--dataset=walk", f"--params_file={path}", "--folder=s", "--topk=[5]")
    assert ended == code
    assert err.strip().endswith("; the same command, or run_hyper --resume s, goes on")


@pytest.mark.parametrize("arguments, says", MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(walk, capsys, arguments, says):
    (walk / "one.hyper").write_text("learning_rate choice [0.1,0.01]\n")
    (walk / "own.yaml").write_text("checkpoint_dir: mine\n")
    code, _, err = hyper(capsys, "--dataset=walk", "--dry_run", "--topk=[5]", *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and says in errors[0], err
    assert not (walk / "search").exists()


def test_dry_run_prints_space_and_plan_and_writes_nothing(walk, capsys):
    (walk / "base.yaml").write_text("epochs: 27\nmodel: ScaledSASRec\ndataset: walk\nweight_decay: 0.5\n")
    more = ("--weight_decay=0.1", "--topk=[5]", "--num_samples=4", "--grace_period=1", "--gpus_per_trial=0.5")
    code, out, err = hyper(capsys, "--config_files=base.yaml", "--dry_run", *more)
    assert code == 0, err
    for words in ("ScaledSASRec on walk: 4 trials of up to 27 epochs with Ray, for the highest NDCG@5",
                  "learning_rate     loguniform", "after 1, 3, 9, 27 epochs the best 1/3 go on", "0.5 GPU",
                  "weight_decay=0.1", "trial 3  learning_rate="):  # fmt: skip
        assert words in out
    assert "choice      0.0, 0.01, 0.1" not in out  # what the command line fixes is not searched
    assert not (walk / "search").exists() and not (walk / "log").exists()


# Hyperopt -----------------------------------------------------------------------------------------------------------


def test_an_exhaustive_search_tries_every_setting_and_goes_on_where_it_was(walk, capsys):
    path = write_space(walk, "learning_rate choice [0.03,0.001]\nn_layers quniform 1,2,1\nn_heads choice [2,5]\n")
    arguments = ("--tool=Hyperopt", "--algo=exhaustive", f"--params_file={path}", "--dataset=walk", "--epochs=2",
                 "--folder=s", "--results_file=rows.jsonl", "--display_file=trials.html", *SMALL)  # fmt: skip
    code, out, err = hyper(capsys, *arguments)
    assert code == 0, err
    assert (walk / "trials.html").read_text().count("<tr>") == 4  # those with a score
    found = outcomes(SearchPlan.load("s"))
    assert len(found) == 8 and sum(one.status == "failed" for one in found) == 4  # 16 is no multiple of 5
    assert "hidden_size 16 is not a multiple of n_heads 5" in out
    best = found[0]
    assert best.values["learning_rate"] == 0.03 and best.score == max(one.score for one in found if one.score)
    assert best.score == best.result["row"]["best_valid_metrics"]["ndcg@5"]
    again = recbole_scale.run("ScaledSASRec", "walk", ["s/best.yaml"], {"show_progress": False})
    assert again["run_id"] == best.result["row"]["run_id"]
    assert again["nll"] == pytest.approx(best.result["row"]["test_nll"], abs=1e-4)
    assert (walk / "rows.jsonl").read_text().count("\n") == 1  # the best trial's row, which is the run's just now too
    before = {one.number: (Path("s") / "trials" / f"{one.number:03d}" / "result.json").stat().st_mtime_ns
              for one in found if one.status == "finished"}  # fmt: skip
    code, out, err = hyper(capsys, *arguments)
    assert code == 0 and "continuing the search in s" in out
    after = {n: (Path("s") / "trials" / f"{n:03d}" / "result.json").stat().st_mtime_ns for n in before}
    assert after == before
    code, _, err = hyper(capsys, *arguments, "--seed=9")
    assert code == 2 and "holds another search (its settings differs: seed is None there and 9 here)" in err


@pytest.mark.parametrize("algo", ["bayes", "random"])
def test_hyperopt_finds_the_better_rate_and_proposes_the_same_when_started_again(walk, capsys, algo):
    pytest.importorskip("hyperopt", reason="Hyperopt is not installed (pip install hyperopt)")
    path = write_space(walk, "learning_rate loguniform -9,-3\n")
    arguments = ("--tool=Hyperopt", f"--algo={algo}", f"--params_file={path}", "--dataset=walk", "--epochs=2",
                 "--folder=s", "--valid_metric=NDCG@5", *SMALL)  # fmt: skip
    code, _, err = hyper(capsys, *arguments, "--num_samples=3")
    assert code == 0, err
    first = {one.number: one.values for one in outcomes(SearchPlan.load("s"))}
    code, _, err = hyper(capsys, "--resume", "s", "--num_samples=5")
    assert code == 0, err
    found = outcomes(SearchPlan.load("s"))
    assert len(found) == 5 and {one.number: one.values for one in found if one.number < 3} == first
    assert found[0].score == max(one.score for one in found)


def test_hyperopt_that_is_not_installed_is_one_sentence(walk, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hyperopt", None)
    code, _, err = hyper(capsys, "--tool=Hyperopt", "--dataset=walk", "--topk=[5]")
    assert code == 2 and 'pip install "hyperopt' in err and not (walk / "search").exists()


# Ray ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed (make setup installs it)")
    from recbole_scale.search.ray_search import start_ray

    start_ray(None, num_cpus=2)
    yield ray
    ray.shutdown()


def _good_ones_first(drawn: list[dict]) -> bool:
    """Whether the two high rates come before the two low ones: ASHA stops nothing that has no better before it."""
    rates = [values["learning_rate"] for values in drawn if values["n_heads"] == 1]
    return min(rates[:2]) > max(rates[2:])


def test_asha_stops_bad_trials_and_a_failing_one_is_a_row(walk, capsys, cluster):
    text = "learning_rate choice [0.02,0.01,1e-6,1e-7]\nn_heads choice [1,5]\n"  # 16 is no multiple of 5
    path = write_space(walk, text)
    seed = next(s for s in range(99) if _good_ones_first(exhaustive(read_space(path), s)))
    arguments = (f"--params_file={path}", "--dataset=walk", "--epochs=9", "--grace_period=1", "--folder=s",
                 f"--seed={seed}", "--warmup_steps=1", "--valid_metric=NLL", *SMALL)  # fmt: skip
    code, out, err = hyper(capsys, *arguments)
    assert code == 0 and "for the lowest NLL" in out, err
    found = outcomes(SearchPlan.load("s"))
    by = {status: [one for one in found if one.status == status] for status in ("finished", "stopped", "failed")}
    assert len(found) == 8 == sum(map(len, by.values()))
    assert {one.values["n_heads"] for one in by["failed"]} == {5} and len(by["failed"]) == 4
    assert all("hidden_size 16 is not a multiple of n_heads 5" in one.result["error"] for one in by["failed"])
    bad = [one for one in by["stopped"] if one.values["learning_rate"] < 1e-5]
    assert len(bad) == 2 and all(one.epochs < 9 for one in bad)  # a good one may reach its end before its stop
    best = found[0]
    assert best.status == "finished" and best.epochs == 9 and best.values["learning_rate"] > 1e-3
    assert f"best trial  {best.number}: valid NLL {best.score:.6g}  learning_rate={best.values['learning_rate']}" in out
    settings = load_settings_file("s/best.yaml")
    assert settings["learning_rate"] == best.values["learning_rate"] and settings["hidden_size"] == 16
    assert not (walk / "log").exists() and not (walk / "saved").exists() and not (walk / "s" / "ray").exists()


def test_a_recbole_model_is_tuned_to_the_highest_ndcg(walk, capsys, cluster, monkeypatch):
    path = write_space(walk, "learning_rate choice [0.02,1e-5]\n")
    code, _, err = hyper(
        capsys, "--model=GRU4Rec", f"--params_file={path}", "--dataset=walk", "--epochs=3", "--no_halving",
        "--valid_metric=NDCG@5", "--folder=g", "--embedding_size=16", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    found = outcomes(SearchPlan.load("g"))
    assert [one.status for one in found] == ["finished", "finished"]
    assert [one.values["learning_rate"] for one in found] == [0.02, 1e-5] and found[0].score > found[1].score
    assert len(Trial("g", 0).evaluations()) == 3  # one report per evaluation, not one at the end
    monkeypatch.setattr(sys, "argv", ["run_recbole", "--config_files=g/best.yaml", "--dry_run"])
    assert exit_code(cli._run_recbole) == 0 and "GRU4Rec on walk" in "".join(capsys.readouterr())


def test_a_trial_that_asks_for_more_than_there_is_is_refused(walk, capsys, cluster):
    code, _, err = hyper(capsys, "--dataset=walk", "--topk=[5]", "--gpus_per_trial=64", "--num_samples=1")
    assert code == 2 and "a trial asks for 64 GPU, but this machine has" in err


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
def test_a_search_survives_kill_9_of_a_worker_and_of_the_driver(walk):
    pytest.importorskip("ray", reason="Ray is not installed (make setup installs it)")
    path = write_space(walk, "learning_rate choice [0.02,0.005]\n")
    settings = {"epochs": 20, "stopping_step": 1000, "train_batch_size": 16}
    search = [sys.executable, "-c", "from recbole_scale.cli import run_hyper_command; run_hyper_command()",
              "--dataset=walk", f"--params_file={path}", "--folder=s", "--no_halving", *SMALL[:4], SMALL[5],
              *(f"--{key}={value}" for key, value in settings.items())]  # fmt: skip
    first = Trial("s", 0)
    driver = subprocess.Popen(search, cwd=walk, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: len(first.evaluations()) >= 3, driver)
        worker = int((first.folder / "pid").read_text())
        os.kill(worker, signal.SIGKILL)
        at = len(first.evaluations())
        wait_for(lambda: len(first.evaluations()) >= at + 3, driver)  # Ray started the trial again, and it goes on
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    worker = int((first.folder / "pid").read_text())
    wait_for(lambda: not alive(worker), seconds=300)  # Ray's processes go with the driver
    assert not (walk / "s" / "best.yaml").exists() and first.result() is None
    killed_at = len(first.evaluations())
    done = subprocess.run(search, cwd=walk, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "continuing the search in s" in done.stdout and (walk / "s" / "best.yaml").exists()
    lines = (first.folder / "evaluations.jsonl").read_text().splitlines()
    assert 20 <= len(lines) <= 22 and killed_at < 20  # went on from its checkpoints: nothing was trained twice
    for trial in trials("s"):
        row = json.loads((trial.folder / "result.json").read_text())["row"]
        with threads(row["threads"]):  # with another number sums round otherwise, and this rate makes much of that
            whole = recbole_scale.run("ScaledSASRec", "walk", None, {
                **trial.values, **settings, **dict(s.lstrip("-").split("=") for s in (*SMALL[:4], SMALL[5])),
                "show_progress": False})  # fmt: skip
        assert row["test_nll"] == whole["nll"]  # as if it had never been killed


def test_a_search_that_ended_is_not_carried_out_again(walk, capsys):
    plan = make_plan(walk / "s", settings={"topk": [5]})
    plan.num_samples, plan.algo = 2, "random"
    plan.save()
    for number, values in enumerate(plan.samples()):
        trial = Trial(plan.folder, number)
        trial.begin(values)
        trial.add_evaluation(1, 5.0 + number, 5.0 + number)
        write_json(trial.folder / "result.json", {"status": "stopped", "best": 5.0 + number})
    code, out, err = hyper(capsys, "--resume", "s")  # without a Ray to start
    assert code == 0, err
    assert "best trial  0: valid NLL 5" in out and load_settings_file("s/best.yaml")["learning_rate"] in (0.1, 0.01)
