"""One line per epoch; the same numbers go to the log, TensorBoard, wandb and the run's row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from logging import Logger
from typing import Any, Protocol

import torch

from recbole_scale.bars import log_line
from recbole_scale.text import metric_name
from recbole_scale.training.best import Best, Bests
from recbole_scale.training.guard import Guard
from recbole_scale.training.optimization import Optimization
from recbole_scale.training.progress import Progress


class Reporting(Protocol):
    """What a line tells of a trainer; ``evaluator``, ``tensorboard`` and ``wandblogger`` are RecBole's."""

    logger: Logger
    progress: Progress
    guard: Guard
    bests: Bests
    optimization: Optimization
    optimizer: torch.optim.Optimizer
    speed: float
    epoch_seconds: float
    eval_seconds: float
    evaluator: Any
    tensorboard: Any
    wandblogger: Any


def report_epoch(
    trainer: Reporting, epoch: int, loss: float, result: dict[str, float] | None, improved: list[Best], verbose: bool
) -> None:
    """Report an epoch: its mean training loss (nats per target) and, if it was evaluated, its valid metrics.

    ``improved``: the bests that it is; the metrics of these are marked with a star.
    """
    phase, guard, best = trainer.optimization.phases[-1]["phase"], trainer.guard, trainer.bests.chosen
    measured = {"epoch": epoch, "phase": phase, "train_nll": loss, "targets_per_second": round(trainer.speed, 1)}
    if result is not None:
        measured |= {f"valid_{k}": v for k, v in result.items()}
        measured |= {f"valid_{k}_filtered": v for k, v in trainer.evaluator.filtered.items()}
    trainer.progress.evaluations.append(measured)
    if verbose:
        gained = {each.metric for each in improved}
        wait = (
            "" if result is None or best.metric in gained else f"no gain: {best.waited}" if best.waited else "no gain"
        )
        state = f"{phase} lr {trainer.optimizer.param_groups[0]['lr']:.1e}"
        seconds = [trainer.epoch_seconds, *([trainer.eval_seconds] if result is not None else [])]
        shown = shown_metrics(result or {}, best.metric, gained)
        log_line(trainer.logger, epoch_line(epoch, f"NLL {loss:.4f}", shown, [wait, state], seconds, trainer.speed))
        if trainer.progress.stopped and (trainer.optimization.second_phase or not trainer.optimization.switch.on):
            trainer.logger.info(f"stopped early: no better {best.metric} since epoch {best.epoch}")
    trainer.tensorboard.add_scalar("Loss/Train", loss, epoch)
    trainer.tensorboard.add_scalar("Phase", len(trainer.optimization.phases), epoch)
    trainer.tensorboard.add_scalar("Guard/SkippedSteps", guard.skipped_steps, epoch)
    trainer.tensorboard.add_scalar("Guard/Spikes", guard.spikes, epoch)
    for key, value in (result or {}).items():
        trainer.tensorboard.add_scalar(f"Valid/{key}", value, epoch)
    trainer.wandblogger.log_metrics({"epoch": epoch, "train_loss": loss, "train_step": epoch}, head="train")
    if result is not None:
        trainer.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")


def shown_metrics(result: Mapping[str, float], chosen: str, gained: Collection[str]) -> list[str]:
    """The valid metrics of an epoch's line: NDCG@10, NLL and the ``chosen`` one; a star marks what has ``gained``."""
    shown = [key for key in result if key in ("nll", "ndcg@10", chosen)]
    return [f"{metric_name(key)} {result[key]:.4f}{'*' * (key in gained)}" for key in shown]


def epoch_line(
    epoch: int, loss: str, valid: Sequence[str], remarks: Sequence[str], seconds: Sequence[float], speed: float
) -> list[str]:
    """An epoch's line: whole, as log files have it, and shorter ones for narrow terminals.

    Args:
        epoch: counted from 0.
        loss: name and value of the training loss, or nothing.
        valid: metrics with their values.
        remarks: what else there is to say, the more important first; empty ones say nothing.
        seconds: of training and, if there was one, of the evaluation.
        speed: targets per second.
    """
    head, said = f"epoch {epoch:>3}", [remark for remark in remarks if remark]
    trained = [f"train {loss}"] if loss else []
    measured = [*trained, *(f"valid {part}" for part in valid)]
    took = " + ".join(f"{each:.1f}s" for each in seconds)
    total, brief = sum(seconds), f"epoch {epoch}"
    ended = f"{total:.1f}s" if total < 10 else f"{total:.0f}s"
    return [
        "  ".join([head, *measured, *said, took, f"{speed / 1e3:.1f}K targets/s"]),
        "  ".join([head, *measured, *said[:1], took]),
        "  ".join([head, *measured, took]),
        "  ".join([brief, *(f"train {loss.split()[-1]}" for _ in trained), *valid, ended]),
        "  ".join([brief, *(valid or trained), ended]),
    ]
