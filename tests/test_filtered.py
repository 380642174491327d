"""Rankings without what a user has seen, beside the full ones: against numpy, ``mask_history`` and RecBole's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from recbole_data import NAME, settings_of, with_first_weights, write_made

import recbole_scale

MODELS = {
    "windows": ("ScaledSASRec", {}),
    "rows on demand": ("GRU4Rec", {}),
    "RecBole's table": ("GRU4Rec", {"rows_on_demand": False}),
    "features": ("SASRecF", {}),
    "pairs alone": ("DIN", {}),
    "ratios, not the last item": ("GRU4Rec", {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO"}}),
    "ratios in RecBole's table": ("GRU4Rec", {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO"},
                                              "rows_on_demand": False}),
}  # fmt: skip
LISTS = {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage", "NLL"], "metric_decimal_place": 8}


def histories(folder):
    """Raw item ids of each raw user in time order."""
    rows = [line.split("\t") for line in (folder / "dataset" / NAME / f"{NAME}.inter").read_text().splitlines()[1:]]
    found: dict[str, list[str]] = {}
    for user, item, _, _ in sorted(rows, key=lambda row: float(row[3])):
        found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_the_second_ranking_is_mask_historys(folder, kind):
    write_made(folder)
    model, settings = MODELS[kind]
    prepared, _, trainer = with_first_weights(model, **LISTS, **settings)
    masked_run, _, masked_trainer = with_first_weights(model, **LISTS, **settings, mask_history=True)
    for part in ("valid_data", "test_data"):
        full = trainer.evaluate(getattr(prepared, part), load_best_model=False)
        masked = masked_trainer.evaluate(getattr(masked_run, part), load_best_model=False)
        assert masked_trainer.evaluator.filtered == {} and masked["nll"] == full["nll"]
        second = trainer.evaluator.filtered
        assert second == {name: value for name, value in masked.items() if not name.startswith("nll")}
        assert second["ndcg@5"] != full["ndcg@5"]


@pytest.mark.parametrize("kind", ["windows", "features"])
def test_the_second_ranking_by_numpy(folder, kind):
    write_made(folder)
    model, settings = MODELS[kind]
    prepared, network, trainer = with_first_weights(model, **LISTS, **settings)
    trainer.evaluate(prepared.test_data, load_best_model=False)
    dataset, seen = prepared.dataset, histories(folder)
    network.eval()
    gains, hits = [], []
    for interaction, *_, target in prepared.test_data:
        with torch.no_grad():
            scores = network.full_sort_predict(interaction).numpy().astype(float)
        for user, own, row in zip(interaction["user_id"].tolist(), target.tolist(), scores, strict=True):
            before = seen[dataset.id2token("user_id", user)][:-1]
            assert len(before) > 4 and dataset.id2token("item_id", own) == seen[dataset.id2token("user_id", user)][-1]
            value = row[own]
            row[[0, *(dataset.token2id("item_id", item) for item in before)]] = -np.inf
            row[own] = value
            rank = int((row > value).sum())
            hits.append(rank < 5)
            gains.append(1 / np.log2(rank + 2) if rank < 5 else 0.0)
    assert trainer.evaluator.filtered["recall@5"] == pytest.approx(np.mean(hits), abs=1e-7)
    assert trainer.evaluator.filtered["ndcg@5"] == pytest.approx(np.mean(gains), abs=1e-7)


@pytest.mark.parametrize("model", ["BPR", "ItemKNN"])
def test_the_second_ranking_of_a_general_model_is_recboles_only_one(folder, model):
    """With ``repeatable: False`` RecBole masks by itself; several held-out items a user (ratios) and one."""
    write_made(folder)
    for split in ({"LS": "valid_and_test"}, {"RS": [0.6, 0.2, 0.2]}):
        settings = {**LISTS, "eval_args": {"split": split, "order": "TO"},
                    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}  # fmt: skip
        kept, _, trainer = with_first_weights(model, **settings, repeatable=True)
        masked, _, masked_trainer = with_first_weights(model, **settings, repeatable=False)
        for part in ("valid_data", "test_data"):
            full = trainer.evaluate(getattr(kept, part), load_best_model=False)
            only = masked_trainer.evaluate(getattr(masked, part), load_best_model=False)
            assert trainer.evaluator.filtered == {name: only[name] for name in only if not name.startswith("nll")}
            assert full["nll"] == only["nll"] and masked_trainer.evaluator.filtered == {}


def test_rows_have_both_and_so_does_the_printed_table(folder, capfd):
    write_made(folder)
    result = recbole_scale.run("ScaledSASRec", NAME, config_dict=settings_of("ScaledSASRec"))
    row = json.loads((folder / "results" / "runs.jsonl").read_text())
    lists = {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    assert set(row["test_metrics_filtered"]) == set(row["best_valid_metrics_filtered"]) == lists
    assert set(row["test_metrics"]) == {*lists, "nll", "nll_se"}
    assert result["test_result_filtered"] == row["test_metrics_filtered"]
    told = "".join(capfd.readouterr())
    line = next(line for line in told.splitlines() if line.startswith("NDCG@5 "))
    numbers = [
        row[f"{part}_metrics{which}"]["ndcg@5"] for which in ("", "_filtered") for part in ("best_valid", "test")
    ]
    assert line.split()[1:] == [f"{number:.4f}" for number in numbers]


def test_ranks_of_users_are_kept_both_ways(folder):
    write_made(folder)
    settings = settings_of("GRU4Rec") | {"per_user_file": "users.npz", "metric_decimal_place": 8}
    recbole_scale.run("GRU4Rec", NAME, config_dict=settings)
    row = json.loads((folder / "results" / "runs.jsonl").read_text())
    with np.load("users.npz") as users:
        for key, metrics in (("rank", "test_metrics"), ("rank_filtered", "test_metrics_filtered")):
            hits = (users[key] > 0) & (users[key] <= 5)
            assert hits.mean() == pytest.approx(row[metrics]["recall@5"], abs=1e-7)
