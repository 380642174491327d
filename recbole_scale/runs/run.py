"""One run from settings to its row: what the command line, sweeps, searches and comparisons all call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from logging import getLogger
from time import perf_counter
from typing import Any

from recbole.utils import get_environment, get_trainer

from recbole_scale.interfaces import RunConfig, Trainer
from recbole_scale.plugin.config import ScaleConfig
from recbole_scale.plugin.packages import missing_package_told
from recbole_scale.runs import plan, records, timing
from recbole_scale.runs.log import to_file_only
from recbole_scale.runs.measuring import best_valid_filtered, measured_bests, measured_fit, measured_test
from recbole_scale.runs.prepared import LoadedData, Prepared, build_model, draw_as_recbole_does, prepare
from recbole_scale.runs.records import RunRow
from recbole_scale.runs.resume import go_on
from recbole_scale.runs.row import run_row
from recbole_scale.runs.row_file import check_appendable
from recbole_scale.settings import check_keys, find_settings_file, load_settings_file, run_id
from recbole_scale.signals import Interrupted
from recbole_scale.training import group
from recbole_scale.training.checkpoint import held_run


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

    def keep(row: RunRow, trained: bool) -> None:
        if path and group.rank() == 0 and not records.append_row(path, row, trained):
            getLogger().info(f"{path} has this run's row already")

    with missing_package_told(f"this run of {config['model']}"):
        return train_and_test(config, saved=saved, resume=resume, keep=keep)[0]


def train_and_test(
    config: RunConfig,
    saved: bool = True,
    resume: str | None = None,
    loaded: LoadedData | None = None,
    callback_fn: Callable[[int, float], None] | None = None,
    keep: Callable[[RunRow, bool], None] = lambda row, trained: None,
) -> tuple[dict[str, Any], RunRow]:
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
def _alone(trainer: Trainer, saved: bool) -> Iterator[None]:
    """Keep other processes off a run's checkpoints; an interrupted run of RecBole's trainers says how to go on."""
    own = hasattr(trainer, "last_file")
    best = trainer.saved_model_file
    with held_run(best.removesuffix(".pth").removesuffix(".best")) if saved and group.rank() == 0 else nullcontext():
        try:
            yield
        except Interrupted as stop:
            if saved and not own and os.path.isfile(best):
                stop.advice = f"the best model so far is in {best}; --resume {best} goes on from it"
            with suppress(OSError):  # a full disk must not hide the signal
                trainer.tensorboard.flush()
            raise


def _carried_out(
    prepared: Prepared,
    network: object,
    trainer: Trainer,
    begun: tuple[datetime, float],
    saved: bool,
    resume: str | None,
    callback_fn: Callable[[int, float], None] | None,
    keep: Callable[[RunRow, bool], None],
) -> tuple[dict[str, Any], RunRow]:
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
        "seconds_total": round(getattr(trainer, "seconds_before", 0.0) + perf_counter() - clock, 2),
    }
    to_file_only(logger, "The running environment of this training is as follows:\n" + get_environment(config).draw())
    drawn = plan.ranked_users(prepared)
    ranked = f"\n\nranked: {drawn}" if drawn else ""
    logger.info(plan.results_table(row) + ranked + plan.other_best(config["valid_metric"], both))
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
