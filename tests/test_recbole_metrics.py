"""Every metric of RecBole's, from what an evaluation hands to its collector, against definitions in plain Python."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from conftest import walk_rows
from recbole_data import with_first_weights, write_made

from recbole_scale.runs.run import make_config, prepare

RANKED = ["Recall", "Precision", "Hit", "MRR", "MAP", "NDCG", "GAUC", "ItemCoverage", "AveragePopularity",
          "ShannonEntropy", "GiniIndex", "TailPercentage"]  # fmt: skip
VALUES = ["AUC", "LogLoss", "MAE", "RMSE"]
KS = (3, 5)


def seen_by_the_collector(model, mode, **settings):
    """What the metrics are made of, batch by batch, the metrics, and the run."""
    measured = {"metrics": VALUES if settings.get("valid_metric") == "AUC" else RANKED, "metric_decimal_place": 8}
    more = {"valid_metric": "NDCG@5", "eval_args": {"mode": mode, **settings.pop("split", {})}, **settings}
    prepared, _, trainer = with_first_weights(model, **measured, **more)
    batches, collect = [], trainer.eval_collector.eval_batch_collect

    def noted(scores, interaction, users, items):
        batches.append([None if part is None else part.clone().numpy() for part in (scores, users, items)])
        batches[-1].append(interaction["label"].numpy() if "label" in interaction.columns else None)
        collect(scores, interaction, users, items)

    trainer.eval_collector.eval_batch_collect = noted
    return batches, trainer.evaluate(prepared.test_data, load_best_model=False), prepared


def of_a_row(scores, wanted):
    """Recommended items, best first, and this row's metrics of :data:`KS`; ``wanted`` are the held-out items."""
    order = sorted(np.flatnonzero(np.isfinite(scores)), key=lambda item: -scores[item])
    hits = [item in wanted for item in order]
    found = {}
    for k in KS:
        places = [place for place, hit in enumerate(hits[:k], 1) if hit]
        ideal = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(wanted)) + 1))
        precisions = [sum(hits[:place]) / place for place in places]
        found |= {f"recall@{k}": len(places) / len(wanted), f"precision@{k}": len(places) / k,
                  f"hit@{k}": float(bool(places)), f"mrr@{k}": 1 / places[0] if places else 0.0,
                  f"map@{k}": sum(precisions) / min(k, len(wanted)),
                  f"ndcg@{k}": sum(1 / np.log2(place + 1) for place in places) / ideal}  # fmt: skip
    own, others = [scores[i] for i in wanted], [scores[i] for i in order if i not in wanted]
    pairs = [(a > b) + (a == b) / 2 for a, b in product(own, others)]
    return order, found | {"gauc": np.mean(pairs)}, len(wanted)


def of_the_lists(lists, popularity, n_items):
    """Metrics of what is recommended, whether it is right or not; padding counts as an item, as RecBole has it."""
    rarest = sorted(popularity, key=lambda item: (popularity[item], item))[: max(int(0.1 * len(popularity)), 1)]
    found = {}
    for k in KS:
        shown = Counter(item for items in lists for item in items[:k])
        shares = [count / (k * len(lists)) for count in shown.values()]
        counts = sorted([0] * (n_items - len(shown)) + list(shown.values()))
        gini = sum((2 * place - n_items - 1) * count for place, count in enumerate(counts, 1))
        found |= {f"itemcoverage@{k}": len(shown) / n_items,
                  f"averagepopularity@{k}": np.mean([popularity[i] for items in lists for i in items[:k]]),
                  f"shannonentropy@{k}": -np.mean([p * np.log(p) for p in shares]),
                  f"giniindex@{k}": gini / (n_items * k * len(lists)),
                  f"tailpercentage@{k}": np.mean([i in rarest for items in lists for i in items[:k]])}  # fmt: skip
    return found


