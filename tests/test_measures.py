"""One set of metrics, one way to choose the epoch, one naming of checkpoints, for every sequential model."""

from __future__ import annotations

from pathlib import Path

import pytest

import recbole_scale
from recbole_scale.runs import plan
from recbole_scale.runs.run import make_config
from recbole_scale.text import metric_name, text_table


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec", "SASRec", "BERT4Rec", "FMLPRec", "Caser"])
def test_sequential_models_are_measured_and_chosen_alike(walk, model):
    ours = make_config("ScaledSASRec", "walk")
    config = make_config(model, "walk")
    for key in ("metrics", "topk", "valid_metric", "metric_decimal_place", "eval_args", "repeatable"):
        assert config[key] == ours[key], key
    assert "NLL" in config["metrics"] and config["valid_metric_bigger"] == ours["valid_metric_bigger"]


def test_what_the_user_says_wins_and_the_rest_follows(walk):
    chosen = {"metrics": ["Recall", "MRR"], "topk": [5, 20]}
    config = make_config("GRU4Rec", "walk", config_dict=dict(chosen))
    assert (config["metrics"], config["valid_metric"]) == (["Recall", "MRR"], "Recall@20")
    config = make_config("GRU4Rec", "walk", config_dict={**chosen, "valid_metric": "MRR@5"})
    assert config["valid_metric"] == "MRR@5"
    sampled = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni20"}}
    config = make_config("GRU4Rec", "walk", config_dict=sampled)
    assert "NLL" not in config["metrics"] and config["valid_metric"] == "NDCG@10"  # sampled candidates have no NLL


def test_a_general_model_keeps_recboles_metrics(walk):
    assert make_config("BPR", "walk")["valid_metric"] == "MRR@10"


def test_a_checkpoint_of_recboles_model_names_data_and_run(walk):
    quick = {"epochs": 1, "topk": [5], "train_batch_size": 256, "MAX_ITEM_LIST_LENGTH": 10, "show_progress": False}
    result = recbole_scale.run("GRU4Rec", "walk", config_dict=quick)
    assert result["checkpoint"] == f"saved/GRU4Rec-walk-{result['run_id']}.best.pth"
    assert Path(result["checkpoint"]).is_file() and result["nll"] == result["test_result"]["nll"]


def test_a_table_is_aligned_and_reads_no_cell_as_a_number():
    rows = [["name", "N", ""], ["a", "1e3", "held out"], ["long_name", "98.30K", ""]]
    assert text_table(rows, left=(0, 2), indent="  ").split("\n") == [
        "  name            N",
        "  a             1e3  held out",
        "  long_name  98.30K",
    ]


def test_hit_rate_has_one_name():
    assert [metric_name(key) for key in ("recall@10", "hit@5", "hr@50", "ndcg@10", "nll", "itemcoverage@5")] == [
        "HR@10", "HR@5", "HR@50", "NDCG@10", "NLL", "ItemCoverage@5",
    ]  # fmt: skip
    assert metric_name("recall@window") == "Recall@window"  # of a trajectory: a share, no hit rate
    row = {"split": {"LS": "valid_and_test"}, "best_valid_metrics": {"recall@10": 0.1}}
    table = plan.results_table({**row, "test_metrics": {"recall@10": 0.2, "nll": 5.0}})
    assert "HR@10" in table and "NLL" in table and "recall" not in table.lower()
    ratio = {"split": {"RS": [8, 1, 1]}, "best_valid_metrics": None, "test_metrics": {"recall@10": 0.2, "hit@10": 0.3}}
    assert [line.split()[0] for line in plan.results_table(ratio).split("\n")[2:]] == ["Recall@10", "HR@10"]
