"""A run up to its first step: settings to data, loaders and model."""

from __future__ import annotations

import json
import os
from copy import copy
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import EvaluatorType, FeatureSource, FeatureType, ModelType, init_seed
from recbole.utils.argument_list import dataset_arguments

from recbole_scale.data.baselines import rows_on_demand
from recbole_scale.data.cache import files_digest, named
from recbole_scale.data.histories import Histories, data_fingerprint
from recbole_scale.errors import UserError
from recbole_scale.files import check_writable
from recbole_scale.interfaces import DataSet, Loader, RunConfig
from recbole_scale.plugin.config import WINDOW_MODELS, begin, recboles_refusal
from recbole_scale.plugin.demands import check_demands, failures_told
from recbole_scale.plugin.register import find_model
from recbole_scale.runs.log import open_log, to_file_only
from recbole_scale.training import group


@dataclass
class Prepared:
    """A run that is ready to train: RecBole's config, data loaders, and the histories that name the data."""

    config: RunConfig
    dataset: DataSet
    train_data: Any  # a Loader; that of windows also counts targets
    valid_data: Loader
    test_data: Loader
    fingerprint: str | None
    digest: str | None


class LoadedData:
    """The data set that this process read last, before its split, for the next run that reads the same."""

    def __init__(self) -> None:
        self._key = ""
        self._dataset: DataSet

    def dataset(self, config: RunConfig) -> Any:
        """The data set of ``config``: read, or the one at hand when nothing that reading depends on has changed."""
        path = os.path.join(config["data_path"], f"{config['dataset']}.inter")
        stamp = (os.stat(path).st_mtime_ns, os.stat(path).st_size) if os.path.isfile(path) else None
        settings = {name: config[name] for name in (*dataset_arguments, "data_path", "model", "dataset")}
        key = json.dumps([settings, stamp], sort_keys=True, default=str)
        if key != self._key:
            self._dataset, self._key = create_dataset(config), key
        dataset = copy(self._dataset)  # the split is set on the copy
        dataset.config = config
        return dataset


def prepare(config: RunConfig, loaded: LoadedData | None = None) -> Prepared:
    """Read, filter, remap and split the data set of ``config``; ``loaded`` may have read it before."""
    begin(config)
    check_ranked_users(config)
    init_seed(config["seed"], config["reproducibility"])
    open_log(config)
    to_file_only(getLogger(), str(config))
    read = create_dataset if loaded is None else loaded.dataset
    if config["per_user_file"]:
        check_writable("per_user_file", config["per_user_file"])
    check_writable("checkpoint_dir", os.path.join(config["checkpoint_dir"], "checkpoint"))
    dataset = recboles_refusal(lambda: read(config))
    digest = named(dataset.digest) if getattr(dataset, "digest", None) else data_digest(config)
    if config["eval_type"] == EvaluatorType.RANKING and max(config["topk"]) >= dataset.item_num:
        raise UserError(
            f"topk asks for {max(config['topk'])} items, but '{config['dataset']}' has {dataset.item_num - 1}"
        )
    _check_features(config, dataset)
    histories = getattr(dataset, "histories", None) or histories_of(dataset)
    try:
        train_data, valid_data, test_data = recboles_refusal(lambda: data_preparation(config, dataset))
    except ValueError as failure:
        if "num_samples" not in str(failure):  # torch's sampler, about no rows
            raise
        raise UserError(f"no interaction of '{config['dataset']}' is left to train on") from failure
    check_demands(config, train_data)
    dataset.histories = histories if histories is not None else getattr(dataset, "histories", None)
    _check_held_out(config, train_data, valid_data, test_data)
    fingerprint = data_fingerprint(dataset) if dataset.histories is not None else None
    return Prepared(config, dataset, train_data, valid_data, test_data, fingerprint, digest)


def check_ranked_users(config: RunConfig) -> None:
    """Refuse to rank some of the users with a model that RecBole's own loaders feed, which know no such thing."""
    for key in ("valid_users", "test_users"):
        if config[key] is not None and config["model"] not in WINDOW_MODELS and not rows_on_demand(config):
            raise UserError(f"{key} is for runs that read rows on demand, and {config['model']} does not as it is set")


