"""A small made data set that every model RecBole ships can train on, and what each model needs set for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N_USERS, N_ITEMS, NAME = 40, 30, "made"
CLASSES = ("red", "green", "blue", "grey")


def write_made(folder: Path) -> Path:
    """Write ``dataset/made``: interactions with ratings and times, features of users and items, a knowledge graph."""
    rng = np.random.default_rng(0)
    place = folder / "dataset" / NAME
    place.mkdir(parents=True)
    rows = []
    for user in range(N_USERS):
        item = int(rng.integers(N_ITEMS))
        for time in range(int(rng.integers(6, 16))):
            rating = 1 + (item + user) % 5
            rows.append((f"u{user}", f"i{item}", rating, 1_000_000_000 + 1000 * user + time))
            item = (item + 1) % N_ITEMS if rng.random() < 0.8 else int(rng.integers(N_ITEMS))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    _write(place / f"{NAME}.inter", "user_id:token item_id:token rating:float timestamp:float", rows)
    users = [(f"u{u}", 20 + u % 9, "FM"[u % 2]) for u in range(N_USERS)]
    _write(place / f"{NAME}.user", "user_id:token age:token gender:token", users)
    items = [(f"i{i}", 1990 + i % 7, " ".join(CLASSES[: 1 + i % 4]), i / 10) for i in range(N_ITEMS)]
    _write(place / f"{NAME}.item", "item_id:token year:token class:token_seq price:float", items)
    _write(place / f"{NAME}.link", "item_id:token entity_id:token", [(f"i{i}", f"e{i}") for i in range(N_ITEMS)])
    triples = [(f"e{i}", f"r{i % 3}", f"e{N_ITEMS + (i * 7 + k) % 12}") for i in range(N_ITEMS) for k in range(2)]
    _write(place / f"{NAME}.kg", "head_id:token relation_id:token tail_id:token", triples)
    entities = [f"e{i}" for i in range(N_ITEMS + 12)]
    for suffix, tokens in (("ent", entities), ("rel", ["r0", "r1", "r2"])):
        vectors = [(token, " ".join(f"{x:.3f}" for x in rng.normal(size=8))) for token in tokens]
        _write(place / f"{NAME}.{suffix}", f"{suffix}_id:token {suffix}_emb:float_seq", vectors)
    return folder


def _write(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    lines = ["\t".join(header.split()), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


LABELLED = {"threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id", "rating"],
                                                     "user": ["user_id", "age", "gender"],
                                                     "item": ["item_id", "year", "class"]}}  # fmt: skip
FEATURES = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}}
KNOWLEDGE = {
    "inter": ["user_id", "item_id", "timestamp"],
    "kg": ["head_id", "relation_id", "tail_id"],
    "link": ["item_id", "entity_id"],
}
VECTORS = {
    "load_col": {**KNOWLEDGE, "ent": ["ent_id", "ent_emb"], "rel": ["rel_id", "rel_emb"]},
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
}
SMALL = {
    "epochs": 1, "train_batch_size": 128, "eval_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 8, "embedding_size": 8,
    "hidden_size": 8, "inner_size": 16, "n_layers": 2, "n_heads": 2, "topk": [3, 5], "show_progress": False,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "ConvNCF": {"embedding_size": 64},
    "DIEN": {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}},
    "DIN": {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}},
    "GRU4RecCPR": {"reranker_CAN_NUM": 20},
    "GRU4RecKG": VECTORS,
    "KSR": {**VECTORS, "kg_embedding_size": 8},
    "LightGBM": {"lgb_num_boost_round": 3},
    "NCL": {"num_clusters": 5},
    "RaCT": {"pretrain_epochs": 1, "save_step": 1, "metrics_k": 20},
    "S3Rec": {"pretrain_epochs": 1, "save_step": 1},
    "SASRecCPR": {"reranker_CAN_NUM": 20},
    "XGBoost": {"xgb_num_boost_round": 3},
}


def settings_of(model: str) -> dict[str, Any]:
    """What a run of ``model`` on the made data needs besides its name."""
    from recbole.utils import ModelType

    from recbole_scale.plugin.register import find_model

    kind = find_model(model).type
    chosen: dict[str, Any] = dict(SMALL)
    if kind in (ModelType.CONTEXT, ModelType.DECISIONTREE):
        chosen |= LABELLED | {"valid_metric": "AUC", "metrics": ["AUC", "LogLoss", "RMSE", "MAE"]}
    else:
        chosen |= {"metrics": ["Recall", "NDCG", "NLL"], "valid_metric": "NDCG@5"}
    if model in ("DIN", "DIEN", "FDSA", "GRU4RecF", "SASRecF", "S3Rec"):
        chosen |= FEATURES | {"selected_features": ["class"]}
    return chosen | OWN.get(model, {})


def with_first_weights(model: str, **settings: Any) -> tuple[Any, Any, Any]:
    """A prepared run on the made data, its untrained model, and a trainer that can evaluate it."""
    from recbole.utils import get_trainer

    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.run import make_config

    prepared = prepare(make_config(model, NAME, config_dict=settings_of(model) | settings))
    network = build_model(prepared)
    trainer = get_trainer(prepared.config["MODEL_TYPE"], model)(prepared.config, network)
    trainer.eval_collector.data_collect(prepared.train_data)
    return prepared, network, trainer
