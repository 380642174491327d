"""Defaults that a run takes from its data, where the user has not set the keys: dropout, epochs and batch. No torch."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from recbole_scale.data.histories import Histories
from recbole_scale.interfaces import RunConfig

DENSE, SPARSE = 79.0, 12.0  # interactions over sqrt(users x items): of ml-100k, and of Amazon Beauty
DENSE_DROPOUT, SPARSE_DROPOUT = 0.1, 0.4
SPARSE_EPOCHS = 1.5  # times the size's
FEWEST_STEPS, SMALLEST_BATCH = 50, 256  # an epoch's steps, for more of which the batch is halved; and no further


def sparseness(interactions: int, n_users: int, n_items: int) -> float:
    """0 for logs as dense as ml-100k or denser, 1 for those as sparse as Amazon Beauty; linear in the log between."""
    density = max(interactions, 1) / math.sqrt(max(n_users, 1) * max(n_items, 1))
    return min(1.0, max(0.0, math.log(DENSE / density) / math.log(DENSE / SPARSE)))


def by_data(settings: Any, given: Any, interactions: int, n_users: int, n_items: int) -> dict[str, Any]:
    """What the log decides of the keys that the user has not ``given``; nothing where the size's default stays.

    In a dense log an item is learned from many neighbours; in a sparse one, from a dozen, it is memorised: a sparse log
    wants more dropout, and then more epochs. A small log with a large batch has too few steps. The evidence (width 64,
    one seed, test NDCG@10 of the last or best epoch, history filtered; r: interactions over sqrt(users x items)):

    =================  ======  ========  =======  ==============================
    log                r       dropout   epochs   NDCG@10
    =================  ======  ========  =======  ==============================
    ML-1M              220     0.1       20       0.176
    ml-100k            79      0.1       30       (the rate tiny was tuned with)
    Amazon Beauty      12      0.1       8        0.035
    Amazon Beauty      12      0.2       15       0.042
    Amazon Beauty      12      0.4       24       0.046
    Beauty of mix5     11      0.1       17       0.040
    Beauty of mix5     11      0.4       45       0.047
    =================  ======  ========  =======  ==============================

    Four logs are few: what lies between is a straight line, and a search over ``dropout_bottom`` pays.

    Args:
        settings: the run's, by key.
        given: keys that the user has set.
        interactions: of the whole log, whatever share of the users trains.
        n_users: users of the log.
        n_items: items of the log.

    Returns:
        values by key, of ``dropout_bottom``, ``dropout_top``, ``epochs``, ``train_batch_size``.
    """
    sparse = sparseness(interactions, n_users, n_items)
    found: dict[str, Any] = {}
    if not {"dropout_bottom", "dropout_top", "dropout_rates", "hidden_dropout_prob"} & set(given):
        rate = round(DENSE_DROPOUT + (SPARSE_DROPOUT - DENSE_DROPOUT) * sparse, 2)
        found |= {key: rate for key in ("dropout_bottom", "dropout_top") if rate > settings[key]}
    if "epochs" not in given:
        found["epochs"] = round(settings["epochs"] * (1 + (SPARSE_EPOCHS - 1) * sparse))
    if "train_batch_size" not in given:
        batch = settings["train_batch_size"]
        while interactions < FEWEST_STEPS * batch and batch // 2 >= SMALLEST_BATCH:
            batch //= 2
        found["train_batch_size"] = batch
    return {key: value for key, value in found.items() if value != settings[key]}


def decide_by_data(config: RunConfig, histories: Histories) -> None:
    """Set the defaults of :func:`by_data` in a run's Config, once; its id stays that of the settings before."""
    final = config.final_config_dict
    if "dropout_bottom" not in final or "by_data" in final:
        return  # another model, or decided before
    counts = len(histories.items), len(histories.users), len(pd.unique(histories.items))
    decided = by_data(final, config.external_config_dict, *counts)
    final["by_data"] = {key: final[key] for key in decided}
    final.update(decided)
