"""The one place that touches RecBole's look-ups: models, trainers, datasets, loaders, metrics, settings.

``register()`` is called by ``import recbole_scale``; spawned ranks and Ray workers import it too.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from recbole.config import Config
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.evaluator import metric_types, smaller_metrics
from recbole.evaluator import register as metric_register
from recbole.utils import ModelType, ensure_dir

from recbole_scale.errors import UserError, nearest
from recbole_scale.interfaces import DataSet, RunConfig
from recbole_scale.plugin.config import (
    COUNTING_MODELS,
    OWN_MODELS,
    WINDOW_MODELS,
    ScaleConfig,
    begin,
    check_item_embedding,
)
from recbole_scale.plugin.packages import missing_package_told
from recbole_scale.plugin.processes import one_of_several
from recbole_scale.plugin.sampled import RowByRowLoader

_ORIGINAL: dict[str, Any] = {}


def register() -> None:
    """Add our names to RecBole's look-ups; calling it again changes nothing."""
    if _ORIGINAL:
        return
    _ORIGINAL["ensure_dir"] = ensure_dir
    _replace("ensure_dir", lambda path: os.makedirs(path, exist_ok=True))  # RecBole's fails when two processes race
    Config.__new__ = _make_ours  # whoever imported the class before us, and by whatever name, gets ours too
    for part in (_register_models, _register_data, _register_metrics):
        part()


def _make_ours(cls: type, *arguments: Any, **named: Any) -> Any:
    return object.__new__(ScaleConfig if cls is Config else cls)


def _replace(name: str, replacement: Any) -> None:
    """Rebind a function of RecBole in every RecBole module that has imported it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("recbole.") and module.__dict__.get(name) is _ORIGINAL[name]:
            setattr(module, name, replacement)


# Models and trainers ------------------------------------------------------------------------------------------------


def _register_models() -> None:
    from recbole.utils.utils import get_model, get_trainer

    _ORIGINAL["get_model"], _ORIGINAL["get_trainer"] = get_model, get_trainer
    _replace("get_model", find_model)
    _replace("get_trainer", find_trainer)


def find_trainer(model_type: Any, model_name: str) -> Any:
    """Trainer class of a model: ours for the models that train on windows, else RecBole's."""
    if model_name in WINDOW_MODELS:
        from recbole_scale.training.trainer import ScaledSASRecTrainer

        return ScaledSASRecTrainer
    if model_name in COUNTING_MODELS:
        from recbole.trainer import TraditionalTrainer

        return TraditionalTrainer
    return one_of_several(_ORIGINAL["get_trainer"](model_type, model_name))


def find_model(model_name: str) -> Any:
    """Class of a model by name, ours first, then RecBole's.

    RecBole's import of all sequential models switches autograd's anomaly mode on for the whole process (``sine.py``),
    which costs SASRec a factor of 1.5; the mode is put back to what it was.

    Raises:
        UserError: there is no such model.
    """
    import importlib

    if model_name in OWN_MODELS:
        return getattr(importlib.import_module(OWN_MODELS[model_name]), model_name)
    names = model_names()
    if model_name not in names:
        raise UserError(f"there is no model '{model_name}'{nearest(str(model_name), names)}")
    anomaly = torch.is_anomaly_enabled()
    try:
        with missing_package_told(f"model '{model_name}'"):
            found = _ORIGINAL["get_model"](model_name)
        if model_name in ("KGAT", "KGIN", "MCCLK"):
            from recbole_scale.plugin import graphs

            graphs.provide_scatter()
            found = graphs.KGAT if model_name == "KGAT" else found
        return found
    finally:
        torch.autograd.set_detect_anomaly(anomaly)


@cache
def model_names() -> list[str]:
    """Names of all models that ``--model`` takes."""
    import re

    import recbole.model

    names = list(OWN_MODELS)
    for folder in recbole.model.__path__:
        for base, _, found in os.walk(folder):
            for name in found:
                if base.endswith("recommender") and name.endswith(".py") and name != "__init__.py":
                    with open(os.path.join(base, name), encoding="utf-8") as file:
                        classes = re.findall(r"^class (\w+)\(", file.read(), flags=re.MULTILINE)
                    names += [c for c in classes if c.lower() == name[:-3]]
    return sorted(names)


