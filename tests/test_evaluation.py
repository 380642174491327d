"""Metrics against a few lines of numpy, and our evaluation path against stock RecBole on the same weights."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import QUICK

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.model.likelihood import held_out_nll
from recbole_scale.plugin.config import begin
from recbole_scale.plugin.register import find_model
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config

METRICS = ["Recall", "Hit", "NDCG", "MRR", "Precision", "ItemCoverage", "NLL"]


def test_held_out_nll_is_the_cross_entropy_over_real_items():
    scores = torch.randn(4, 9)
    scores[:, 0] = -torch.inf
    item = torch.tensor([3, 1, 8, 2])
    expected = torch.nn.functional.cross_entropy(scores[:, 1:], item - 1, reduction="none")
    torch.testing.assert_close(held_out_nll(scores, torch.arange(4), item), expected)


def evaluated(model_name, **settings):
    """A model with its first weights, the metrics of our path, and its raw scores and targets."""
    fixed = {**QUICK, "train_neg_sample_args": None, "metrics": METRICS, "topk": [5, 10], "metric_decimal_place": 6}
    config = make_config(model_name, "walk", config_dict={**fixed, "valid_metric": "NLL", **settings})
    prepared = prepare(config)
    network = build_model(prepared)
    from recbole.utils import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    trainer.eval_collector.data_collect(prepared.train_data)
    result = trainer.evaluate(prepared.test_data, load_best_model=False)
    network.eval()
    scores, targets, masked = [], [], []
    with torch.no_grad():
        for interaction, history, _, target in prepared.test_data:
            scores.append(network.full_sort_predict(interaction).numpy())
            targets.append(target.numpy())
            masked.append(history)
    return result, np.concatenate(scores), np.concatenate(targets), masked


def numpy_metrics(scores, target, ks=(5, 10)):
    scores = scores.astype(np.float64).copy()
    scores[:, 0] = -np.inf
    own = scores[np.arange(len(target)), target]
    rank = (scores > own[:, None]).sum(1)  # 0 is best
    found = {}
    for k in ks:
        hit = rank < k
        found |= {f"recall@{k}": hit.mean(), f"hit@{k}": hit.mean(), f"precision@{k}": hit.mean() / k,
                  f"ndcg@{k}": (hit / np.log2(rank + 2)).mean(), f"mrr@{k}": (hit / (rank + 1)).mean(),
                  f"itemcoverage@{k}": len(np.unique(np.argsort(-scores, 1)[:, :k])) / scores.shape[1]}  # fmt: skip
    return found


def numpy_nll(scores, target):
    logits = scores[:, 1:].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    values = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(target)), target - 1]
    return {"nll": values.mean(), "nll_se": values.std(ddof=1) / len(values) ** 0.5}


@pytest.mark.parametrize("model", ["ScaledSASRec", "SASRec", "GRU4Rec"])
def test_metrics_equal_numpy(walk, model):
    result, scores, target, _ = evaluated(model)
    expected = numpy_metrics(scores, target) | numpy_nll(scores, target)
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=2e-6), name


def test_masked_history_changes_the_ranking_and_not_the_nll(walk):
    plain, scores, target, _ = evaluated("ScaledSASRec")
    result, _, _, masked = evaluated("ScaledSASRec", mask_history=True)
    at = 0
    for rows, items in masked:
        scores[at + rows.numpy(), items.numpy()] = -np.inf
        at += int(rows.max()) + 1
    for name, value in numpy_metrics(scores, target).items():
        if not name.startswith("itemcoverage"):
            assert result[name] == pytest.approx(value, abs=2e-6), name
    assert result["nll"] == plain["nll"] and result["recall@10"] >= plain["recall@10"]


STOCK = """
import json, sys, types
import numpy as np
for name, value in dict(float_=np.float64, complex_=np.complex128, unicode_=np.str_).items():
    setattr(np, name, value)
ray = types.ModuleType("ray"); tune = types.ModuleType("ray.tune"); ray.tune = tune
sys.modules["ray"], sys.modules["ray.tune"] = ray, tune
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
assert not any(name.startswith("recbole_scale") for name in sys.modules)
settings = json.loads(sys.argv.pop())
weights = sys.argv.pop()
config = Config("SASRec", "walk", config_dict=settings)
init_seed(config["seed"], True)
data = create_dataset(config)
train, valid, test = data_preparation(config, data)
model = get_model("SASRec")(config, train._dataset)
model.load_state_dict(torch.load(weights, weights_only=True))
trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
trainer.eval_collector.data_collect(train)
print(json.dumps([dict(trainer.evaluate(part, load_best_model=False)) for part in (valid, test)]))
"""


def test_sasrec_through_our_path_equals_stock_recbole_on_the_same_weights(walk):
    settings = {**QUICK, "train_neg_sample_args": None, "topk": [5, 10],
                "metrics": ["Recall", "NDCG", "MRR", "Precision"], "valid_metric": "MRR@10", "metric_decimal_place": 8,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}  # fmt: skip
    config = make_config("SASRec", "walk", config_dict=settings)
    prepared = prepare(config)
    network = build_model(prepared)
    torch.save(network.state_dict(), walk / "weights.pt")
    from recbole.utils import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, network)
    trainer.eval_collector.data_collect(prepared.train_data)
    ours = [dict(trainer.evaluate(part, load_best_model=False)) for part in (prepared.valid_data, prepared.test_data)]
    command = [sys.executable, "-c", STOCK, str(walk / "weights.pt"), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=walk)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ours


def test_nll_can_be_the_valid_metric_of_recboles_own_models(walk):
    settings = {
        **QUICK,
        "train_neg_sample_args": None,
        "metrics": ["Recall", "NLL"],
        "topk": [10],
        "valid_metric": "NLL",
    }
    result = recbole_scale.run("GRU4Rec", "walk", config_dict=settings)
    assert result["valid_score_bigger"] is False
    assert result["best_valid_score"] == result["best_valid_result"]["nll"]
    assert result["nll"] == result["test_result"]["nll"] > 0


def test_nll_without_full_ranking_is_one_sentence(walk):
    settings = {**QUICK, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}}
    with pytest.raises(UserError, match=r"NLL needs the full ranking, but eval_args\.mode is uni10; leave NLL out"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "metrics": ["NDCG", "NLL"]})


def test_sampled_ranking_leaves_nll_out_of_the_metrics_by_default(walk):
    settings = {**QUICK, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}}
    config = make_config("ScaledSASRec", "walk", config_dict=settings)
    full = make_config("ScaledSASRec", "walk", config_dict=QUICK)
    assert config["metrics"] == [name for name in full["metrics"] if name != "NLL"] != full["metrics"]


def test_anomaly_mode_is_off_unless_asked_for(walk):
    find_model("SASRec")
    assert not torch.is_anomaly_enabled()
    for asked in (True, False):
        config = make_config("SASRec", "walk", config_dict={"train_neg_sample_args": None, "detect_anomaly": asked})
        begin(config)
        assert torch.is_anomaly_enabled() == asked