def _check_features(config: RunConfig, dataset: DataSet) -> None:
    """RecBole looks features up by name while it builds the model, and miscounts numbers that it does not embed."""
    kinds, numbers = dataset.field2type, (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)
    for name in config["selected_features"] or ():
        if name not in kinds:
            known = ", ".join(kinds)
            raise UserError(f"selected_features: '{name}' is not loaded; load_col must name it (loaded are {known})")
        if kinds[name] in numbers and name not in (config["numerical_features"] or ()):
            raise UserError(f"selected_features: '{name}' holds numbers; numerical_features must name it, too")
        if kinds[name] == FeatureType.FLOAT_SEQ and config["model"] == "SASRecF":
            raise UserError(f"selected_features: SASRecF takes no lists of numbers such as '{name}'; GRU4RecF does")
    if config["model"] == "S3Rec" and kinds.get(config["item_attribute"]) in numbers:
        raise UserError(f"item_attribute is '{config['item_attribute']}', which holds numbers; S3Rec learns classes")
    for name, kind in kinds.items() if config["model"] == "DSSM" else ():
        of_tower = dataset.field2source[name] in (FeatureSource.USER, FeatureSource.ITEM)
        if of_tower and kind in numbers and name not in (config["numerical_features"] or ()):
            raise UserError(f"DSSM takes every number it loads: numerical_features must name '{name}', or load_col not")


def _check_held_out(config: RunConfig, train_data: Loader, valid_data: Loader, test_data: Loader) -> None:
    """Say before the training that nothing could be tested after it, as with users of two items each."""
    rule, value = next(iter((config["eval_args"]["split"] or {"": None}).items()))
    given_up: tuple[str, ...] = (
        {"valid_only": ("test",), "test_only": ("valid",)}.get(value, ()) if rule == "LS" else ()
    )
    if isinstance(value, list):  # a share of nothing; two times may lie together
        given_up = tuple(name for name, share in zip(("train", "valid", "test"), value, strict=False) if not share)
        given_up += ("valid",) * (len(value) == 2)
    split = config["eval_args"]["split"]
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:  # the rounds to keep are chosen by valid
        given_up = tuple(name for name in given_up if name != "valid")
    if getattr(train_data, "sample_size", None) == 0:
        raise UserError(f"no interaction of '{config['dataset']}' is left to train on by eval_args.split {split}")
    for name, data in (("valid", valid_data), ("test", test_data)):
        rows = getattr(data, "sample_size", None)
        if rows == 0 and name not in given_up and not (name == "valid" and int(config["eval_step"] or 0) <= 0):
            raise UserError(
                f"no interaction of '{config['dataset']}' is held out for {name} by eval_args.split {split}: "
                "leave-one-out needs users of three interactions, or of four for both"
            )


def data_digest(config: RunConfig) -> str | None:
    """Names what the interaction files of a run hold now; None where they are not there (yet)."""
    parts = [f".{part}" for part in config["benchmark_filename"] or ()] or [""]
    return files_digest(os.path.join(config["data_path"], f"{config['dataset']}{part}.inter") for part in parts)


def digest_there(config: RunConfig) -> str | None:
    """What names the data; a data set that is not there is downloaded, or refused, before anything is run."""
    if found := data_digest(config):
        return found
    create_dataset(config)
    return data_digest(config)


def histories_of(dataset: DataSet) -> Histories | None:
    """Histories of a RecBole dataset that has users, items and times and is not built yet."""
    frame, fields = dataset.inter_feat, (dataset.uid_field, dataset.iid_field, dataset.time_field)
    if dataset.benchmark_filename_list is not None or any(field not in frame for field in fields):
        return None
    if frame[dataset.time_field].dtype == object:  # discretised
        return None
    return Histories.from_columns(*(frame[field].to_numpy() for field in fields))


def build_model(prepared: Prepared) -> Any:
    """The model of a prepared run, initialised from its seed, on its device."""
    config = prepared.config
    # RecBole's models may draw more than weights, which has to be the same in every process
    own_stream = group.rank() if config["model"] in WINDOW_MODELS else 0
    init_seed(config["seed"] + own_stream, config["reproducibility"])
    build = find_model(config["model"])
    with failures_told(config):
        return recboles_refusal(lambda: build(config, prepared.train_data._dataset).to(config["device"]))


def draw_as_recbole_does(prepared: Prepared) -> None:
    """RecBole counts FLOPs on one row before it trains, and a transform such as BERT4Rec's draws its masks for it.

    With the same draws the masks of training are stock RecBole's.
    """
    config, dataset = prepared.config, prepared.dataset
    if config["transform"] and config["model"] not in WINDOW_MODELS and len(dataset) > 1:
        own = getattr(dataset, "row_of_flops", None)
        construct_transform(config)(dataset, own() if own else dataset[torch.tensor([1])])