# Data ---------------------------------------------------------------------------------------------------------------


def _register_data() -> None:
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.data.utils import create_dataset, create_samplers, get_dataloader, load_split_dataloaders

    from recbole_scale.plugin import reading, time_line

    _ORIGINAL["get_dataloader"], _ORIGINAL["create_dataset"] = get_dataloader, create_dataset
    _ORIGINAL["create_samplers"], _ORIGINAL["full_sort_batch"] = create_samplers, FullSortEvalDataLoader.collate_fn
    _replace("create_samplers", _samplers)
    FullSortEvalDataLoader.collate_fn = _batch_with_seen
    _replace("get_dataloader", find_dataloader)
    _replace("create_dataset", find_dataset)
    _ORIGINAL["load_split_dataloaders"] = load_split_dataloaders
    _replace("load_split_dataloaders", lambda config: None)  # a pickle, opened whenever a file of its name is there
    reading.install()
    time_line.install()


def find_dataloader(config: RunConfig, phase: str) -> Any:
    """Loader class of a phase: over our histories where that gives RecBole's rows, else RecBole's."""
    from recbole_scale.data.baselines import loader_class

    ours = loader_class(config, phase, windows=config["model"] in WINDOW_MODELS)
    found = ours or _ORIGINAL["get_dataloader"](config, phase)
    if found is NegSampleEvalDataLoader and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return RowByRowLoader
    return found


def find_dataset(config: RunConfig) -> Any:
    """The data set of a run: histories for our models and for sequential ones where that gives RecBole's rows.

    RecBole's own function would first unpickle ``saved/<data set>-<class>.pth`` if there is such a file.
    """
    from recbole.data import dataset as classes

    from recbole_scale.data.baselines import BaselineDataset, rows_on_demand
    from recbole_scale.data.dataset import HistoryDataset

    begin(config)
    check_item_embedding(config)
    by_type = {
        ModelType.SEQUENTIAL: classes.SequentialDataset,
        ModelType.KNOWLEDGE: classes.KnowledgeBasedDataset,
        ModelType.DECISIONTREE: classes.DecisionTreeDataset,  # which convert_token_to_onehot needs
    }
    own = getattr(classes, f"{config['model']}Dataset", None) or by_type.get(config["MODEL_TYPE"], classes.Dataset)
    if config["model"] in WINDOW_MODELS or rows_on_demand(config):
        own = HistoryDataset if config["model"] in WINDOW_MODELS else BaselineDataset
    return own(config)


def _samplers(config: RunConfig, dataset: DataSet, built_datasets: list[Any]) -> Any:
    """RecBole's samplers, made at the one place where all parts of a split are at hand.

    A loader reads by its sampler's phase how it is to draw, and takes test's way where it has no sampler.
    """
    from recbole_scale.plugin.seen import note_earlier_parts

    note_earlier_parts(built_datasets)
    train, valid, test = _ORIGINAL["create_samplers"](config, dataset, built_datasets)
    return train, valid or SimpleNamespace(phase="valid"), test


def _batch_with_seen(self: Any, index: Any) -> Any:
    """RecBole's batch to rank, which also knows what its users had before (asked only when it is needed)."""
    from recbole_scale.plugin.seen import seen_pairs

    batch = _ORIGINAL["full_sort_batch"](self, index)
    batch[0].seen = seen_pairs(self._dataset, batch[0])
    return batch


# Metrics ------------------------------------------------------------------------------------------------------------


def _register_metrics() -> None:
    from recbole.trainer import trainer

    from recbole_scale.plugin.evaluation import NLL, ScaleCollector, ScaleEvaluator, rank_batch

    metric_register.metrics_dict["nll"] = NLL
    metric_register.metric_information["nll"] = NLL.metric_need
    metric_types["nll"] = NLL.metric_type
    smaller_metrics.append("nll")
    trainer.Collector, trainer.Evaluator = ScaleCollector, ScaleEvaluator
    trainer.Trainer._full_sort_batch_eval = rank_batch
