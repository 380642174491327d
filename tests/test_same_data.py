"""A finished run is one on the data at hand: after the file has changed, nothing old is taken for new."""

from __future__ import annotations

import json

import pytest
from conftest import QUICK, walk_rows, write_inter

from recbole_scale.compare import command as comparison
from recbole_scale.compare.runs import Budget, Run, finished_rows, plan_runs
from recbole_scale.data.splits import split_in_words
from recbole_scale.errors import UserError
from recbole_scale.fit.rows import same_data
from recbole_scale.runs.records import append_row, is_finished
from recbole_scale.search.command import main as search
from recbole_scale.sweep.command import main as sweep

SMALL = [
    f"--{key}={json.dumps(value)}" for key, value in QUICK.items() if key not in ("n_layers", "hidden_size", "epochs")
]


def change(walk):
    write_inter(walk / "dataset" / "walk" / "walk.inter", walk_rows()[:-5])


def rows_of(walk):
    return [json.loads(line) for line in (walk / "results" / "runs.jsonl").read_text().splitlines()]


def test_a_sweep_runs_again_on_other_data_and_once(walk, capsys):
    call = ["--dataset", "walk", "--shapes", "1x8", "--epochs", "1", "--topk=[5]", "--show_progress=False"]
    assert sweep(call) == 0
    change(walk)
    capsys.readouterr()
    assert sweep(call) == 0
    out = capsys.readouterr().out
    assert "1 finished runs saw other data than 'walk' holds now; they are run again" in out
    first, second = rows_of(walk)
    assert first["run_id"] == second["run_id"] and first["data_digest"] != second["data_digest"]
    assert not same_data(first, second)
    assert sweep(call) == 0 and len(rows_of(walk)) == 2
    assert "1 of them finished; 0 to go" in capsys.readouterr().out


def test_an_interrupted_run_of_a_sweep_is_not_gone_on_with_on_other_data(walk, capsys):
    import recbole_scale

    call = ["--dataset", "walk", "--shapes", "1x8", "--epochs", "2", "--topk=[5]", "--show_progress=False"]
    settings = {"n_layers": 1, "hidden_size": 8, "n_heads": 1, "inner_size": 32, "epochs": 2, "topk": [5], "seed": 1}
    recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "show_progress": False})  # its last file stays
    (walk / "results" / "runs.jsonl").unlink()
    change(walk)
    assert sweep(call) == 0
    assert [row["status"] for row in rows_of(walk)] == ["ok"]


def test_a_comparison_takes_rows_of_this_data_only(walk, monkeypatch):
    monkeypatch.setattr("recbole_scale.compare.runs.read_per_user", lambda path: path)
    runs = plan_runs("walk", ["GRU4Rec", "BPR"], [1], Budget(epochs=1), {})
    for run in runs:
        append_row("rows.jsonl", {"run_id": run.run_id, "status": "ok", "data_digest": run.digest, "epochs": 1})
    assert len(finished_rows("rows.jsonl", runs, walk / "out")) == 2
    change(walk)
    again = plan_runs("walk", ["GRU4Rec", "BPR"], [1], Budget(epochs=1), {})
    assert [run.run_id for run in again] == [run.run_id for run in runs]
    assert finished_rows("rows.jsonl", again, walk / "out") == {}


def test_a_search_goes_on_with_its_own_data_only(walk):
    (walk / "space.hyper").write_text("learning_rate loguniform -9,-3\n")
    call = ["--tool=Hyperopt", "--algo=exhaustive", "--params_file=space.hyper", "--dataset=walk", "--epochs=1"]
    (walk / "space.hyper").write_text("learning_rate choice [0.001]\n")
    search([*call, "--folder=s", *SMALL])
    change(walk)
    for again in ([*call, "--folder=s", *SMALL], ["--resume", "s"]):
        with pytest.raises(UserError, match="holds a search on other data than 'walk' holds now"):
            search(again)


def test_rows_that_do_not_tell_their_data_and_rows_of_resumed_runs():
    assert is_finished({"data_digest": None}, "a") and is_finished({"data_digest": "a"}, "a")
    assert not is_finished({"data_digest": "a"}, "b") and not is_finished({"data_digest": "a"}, None)
    assert not is_finished({"data_digest": "a", "resumed_from": "0123456789"}, "a")


@pytest.mark.parametrize(
    ("eval_args", "words"),
    [
        ({}, "Leave-one-out in exact time order, full ranking over all items"),
        ({"split": {"RS": [0.8, 0.1, 0.1]}}, "Each user's rows split 0.8, 0.1, 0.1 in exact time order, full ranking"),
        ({"split": {"TS": ["2020-01-01", "2020-02-01"]}}, "One time line for all users, cut at times 2020-01-01"),
        ({"split": {"RS": [8, 1, 1]}, "group_by": None}, "One time line for all users, cut at shares 8, 1, 1"),
        ({"mode": "uni100"}, "ranking among sampled items (uni100)"),
        ({"mode": {"valid": "full", "test": "pop50"}}, "ranking among sampled items (pop50)"),
    ],
)
def test_a_comparisons_caption_names_the_split_that_was_used(eval_args, words):
    run = Run("BPR", "BPR", {"valid_metric": "NDCG@10", "eval_args": eval_args}, "0")
    assert words in comparison.describe("walk", Budget(epochs=1), "BPR", 1, [], run)
    assert split_in_words(None) == "Ready-made split"
