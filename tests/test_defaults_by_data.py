"""Defaults that the log decides: what the rule says, that the user's word wins, and that a run's id stays."""

from __future__ import annotations

import json

import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.data.defaults import by_data, sparseness
from recbole_scale.errors import UserError
from recbole_scale.model import sizes
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.settings import BY_DATA, properties_folder, run_id
from recbole_scale.training.checkpoint import load_checkpoint

TINY = {"dropout_bottom": 0.1, "dropout_top": 0.1, "epochs": 30, "train_batch_size": 1024}
ML_1M, ML_100K, BEAUTY = (1_000_209, 6_040, 3_706), (100_000, 943, 1_682), (198_502, 22_363, 12_101)


def test_the_logs_of_the_evidence_get_what_was_best_there():
    assert sparseness(*ML_1M) == 0 and sparseness(*ML_100K) == pytest.approx(0, abs=0.01)
    assert by_data(TINY, {}, *ML_1M) == {} == by_data(TINY, {}, *ML_100K)
    assert by_data(TINY, {}, *BEAUTY) == {"dropout_bottom": 0.4, "dropout_top": 0.4, "epochs": 45}
    between = by_data(TINY, {}, 40_000, 1_000, 1_500)  # 32.7 interactions over sqrt(users x items)
    assert between == {"dropout_bottom": 0.24, "dropout_top": 0.24, "epochs": 37, "train_batch_size": 512}


def test_a_size_with_more_dropout_keeps_it_and_the_users_word_wins():
    small = {**TINY, "dropout_bottom": 0.45, "dropout_top": 0.15}
    assert by_data(small, {}, *BEAUTY) == {"dropout_top": 0.4, "epochs": 45}
    for key in ("dropout_bottom", "dropout_top", "dropout_rates", "hidden_dropout_prob"):
        assert by_data(TINY, {key: 0.1}, *BEAUTY) == {"epochs": 45}
    assert by_data(TINY, {"epochs": 30, "train_batch_size": 1024, "dropout_top": 0.1}, 900, 30, 30) == {}


def test_an_empty_or_tiny_log_is_no_error():
    for counts in ((0, 0, 0), (1, 1, 1), (3, 2, 2)):
        assert by_data(TINY, {}, *counts)["train_batch_size"] == 256


def test_a_run_takes_them_says_so_and_keeps_its_id(walk):
    settings = {**QUICK, "state": "error"}
    del settings["train_batch_size"]
    config = make_config("ScaledSASRec", "walk", config_dict=settings)
    before = run_id(config)
    prepared = prepare(config)
    assert run_id(config) == before
    assert config["dropout_bottom"] > 0.1 and prepared.train_data.token_budget == config["train_batch_size"] == 256
    plan = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, dry_run=True)["plan"]
    assert f"by data    dropout_bottom {config['dropout_bottom']:g} (not 0.1)" in plan
    result = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    row = json.loads((walk / "results" / "runs.jsonl").read_text().splitlines()[-1])
    assert row["run_id"] == result["run_id"] == before
    assert row["by_data"] == {key: config[key] for key in ("dropout_bottom", "dropout_top", "train_batch_size")}
    assert load_checkpoint(result["checkpoint"])["config"]["dropout_bottom"] == config["dropout_bottom"]
    given = {**settings, "dropout_bottom": 0.1, "dropout_top": 0.1, "train_batch_size": 1024}
    assert "by data" not in recbole_scale.run("ScaledSASRec", "walk", config_dict=given, dry_run=True)["plan"]


FILE = ["properties/tiny.yaml"]
SMALL = {key: value for key, value in QUICK.items() if key not in BY_DATA} | {"epochs": 2, "state": "error"}


def decided(files: list[str] | None, **given: object) -> tuple[dict[str, object], str, str]:
    """What the log decides with these files and settings, the run's id, and what a dry run says of it."""
    settings = {**{k: v for k, v in SMALL.items() if k != "epochs"}, **given}
    config = make_config("ScaledSASRec", "walk", files, settings)
    prepare(config)
    plan = recbole_scale.run("ScaledSASRec", "walk", files, settings, dry_run=True)["plan"]
    told = next(line for line in plan.splitlines() if line.startswith("  by data"))
    return {key: config[key] for key in config["by_data"]}, run_id(config), told


