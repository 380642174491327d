"""The law, challenges and comparison end to end under one time line (TS) and under ready-made rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, write_inter
from test_ready_made import rows_made
from test_time_line import spread_rows

import recbole_scale
from recbole_scale.challenges import suite as challenges
from recbole_scale.challenges.cases import leave_one_out
from recbole_scale.challenges.command import main as score
from recbole_scale.challenges.models import open_checkpoints
from recbole_scale.compare.command import main as compare
from recbole_scale.errors import UserError
from recbole_scale.fit.command import main as fit
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.study.counting import counting_rows
from recbole_scale.sweep.command import main as sweep

TIME_LINE = {"eval_args": {"split": {"TS": [0.7, 0.15, 0.15]}, "order": "TO", "group_by": "user", "mode": "full"}}
READY = {"benchmark_filename": ["train", "valid", "test"]}
SPLITS = {"year": TIME_LINE, "b": READY}
ONE = {**QUICK, "epochs": 1, "topk": [5, 10], "metrics": ["NDCG", "NLL"], "valid_metric": "NLL"}


@pytest.fixture
def both(folder):
    write_inter(folder / "dataset" / "year" / "year.inter", spread_rows())
    for part, rows in rows_made().items():
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        lines += [f"{user}\t{' '.join(items)}\t{target}" for user, items, target in rows]
        path = folder / "dataset" / "b" / f"b.{part}.inter"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    items = sorted({item for rows in rows_made().values() for _, row, target in rows for item in [*row, target]})
    lines = [f"{item}\t{'even' if int(item[1:]) % 2 == 0 else 'odd'}" for item in items]
    (folder / "dataset" / "b" / "b.item").write_text("item_id:token\tdomain:token\n" + "\n".join(lines) + "\n")
    return folder


def words(settings):
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


@pytest.mark.parametrize("name", SPLITS)
def test_a_law_is_swept_and_fitted(both, name, capsys):
    call = ["--dataset", name, "--shapes", "1x4", "1x8", "2x8", "2x16", "--epochs", "1", "--rows", "rows.jsonl"]
    small = {"train_batch_size": 64, "topk": [5], "MAX_ITEM_LIST_LENGTH": 10, "show_progress": False}
    assert sweep([*call, *words({**small, **SPLITS[name]})]) == 0
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    prepared = prepare(make_config("ScaledSASRec", name, config_dict={**ONE, **SPLITS[name], "state": "error"}))
    targets = prepared.train_data.n_targets
    assert len(rows) == 4 and {row["interactions_seen"] for row in rows} == {targets}
    assert targets == (len(rows_made()["train"]) if name == "b" else prepared.test_data.dataset.split.train_end.sum()
                       - (prepared.test_data.dataset.split.train_end > 0).sum())  # fmt: skip
    assert fit(["--rows", "rows.jsonl", "--dataset", name, "--out", "law", "--resamples", "80"]) == 0
    law = json.loads((both / "law" / "law.json").read_text())  # an epoch teaches little: the text may hold no constants
    assert "written to law: law.json" in capsys.readouterr().out and set(law["constants"]) == {"E", "x0", "alpha"}


@pytest.mark.parametrize("name", SPLITS)
def test_challenges_of_ours_and_a_baseline(both, name):
    settings = {**ONE, **SPLITS[name]}
    best = [
        recbole_scale.run(model, name, config_dict={**settings, **more})["checkpoint"]
        for model, more in (("ScaledSASRec", {}), ("GRU4Rec", {"embedding_size": 8}))
    ]
    kinds = ["long_tail", "cold_start", "robustness", *(["multi_domain"] if name == "b" else [])]
    call = ["--checkpoints", *best, "--challenges", *kinds, "--lengths", "1", "3", "--seeds", "1", "--ratios", "0.5"]
    assert score([*call, "--resamples", "20", "--out", "found", "--export", "cases"]) == 0
    rows = pd.read_json("found/challenges.jsonl", lines=True)
    assert set(rows["challenge"]) == set(kinds) and set(rows["model"]) == {"ScaledSASRec", "GRU4Rec"}
    here = rows[(rows["challenge"] == "long_tail") & (rows["group"] == "all") & (rows["metric"] == "nll")]
    tested = prepare(make_config("ScaledSASRec", name, config_dict={**settings, "state": "error"})).test_data
    assert set(here["n"]) == {len(tested.dataset)}
    written = Path("cases", f"{name}-cases", f"{name}-cases.train.inter").read_text().splitlines()
    trained = [point.dataset.split.targets(point.dataset.histories, "train") for point in open_checkpoints(best)]
    assert len(written) - 1 == len(trained[0]) == len(trained[1])
    # the model's own test NLL is the challenge's over all cases: both see the same rows
    own = json.loads(Path("results/runs.jsonl").read_text().splitlines()[0])["test_nll"]
    assert here[here["model"] == "ScaledSASRec"]["value"].item() == pytest.approx(own, abs=1e-4)


def test_cases_of_ready_made_rows_are_the_rows(both):
    best = recbole_scale.run("ScaledSASRec", "b", config_dict={**ONE, **READY})["checkpoint"]
    (point,) = open_checkpoints([best])
    data = point.dataset
    names = data.field2id_token["item_id"]
    cases = leave_one_out(data.histories, data.split)
    found = [(names[cases.history(n)].tolist(), names[cases.target[n, 0]]) for n in range(len(cases))]
    assert found == [(items, target) for _, items, target in rows_made()["test"]]
    counts = data.split.item_counts(data.histories, data.item_num - 1, everybody=True)
    made = [target for *_, target in rows_made()["train"]]
    assert {names[i]: int(n) for i, n in enumerate(counts) if n} == {item: made.count(item) for item in made}
    with pytest.raises(UserError, match="trajectory holds the end of whole histories out before the training"):
        challenges.make_suite(point, challenges.Options(challenges=("trajectory",)), 10)
    (both / "dataset" / "b" / "b.item").unlink()
    with pytest.raises(UserError, match=r"multi_domain needs a column 'domain:token' in .*b.item"):
        challenges.make_suite(point, challenges.Options(challenges=("multi_domain",)), 10)


def test_rows_that_moved_from_valid_to_test_are_other_data(both):
    best = recbole_scale.run("ScaledSASRec", "b", config_dict={**ONE, **READY})["checkpoint"]
    parts = {part: both / "dataset" / "b" / f"b.{part}.inter" for part in ("valid", "test")}
    head, *rows = parts["valid"].read_text().splitlines()
    parts["valid"].write_text("\n".join([head, *rows[:-1]]) + "\n")
    tests = parts["test"].read_text().splitlines()
    parts["test"].write_text("\n".join([head, rows[-1], *tests[1:]]) + "\n")
    other = recbole_scale.run("ScaledSASRec", "b", config_dict={**ONE, **READY, "seed": 9})["checkpoint"]
    with pytest.raises(UserError, match=r"'b' in .* is not the one that .* was trained on"):
        open_checkpoints([best, other])


@pytest.mark.parametrize("name", [pytest.param("year", marks=pytest.mark.slow), "b"])
def test_a_comparison(both, name):
    call = ["--dataset", name, "--models", "GRU4Rec", "ScaledSASRec", "--epochs", "1", "--samples", "50"]
    small = {key: value for key, value in QUICK.items() if key not in ("epochs", "topk")}
    assert (
        compare([*call, "--rows", "rows.jsonl", "--out", "out", *words({**small, "topk": [10], **SPLITS[name]})]) == 0
    )
    table = (both / "out" / "table.txt").read_text()
    assert ("Ready-made split, full" if name == "b" else "One time line for all users, cut at shares") in table
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert len({row["data_digest"] for row in rows}) == 1 and [row["status"] for row in rows] == ["ok", "ok"]
    users = [recbole_scale.runs.measuring.read_per_user(path)["user"] for path in Path("out/per_user").glob("*.npz")]
    assert users[0].tolist() == users[1].tolist() or sorted(users[0]) == sorted(users[1])
    if name == "b":
        assert sorted(users[0]) == sorted(user for user, _, _ in rows_made()["test"])
        assert len(set(users[0])) < len(users[0])  # several rows a user, resampled together


@pytest.mark.parametrize("name", SPLITS)
def test_counting_is_tested_on_the_models_rows(both, name):
    prepared = prepare(make_config("ScaledSASRec", name, config_dict={**ONE, **SPLITS[name], "state": "error"}))
    popular, _ = counting_rows(prepared)
    data = prepared.test_data.dataset
    counts = np.bincount(data.histories.items[data.split.counted(data.histories)], minlength=data.item_num) + 1
    rows = data.inter_feat[np.arange(len(data))]
    chance = counts[rows["item_id"].numpy()] / counts[1:].sum()
    assert popular["test_nll"] == pytest.approx(-np.log(chance).mean())
