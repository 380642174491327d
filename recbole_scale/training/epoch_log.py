"""One line per epoch; the same numbers go to the log, TensorBoard, wandb and the run's row."""

from __future__ import annotations

from typing import Any


def report_epoch(trainer: Any, epoch: int, loss: float, result: dict[str, float] | None, verbose: bool) -> None:
    """Report an epoch: its mean training loss (nats per target) and, if it was evaluated, its valid metrics."""
    phase, guard = trainer.phases[-1]["phase"], trainer.guard
    measured = {"epoch": epoch, "phase": phase, "train_nll": loss, "targets_per_second": round(trainer.speed, 1)}
    trainer.evaluations.append({**measured, **{f"valid_{k}": v for k, v in (result or {}).items()}})
    line = f"epoch {epoch:>3}  train nll {loss:.4f}"
    if result is not None:
        shown = {k: v for k, v in result.items() if k in ("nll", "ndcg@10", trainer.valid_metric)}
        line += "".join(f"  valid {k} {v:.4f}" for k, v in shown.items())
        line += "  *" if trainer.best_epoch == epoch else f"  no gain: {trainer.cur_step}"
    line += f"  {phase} lr {trainer.optimizer.param_groups[0]['lr']:.1e}  {trainer.epoch_seconds:.1f}s"
    line += f" + {trainer.eval_seconds:.1f}s" if result is not None else ""
    line += f"  {trainer.speed / 1e3:.1f}K targets/s"
    if verbose:
        trainer.logger.info(line)
        if trainer.stopped and (trainer.second_phase or not trainer.switch.on):
            trainer.logger.info(f"stopped early: no better {trainer.valid_metric} since epoch {trainer.best_epoch}")
    trainer.tensorboard.add_scalar("Loss/Train", loss, epoch)
    trainer.tensorboard.add_scalar("Phase", len(trainer.phases), epoch)
    trainer.tensorboard.add_scalar("Guard/SkippedSteps", guard.skipped_steps, epoch)
    trainer.tensorboard.add_scalar("Guard/Spikes", guard.spikes, epoch)
    for key, value in (result or {}).items():
        trainer.tensorboard.add_scalar(f"Valid/{key}", value, epoch)
    trainer.wandblogger.log_metrics({"epoch": epoch, "train_loss": loss, "train_step": epoch}, head="train")
    if result is not None:
        trainer.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
