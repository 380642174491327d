"""Every model RecBole ships, one epoch through the command line: its row, its checkpoint, the same metrics again."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils import ModelType
from recbole_data import NAME, OWN, settings_of, with_first_weights, write_made

from recbole_scale.cli import run_recbole_command
from recbole_scale.plugin.register import find_model, model_names

QUICK = ("BERT4Rec", "CKE", "DIN", "DeepFM", "ItemKNN", "LightGCN", "MultiVAE", "S3Rec", "XGBoost")  # one of each kind
NEEDS = {"LightGBM": "lightgbm", "NCL": "faiss", "XGBoost": "xgboost"}
DRAWS = ("KGIN", "KTUP", "MCCLK", "Random")  # they draw random numbers as they score
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in model_names()]


def expected_kind(model):
    if model in ("GRU4RecCPR", "Markov", "RepeatNet", "SASRecCPR"):
        return "probabilities"
    pairs = ("DIEN", "DIN", "FPMC", "RepeatLast", "S3Rec", "TransRec")  # a sigmoid a pair, BPR, pre-training, nothing
    softmax = ("MacridVAE", "MultiDAE", "MultiVAE", "RaCT", "RecVAE")
    sequential = find_model(model).type == ModelType.SEQUENTIAL
    return "likelihood" if model in softmax or (sequential and model not in pairs) else "scores"


def command(monkeypatch, capsys, model, **settings):
    """Exit code, standard output and standard error of ``run_recbole`` in this process."""
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    monkeypatch.setattr(sys, "argv", ["run_recbole", f"--model={model}", f"--dataset={NAME}", *words])
    with pytest.raises(SystemExit) as ended:
        run_recbole_command()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def evaluated_again(checkpoint):
    """Metrics on test of the model in a checkpoint, everything but the checkpoint made anew."""
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    config, network, _, train_data, _, test_data = load_data_and_model(checkpoint)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    trainer.eval_collector.data_collect(train_data)
    return {name: float(value) for name, value in trainer.evaluate(test_data, load_best_model=False).items()}


def run_one(monkeypatch, capsys, model, **settings):
    """Run a model; returns its row after its checkpoint has given the row's metrics again."""
    code, out, err = command(monkeypatch, capsys, model, **settings_of(model) | settings)
    assert code == 0, err[-2000:]
    row = json.loads(Path("results/runs.jsonl").read_text().splitlines()[-1])
    assert row["status"] == "ok" and row["model"] == model and row["epochs"] == 1
    assert row["seconds_train"] >= 0 and all(np.isfinite(value) for value in row["test_metrics"].values())
    checkpoint = next(line.split()[-1] for line in out.splitlines() if line.startswith("checkpoint"))
    torch.load(checkpoint, weights_only=True)
    again = evaluated_again(checkpoint)
    if model not in DRAWS:
        assert again == pytest.approx(row["test_metrics"], abs=2e-6)
    assert set(again) == set(row["test_metrics"])
    return row


