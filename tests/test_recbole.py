"""RecBole as its users know it, on today's stack: stock calls, other models, and no Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import QUICK

import recbole_scale

SMALL = {**QUICK, "epochs": 1, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
MODELS = {
    "SASRec": {},
    "GRU4Rec": {},
    "Caser": {},
    "BERT4Rec": {},
    "BPR": {"load_col": {"inter": ["user_id", "item_id"]}},
    "Pop": {"load_col": {"inter": ["user_id", "item_id"]}},
    "ItemKNN": {"load_col": {"inter": ["user_id", "item_id"]}},
}


@pytest.mark.parametrize("model", MODELS)
def test_recboles_models_train_test_and_load_again(walk, model):
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    settings = {**SMALL, **MODELS[model], "metrics": ["Recall", "NDCG", "NLL"], "valid_metric": "NLL"}
    result = recbole_scale.run(model, "walk", config_dict=settings)
    assert result["nll"] == result["test_result"]["nll"] > 0
    config, network, _, train_data, _, test_data = load_data_and_model(result["checkpoint"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.eval_collector.data_collect(train_data)
    assert dict(trainer.evaluate(test_data, load_best_model=False)) == result["test_result"]
    torch.load(result["checkpoint"], weights_only=True)


def test_stock_run_recbole_takes_our_model_by_name(walk, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.setattr(sys, "argv", ["script"])
    result = run_recbole(model="ScaledSASRec", dataset="walk", config_dict=dict(QUICK))
    assert set(result) == {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert result["test_result"]["nll"] == recbole_scale.run("ScaledSASRec", "walk", config_dict=QUICK)["nll"]


def test_stock_run_recbole_on_ml_100k(folder, monkeypatch):
    from recbole.quick_start import run_recbole

    monkeypatch.setattr(sys, "argv", ["script"])
    result = run_recbole(model="ScaledSASRec", dataset="ml-100k", config_dict={"epochs": 1, "show_progress": False})
    assert 6 < result["test_result"]["nll"] < 7.43  # better than chance, ln 1682


def test_resuming_recboles_own_trainer(walk):
    settings = {**SMALL, "train_neg_sample_args": None, "epochs": 1}
    first = recbole_scale.run("GRU4Rec", "walk", config_dict=settings)
    again = recbole_scale.run("GRU4Rec", "walk", config_dict={**settings, "epochs": 2}, resume=first["checkpoint"])
    assert again["test_result"] is not None


def test_everything_but_ray_works_without_ray_and_imports_no_ray(walk):
    code = (
        "import sys\n"
        "sys.modules['ray'] = None\n"  # as if it were not installed
        "import recbole_scale\n"
        "from recbole.quick_start import run_recbole\n"
        "settings = dict(epochs=1, hidden_size=16, inner_size=32, topk=[5], show_progress=False)\n"
        "print(run_recbole('ScaledSASRec', 'walk', config_dict=settings)['test_result']['nll'])\n"
        "from recbole_scale.plugin import compat\n"
        "def absent(name):\n"
        "    raise compat.PackageNotFoundError(name)\n"
        "compat.version = absent\n"
        "try:\n"
        "    compat.load_ray_tune()\n"
        "except recbole_scale.UserError as mistake:\n"
        "    print(mistake)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=walk)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Ray is not installed; pip install -U "ray[tune]>=2.50" installs it' in done.stdout


def test_importing_the_package_does_not_import_ray():
    code = "import sys, recbole_scale; print(sorted(m for m in sys.modules if m.split('.')[0] == 'ray'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_recbole_imported_first_still_learns_our_names(walk):
    code = (
        "import numpy as np\n"
        "np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_\n"
        "from recbole.config import Config\n"
        "import recbole_scale\n"
        "print(Config('ScaledSASRec', 'walk')['n_layers'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=walk)
    assert done.stdout.strip() == "2", done.stderr[-2000:]


def test_a_users_own_script_keeps_its_command_line_to_itself(walk, monkeypatch):
    from recbole.quick_start import load_data_and_model

    checkpoint = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "epochs": 1})["checkpoint"]
    monkeypatch.setattr(sys, "argv", ["infer.py", "--hidden_size=64", "--topk=[3]", "--nonsense"])
    config, model, *_ = load_data_and_model(checkpoint)
    assert config["hidden_size"] == model.shape.d_model == QUICK["hidden_size"] and config["topk"] == QUICK["topk"]