def test_a_packaged_file_says_its_size_and_the_log_decides_the_rest(walk):
    by_size, name, told = decided(None, size="tiny")
    assert set(by_size) == set(BY_DATA) and all(f"{key} {value:g} (not " in told for key, value in by_size.items())
    assert decided(FILE) == (by_size, name, told) == decided(["tiny.yaml"])
    config = make_config("ScaledSASRec", "walk", FILE, dict(SMALL))
    assert config.external_config_dict.keys() == {*SMALL, "size"}


@pytest.mark.parametrize("key", BY_DATA)
def test_an_equal_value_of_the_user_wins_and_names_another_run(walk, key):
    all_of_them, by_default, _ = decided(FILE)
    left, held, told = decided(FILE, **{key: TINY[key]})
    gone = {key, "dropout_bottom", "dropout_top"} if key.startswith("dropout") else {key}
    assert left == {k: v for k, v in all_of_them.items() if k not in gone} and f"{key} " not in told
    assert held != by_default  # it trains otherwise, so it has another id, the same with a file as with the size
    assert decided(None, size="tiny", **{key: TINY[key]})[1] == held
    (walk / "mine.yaml").write_text(f"size: tiny\n{key}: {TINY[key]}\n")
    assert decided(["mine.yaml"])[:2] == (left, held)
    assert decided([*FILE, "mine.yaml"])[:2] == (left, held)
    assert decided(["mine.yaml", *FILE])[:2] == (all_of_them, by_default)  # the later file wins, as ever


def test_what_was_edited_in_a_properties_file_wins(walk, monkeypatch):
    all_of_them, by_default, _ = decided(FILE)
    text = (properties_folder() / "tiny.yaml").read_text()
    (walk / "properties").mkdir()
    (walk / "properties" / "tiny.yaml").write_text(
        text
    )  # a copy in the working folder is found before the packaged one
    assert decided(FILE)[:2] == (all_of_them, by_default)
    (walk / "properties" / "tiny.yaml").write_text(text.replace("epochs: 30", "epochs: 31"))
    copy, copy_id, _ = decided(FILE)
    assert copy == {k: v for k, v in all_of_them.items() if k != "epochs"} and copy_id != by_default
    assert make_config("ScaledSASRec", "walk", FILE)["epochs"] == 31
    # the packaged file itself, in a checkout
    monkeypatch.setattr(sizes, "properties_folder", lambda: walk / "properties")
    sizes.load_size.cache_clear()
    try:
        for files, given in ((FILE, {}), (None, {"size": "tiny"})):
            assert decided(files, **given)[0] == copy
            assert make_config("ScaledSASRec", "walk", files, given)["epochs"] == 31
    finally:
        monkeypatch.undo()
        sizes.load_size.cache_clear()


def test_what_the_sizes_say_is_what_is_shipped():
    for size in sizes.SIZE_NAMES:
        assert sizes.edited_defaults(size) == {}


def test_a_run_of_a_packaged_file_resumes_as_itself(walk):
    first = recbole_scale.run("ScaledSASRec", "walk", FILE, {**SMALL, "epochs": 1})
    again = recbole_scale.run("ScaledSASRec", "walk", FILE, {**SMALL, "epochs": 1}, resume="auto")
    assert first["run_id"] == again["run_id"] and again["resumed_from"] is None
    last = first["checkpoint"].replace(".best.", ".last.")
    longer = recbole_scale.run("ScaledSASRec", "walk", FILE, SMALL, resume=last)
    assert longer["run_id"] != first["run_id"] and longer["resumed_from"] == first["run_id"]
    with pytest.raises(UserError, match=r"dropout_bottom is 0\.\d+ there and 0\.1 here"):
        recbole_scale.run(
            "ScaledSASRec", "walk", FILE, {**SMALL, "dropout_bottom": 0.1, "dropout_top": 0.1}, resume=last
        )
