"""The one place that touches RecBole's look-ups: models, trainers, datasets, loaders, metrics, settings.

``register()`` is called by ``import recbole_scale``; spawned ranks and Ray workers import it too.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import torch
from recbole.config import Config
from recbole.evaluator import metric_types, smaller_metrics
from recbole.evaluator import register as metric_register
from recbole.utils import FeatureSource, ModelType, ensure_dir

from recbole_scale.errors import UserError, nearest
from recbole_scale.model.sizes import load_size
from recbole_scale.plugin.packages import missing_package_told
from recbole_scale.settings import SettingsLoader, load_settings_file, parse_value, properties_folder
from recbole_scale.training import group

OWN_MODELS = {"ScaledSASRec": "recbole_scale.model.scaled_sasrec", "FMLPRec": "recbole_scale.model.fmlp"}
WINDOW_MODELS = ("ScaledSASRec",)  # trained on windows by our own trainer, with a size; the others RecBole's way
_ORIGINAL: dict[str, Any] = {}


def register() -> None:
    """Add our names to RecBole's look-ups; calling it again changes nothing."""
    if _ORIGINAL:
        return
    _ORIGINAL["ensure_dir"] = ensure_dir
    _replace("ensure_dir", lambda path: os.makedirs(path, exist_ok=True))  # RecBole's fails when two processes race
    for part in (_register_models, _register_data, _register_metrics, _patch_config):
        part()


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
    return _ORIGINAL["get_trainer"](model_type, model_name)


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
            return _ORIGINAL["get_model"](model_name)
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
    from recbole.data.dataset import Dataset, SequentialDataset
    from recbole.data.utils import create_dataset, get_dataloader

    from recbole_scale.plugin import time_line

    _ORIGINAL["get_dataloader"], _ORIGINAL["create_dataset"] = get_dataloader, create_dataset
    _replace("get_dataloader", find_dataloader)
    _replace("create_dataset", find_dataset)
    _ORIGINAL["load_feat"] = Dataset._load_feat
    _ORIGINAL["change_feat_format"] = SequentialDataset._change_feat_format
    _ORIGINAL["load_inter_feat"] = Dataset._load_inter_feat
    _ORIGINAL["download"] = Dataset._download
    Dataset._load_feat = _load_feat
    Dataset._load_inter_feat = _load_inter_feat
    Dataset._download = _download
    SequentialDataset._change_feat_format = _sort_exactly_first
    time_line.install()


def find_dataloader(config: Any, phase: str) -> Any:
    """Loader class of a phase: over our histories where that gives RecBole's rows, else RecBole's."""
    from recbole_scale.data.baselines import loader_class

    ours = loader_class(config, phase, windows=config["model"] in WINDOW_MODELS)
    return ours or _ORIGINAL["get_dataloader"](config, phase)


def find_dataset(config: Any) -> Any:
    """The data set of a run: histories for our models and for sequential ones where that gives RecBole's rows."""
    from recbole_scale.data.baselines import BaselineDataset, rows_on_demand
    from recbole_scale.data.dataset import HistoryDataset

    if config["model"] in WINDOW_MODELS:
        return HistoryDataset(config)
    return BaselineDataset(config) if rows_on_demand(config) else _ORIGINAL["create_dataset"](config)


def _load_feat(self: Any, filepath: str, source: Any) -> Any:
    """Read interactions with our fast reader; anything else, and files with sequence columns, with RecBole's."""
    from recbole_scale.data.atomic import read_header
    from recbole_scale.data.dataset import load_interactions, read_kinds

    if source != FeatureSource.INTERACTION:
        return _ORIGINAL["load_feat"](self, filepath, source)
    fields = read_kinds(self, filepath)
    wanted, unwanted = self._get_load_and_unload_col(source)
    for name in sorted(wanted or ()):
        if name not in fields and name in (self.uid_field, self.iid_field, self.time_field):
            raise UserError(f"{filepath}, line 1: there is no column '{name}'{nearest(name, fields)}")
    columns = [f for f in fields if (wanted is None or f in wanted) and f not in (unwanted or ())]
    if any(fields[name].endswith("_seq") for name in columns):
        if (
            self.time_field in columns
            and read_header(filepath, self.config["field_separator"])[self.time_field] == "token"
        ):
            raise UserError(f"{filepath}, line 1: TIME_FIELD is a token here; write {self.time_field}:float")
        return _ORIGINAL["load_feat"](self, filepath, source)
    return load_interactions(self, filepath, source, columns)


