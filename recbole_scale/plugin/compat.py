"""The one place that makes RecBole 1.2.1 run on today's numpy, torch and Ray. Each shim says which version needs it.

``apply()`` must run before anything of RecBole is imported, in every process; importing ``recbole_scale`` does it.
"""

from __future__ import annotations

import logging
import os
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import torch

MINIMUM_RAY = (2, 50)
MEND_RAY = 'pip install -U "ray[tune]>=2.50"'


def apply() -> None:
    """Install every shim once; calling it again changes nothing."""
    _numpy_names()
    _scipy_names()
    _lengths_of_lists()
    # torch tells RecBole's code of names that are to go
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    # RecBole's tensors share the memory of its columns, as they always have; pandas 3 calls it read-only
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable", module=r"recbole\.")
    _import_quick_start_without_ray()
    _leave_terminals_alone()
    _plain_checkpoints()
    _no_sets_for_samplers_that_repeat()
    logging.getLogger().addFilter(_whole_message)


def _whole_message(record: logging.LogRecord) -> bool:
    """RaCT logs a path without a place for it in the text, and logging prints a traceback for that."""
    if record.args and isinstance(record.msg, str) and "%" not in record.msg:
        words = record.args.values() if isinstance(record.args, Mapping) else record.args
        record.msg, record.args = " ".join([record.msg, *map(str, words)]), ()
    return True


def _numpy_names() -> None:
    """numpy >= 2.0: ``Config.compatibility_settings`` reads names that numpy 2 removed."""
    for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if not hasattr(np, name):
            setattr(np, name, value)


def _scipy_names() -> None:
    """scipy >= 1.13: ``dok_matrix`` is no dict any more; seven of RecBole's graph models fill theirs by ``_update``."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


def _leave_terminals_alone() -> None:
    """Any colorama: RecBole has it wrap stdout and stderr anew at every run, one wrapper around the other.

    A bar made before no longer knows its stream and is glued to the next line, and after some hundred runs the
    wrappers exhaust the stack. A terminal needs none; a file gets one, which takes the colours out. RecBole's bars
    become ours: as wide as the terminal, none in a file.
    """
    import colorama
    from recbole.trainer import trainer
    from recbole.utils import logger

    from recbole_scale.bars import bar

    def init(**options: Any) -> None:
        if not sys.stderr.isatty() and not isinstance(sys.stderr, colorama.ansitowin32.StreamWrapper):
            colorama.init(**options)

    logger.init = init
    trainer.tqdm = bar


class _LazyTune(types.ModuleType):
    """Stands where RecBole's quick start holds ``ray.tune``; imports Ray only when something is asked of it."""

    @staticmethod
    def report(**metrics: Any) -> None:
        """Ray >= 2.50 takes one dict where RecBole passes keywords; outside a trial of Ray's nobody listens."""
        if (
            sys.modules.get("ray")
            and sys.modules.get("ray.tune")
            and load_ray_tune().get_context().get_trial_id() is not None
        ):
            load_ray_tune().report(metrics)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspection must not import Ray
            raise AttributeError(name)
        return getattr(load_ray_tune(), name)


def load_ray_tune() -> Any:
    """Import ``ray.tune`` or raise :class:`~recbole_scale.errors.UserError` with the command that mends it."""
    from recbole_scale.errors import UserError

    try:
        found = version("ray")  # asked before the import, which an old Ray does not survive on today's stack
    except PackageNotFoundError as failure:
        raise UserError(f"Ray is not installed; {MEND_RAY} installs it") from failure
    if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_RAY:
        raise UserError(f"Ray {found} is installed, which does not run on today's stack; {MEND_RAY} replaces it")
    try:
        from ray import tune
    except ImportError as failure:  # Ray without what its Tune needs, or half removed
        raise UserError(f"Ray {found} is installed, but ray.tune cannot be imported; {MEND_RAY} mends it") from failure
    return tune


def _lengths_of_lists() -> None:
    """pandas >= 3: ``Series.agg(len)`` is one number; RecBole's five calls of it mean the length of each list."""
    series: Any = pd.Series
    agg = series.agg

    def told_apart(self: Any, func: Any = None, *arguments: Any, **named: Any) -> Any:
        of_recbole = func is len and sys._getframe(1).f_globals.get("__name__", "").startswith("recbole.")
        return self.map(len) if of_recbole else agg(self, func, *arguments, **named)

    if int(pd.__version__.partition(".")[0]) >= 3 and agg.__name__ != told_apart.__name__:
        series.agg = told_apart


def _import_quick_start_without_ray() -> None:
    """Any Ray: ``recbole.quick_start`` imports ``ray.tune`` at module level for one call of ``tune.report``."""
    if "recbole.quick_start.quick_start" in sys.modules:
        return
    present = [name for name in ("ray", "ray.tune") if name in sys.modules]
    hidden: dict[str, types.ModuleType] = {name: sys.modules.pop(name) for name in present}
    ray, tune = types.ModuleType("ray"), _LazyTune("ray.tune")
    ray.tune = tune  # type: ignore[attr-defined]
    sys.modules["ray"], sys.modules["ray.tune"] = ray, tune
    try:
        import_module("recbole.quick_start")
    finally:
        del sys.modules["ray"], sys.modules["ray.tune"]
        sys.modules.update(hidden)


def _no_sets_for_samplers_that_repeat() -> None:
    """RecBole 1.2.1 makes an empty set for each user of its ``RepeatableSampler``; one for all of them is enough.

    General models that may repeat items ask for it, a user at a time.
    """
    from recbole.sampler import RepeatableSampler

    RepeatableSampler.get_used_ids = lambda self: defaultdict(frozenset)


