"""RecBole's Config as a subclass: values parsed in place of evaluated, our defaults, every check, no side effects."""

from __future__ import annotations

import linecache
import os
import pickle
import traceback
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, ModelType

from recbole_scale.errors import UserError
from recbole_scale.interfaces import RunConfig
from recbole_scale.model.likelihood import SOFTMAX_LOSSES
from recbole_scale.model.precision import check_compiler
from recbole_scale.model.sizes import edited_defaults, load_size, size_of_file
from recbole_scale.plugin.measures import add_default_metrics, check_metrics, fit_metrics
from recbole_scale.plugin.processes import check_several
from recbole_scale.settings import PackageSettings, SettingsLoader, check_settings, parse_value, properties_folder
from recbole_scale.settings.checks import check_columns, check_dataset_name, documented
from recbole_scale.settings.reading import find_settings_file, load_settings_file, load_yaml
from recbole_scale.settings.typed import defaults
from recbole_scale.settings.unsafe import refuse_unsafe, without_unsafe
from recbole_scale.terminal import say_once
from recbole_scale.training import group
from recbole_scale.training.best import ranking_metric

COUNTING_MODELS = ("RepeatLast", "Markov")  # fitted as they are built; one pass, whatever epochs says
OWN_MODELS = {
    "ScaledSASRec": "recbole_scale.model.scaled_sasrec",
    "FMLPRec": "recbole_scale.model.fmlp",
    **dict.fromkeys(COUNTING_MODELS, "recbole_scale.model.counting"),
}
WINDOW_MODELS = ("ScaledSASRec",)  # trained on windows by our own trainer, with a size; the others RecBole's way
NO_DATA_SETS = ("sample", "url", "kg_url")  # RecBole's files of these names hold something else


def recboles_refusal(build: Callable[[], Any]) -> Any:
    """Call RecBole; what it refuses by a ``raise`` of its own is the user's mistake, anything else is a bug and passes.

    Raises:
        UserError: with RecBole's sentence; or a file that is named in the settings cannot be read.
    """
    try:
        return build()
    except OSError as failure:
        if not isinstance(failure.filename, str):
            raise
        raise UserError(f"{failure.filename}: {(failure.strerror or str(failure)).lower()}") from failure
    except pickle.UnpicklingError as failure:
        raise UserError("a file of weights holds pickled Python objects or is damaged, and is not loaded") from failure
    except (ValueError, TypeError, NotImplementedError, RuntimeError, SyntaxError, AssertionError) as failure:
        if os.environ.get("RECBOLE_SCALE_TRACEBACK") or not _raised_by_recbole(failure):
            raise
        raise UserError(f"RecBole refuses this: {' '.join(str(failure).split())[:400]}") from failure


def _raised_by_recbole(failure: BaseException) -> bool:
    """Whether a traceback ends at a ``raise`` statement in RecBole's code, or an ``assert`` that says something."""
    last = traceback.extract_tb(failure.__traceback__)[-1]
    inside = Path(last.filename).is_relative_to(Path(recbole.__file__).parent)
    told = isinstance(failure, AssertionError) and str(failure) != ""
    return inside and (told or linecache.getline(last.filename, last.lineno or 0).lstrip().startswith("raise "))