def _load_inter_feat(self: Any, token: str, dataset_path: str) -> None:
    from recbole_scale.data.atomic import check_file

    names = [f"{token}.{name}.inter" for name in self.benchmark_filename_list or ()] or [f"{token}.inter"]
    for name in names:
        check_file(os.path.join(dataset_path, name))
    _ORIGINAL["load_inter_feat"](self, token, dataset_path)


def _download(self: Any) -> None:
    """RecBole downloads the data sets it knows by name; anything else that is missing is told in one sentence."""
    from recbole_scale.data.atomic import check_file

    path = os.path.join(self.dataset_path, f"{self.dataset_name}.inter")
    known = self._get_download_url("url", allow_none=True) if not os.path.isabs(self.dataset_name) else None
    if not known:
        check_file(path)
    try:
        _ORIGINAL["download"](self)
    except (OSError, SystemExit) as failure:
        raise UserError(f"there is no file {path}, and it could not be downloaded from {known}") from failure
    except (ValueError, RuntimeError):  # RecBole ends with a barrier, which one process alone cannot pass
        check_file(path)


def _sort_exactly_first(self: Any) -> None:
    """Sort by exact time before RecBole turns times into float32 (steps of 64 to 128 s); its later sort is stable."""
    from recbole_scale.data.histories import time_order

    frame = self.inter_feat
    if self.config["benchmark_filename"] is None and self.time_field in frame and self.uid_field in frame:
        order = time_order(frame[self.uid_field].to_numpy(), frame[self.time_field].to_numpy())
        self.inter_feat = frame.iloc[order].reset_index(drop=True)
    _ORIGINAL["change_feat_format"](self)


# Metrics ------------------------------------------------------------------------------------------------------------


def _register_metrics() -> None:
    from recbole.trainer import trainer

    from recbole_scale.plugin.evaluation import NLL, ScaleCollector, rank_batch

    metric_register.metrics_dict["nll"] = NLL
    metric_register.metric_information["nll"] = NLL.metric_need
    metric_types["nll"] = NLL.metric_type
    smaller_metrics.append("nll")
    trainer.Collector = ScaleCollector
    trainer.Trainer._scale_original_rank = trainer.Trainer._full_sort_batch_eval
    trainer.Trainer._full_sort_batch_eval = rank_batch


# Settings -----------------------------------------------------------------------------------------------------------


def _patch_config() -> None:
    """Parse instead of evaluate, add our defaults, and choose a device without touching the environment."""
    for name in ("_load_internal_config_dict", "_get_final_config_dict", "_set_default_parameters"):
        _ORIGINAL[name] = getattr(Config, name)
    Config._build_yaml_loader = lambda self: SettingsLoader
    Config._convert_config_dict = _convert
    Config._load_config_files = _load_files
    Config._load_internal_config_dict = _load_defaults
    Config._get_final_config_dict = _final_settings
    Config._set_default_parameters = _set_data_path
    Config._init_device = _init_device


