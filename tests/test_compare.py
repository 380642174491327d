"""Comparisons: significance against scipy and published numbers, budgets that hold, rows, tables, resumption."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK
from scipy import stats

import recbole_scale
from recbole_scale import signals
from recbole_scale.compare import command
from recbole_scale.compare.runs import Budget, Run, carry_out, plan_runs, split_name, threads_of
from recbole_scale.compare.significance import by_user, hit_at, holm, ndcg_at, paired_bootstrap
from recbole_scale.compare.table import as_latex, as_markdown, as_text, cells, summarise
from recbole_scale.data.texts import joined
from recbole_scale.errors import UserError, exit_code
from recbole_scale.runs import records
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config, train_and_test
from recbole_scale.settings import parse_arguments, run_id
from recbole_scale.training.budget import TimeBudget

SMALL = {**QUICK, "embedding_size": 16, "metrics": ["Recall", "NDCG", "NLL"], "valid_metric": "NDCG@10"}


# Significance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.15])
def test_the_bootstrap_agrees_with_the_paired_t_test_on_many_users(shift):
    rng = np.random.default_rng(int(shift * 100))
    difference = rng.normal(shift, 1, 1000)
    found = paired_bootstrap(difference, samples=20_000)
    t = stats.ttest_1samp(difference, 0)
    low, high = t.confidence_interval(0.95)
    assert found.mean == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    assert found.p == pytest.approx(t.pvalue, abs=0.015)


def test_users_without_a_difference_count():
    """One user in a thousand differs: the resample without that user is as common as it must be, (1 - 1/n)^n."""
    difference = np.zeros(1000)
    difference[7] = 1.0
    found = paired_bootstrap(difference, samples=20_000)
    assert found.low == 0 and found.p > 1 / math.e  # exactly: a mean of 0 lies as far from 1/n as 1/n from 0
    assert paired_bootstrap(np.zeros(50)).p == 1


def test_equal_models_differ_significantly_as_often_as_promised():
    rng = np.random.default_rng(0)
    p = [paired_bootstrap(rng.normal(size=200), samples=500, seed=i).p for i in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_rows_of_one_user_are_resampled_together():
    """Against resampling whole users by hand, for users of one to nine rows that all agree or all differ."""
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(300), rng.integers(1, 10, 300))
    values = (rng.normal(0.1, 1, 300)[user] + rng.normal(0, 0.1, len(user))).round(6)
    sums, rows = np.bincount(user, values), np.bincount(user)
    drawn = rng.integers(0, 300, (4000, 300))
    low, high = np.quantile(sums[drawn].sum(1) / rows[drawn].sum(1), [0.025, 0.975])
    found = paired_bootstrap(by_user(values, user), 20_000)
    assert found.mean == pytest.approx(values.mean()) and (found.low, found.high) == pytest.approx(
        (low, high), abs=0.02
    )
    alone = paired_bootstrap(values, 20_000)
    assert found.high - found.low > 1.8 * (alone.high - alone.low)  # rows are not as many users
    assert by_user(values[:3], np.arange(3)).tolist() == values[:3].tolist()


def test_holm_on_a_worked_example():
    """0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02 (R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"))."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_ranks_become_metrics():
    rank = np.array([1, 2, 10, 11, 0])
    assert ndcg_at(rank, 10).tolist() == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert hit_at(rank, 10).tolist() == [1, 1, 1, 0, 0]


# Budgets ------------------------------------------------------------------------------------------------------------


def test_the_schedule_ends_with_the_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("recbole_scale.training.budget.perf_counter", lambda: clock[0])
    budget = TimeBudget(100.0)
    budget.load_state_dict({"used": 20.0})  # of an earlier epoch
    budget.start()
    clock[0] = 5.0
    assert not budget.look() and budget.total_steps(50, planned=7) == 200  # 50 steps in 25 s: 200 in 100 s
    clock[0] = 79.9
    assert not budget.look()
    assert budget.total_steps(999, planned=7) == 1000  # 99.9 of 100 s are over
    clock[0] = 80.0
    assert budget.look() and budget.spent
    free = TimeBudget(None)
    clock[0] = 1e9
    assert not free.look() and free.total_steps(3, planned=7) == 7


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_a_time_budget_ends_training_inside_an_epoch_and_evaluates_what_there_is(walk, model):
    settings = {**SMALL, "epochs": 10_000, "stopping_step": 10_000, "train_batch_size": 16, "eval_step": 1000}
    result = recbole_scale.run(model, "walk", config_dict={**settings, "train_budget_seconds": 0.3})
    row = json.loads((walk / "results" / "runs.jsonl").read_text())
    assert 0.3 <= row["seconds_train"] < 30  # the last step ends late, on a busy machine by far
    assert (
        row["evaluations"][-1]["valid_ndcg@10"] == result["best_valid_result"]["ndcg@10"]
    )  # only the end is evaluated
    assert sum("valid_ndcg@10" in e for e in row["evaluations"]) == 1 and row["epochs"] < 10_000
    assert row["best_epoch"] == row["evaluations"][-1]["epoch"]


def test_a_baselines_row_says_what_ours_says(walk):
    settings = {**SMALL, "epochs": 3, "learning_rate": 0.01, "per_user_file": "users.npz"}
    result = recbole_scale.run("GRU4Rec", "walk", config_dict=settings)
    row = json.loads((walk / "results" / "runs.jsonl").read_text())
    config = recbole_scale.run("ScaledSASRec", "walk", dry_run=True, config_dict={**QUICK})
    targets = int(config["plan"].split(" training targets")[0].split()[-1].replace(",", ""))
    assert row["interactions_seen"] == 3 * targets and row["epochs"] == 3
    scores = [e["valid_ndcg@10"] for e in row["evaluations"]]
    assert len(scores) == 3 and scores[row["best_epoch"]] == max(scores) == result["best_valid_result"]["ndcg@10"]
    assert row["seconds_train"] > 0 and row["seconds_evaluate"] > 0
    losses = [e["train_loss"] for e in row["evaluations"]]
    assert math.log(40) * 1.1 > losses[0] > losses[2] > 0  # nats a target, not a sum over batches


@pytest.mark.parametrize("model", ["GRU4Rec", "ScaledSASRec", "Pop"])
def test_the_users_ranks_give_the_rows_metrics(walk, model):
    more = {"load_col": None, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}} if model == "Pop" else {}
    more |= {"repeatable": True}
    result = recbole_scale.run(model, "walk", config_dict={**SMALL, **more, "per_user_file": "users.npz"})
    users = read_per_user(walk / "users.npz")
    assert len(set(users["user"])) == len(users["user"]) and set(users["user"]) <= {f"u{i}" for i in range(60)}
    for k in (5, 10):
        assert ndcg_at(users["rank"], k).mean() == pytest.approx(result["test_result"][f"ndcg@{k}"], abs=1e-4)
        assert hit_at(users["rank"], k).mean() == pytest.approx(result["test_result"][f"recall@{k}"], abs=1e-4)
        filtered = result["test_result_filtered"]
        assert ndcg_at(users["rank_filtered"], k).mean() == pytest.approx(filtered[f"ndcg@{k}"], abs=1e-4)
        assert hit_at(users["rank_filtered"], k).mean() == pytest.approx(filtered[f"recall@{k}"], abs=1e-4)
    assert users["nll"].mean() == pytest.approx(result["nll"], abs=1e-5)


