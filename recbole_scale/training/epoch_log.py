"""One line per epoch; the same numbers go to the log, TensorBoard, wandb and the run's row."""

from __future__ import annotations

from typing import Any

from recbole_scale.text import metric_name
from recbole_scale.training.best import Best


def report_epoch(
    trainer: Any, epoch: int, loss: float, result: dict[str, float] | None, improved: list[Best], verbose: bool
) -> None:
    """Report an epoch: its mean training loss (nats per target) and, if it was evaluated, its valid metrics.

    ``improved``: the bests that it is; the metrics of these are marked with a star.
    """
    phase, guard, best = trainer.phases[-1]["phase"], trainer.guard, trainer.bests.chosen
    measured = {"epoch": epoch, "phase": phase, "train_nll": loss, "targets_per_second": round(trainer.speed, 1)}
    if result is not None:
        measured |= {f"valid_{k}": v for k, v in result.items()}
        measured |= {f"valid_{k}_filtered": v for k, v in trainer.evaluator.filtered.items()}
    trainer.evaluations.append(measured)
    line = f"epoch {epoch:>3}  train NLL {loss:.4f}"
    if result is not None:
        gained = {each.metric for each in improved}
        shown = {k: v for k, v in result.items() if k in ("nll", "ndcg@10", best.metric)}
        line += "".join(f"  valid {metric_name(k)} {v:.4f}{'*' * (k in gained)}" for k, v in shown.items())
        if best.metric not in gained:
            line += f"  no gain: {best.waited}" if best.waited else "  no gain"
    line += f"  {phase} lr {trainer.optimizer.param_groups[0]['lr']:.1e}  {trainer.epoch_seconds:.1f}s"
    line += f" + {trainer.eval_seconds:.1f}s" if result is not None else ""
    line += f"  {trainer.speed / 1e3:.1f}K targets/s"
    if verbose:
        trainer.logger.info(line)
        if trainer.progress.stopped and (trainer.second_phase or not trainer.optimization.switch.on):
            trainer.logger.info(f"stopped early: no better {best.metric} since epoch {best.epoch}")
    trainer.tensorboard.add_scalar("Loss/Train", loss, epoch)
    trainer.tensorboard.add_scalar("Phase", len(trainer.phases), epoch)
    trainer.tensorboard.add_scalar("Guard/SkippedSteps", guard.skipped_steps, epoch)
    trainer.tensorboard.add_scalar("Guard/Spikes", guard.spikes, epoch)
    for key, value in (result or {}).items():
        trainer.tensorboard.add_scalar(f"Valid/{key}", value, epoch)
    trainer.wandblogger.log_metrics({"epoch": epoch, "train_loss": loss, "train_step": epoch}, head="train")
    if result is not None:
        trainer.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