def _plain_checkpoints() -> None:
    """torch >= 2.6: RecBole pickles its Config into each checkpoint, and ``torch.load`` refuses to unpickle it.

    RecBole's own trainers write tensors and plain data instead, which the safe ``torch.load`` takes as it is.
    """
    from recbole.quick_start import quick_start
    from recbole.trainer.trainer import PretrainTrainer, Trainer

    from recbole_scale.plugin import going_on
    from recbole_scale.plugin.quick_start import run
    from recbole_scale.plugin.trees import mend_tree_trainers
    from recbole_scale.plugin.tuning import mend_hyper_tuning

    original = Trainer._save_checkpoint
    if getattr(original, "writes_plain_data", False):
        return

    def save(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """As RecBole's, with the user's settings in the place of the pickled Config."""
        from recbole_scale.training import group
        from recbole_scale.training.checkpoint import plain_config, save_checkpoint

        if group.rank() != 0:
            return
        if epoch < 0 and hasattr(self, "measured_before"):  # resumed at its end: the file is this very model's
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        state = {
            "config": plain_config(self.config),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": encode(self.model.other_parameter()),
            "optimizer": self.optimizer.state_dict(),
            **going_on.state_of(self),
        }
        save_checkpoint(state, path)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def save_pretrained(self: Any, epoch: int, saved_model_file: str) -> None:
        """S3Rec's and RaCT's file after pre-training, which their next stage loads."""
        self._save_checkpoint(epoch, verbose=False, saved_model_file=saved_model_file)
        self.saved_model_file = saved_model_file

    def pretrain(self: Any, train_data: Any, *arguments: Any, **named: Any) -> Any:
        """As RecBole's, ready for any metric; the last epoch is saved even where ``save_step`` does not end there."""
        self.eval_collector.data_collect(train_data)
        result = pretrain_only(self, train_data, *arguments, **named)
        if self.pretrain_epochs % self.save_step:
            name = f"{self.config['model']}-{self.config['dataset']}-{self.pretrain_epochs}.pth"
            self.save_pretrained_model(self.pretrain_epochs - 1, os.path.join(self.checkpoint_dir, name))
        return result

    save.writes_plain_data = True  # type: ignore[attr-defined]
    Trainer._save_checkpoint = save
    pretrain_only = PretrainTrainer.pretrain
    PretrainTrainer.save_pretrained_model, PretrainTrainer.pretrain = save_pretrained, pretrain
    going_on.install(Trainer)
    mend_tree_trainers()
    mend_hyper_tuning()
    _decode_other_parameter()
    for module in (quick_start, sys.modules["recbole.quick_start"]):
        vars(module).update(load_data_and_model=load_data_and_model, run=run)


def _decode_other_parameter() -> None:
    """The other half of :func:`encode`, where RecBole's models take their extra state back."""
    from recbole.model.abstract_recommender import AbstractRecommender

    original: Callable[[Any, Any], None] = AbstractRecommender.load_other_parameter

    def load(self: Any, state: Any) -> None:
        original(self, decode(state))

    AbstractRecommender.load_other_parameter = load


def encode(value: Any) -> Any:
    """Turn a model's extra state (numpy, scipy sparse, nested containers) into tensors and plain data.

    A ``torch.nn.Module`` is left out: it is in the model's ``state_dict`` already.
    """
    from scipy import sparse

    if isinstance(value, np.ndarray):
        # the order of memory is kept: sums over it round the same after loading
        whole = value if value.flags.f_contiguous else np.ascontiguousarray(value)
        return {"__numpy__": torch.from_numpy(whole)}
    if isinstance(value, np.generic):
        return value.item()
    if sparse.issparse(value):
        coo = value.tocoo()
        parts = [torch.from_numpy(np.asarray(a)) for a in (coo.data, coo.row.astype("i8"), coo.col.astype("i8"))]
        return {"__sparse__": parts, "shape": list(coo.shape), "format": value.format}
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items() if not isinstance(v, torch.nn.Module)}
    if isinstance(value, list | tuple):
        return type(value)(encode(v) for v in value)
    return value


def decode(value: Any) -> Any:
    """Undo :func:`encode`."""
    from scipy import sparse

    if isinstance(value, dict):
        if "__numpy__" in value:
            return value["__numpy__"].numpy()
        if "__sparse__" in value:
            data, row, col = (part.numpy() for part in value["__sparse__"])
            return sparse.coo_matrix((data, (row, col)), shape=tuple(value["shape"])).asformat(value["format"])
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(decode(v) for v in value)
    return value


def load_data_and_model(model_file: str) -> tuple[Any, Any, Any, Any, Any, Any]:
    """RecBole's ``load_data_and_model`` for checkpoints of tensors and plain data.

    Args:
        model_file: a checkpoint written by any trainer after ``import recbole_scale``.

    Returns:
        ``(config, model, dataset, train_data, valid_data, test_data)``.

    Raises:
        UserError: the file is missing, damaged, or holds pickled objects.
    """
    from logging import getLogger

    from recbole.data import create_dataset, data_preparation
    from recbole.utils import ModelType, get_model, init_logger, init_seed

    from recbole_scale.plugin.checkpoints import open_checkpoint
    from recbole_scale.plugin.trees import booster_from

    checkpoint, config = open_checkpoint(model_file)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        model = booster_from(config["model"], checkpoint["state_dict"])
    else:
        model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
        model.load_state_dict(checkpoint["state_dict"])
        model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data