# The comparison -----------------------------------------------------------------------------------------------------


def test_plans_treat_everybody_alike(walk):
    names = ["GRU4Rec", "ScaledSASRec:tiny", "ScaledSASRec:small"]
    runs = plan_runs("walk", names, [1, 2], Budget(epochs=3),
                     {"topk": [10, 20], "GRU4Rec.hidden_size": 8,
                      "ScaledSASRec:tiny.n_heads": 1, "ScaledSASRec.warmup_steps": 5})  # fmt: skip
    assert [run.name for run in runs] == names * 2
    assert len({run.run_id for run in runs}) == 6
    for key in ("eval_args", "repeatable", "metrics", "topk", "valid_metric", "epochs", "stopping_step"):
        assert len({json.dumps(run.settings[key]) for run in runs}) == 1
    own = {run.name: run.settings for run in runs}
    assert own["GRU4Rec"]["hidden_size"] == 8 and "hidden_size" not in own["ScaledSASRec:tiny"]
    assert own["ScaledSASRec:tiny"]["n_heads"] == 1 and "n_heads" not in own["ScaledSASRec:small"]
    assert own["ScaledSASRec:tiny"]["warmup_steps"] == own["ScaledSASRec:small"]["warmup_steps"] == 5


@pytest.mark.parametrize(("jobs", "signum", "code"), [(1, signal.SIGINT, 130), (2, signal.SIGTERM, 143)])
def test_a_signal_ends_the_runs_under_way_begins_no_other_and_makes_no_failed_rows(
    folder, monkeypatch, capsys, jobs, signum, code
):
    script = folder / "python"  # stands for the interpreter: a run that ends well by a signal, as run_recbole does
    script.write_text("#!/bin/bash\ntrap 'exit 143' TERM\ntouch begun-$$\nwhile :; do sleep 0.05; done\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    planned = [Run("Pop", "Pop", {"seed": seed}, f"012345678{seed}") for seed in range(5)]

    def interrupt():
        deadline = time.monotonic() + 60
        while len(list(folder.glob("begun-*"))) < jobs and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signum)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    assert exit_code(lambda: carry_out("walk", planned, folder / "out", "rows.jsonl", jobs)) == code
    assert time.monotonic() - began < 30
    told = capsys.readouterr().err.strip()
    assert told.endswith("finished runs are in rows.jsonl, and the same command goes on with the others")
    begun = list(folder.glob("begun-*"))
    assert len(begun) == jobs and not Path("rows.jsonl").exists()
    assert not [path for path in begun if Path("/proc", path.name.removeprefix("begun-")).exists()]


