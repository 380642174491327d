"""From checkpoints to rankers: the one place of the challenges that knows RecBole.

A baseline's data is read as ScaledSASRec's is, as histories: RecBole's own reading would write out a padded row per
prefix. Both give the same ids.
"""

from __future__ import annotations

import json
import os
import re
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils.argument_list import dataset_arguments
from torch import Tensor

from recbole_scale.challenges.kinds.trajectory import Reencoder, Stepper
from recbole_scale.data.dataset import HistoryDataset
from recbole_scale.data.histories import data_fingerprint
from recbole_scale.errors import UserError
from recbole_scale.interfaces import RunConfig
from recbole_scale.model.incremental import CachedSteps
from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.model.sizes import parameter_groups
from recbole_scale.plugin.checkpoints import open_sequential, other_data, trained_model
from recbole_scale.plugin.config import recboles_refusal
from recbole_scale.runs import plan
from recbole_scale.settings import run_id
from recbole_scale.training.checkpoint import load_checkpoint

# models whose scores do not depend on how far a history is padded; the others get rows of MAX_ITEM_LIST_LENGTH
ANY_WIDTH = ("ScaledSASRec", "SASRec", "GRU4Rec", "BERT4Rec")


@dataclass
class Checkpoint:
    """A trained model that is not built yet: its settings and its view of the data."""

    path: str
    config: RunConfig
    dataset: HistoryDataset
    fingerprint: str
    run_id: str

    @property
    def label(self) -> str:
        """Model and run, for sentences."""
        return f"{self.config['model']} ({os.path.basename(self.path)})"


class RecBoleRanker:
    """A RecBole sequential model as a :class:`~recbole_scale.challenges.scoring.Ranker`."""

    def __init__(self, model: SequentialRecommender, config: RunConfig, n_items: int) -> None:
        self.model = model.eval()
        self.device = config["device"]
        self.n_items = n_items
        self.max_length = int(config["MAX_ITEM_LIST_LENGTH"])
        self.any_width = config["model"] in ANY_WIDTH
        self._fields = model.USER_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN

    def scores(self, user: np.ndarray, items: np.ndarray, length: np.ndarray) -> Tensor:
        """Scores of all items [B, V + 1], through the model's ``full_sort_predict``."""
        columns = (torch.from_numpy(np.ascontiguousarray(part)) for part in (user, items, length))
        batch = Interaction(dict(zip(self._fields, columns, strict=True))).to(self.device)
        scores: Tensor = self.model.full_sort_predict(batch)
        return scores.view(len(length), -1).float()

    def stepper(self, user: np.ndarray, items: np.ndarray, length: np.ndarray, steps: int) -> Stepper:
        """Histories that grow: what is encoded is kept where the model is ours and its length is not exceeded."""
        if isinstance(self.model, ScaledSASRec) and items.shape[1] + steps - 1 <= self.max_length:
            ids, counts = (torch.from_numpy(part).to(self.device) for part in (items, length))
            return CachedSteps(self.model, ids, counts, steps)
        return Reencoder(self, user, items, length)


def open_checkpoints(paths: list[str], data_path: str | None = None) -> list[Checkpoint]:
    """Read settings and data of some checkpoints; all must have been trained on one split of one data set.

    Args:
        paths: checkpoints that :mod:`recbole_scale` or RecBole under it wrote.
        data_path: folder of data sets, where it is not the one of the training.

    Raises:
        UserError: a file is no such checkpoint, a model is not sequential, or the data differ.
    """
    loaded: dict[str, HistoryDataset] = {}
    found: list[Checkpoint] = []
    for path in paths:
        state, config = open_sequential(path, data_path)
        dataset = _dataset(config, loaded)
        fingerprint = data_fingerprint(dataset)
        found.append(Checkpoint(path, config, dataset, fingerprint, _run_id(path, config)))
        if state.get("data") not in (None, "", fingerprint):
            raise UserError(f"{other_data(config, path)}: its users, items or interactions have changed")
        _check_same(found[0], found[-1])
        if twin := next((point for point in found[:-1] if point.run_id == found[-1].run_id), None):
            raise UserError(f"{twin.path} and {path} are checkpoints of one run, {twin.run_id}; give one of them")
    return found


def _run_id(path: str, config: RunConfig) -> str:
    """The id of a checkpoint's run: in its name, or the hash of its settings, as the run's row has it."""
    named = re.search(r"-([0-9a-f]{10})\.best\.pth$", path)
    return named[1] if named else run_id(config)


def _dataset(config: RunConfig, loaded: dict[str, HistoryDataset]) -> HistoryDataset:
    """The training view of a data set, read once for all checkpoints that read it alike."""
    keys = (*dataset_arguments, "data_path", "dataset", "eval_args", "data_fraction")
    key = json.dumps({name: config[name] for name in keys}, sort_keys=True, default=str)
    if key not in loaded:
        loaded[key] = recboles_refusal(lambda: HistoryDataset(config).build())[0]
    view = copy(loaded[key])
    view.config = config
    return view


def _check_same(first: Checkpoint, other: Checkpoint) -> None:
    """Refuse checkpoints whose cases would not be the same."""
    if other.fingerprint != first.fingerprint:
        raise UserError(
            f"{other.path} was trained on another data set than {first.path}: '{other.config['dataset']}' has "
            f"{other.dataset.item_num - 1} items and fingerprint {other.fingerprint}, '{first.config['dataset']}' has "
            f"{first.dataset.item_num - 1} and {first.fingerprint}"
        )
    splits = [point.dataset.split for point in (first, other)]
    if any(not np.array_equal(getattr(splits[0], cut), getattr(splits[1], cut)) for cut in ("train_end", "valid_end")):
        raise UserError(
            f"{other.path} was trained on another split than {first.path}: {other.config['eval_args']['split']} and "
            f"{first.config['eval_args']['split']}"
        )


def build_ranker(checkpoint: Checkpoint) -> tuple[RecBoleRanker, dict[str, Any]]:
    """The model of a checkpoint, and the columns of its rows.

    Raises:
        UserError: the model cannot be built from ids alone, or its tensors have other shapes.
    """
    config, dataset = checkpoint.config, checkpoint.dataset
    model = trained_model(config, dataset, load_checkpoint(checkpoint.path), checkpoint.path)
    return RecBoleRanker(model, config, dataset.item_num - 1), describe(checkpoint, model)


def describe(checkpoint: Checkpoint, model: SequentialRecommender) -> dict[str, Any]:
    """Columns of a row that name the model and its data."""
    config = checkpoint.config
    ours = isinstance(model, ScaledSASRec)
    return {
        "dataset": config["dataset"],
        "fingerprint": checkpoint.fingerprint,
        "model": config["model"],
        "size": plan.size_name(config) if ours else None,
        "n_blocks": parameter_groups(model.shape)["n_blocks"] if ours else None,
        "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seed": config["seed"],
        "run_id": checkpoint.run_id,
    }