LATE, RATIOS = {"split": {"LS": "valid_and_test"}, "order": "TO"}, {"split": {"RS": [0.6, 0.1, 0.3]}, "order": "RO"}
RANKINGS = {
    "windows": ("ScaledSASRec", "full", LATE), "rows on demand": ("GRU4Rec", "full", LATE),
    "windows, shares": ("ScaledSASRec", "full", RATIOS | {"order": "TO"}),
    "a few of many": ("ScaledSASRec", "uni9", LATE),
    "several a user": ("BPR", "full", RATIOS), "sampled": ("BPR", "uni9", RATIOS), "popular": ("GRU4Rec", "pop9", LATE),
}  # fmt: skip


@pytest.mark.parametrize("case", RANKINGS)
def test_metrics_of_rankings_are_their_definitions(folder, case):
    write_made(folder)
    model, mode, split = RANKINGS[case]
    times = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}} if model == "BPR" else {}
    batches, found, prepared = seen_by_the_collector(model, mode, split=split, **times)
    rows = [of_a_row(scores[row], set(items[users == row])) for scores, users, items, _ in batches
            for row in range(len(scores))]  # fmt: skip
    popularity = Counter(prepared.train_data._dataset.inter_feat["item_id"].numpy().tolist())
    expected = of_the_lists([order for order, *_ in rows], popularity, prepared.dataset.item_num)
    held_out = [count for *_, count in rows]
    assert max(held_out) == 1 or case in ("several a user", "sampled")
    for name in rows[0][1]:
        weights = held_out if name == "gauc" else None  # each user's as often as items are held out
        expected[name] = np.average([metrics[name] for _, metrics, _ in rows], weights=weights)
    assert found == pytest.approx(expected, abs=2e-6)


LABELLED = {
    "a context model": ("DeepFM", "labeled"),
    "sampled rows": ("BPR", "uni9"),
    "rows of lists": ("DIN", "labeled"),
}
RATED = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "class"]},
         "threshold": {"rating": 3}}  # fmt: skip


@pytest.mark.parametrize("case", LABELLED)
def test_metrics_of_labels_are_their_definitions(folder, case):
    write_made(folder)
    model, mode = LABELLED[case]
    settings = RATED if model == "DIN" else {}
    batches, found, _ = seen_by_the_collector(model, mode, split=LATE if model == "DIN" else RATIOS,
                                              valid_metric="AUC", **settings)  # fmt: skip
    scores, labels = (np.concatenate([batch[part].ravel() for batch in batches]).astype(float) for part in (0, 3))
    yes, no = scores[labels == 1], scores[labels == 0]
    sure = np.clip(scores, 1e-15, 1 - 1e-15)
    expected = {
        "auc": np.mean([(a > b) + (a == b) / 2 for a, b in product(yes, no)]),
        "logloss": -np.mean(labels * np.log(sure) + (1 - labels) * np.log(1 - sure)),
        "mae": np.mean(np.abs(scores - labels)), "rmse": np.mean((scores - labels) ** 2) ** 0.5,
    }  # fmt: skip
    assert len(yes) > 3 and len(no) > 3 and found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_popularity_is_counted_on_what_is_trained(walk, model):
    """Interactions before each user's last two (last one of three), but the first, which is nobody's target."""
    own = {"topk": [5], "metrics": ["AveragePopularity", "NDCG"], "valid_metric": "NDCG@5", "state": "error"}
    prepared = prepare(make_config(model, "walk", config_dict=own))
    by_user = {}
    for user, item, _ in sorted(walk_rows(), key=lambda row: row[2]):
        by_user.setdefault(user, []).append(item)
    expected = Counter(item for items in by_user.values() for item in items[1 : max(len(items) - 2, 2)])
    tokens = prepared.dataset.field2id_token["item_id"]
    counted = prepared.train_data._dataset.item_counter
    assert {tokens[item]: count for item, count in counted.items() if count} == dict(expected)