def test_a_run_that_was_stopped_goes_on(walk, capsys):
    budget, more = Budget(epochs=3), {k: v for k, v in SMALL.items() if k not in ("epochs", "show_progress")}
    (run,) = plan_runs("walk", ["ScaledSASRec"], [1], budget, more)

    def stop(epoch, score):
        if epoch == 1:
            raise signals.Interrupted(signal.SIGTERM)

    config = make_config("ScaledSASRec", "walk", config_dict={**run.settings, "checkpoint_dir": "out/saved"})
    with pytest.raises(signals.Interrupted):
        train_and_test(config, callback_fn=stop)
    carry_out("walk", [run], walk / "out", "rows.jsonl")
    log = (walk / "out" / "logs" / f"{run.run_id}.txt").read_text()
    assert re.findall(r"INFO  epoch +(\d+) ", log) == ["2"]  # epochs 0 and 1 were trained before
    (row,) = map(json.loads, Path("rows.jsonl").read_text().splitlines())
    assert (row["run_id"], row["status"], row["epochs"]) == (run.run_id, "ok", 3)


@pytest.mark.parametrize("transform", ["mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq"])
def test_a_run_has_the_id_it_was_planned_with(walk, transform):
    more = {"transform": transform, "mask_ratio": 0.2, "ft_ratio": 0.5, "eta": 0.5, "beta": 0.5}
    config = make_config("SASRec", "walk", config_dict={**SMALL, **more})
    planned = run_id(config)
    prepare(config)
    assert run_id(config) == planned


