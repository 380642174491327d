"""One run from settings to its row: what the command line, sweeps, searches and comparisons all call."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timezone
from logging import getLogger
from time import perf_counter
from typing import Any

import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import EvaluatorType, get_environment, get_trainer, init_logger, init_seed
from recbole.utils.argument_list import dataset_arguments

from recbole_scale.bars import LinesAboveBars
from recbole_scale.data.cache import files_digest
from recbole_scale.data.histories import Histories, data_fingerprint
from recbole_scale.errors import UserError
from recbole_scale.files import check_writable
from recbole_scale.plugin.config import WINDOW_MODELS, ScaleConfig, begin, recboles_refusal
from recbole_scale.plugin.packages import missing_package_told
from recbole_scale.plugin.register import find_model
from recbole_scale.runs import plan, records, timing
from recbole_scale.runs.measuring import best_valid_filtered, measured_bests, measured_fit, measured_test
from recbole_scale.runs.resume import go_on
from recbole_scale.runs.row import run_row
from recbole_scale.runs.row_file import check_appendable
from recbole_scale.settings import check_keys, find_settings_file, load_settings_file, run_id
from recbole_scale.signals import Interrupted
from recbole_scale.training import group
from recbole_scale.training.checkpoint import held_run


@dataclass
class Prepared:
    """A run that is ready to train: RecBole's config, data loaders, and the histories that name the data."""

    config: Any
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    fingerprint: str | None
    digest: str | None


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    resume: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train and test a model, as RecBole's ``run_recbole``; any RecBole model or ScaledSASRec.

    Args:
        model: name of the model.
        dataset: name of the data set.
        config_file_list: config files; packaged ones are found by name (``properties/small.yaml``).
        config_dict: settings, which win over the files'.
        saved: whether checkpoints are written.
        resume: path of a ``.last.pth`` checkpoint, or ``auto`` for this run's own if there is one.
        dry_run: print the plan and stop.

    Returns:
        RecBole's dict (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``) plus
        ``best_valid_result_filtered`` and ``test_result_filtered`` (ranked lists without what a user had seen),
        ``nll`` (test NLL in nats of the model that is best by valid NLL, None when it is not among the metrics),
        ``checkpoint``, ``results_file``, ``run_id`` and ``resumed_from`` (the id of a resumed run that had
        other settings, else None). ``test_result`` is of the model that ``valid_metric`` chose.

    Raises:
        UserError: a mistake in settings or data, in one sentence.
    """
    config = make_config(model, dataset, config_file_list, config_dict)
    if dry_run:
        prepared = prepare(config)
        with missing_package_told(f"this run of {config['model']}"):
            network = build_model(prepared)
            described = plan.describe(prepared, network, config["world_size"])
            described += f"\n  {'time':<11}{timing.told(prepared, network)}"
        getLogger().info("\n" + described)
        return {"plan": described, "run_id": run_id(config)}
    path = config["results_file"]
    if path:
        check_appendable(path, records.COLUMNS)

    def keep(row: dict[str, Any], trained: bool) -> None:
        if path and group.rank() == 0 and not records.append_row(path, row, trained):
            getLogger().info(f"{path} has this run's row already")

    with missing_package_told(f"this run of {config['model']}"):
        return train_and_test(config, saved=saved, resume=resume, keep=keep)[0]


def train_and_test(
    config: Any,
    saved: bool = True,
    resume: str | None = None,
    loaded: LoadedData | None = None,
    callback_fn: Callable[[int, float], None] | None = None,
    keep: Callable[[dict[str, Any], bool], None] = lambda row, trained: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and test as ``config`` says; returns :func:`run`'s result and the run's row.

    ``loaded`` keeps the data set for the next run of this process that reads the same; ``callback_fn`` is RecBole's,
    called after each evaluation with the epoch (from 0) and the valid score. ``keep`` writes the row, while no other
    process may train this run; it is told whether the run was trained, or only resumed after its end.

    Raises:
        Held: another process trains this run in the same checkpoint_dir.
    """
    started, clock = datetime.now(timezone.utc), perf_counter()
    prepared = prepare(config, loaded)
    network = build_model(prepared)
    logger = getLogger()
    logger.info("\n" + plan.describe(prepared, network))
    draw_as_recbole_does(prepared)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    if not hasattr(trainer, "last_file"):  # RecBole's trainers name a checkpoint by its date alone
        name = f"{config['model']}-{config['dataset']}-{run_id(config)}.best.pth"
        trainer.saved_model_file = os.path.join(config["checkpoint_dir"], name)
    with _alone(trainer, saved):
        return _carried_out(prepared, network, trainer, (started, clock), saved, resume, callback_fn, keep)


