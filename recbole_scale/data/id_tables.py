"""Names of users and items as plain arrays, so that a checkpoint carries them, and what a model asks of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_scale.data.atomic import PADDING
from recbole_scale.data.texts import joined, separated
from recbole_scale.interfaces import KnownIds, RunConfig


def packed(tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """Names of ids 0, 1, ... as one array of UTF-8 bytes and the end of each name in it."""
    text, ends = joined(tokens)
    return {"text": torch.from_numpy(text.copy()), "ends": torch.from_numpy(ends)}


def unpacked(state: dict[str, torch.Tensor]) -> np.ndarray:
    """Names of ids 0, 1, ..., objects [n]; ValueError where the arrays contradict each other."""
    return separated(state["text"].numpy(), state["ends"].numpy())


def id_tables(dataset: KnownIds, users: bool) -> dict[str, Any]:
    """What a checkpoint keeps of a data set: the names of items, and of users where the model has tables of them."""
    names = dataset.field2id_token
    kept = {"user_num": int(dataset.user_num), "items": packed(names[dataset.iid_field])}
    return kept | ({"users": packed(names[dataset.uid_field])} if users else {})


class IdTables:
    """Stands for the data set of a checkpoint: names and numbers of ids, and RecBole's names of the columns."""

    def __init__(self, config: RunConfig, state: dict[str, Any]) -> None:
        self.config = config
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.time_field = config["TIME_FIELD"]
        self.item_list_length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.max_item_list_len = config["MAX_ITEM_LIST_LENGTH"]
        users = unpacked(state["users"]) if "users" in state else np.array([PADDING], dtype=object)
        self.field2id_token = {self.uid_field: users, self.iid_field: unpacked(state["items"])}
        self.user_num, self.item_num = int(state["user_num"]), len(self.field2id_token[self.iid_field])

    def num(self, field: str) -> int:
        """Ids of the user or item field, padding included; KeyError for any other."""
        return {self.uid_field: self.user_num, self.iid_field: self.item_num}[field]