def test_a_model_that_masks_is_found_again(walk, capsys):
    call = ["--dataset", "walk", "--models", "BERT4Rec", "--epochs", "1", "--topk=[10]", "--samples", "50",
            "--out", "o"]  # fmt: skip
    assert command.main(call) == 0
    assert "failed" not in capsys.readouterr().out
    assert command.main(call) == 0
    assert len(records.read_rows("results/runs.jsonl")) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--models", "SASRek"], "there is no model 'SASRek'; did you mean 'SASRec'"),
        (["--models", "ScaledSASRec:tinny"], "size 'tinny' is none of .*; did you mean 'tiny'"),
        (["--models", "SASRec:tiny"], "only ScaledSASRec comes in sizes"),
        (["--models", "SASRec", "--reference", "GRU4Rec"], "--reference 'GRU4Rec' is none of SASRec"),
        (["--models", "SASRec", "--jobs", "0"], "--jobs is 0, but must be at least 1"),
        (["--models", "SASRec", "--samples", "-1"], "--samples is -1, but must be at least 1"),
        (["--models", "SASRec", "--budget", "ten"], "write 600s, 10m or 1h"),
        (["--models", "SASRec", "--budget", "5s", "--epochs", "2"], "two budgets"),
        (["--models", "SASRec", "--patience", "3", "--epochs", "2"], "--patience ends runs that have no budget"),
        (["--models", "SASRec", "--patience", "0"], "--patience is 0, but must be at least 1"),
        (["--models", "SASRec", "--epochs", "2", "--seed=3"], "decides seed itself: --seeds says how many"),
        (["--models", "SASRec", "--GRU4Rec.n_layers=3"], "the model of a setting 'GRU4Rec' is none of SASRec"),
        (["--models", "SASRec", "--hiden_size=3"], "unknown key 'hiden_size'"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_runs(walk, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        command.main(["--dataset", "walk", *arguments])
    assert not (walk / "results").exists()


@pytest.mark.parametrize("words, says", [
    (["--dataset", "walks"], "there is no data set folder .*did you mean 'walk'"),
    (["--dataset", "walk", "--data_path", "1"], "there is no data set folder .*1.walk"),
    (["--dataset", "walk", "--rows", "dataset"], "row could not be added to dataset"),
    (["--dataset", "walk", "--rows", "dataset/walk/walk.inter"], "walk.inter"),
])  # fmt: skip
def test_a_comparison_that_could_not_end_is_not_begun(walk, monkeypatch, words, says):
    monkeypatch.setattr("recbole_scale.compare.runs._run_alone", None)
    with pytest.raises(UserError, match=says):
        command.main([*words, "--models", "ScaledSASRec:tiny", "--epochs", "1", "--topk=[10]"])
    assert not (walk / "results").exists()


def test_a_file_of_rows_may_be_called_by_a_number(walk, monkeypatch):
    given = []
    monkeypatch.setattr("recbole_scale.compare.runs._run_alone", lambda words, *_: given.extend(words) or "no")
    assert command.main(["--dataset", "walk", "--models", "ScaledSASRec:tiny", "--epochs", "1", "--rows", "1"]) == 1
    assert parse_arguments([word for word in given if "results_file" in word]) == {"results_file": "./1"}
    assert json.loads(Path("1").read_text())["error"] == "no"


def test_budgets_are_read():
    assert [command.parse_seconds(text) for text in ("600s", "600", "10m", "1h", "0.5m")] == [600, 600, 600, 3600, 30]
    with pytest.raises(UserError):
        split_name("ScaledSASRec:")


def test_a_comparison_runs_fails_resumes_and_is_written(walk, capsys):
    call = ["--dataset", "walk", "--models", "GRU4Rec", "ScaledSASRec:tiny", "SASRec", "--epochs", "1", "--topk=[5,10]",
            "--samples", "200", "--ScaledSASRec.hidden_size=16", "--ScaledSASRec.inner_size=32",
            "--SASRec.n_heads=3", "--out", "out", "--jobs", "2"]  # fmt: skip
    assert command.main(call) == 1
    text = capsys.readouterr().out
    assert f"1 epoch each on {threads_of(2)} CPU thread" in text
    rows = pd.read_json("results/runs.jsonl", lines=True)
    rows = rows.sort_values("model", key=lambda names: names.map(["GRU4Rec", "ScaledSASRec", "SASRec"].index))
    rows = rows.reset_index(drop=True)
    assert rows["status"].tolist() == ["ok", "ok", "failed"]
    assert rows["threads"][:2].tolist() == [threads_of(2)] * 2
    assert "RecBole refuses this: The hidden size (64)" in rows["error"][2] and "failed: RecBole refuses" in text
    assert rows["peak_memory_mb"][0] > 100 and rows["data_fingerprint"][0] == rows["data_fingerprint"][1]
    for name in ("table.txt", "table.md", "table.tex"):
        assert f"{rows['test_metrics'][1]['ndcg@10']:.4f}" in (walk / "out" / name).read_text()
    before = (walk / "results" / "runs.jsonl").read_text()
    assert command.main([part for part in call if part != "SASRec" and "n_heads" not in part]) == 0
    assert (walk / "results" / "runs.jsonl").read_text() == before  # nothing was run again
    assert "failed" not in (walk / "out" / "table.txt").read_text()


def write_users(path, user, rank):
    text, ends = joined(user)
    np.savez(path, user_text=text, user_ends=ends, rank=rank, nll=np.ones(len(rank)))


def made_rows(tmp_path, ndcg, offsets=(0, 0)):
    """Two finished runs of a model whose users have given ranks."""
    rows, files = [], []
    for seed, offset in enumerate(offsets):
        rank = np.where(np.arange(200) < 100 + ndcg + offset, 1, 0)
        path = tmp_path / f"{ndcg}-{seed}.npz"
        order = np.random.default_rng(seed).permutation(200)  # files need not agree in the order of users
        write_users(path, order, rank[order])
        metrics = {"ndcg@10": rank.mean(), "recall@10": rank.mean(), "nll": 5.0 + seed}
        filtered = {"ndcg@10": rank.mean() + 0.1, "recall@10": rank.mean() + 0.2}
        rows.append({"settings": {}, "test_metrics": metrics, "test_metrics_filtered": filtered, "n_parameters": 1234,
                     "epochs": 3, "interactions_seen": 2_500_000, "seconds_train": 10.0,
                     "seconds_evaluate": 0.5, "peak_memory_mb": 700.0 + seed})  # fmt: skip
        files.append(path)
    return rows, files


def test_tables_show_means_deviations_and_corrected_differences(tmp_path):
    made = {
        "base": made_rows(tmp_path, 0, (0, 2)),
        "better_one": made_rows(tmp_path, 40),
        "same": made_rows(tmp_path, 1),
    }
    groups = {name: rows for name, (rows, _) in made.items()} | {"broken": []}
    users = {name: files for name, (_, files) in made.items()} | {"broken": []}
    lines = summarise(groups, users, "base", {"broken": "RuntimeError: a_b"}, samples=2000)
    by_name = {line.name: line for line in lines}
    assert by_name["base"].metrics["NDCG@10"] == pytest.approx((0.505, np.std([0.5, 0.51], ddof=1)))
    difference, p = by_name["better_one"].differences["NDCG@10"]
    assert difference.mean == pytest.approx(0.70 - 0.505) and p < 0.01
    assert by_name["same"].differences["HR@10"][0].mean == 0 and by_name["same"].differences["HR@10"][1] == 1
    assert by_name["base"].cost["peak_memory_mb"] == 701
    assert by_name["better_one"].metrics["NDCG@10 filtered"][0] == pytest.approx(0.8)
    assert by_name["better_one"].metrics["HR@10 filtered"][0] == pytest.approx(0.9)
    header, body = cells(lines, "base")
    text, markdown, latex = as_text(header, body), as_markdown(header, body), as_latex(header, body)
    assert "+0.1950*" in text and "0.5050 ± 0.0071" in text and "2.5M" in text and "broken  failed:" in text
    assert markdown.count("\n") == len(lines) + 1 and "**0.7000 ± 0.0000**" in markdown
    assert all(line.count("|") == len(header) + 1 for line in markdown.splitlines())
    assert "better\\_one" in latex and "a\\_b" in latex and "\\textbf{0.7000 $\\pm$ 0.0000}" in latex
    assert all(line.count(" & ") == len(header) - 1 for line in latex.splitlines() if line.endswith("\\\\"))
    alone = summarise(groups | {"base": []}, users | {"base": []}, "base", {}, samples=200)
    assert all("reference" not in row for row in cells(alone, "base")[1])  # which failed; nothing is compared with it
    write_users(tmp_path / "other.npz", np.arange(200, 400), np.ones(200, int))
    with pytest.raises(UserError, match=r"the users in .*other.npz are not those of .*0-0.npz"):
        summarise(groups, users | {"base": [users["base"][0], tmp_path / "other.npz"]}, "base", {})
    with pytest.raises(UserError, match=r"no user in .* is one of all other runs"):
        summarise(groups, users | {"same": [tmp_path / "other.npz"]}, "base", {})


def test_differences_are_over_the_users_whom_all_ranked(tmp_path):
    """Two models of which each ranked users that the other did not, and one user whom they ranked unequally often."""
    rows, _ = made_rows(tmp_path, 0, (0,))
    write_users(tmp_path / "a.npz", np.arange(150), np.where(np.arange(150) < 60, 1, 0))
    write_users(tmp_path / "b.npz", np.r_[np.arange(50, 190), 149], np.r_[np.where(np.arange(50, 190) < 55, 1, 0), 1])
    lines = summarise(
        {"a": rows, "b": rows}, {"a": [tmp_path / "a.npz"], "b": [tmp_path / "b.npz"]}, "a", {}, samples=200
    )
    shared = np.arange(50, 149)  # 149 has two rows in b
    assert [(line.users, line.shared) for line in lines] == [(150, 99), (140, 99)]
    assert lines[1].differences["HR@10"][0].mean == pytest.approx(np.mean((shared < 55) * 1.0 - (shared < 60)))


def test_users_with_two_rows_are_ranked_by_general_models_alone(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    log = [(u, i, t) for u in range(40) for t, i in enumerate(rng.permutation(30)[: 2 if u < 7 else 12])]
    path = tmp_path / "dataset" / "short" / "short.inter"
    path.parent.mkdir(parents=True)
    path.write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"u{u}\ti{i}\t{t}\n" for u, i, t in log)
    )
    monkeypatch.chdir(tmp_path)
    call = ["--dataset", "short", "--models", "ScaledSASRec:tiny", "Pop", "--epochs", "1", "--topk=[5,10]", "--out",
            "out", "--samples", "50", "--data_path", str(path.parent.parent),
            "--ScaledSASRec.hidden_size=16"]  # fmt: skip
    assert command.main(call) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "over the 33 users whom all ranked, means over each model's own (ScaledSASRec:tiny 33, Pop 40)" in text
    assert "Best of a column" not in text and " < " not in text  # the means are of different users


def test_lists_of_a_masked_history_are_the_filtered_ones(tmp_path):
    rows, files = made_rows(tmp_path, 0)
    masked = [{**row, "settings": {"mask_history": True}, "test_metrics_filtered": {}} for row in rows]
    (line,) = summarise({"one": masked}, {"one": files}, "one", {}, samples=10)
    assert line.metrics["NDCG@10 filtered"] == line.metrics["NDCG@10"] == pytest.approx((0.5, 0.0))