@pytest.mark.parametrize("model", EVERY)
def test_a_model_trains_writes_its_row_and_loads_again(folder, monkeypatch, capsys, model):
    write_made(folder)
    package = NEEDS.get(model)
    if package and find_spec(package) is None:
        code, _, err = command(monkeypatch, capsys, model, **settings_of(model) if package != "xgboost" else {})
        assert code == 2 and f"needs {package}; pip install" in err.splitlines()[-1]
        return
    row = run_one(monkeypatch, capsys, model)
    assert not list(Path("saved").glob("*temp*"))
    if "auc" in row["test_metrics"]:
        assert set(row["test_metrics"]) == {"auc", "logloss", "rmse", "mae"} and row["nll_kind"] is None
        return
    assert set(row["test_metrics"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5", "nll", "nll_se"}
    assert row["nll_kind"] == expected_kind(model)
    # where RecBole leaves seen items out of a general model's only ranking there is no second one
    assert bool(row["test_metrics_filtered"]) == (find_model(model).type == ModelType.SEQUENTIAL)


# What needs more than a run -------------------------------------------------------------------------------------------


def test_s3recs_pretraining_is_loaded_by_its_second_stage(folder, monkeypatch, capsys):
    write_made(folder)
    settings = settings_of("S3Rec") | {"pretrain_epochs": 3, "save_step": 2}
    code, _, err = command(monkeypatch, capsys, "S3Rec", **settings)
    assert code == 0, err[-2000:]
    assert sorted(path.name for path in Path("saved").glob("*.pth")) == ["S3Rec-made-2.pth", "S3Rec-made-3.pth"]
    stage = {"train_stage": "finetune", "pre_model_path": "saved/S3Rec-made-3.pth"}
    row = run_one(monkeypatch, capsys, "S3Rec", **stage)
    assert row["best_valid_metrics"]["ndcg@5"] >= 0


def test_trees_over_one_hot_columns(folder, monkeypatch, capsys):
    """RecBole's own way there ends in an AttributeError, and the key has two spellings in its files and its code."""
    write_made(folder)
    run_one(monkeypatch, capsys, "XGBoost", convert_token_to_onehot=True)
    few = {"convert_token_to_onehot": True, "token_num_threhold": 4}  # two genders and none, seven years, nine ages
    prepared, _, trainer = with_first_weights("XGBoost", **few)
    made, labels = trainer._interaction_to_sparse(prepared.train_data)
    columns = {key: values for key, values in prepared.train_data._dataset[:].numpy().items() if key != "label"}
    hot = list(columns).index("gender")
    block = made.toarray()[:, hot : hot + 3]
    assert made.shape == (len(labels), len(columns) + 2) and prepared.dataset.hash_count == {"gender": 3}
    assert (block[np.arange(len(block)), columns["gender"].astype(int)] == 1).all() and (block.sum(1) == 1).all()


def test_trees_without_test_rows_are_not_tested(folder, monkeypatch, capsys):
    write_made(folder)
    nothing = {"split": {"RS": [0.8, 0.2, 0]}, "order": "RO", "mode": "labeled"}
    code, _, err = command(monkeypatch, capsys, "LightGBM", **settings_of("LightGBM") | {"eval_args": nothing})
    assert code == 0, err[-2000:]
    row = json.loads(Path("results/runs.jsonl").read_text())
    assert not row["test_metrics"] and row["best_valid_metrics"]["auc"] > 0


def test_sines_third_loss_trains_without_negatives(folder, monkeypatch, capsys):
    write_made(folder)
    assert run_one(monkeypatch, capsys, "SINE", loss_type="NLL")["nll_kind"] == "likelihood"
    assert command(monkeypatch, capsys, "SASRec", loss_type="NLL")[0] == 2  # whose code knows no such loss


@pytest.mark.slow
def test_racts_three_stages_follow_each_other(folder, monkeypatch, capsys):
    write_made(folder)
    run_one(monkeypatch, capsys, "RaCT")
    for stage in ("critic_pretrain", "finetune"):
        run_one(monkeypatch, capsys, "RaCT", train_stage=stage, pre_model_path="saved/RaCT-made-1.pth")


MISSING = [("NCL", "faiss", "faiss-cpu"), ("XGBoost", "xgboost", "xgboost"), ("BPR", "wandb", "wandb")]


@pytest.mark.parametrize(("model", "package", "pip"), MISSING)
def test_a_missing_package_is_one_sentence_with_pips_name(folder, monkeypatch, capsys, model, package, pip):
    write_made(folder)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"recbole.model.exlib_recommender.{package}", raising=False)
    monkeypatch.delitem(sys.modules, "recbole.model.exlib_recommender", raising=False)
    settings = {"epochs": 1, "log_wandb": package == "wandb", "show_progress": False, **OWN.get(model, {})}
    code, _, err = command(monkeypatch, capsys, model, **settings)
    assert code == 2 and err.splitlines()[-1].endswith(f"needs {package}; pip install {pip} installs it")
    assert "Traceback" not in err and not Path("results").exists()


def test_recboles_own_search_runs_without_ray(folder, monkeypatch, capsys):
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    write_made(folder)
    monkeypatch.setitem(sys.modules, "ray", None)
    (folder / "fixed.yaml").write_text(json.dumps(settings_of("BPR") | {"model": "BPR", "dataset": NAME}))
    monkeypatch.setattr(sys, "argv", ["search"])
    (folder / "space.hyper").write_text("learning_rate choice [0.01, 1e-3]\n")
    search = HyperTuning(objective_function, params_file="space.hyper", fixed_config_file_list=["fixed.yaml"])
    search.run()
    assert len(search.params2result) == 2 and search.best_score > 0
    assert sorted(search.params2result) == ["learning_rate:0.001", "learning_rate:0.01"]
    assert all(found["test_result"]["nll"] > 0 for found in search.params2result.values())
    code, _, err = command(monkeypatch, capsys, "BPR", **settings_of("BPR"))  # its terminal is gone, a log goes on
    assert code == 0 and "Logging error" not in err


def test_recboles_own_search_evaluates_nothing_in_its_file(folder):
    from recbole.trainer import HyperTuning

    (folder / "space.hyper").write_text("learning_rate choice __import__('os').mkdir('made')\n")
    HyperTuning(print, params_file="space.hyper")
    assert not Path("made").exists()
