"""The counting baselines against a few lines of Python, and all four in one comparison."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from recbole_data import NAME, settings_of, with_first_weights, write_made

from recbole_scale import run
from recbole_scale.compare import command


@pytest.mark.parametrize("rows_on_demand", [True, False])
def test_markov_counts_what_followed_in_training(folder, rows_on_demand):
    write_made(folder)
    prepared, network, trainer = with_first_weights("Markov", rows_on_demand=rows_on_demand)
    rows = prepared.train_data._dataset.inter_feat
    lists, lengths, targets = (rows[name].tolist() for name in ("item_id_list", "item_length", "item_id"))
    last = [items[length - 1] for items, length in zip(lists, lengths, strict=True)]
    pairs, popular = Counter(zip(last, targets, strict=True)), Counter(targets)
    batch = next(iter(prepared.test_data))[0]
    found = network.full_sort_predict(batch)
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
    given = zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)
    for row, (items, length) in enumerate(given):
        newest = items[length - 1]
        after = sum(count for (before, _), count in pairs.items() if before == newest)
        for item in (1, 7, 29):
            share = (popular[item] + 1) / (len(targets) + 30)
            assert found[row, item].item() == pytest.approx((pairs[newest, item] + share) / (after + 1), rel=1e-5)
    trainer.evaluate(prepared.test_data, load_best_model=False)
    assert trainer.eval_collector.nll_kind == "probabilities"


def test_repeat_last_ranks_the_history_from_its_end(folder):
    write_made(folder)
    prepared, network, _ = with_first_weights("RepeatLast")
    batch = next(iter(prepared.test_data))[0]
    order = network.full_sort_predict(batch).argsort(1, descending=True)
    given = (batch["item_id_list"].tolist(), batch["item_length"].tolist())
    for ranked, items, length in zip(order.tolist(), *given, strict=True):
        newest_first = list(dict.fromkeys(reversed(items[:length])))
        assert ranked[: len(newest_first)] == newest_first


@pytest.mark.parametrize("model", ["Pop", "Markov"])
def test_a_model_of_one_pass_is_evaluated_whatever_eval_step_says(folder, model):
    write_made(folder)
    settings = {k: v for k, v in settings_of(model).items() if k != "model"} | {"epochs": 6, "eval_step": 3}
    result = run(model, NAME, config_dict=settings)
    assert result["best_valid_result"]["ndcg@5"] == result["best_valid_score"] > 0
    assert result["test_result"]["ndcg@5"] > 0


@pytest.mark.slow
def test_four_baselines_are_rows_of_a_comparison(folder, capsys):
    write_made(folder)
    shared = {k: v for k, v in settings_of("GRU4Rec").items() if k in ("MAX_ITEM_LIST_LENGTH",)}
    words = [f"--{key}={value}" for key, value in shared.items()] + ["--topk=[5,10]"]
    models = ["Markov", "RepeatLast", "Pop", "ItemKNN"]
    assert command.main(["--dataset", NAME, "--models", *models, "--epochs", "3", "--samples", "50", *words]) == 0
    told = capsys.readouterr().out
    assert "NDCG@10 filtered" in told and "(of scores)" in told and "(-log p)" in told
    assert all(any(line.startswith(name) for line in told.splitlines()) for name in models)