class ScaleConfig(Config):
    """The settings of a run: RecBole's defaults < ours < size < config files < settings < command line, all checked.

    Making one changes nothing outside it; :func:`begin` does what a run's process needs.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: list[str] | None = None,
        config_dict: dict[str, Any] | None = None,
        command_line: bool = True,
    ) -> None:
        """As RecBole's; ``command_line=False`` leaves ``sys.argv`` alone.

        Raises:
            UserError: a setting is not what it must be.
        """
        self._reads_command_line = command_line
        recboles_refusal(lambda: super(ScaleConfig, self).__init__(model, dataset, config_file_list, config_dict))

    def _build_yaml_loader(self) -> type[SettingsLoader]:
        return SettingsLoader

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        """RecBole evaluates strings as Python here; we read them as YAML."""
        return {k: parse_value(v) if isinstance(v, str) else v for k, v in config_dict.items()}

    def _load_config_files(self, file_list: list[str] | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name in file_list or ():
            found = load_settings_file(find_settings_file(name))
            size = size_of_file(name)
            if size is not None and found.get("size") == size:  # it says "size" and what has been edited in it
                packaged = load_size(size)
                merged = {k: v for k, v in merged.items() if k not in packaged}
                found = {k: v for k, v in found.items() if k == "size" or v != packaged.get(k)}
            merged.update(found)
        return merged

    def _update_internal_config_dict(self, file: str) -> dict[str, Any] | None:
        found = deepcopy(_defaults_in(file))
        self.internal_config_dict.update(found or {})
        return found

    def _load_cmd_line(self) -> dict[str, Any]:
        return dict(super()._load_cmd_line()) if self._reads_command_line else {}

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, Any, str]:
        given = self.external_config_dict
        check_dataset_name(dataset if dataset is not None else given.get("dataset", "unnamed"))  # it becomes a path
        if model is None and "model" in given and not isinstance(given["model"], str):
            raise UserError(f"model is {given['model']!r:.80}, but must be the name of a model")
        found: tuple[str, Any, str] = super()._get_model_and_dataset(model, dataset)
        return found

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        """RecBole's defaults, then ours, then those of the size."""
        super()._load_internal_config_dict(model, model_class, dataset if dataset not in NO_DATA_SETS else "")
        found, given = self.internal_config_dict, self.external_config_dict
        _mend_defaults(found, model)
        add_default_metrics(found)
        for key, value in defaults(PackageSettings).items():
            found.setdefault(key, value)
        if model in OWN_MODELS:
            found.update(load_settings_file(str(properties_folder() / "model" / f"{model}.yaml")))
        if isinstance(given.get("eval_args"), dict):  # what the user leaves out keeps the model's default
            given["eval_args"] = {**found["eval_args"], **given["eval_args"]}
        if model in WINDOW_MODELS:
            size = given.get("size", found["size"])
            size = documented(model)["size"].kind.check("size", size)
            found.update(load_size(size))
            for key, value in edited_defaults(size).items():
                given.setdefault(key, value)
            if given.get("lr_rule") == "width":  # a larger size's own rate has its width in it already
                found["learning_rate"] = load_size("tiny")["learning_rate"]

    def _get_final_config_dict(self) -> dict[str, Any]:
        """What a sequential model cannot do without, where the user has not chosen it; and every check."""
        final: dict[str, Any] = super()._get_final_config_dict()
        given = self.external_config_dict
        sequential = final["MODEL_TYPE"] == ModelType.SEQUENTIAL
        one_kind = EvaluatorType.RANKING if self.model in WINDOW_MODELS else None
        if final["MODEL_TYPE"] == ModelType.DECISIONTREE:
            one_kind = EvaluatorType.VALUE
            final["token_num_threshold"] = final["token_num_threhold"]  # in RecBole's files; in its code
        fit_metrics(final, given, one_kind)
        if sequential and final.get("loss_type") in SOFTMAX_LOSSES and "train_neg_sample_args" not in given:
            final["train_neg_sample_args"] = None
        refuse_unsafe(final)
        final = check_settings(self.model, {**final, "dataset": self.dataset}, given)
        if self.model in WINDOW_MODELS and "valid_metric" not in given:
            by_rank = ranking_metric(final["metrics"], final["topk"])
            final["valid_metric"] = by_rank or (
                "NLL" if "nll" in map(str.lower, final["metrics"]) else final["valid_metric"]
            )
        if "load_col" not in given and not _has_own_properties(self.dataset):
            _name_columns(final, sequential)
        check_columns(final)
        check_metrics(final, self.model, one_kind)
        return final

    def _set_default_parameters(self) -> None:
        """RecBole ignores ``data_path`` for ml-100k; we take the packaged copy only where the user has none."""
        data_path = self.final_config_dict["data_path"]
        super()._set_default_parameters()
        own = os.path.join(data_path, self.dataset)
        if os.path.isfile(os.path.join(own, f"{self.dataset}.inter")):
            self.final_config_dict["data_path"] = own

    def _init_device(self) -> None:
        """The device by settings and hardware; nothing is set in the environment and no group is joined."""
        final = self.final_config_dict
        gpu_id = final["gpu_id"]
        final["gpu_id"] = ",".join(map(str, gpu_id)) if isinstance(gpu_id, list | tuple) else str(gpu_id)
        wanted = str(self.external_config_dict.get("device") or "")
        use_gpu = bool(final["use_gpu"] and final["gpu_id"] not in ("", "-1") and wanted != "cpu" and _gpu_is_there())
        if wanted.startswith("cuda") and not use_gpu:
            say_once(f"device is {wanted}, but there is no GPU that torch can use: this runs on the CPU")
        if self.model in WINDOW_MODELS and final["compile"]:
            check_compiler(torch.device("cuda" if use_gpu else "cpu"))
        # keeps RecBole's own distributed hooks out: dummy forward passes, nccl only, metrics weighted wrongly
        final["single_spec"] = True
        self.one_of_several = "local_rank" in final
        if (self.one_of_several or (final.get("world_size") or 1) > 1) and self.model not in WINDOW_MODELS:
            check_several(self.model, ModelType.TRADITIONAL if self.model in COUNTING_MODELS else final["MODEL_TYPE"])
        if not self.one_of_several:
            final.update(local_rank=0, device=torch.device("cuda" if use_gpu else "cpu"))
            return
        final["device"] = torch.device("cuda", final["local_rank"]) if use_gpu else torch.device("cpu")
        if final["local_rank"] + final["offset"] != 0:
            final.update(state="error", show_progress=False, log_wandb=False)


