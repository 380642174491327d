"""A trained model ready to rank, with the ids it knows; the data is read only where it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from recbole.data import create_dataset
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_scale.data.histories import Histories, data_fingerprint
from recbole_scale.data.id_tables import IdTables
from recbole_scale.errors import UserError
from recbole_scale.interfaces import KnownIds, RunConfig
from recbole_scale.plugin.checkpoints import open_sequential, other_data, trained_model, with_weights
from recbole_scale.plugin.config import recboles_refusal
from recbole_scale.plugin.register import find_model
from recbole_scale.runs.prepared import histories_of


@dataclass
class Trained:
    """A model ready to rank, the ids it knows, and the data's histories where the data is at hand."""

    config: RunConfig
    dataset: KnownIds
    network: SequentialRecommender
    histories: Histories | None = None

    @property
    def users(self) -> np.ndarray:
        """Raw user ids by number; 0 is padding. Only the padding where the model has no table of users."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.uid_field]
        return tokens

    @property
    def items(self) -> np.ndarray:
        """Raw item ids by number; 0 is padding."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.iid_field]
        return tokens

    @cached_property
    def item_texts(self) -> pa.Array:
        """Raw item ids by number."""
        return pa.array(self.items.tolist(), pa.string())

    @cached_property
    def user_texts(self) -> pa.Array:
        """Raw user ids by number."""
        return pa.array(self.users.tolist(), pa.string())

    @cached_property
    def place(self) -> np.ndarray:
        """Place of each item in the order of raw ids as texts, which breaks ties of scores, [V + 1]."""
        places = np.empty(len(self.items), dtype=np.int64)
        places[np.argsort(self.items, kind="stable")] = np.arange(len(self.items))
        return places


def load_trained(checkpoint: str, data_path: str | None = None, with_data: bool = True) -> Trained:
    """Model and ids of a checkpoint of any sequential model.

    Args:
        checkpoint: its file.
        data_path: folder of the data sets, where it is not the one of the training.
        with_data: read the data set as well, for its users' histories. Without, the checkpoint's own table of ids is
            taken; the data is read where it has none, or where the model is built from more.

    Raises:
        UserError: no such checkpoint, another kind of model, or a data set that has changed since training.
    """
    state, config = open_sequential(checkpoint, data_path)
    trained = None if with_data or not state.get("ids") else _from_ids(config, state, checkpoint)
    return trained or _from_data(config, state, checkpoint)


def _from_ids(config: RunConfig, state: dict[str, Any], checkpoint: str) -> Trained | None:
    """The model by its checkpoint alone; None where its constructor asks for more of the data."""
    try:
        tables = IdTables(config, state["ids"])
    except (ValueError, KeyError) as failure:
        raise UserError(f"the checkpoint {checkpoint} is damaged (its table of ids)") from failure
    try:
        network = find_model(config["model"])(config, tables)
    except (AttributeError, KeyError, TypeError):
        return None
    return Trained(config, tables, with_weights(network.to(config["device"]), config, state, checkpoint))


def _from_data(config: RunConfig, state: dict[str, Any], checkpoint: str) -> Trained:
    dataset = recboles_refusal(lambda: create_dataset(config))
    histories = getattr(dataset, "histories", None) or histories_of(dataset)
    built = recboles_refusal(dataset.build)[0]
    histories = histories or getattr(built, "histories", None)
    if state.get("data") and histories is not None:
        built.histories = histories
        if data_fingerprint(built) != state["data"]:
            raise UserError(f"{other_data(config, checkpoint)}: its users, items or interactions have changed")
    if config["benchmark_filename"]:
        histories = None  # ready-made rows are none
    return Trained(config, built, trained_model(config, built, state, checkpoint), histories)