@contextmanager
def _alone(trainer: Any, saved: bool) -> Iterator[None]:
    """Keep other processes off a run's checkpoints; an interrupted run of RecBole's trainers says how to go on."""
    own = hasattr(trainer, "last_file")
    best = trainer.saved_model_file
    with held_run(best.removesuffix(".pth").removesuffix(".best")) if saved and group.rank() == 0 else nullcontext():
        try:
            yield
        except Interrupted as stop:
            if saved and not own and os.path.isfile(best):
                stop.advice = f"the best model so far is in {best}; --resume {best} goes on from it"
            raise


def _carried_out(
    prepared: Prepared,
    network: Any,
    trainer: Any,
    begun: tuple[datetime, float],
    saved: bool,
    resume: str | None,
    callback_fn: Callable[[int, float], None] | None,
    keep: Callable[[dict[str, Any], bool], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """:func:`train_and_test` once data, model and trainer are there."""
    config, logger, (started, clock) = prepared.config, getLogger(), begun
    trainer.data_id = getattr(trainer, "data_id", None) or prepared.fingerprint
    resumed_from = go_on(trainer, config, prepared.fingerprint, resume)
    before = getattr(trainer, "targets_seen", 0)
    best_score, best_result = measured_fit(
        trainer,
        prepared,
        saved=saved,
        show_progress=config["show_progress"],
        **({"callback_fn": callback_fn} if callback_fn else {}),  # RecBole's tree trainers take none
    )
    test_result, seconds = measured_test(
        trainer,
        prepared,
        config["per_user_file"],
        load_best_model=saved and config["epochs"] > 0,  # without an epoch the untrained model is tested
        show_progress=config["show_progress"],
    )
    filtered = trainer.evaluator.filtered
    both = measured_bests(trainer, prepared, test_result, saved, show_progress=config["show_progress"])
    result = {
        "best_valid_score": best_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_result,
        "test_result": test_result,
        "best_valid_result_filtered": best_valid_filtered(trainer),
        "test_result_filtered": filtered,
        "nll": (both.get("test_metrics_nll") or test_result or {}).get("nll"),
        "checkpoint": trainer.saved_model_file if saved else None,
        "results_file": config["results_file"],
        "run_id": run_id(config),
        "resumed_from": resumed_from,
    }
    row = run_row(prepared, network, trainer, result, both) | {
        "started": started.isoformat(timespec="seconds"),
        "seconds_evaluate": round(seconds, 3),
        "seconds_total": round(perf_counter() - clock, 2),
    }
    _to_file_only(logger, "The running environment of this training is as follows:\n" + get_environment(config).draw())
    logger.info(plan.results_table(row) + plan.other_best(config["valid_metric"], both))
    keep(row, getattr(trainer, "targets_seen", None) != before)
    return result, row


def make_config(
    model: str | None,
    dataset: str | None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
) -> Any:
    """RecBole's Config from checked settings; ``sys.argv`` is left to the command line.

    Raises:
        UserError: an unknown key, a missing or malformed file, or a value RecBole refuses.
    """
    paths = [find_settings_file(name) for name in config_file_list or ()]
    for path in paths:
        check_keys(load_settings_file(path), f"in {path}")
    check_keys(config_dict or {}, "among the settings")
    return ScaleConfig(model, dataset, paths, config_dict, command_line=False)


def _check_held_out(config: Any, train_data: Any, valid_data: Any, test_data: Any) -> None:
    """Say before the training that nothing could be tested after it, as with users of two items each."""
    rule, value = next(iter((config["eval_args"]["split"] or {"": None}).items()))
    given_up: tuple[str, ...] = (
        {"valid_only": ("test",), "test_only": ("valid",)}.get(value, ()) if rule == "LS" else ()
    )
    if isinstance(value, list):  # a share of nothing; two times may lie together
        given_up = tuple(name for name, share in zip(("train", "valid", "test"), value, strict=False) if not share)
        given_up += ("valid",) * (len(value) == 2)
    split = config["eval_args"]["split"]
    if getattr(train_data, "sample_size", None) == 0:
        raise UserError(f"no interaction of '{config['dataset']}' is left to train on by eval_args.split {split}")
    for name, data in (("valid", valid_data), ("test", test_data)):
        rows = getattr(data, "sample_size", None)
        if rows == 0 and name not in given_up and not (name == "valid" and int(config["eval_step"] or 0) <= 0):
            raise UserError(
                f"no interaction of '{config['dataset']}' is held out for {name} by eval_args.split {split}: "
                "leave-one-out needs users of three interactions, or of four for both"
            )


class LoadedData:
    """The data set that this process read last, before its split, for the next run that reads the same."""

    def __init__(self) -> None:
        self._key = ""
        self._dataset: Any = None

    def dataset(self, config: Any) -> Any:
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


def prepare(config: Any, loaded: LoadedData | None = None) -> Prepared:
    """Read, filter, remap and split the data set of ``config``; ``loaded`` may have read it before."""
    begin(config)
    init_seed(config["seed"], config["reproducibility"])
    _open_log(config)
    _to_file_only(getLogger(), str(config))
    read = create_dataset if loaded is None else loaded.dataset
    digest = data_digest(config)
    if config["per_user_file"]:
        check_writable("per_user_file", config["per_user_file"])
    check_writable("checkpoint_dir", os.path.join(config["checkpoint_dir"], "checkpoint"))
    dataset = recboles_refusal(lambda: read(config))
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
    dataset.histories = histories if histories is not None else getattr(dataset, "histories", None)
    _check_held_out(config, train_data, valid_data, test_data)
    fingerprint = data_fingerprint(dataset) if dataset.histories is not None else None
    return Prepared(config, dataset, train_data, valid_data, test_data, fingerprint, digest)


def _check_features(config: Any, dataset: Any) -> None:
    """RecBole looks features up by name while it builds the model."""
    for name in config["selected_features"] or ():
        if name not in dataset.field2type:
            known = ", ".join(dataset.field2type)
            raise UserError(f"selected_features: '{name}' is not loaded; load_col must name it (loaded are {known})")


def data_digest(config: Any) -> str | None:
    """Names what the interaction files of a run hold now; None where they are not there (yet)."""
    parts = [f".{part}" for part in config["benchmark_filename"] or ()] or [""]
    return files_digest(os.path.join(config["data_path"], f"{config['dataset']}{part}.inter") for part in parts)


def _open_log(config: Any) -> None:
    """RecBole's log file and terminal output for this run; those of an earlier run in this process are closed.

    RecBole configures the root logger only while it has no handler, so that a second run would have an empty file.
    """
    root = getLogger()
    others = [handler for handler in root.handlers if not getattr(handler, "of_a_run", False)]
    for handler in root.handlers:
        if handler not in others:
            handler.close()
    root.handlers = []
    init_logger(config)
    root.handlers = [_above_bars(handler) for handler in root.handlers]
    for handler in root.handlers:
        handler.of_a_run = True  # type: ignore[attr-defined]
        handler.handleError = _NoMoreLog()  # type: ignore[method-assign]
    root.handlers = others + root.handlers


class _NoMoreLog:
    """What a log handler does when it cannot write, on a full disk say: tell it once, in a line."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, record: logging.LogRecord) -> None:
        fault = sys.exc_info()[1]
        if not self.told:
            print(f"the log cannot be written any more ({fault}); the run goes on", file=sys.stderr)
        self.told = True


def _above_bars(handler: logging.Handler) -> logging.Handler:
    """RecBole's handler, or in the place of the terminal's one that knows of bars and sends no colours to a file."""
    if isinstance(handler, logging.FileHandler):
        return handler
    ours = LinesAboveBars()
    # our plan and the line "checkpoint" say it, and in fewer words
    said = ("data_preparation", "Loading model structure")
    ours.addFilter(lambda record: not (record.funcName == said[0] or record.getMessage().startswith(said[1])))
    ours.setLevel(handler.level)
    ours.setFormatter(handler.formatter)
    return ours


def histories_of(dataset: Any) -> Histories | None:
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
    return recboles_refusal(lambda: build(config, prepared.train_data._dataset).to(config["device"]))


def draw_as_recbole_does(prepared: Prepared) -> None:
    """RecBole counts FLOPs on one row before it trains, and a transform such as BERT4Rec's draws its masks for it.

    With the same draws the masks of training are stock RecBole's.
    """
    config, dataset = prepared.config, prepared.dataset
    if config["transform"] and config["model"] not in WINDOW_MODELS and len(dataset) > 1:
        own = getattr(dataset, "row_of_flops", None)
        construct_transform(config)(dataset, own() if own else dataset[torch.tensor([1])])


def _to_file_only(logger: logging.Logger, text: str) -> None:
    """Write to RecBole's log file what would only fill the terminal."""
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and handler.filter(record):
            handler.emit(record)