def begin(config: RunConfig) -> None:
    """What a run needs of its process: the GPUs it may see, autograd's anomaly mode, the group of processes.

    Called where a run begins to read its data; again, it changes nothing.
    """
    if not isinstance(config, ScaleConfig):
        return
    if "gpu_id" in config.external_config_dict:
        os.environ["CUDA_VISIBLE_DEVICES"] = config["gpu_id"]
    torch.autograd.set_detect_anomaly(bool(config["detect_anomaly"]))
    if config.one_of_several:
        group.join(config.final_config_dict, config["device"].type == "cuda")


def checkpoint_config(settings: dict[str, Any], **changed: Any) -> Any:
    """Config of a checkpoint's settings, less those that could run code; ``changed`` ones win. ``sys.argv`` is left.

    Raises:
        UserError: RecBole or our own checks refuse them.
    """
    given = without_unsafe(settings) | changed
    return ScaleConfig(given.pop("model"), given.pop("dataset"), config_dict=given, command_line=False)


def check_item_embedding(config: RunConfig) -> None:
    """LDiffRec's ``item_emb.npy``, which RecBole opens so that a pickle in it runs: numbers only.

    Raises:
        UserError: the file is there and holds something else.
    """
    path = os.path.join(config["data_path"], "item_emb.npy")
    if config["model"] != "LDiffRec" or not os.path.exists(path):
        return
    try:
        plain = isinstance(np.load(path, mmap_mode="r", allow_pickle=False), np.ndarray)
    except (ValueError, OSError, EOFError):
        plain = False
    if not plain:
        raise UserError(f"{path} is no file of numbers as numpy.save writes it; what it holds instead is not opened")


def _name_columns(final: dict[str, Any], sequential: bool) -> None:
    """Read the columns that the run needs by the names they have here, in place of RecBole's fixed two."""
    if not sequential and final["load_col"] != {"inter": ["user_id", "item_id"]}:
        return  # a default of the model's kind, with features
    if sequential and final.get("benchmark_filename"):  # rows of items and a target, without times
        listed = final["ITEM_ID_FIELD"] + final["LIST_SUFFIX"]
        final["load_col"] = {"inter": [final["USER_ID_FIELD"], listed, final["ITEM_ID_FIELD"]]}
        final["alias_of_item_id"] = final["alias_of_item_id"] or [listed]
        return
    timed = sequential or final["eval_args"].get("order") == "TO" or "TS" in (final["eval_args"].get("split") or {})
    keys = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")[: 2 + timed]
    names = (*(final[key] for key in keys), *(final["val_interval"] or {}), *(final["threshold"] or {}))
    final["load_col"] = {"inter": list(dict.fromkeys(name for name in names if name is not None))}


@cache
def _defaults_in(file: str) -> dict[str, Any] | None:
    """RecBole's own YAML, read once: a sweep makes many Configs."""
    found: dict[str, Any] | None = load_yaml(Path(file).read_text("utf-8"))
    return found


def _mend_defaults(found: dict[str, Any], model: str) -> None:
    """Two slips in RecBole's files of defaults: trees' lie under another name, two sequential models have no split."""
    files = os.path.join(os.path.dirname(recbole.__file__), "properties")
    lower = os.path.join(files, "model", f"{model.lower()}.yaml")
    if found["MODEL_TYPE"] == ModelType.DECISIONTREE and os.path.isfile(lower):
        for key, value in load_settings_file(lower).items():
            found.setdefault(key, value)
    if found["MODEL_TYPE"] == ModelType.SEQUENTIAL and found["eval_args"]["order"] != "TO":
        found.update(load_settings_file(os.path.join(files, "quick_start_config", "sequential.yaml")))


def _has_own_properties(dataset: str) -> bool:
    path = Path(recbole.__file__).parent / "properties" / "dataset" / f"{dataset}.yaml"
    return dataset not in NO_DATA_SETS and path.is_file()


def _gpu_is_there() -> bool:
    """Asked of the driver's management library, so that ``CUDA_VISIBLE_DEVICES`` can still be set afterwards."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return torch.cuda.is_available()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