def _convert(self: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """RecBole evaluates strings as Python here; we read them as YAML."""
    return {k: parse_value(v) if isinstance(v, str) else v for k, v in settings.items()}


def _load_files(self: Any, file_list: list[str] | None) -> dict[str, Any]:
    from recbole_scale.settings import find_settings_file

    merged: dict[str, Any] = {}
    for name in file_list or ():
        merged.update(load_settings_file(find_settings_file(name)))
    return merged


def _load_defaults(self: Any, model: str, model_class: Any, dataset: str) -> None:
    """RecBole's defaults, then ours, then those of the size."""
    _ORIGINAL["_load_internal_config_dict"](self, model, model_class, dataset)
    defaults = self.internal_config_dict
    _mend_defaults(defaults, model)
    defaults.setdefault("detect_anomaly", False)
    defaults.setdefault("results_file", "results/runs.jsonl")
    defaults.setdefault("rows_on_demand", True)
    if model in OWN_MODELS:
        path = properties_folder() / "model" / f"{model}.yaml"
        defaults.update(load_settings_file(str(path)))
    if model in WINDOW_MODELS:
        defaults.update(load_size(self.external_config_dict.get("size", defaults["size"])))


def _mend_defaults(defaults: dict[str, Any], model: str) -> None:
    """Two slips in RecBole's files of defaults: trees' lie under another name, two sequential models have no split."""
    import recbole

    files = os.path.join(os.path.dirname(recbole.__file__), "properties")
    lower = os.path.join(files, "model", f"{model.lower()}.yaml")
    if defaults["MODEL_TYPE"] == ModelType.DECISIONTREE and os.path.isfile(lower):
        for key, value in load_settings_file(lower).items():
            defaults.setdefault(key, value)
    if defaults["MODEL_TYPE"] == ModelType.SEQUENTIAL and defaults["eval_args"]["order"] != "TO":
        defaults.update(load_settings_file(os.path.join(files, "quick_start_config", "sequential.yaml")))


def _final_settings(self: Any) -> dict[str, Any]:
    """What a sequential model cannot do without, where the user has not chosen: times, and no negatives for CE."""
    final: dict[str, Any] = _ORIGINAL["_get_final_config_dict"](self)
    full_softmax = final["MODEL_TYPE"] == ModelType.SEQUENTIAL and final.get("loss_type") == "CE"
    if full_softmax and "train_neg_sample_args" not in self.external_config_dict:
        final["train_neg_sample_args"] = None
    chosen = "load_col" in self.external_config_dict or _has_own_properties(self.dataset)
    if final["MODEL_TYPE"] == ModelType.SEQUENTIAL and not chosen:
        extra = list(final.get("val_interval") or {})
        names = [final["USER_ID_FIELD"], final["ITEM_ID_FIELD"], final["TIME_FIELD"], *extra]
        final["load_col"] = {"inter": list(dict.fromkeys(names))}
    torch.autograd.set_detect_anomaly(bool(final["detect_anomaly"]))
    return final


def _has_own_properties(dataset: str) -> bool:
    import recbole

    return os.path.isfile(os.path.join(os.path.dirname(recbole.__file__), "properties", "dataset", f"{dataset}.yaml"))


def _set_data_path(self: Any) -> None:
    """RecBole ignores ``data_path`` for ml-100k; we take the packaged copy only where the user has none."""
    data_path = self.final_config_dict["data_path"]
    _ORIGINAL["_set_default_parameters"](self)
    own = os.path.join(data_path, self.dataset)
    if os.path.isfile(os.path.join(own, f"{self.dataset}.inter")):
        self.final_config_dict["data_path"] = own


def _init_device(self: Any) -> None:
    """Pick the device; ``CUDA_VISIBLE_DEVICES`` is set only when the user names a ``gpu_id``."""
    final = self.final_config_dict
    gpu_id = final["gpu_id"]
    final["gpu_id"] = ",".join(map(str, gpu_id)) if isinstance(gpu_id, list | tuple) else str(gpu_id)
    if "gpu_id" in self.external_config_dict:
        os.environ["CUDA_VISIBLE_DEVICES"] = final["gpu_id"]
    use_gpu = bool(final["use_gpu"] and final["gpu_id"] != "" and torch.cuda.is_available())
    # single_spec keeps RecBole's own distributed hooks out: dummy forward passes, nccl only, metrics weighted wrongly
    final["single_spec"] = True
    if "local_rank" not in final:
        final.update(local_rank=0, device=torch.device("cuda" if use_gpu else "cpu"))
        return
    if self.model not in WINDOW_MODELS:
        raise UserError(f"{self.model} trains in one process here; only {', '.join(WINDOW_MODELS)} takes --nproc")
    final["device"] = group.join(final, use_gpu)
    if group.rank() != 0:
        final.update(state="error", show_progress=False, log_wandb=False)
