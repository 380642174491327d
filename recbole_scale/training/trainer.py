"""ScaledSASRec's trainer inside RecBole's: same calls, logger, TensorBoard, wandb and early stopping; true resume."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import early_stopping, set_color
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_scale.compat import plain_config
from recbole_scale.data.loaders import HistoryEvalDataLoader
from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError, check_choice
from recbole_scale.scaling.records import data_fingerprint, run_id
from recbole_scale.training import parallel
from recbole_scale.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from recbole_scale.training.optimizers import SCHEDULES, build_optimizer, learning_rate_factor


class ScaledSASRecTrainer(Trainer):
    """Trains on windows, evaluates with RecBole's evaluators, and writes ``last`` and ``best`` checkpoints.

    A run is a function of its settings: stopped at any step and resumed, it ends with the same numbers.
    """

    best_valid_score: float
    best_valid_result: dict[str, float] | None
    cur_step: int

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.loss = parallel.data_parallel(model)
        check_choice("lr_schedule", config["lr_schedule"], SCHEDULES)
        name = f"{config['model']}-{config['dataset']}-{run_id(config)}"
        self.saved_model_file = os.path.join(self.checkpoint_dir, f"{name}.best.pth")
        self.last_file = os.path.join(self.checkpoint_dir, f"{name}.last.pth")
        self.global_step = 0
        self.start_step = 0  # first step of ``start_epoch``, when a run stopped inside an epoch
        self.epoch_loss: Tensor = torch.zeros((), dtype=torch.float64, device=self.device)  # summed nats of this epoch
        self.epoch_targets = 0
        self.seconds_train = 0.0
        self.evaluations: list[dict[str, Any]] = []
        self.stopped = False
        self.targets_seen = 0
        self.best_epoch = -1
        self.data_id = ""

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        config = self.config
        return build_optimizer(self.model, config["learner"], config["learning_rate"], config["weight_decay"])

    # Training ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train until ``epochs`` or early stopping; as RecBole's ``Trainer.fit``.

        Returns:
            best valid score and the metrics of that evaluation.
        """
        self.eval_collector.data_collect(train_data)
        self.total_steps = self.epochs * len(train_data)
        self._check_data(train_data)
        if saved and self.global_step == 0:
            self._save_last(0, 0)
        for epoch in range(self.start_epoch, self.epochs):
            if self.stopped:
                break
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress, saved=saved)
            result = None
            if valid_data and self.eval_step > 0 and (epoch + 1) % self.eval_step == 0:
                result = self._evaluate_epoch(valid_data, epoch, show_progress, saved)
            self._report(epoch, loss, result, verbose)
            self.start_step, self.epoch_targets = 0, 0
            self.epoch_loss.zero_()
            if saved:
                if not valid_data or self.eval_step <= 0:
                    self._save_checkpoint(epoch, verbose=False)
                self._save_last(epoch + 1, 0)
            if callback_fn and result is not None:
                callback_fn(epoch, result[self.valid_metric])
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False, saved: bool = False
    ) -> float:
        """One pass over the windows; returns the mean training loss in nats per target."""
        self.model.train()
        train_data.set_epoch(epoch_idx)
        steps = range(self.start_step, len(train_data))
        bar = tqdm(steps, initial=self.start_step, total=len(train_data), disable=not show_progress, ncols=100,
                   desc=set_color(f"Train {epoch_idx:>5}", "pink"), leave=False)  # fmt: skip
        started, save_step, already = perf_counter(), int(self.config["save_step"] or 0), self.epoch_targets
        for step in bar:
            self._train_step(train_data.batch(step), train_data.count(step))
            last = step + 1 == len(train_data)
            save = saved and save_step and (step + 1) % save_step == 0 and not last
            if self.global_step % 50 == 0 or save or last:  # a look costs a wait for the device
                loss = self._check_finite(epoch_idx, step)
                bar.set_postfix_str(f"nll {loss:.4f}", refresh=False)
            if save:
                self._save_last(epoch_idx, step + 1)
        self.epoch_seconds = perf_counter() - started
        self.seconds_train += self.epoch_seconds
        self.speed = (self.epoch_targets - already) / max(self.epoch_seconds, 1e-9)  # targets per second
        return self._check_finite(epoch_idx, len(train_data) - 1)

    def _train_step(self, batch: Any, n_targets: int) -> None:
        factor = learning_rate_factor(
            self.global_step,
            int(self.config["warmup_steps"] or 0),
            self.total_steps,
            self.config["lr_schedule"],
            self.config["lr_min_ratio"],
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        mine, weight = parallel.share(batch, TARGET_LIST)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.enable_amp)):
            loss = self.loss(mine.to(self.device)) * weight
        loss.backward()
        if self.clip_grad_norm:
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.optimizer.step()
        self.epoch_loss += loss.detach().double() * n_targets / parallel.world_size()
        self.epoch_targets += n_targets
        self.targets_seen += n_targets
        self.global_step += 1

    def _check_finite(self, epoch: int, step: int) -> float:
        loss = parallel.total(self.epoch_loss.clone()).item() / max(self.epoch_targets, 1)
        if not np.isfinite(loss):
            raise UserError(
                f"the training loss is {loss} in epoch {epoch} at or shortly before step {step}; try a lower "
                f"learning_rate (now {self.learning_rate}) first, the last checkpoint is good"
            )
        return loss

    # Evaluation, early stopping, report ----------------------------------------------------------------------------

    def _evaluate_epoch(self, valid_data: Any, epoch: int, show_progress: bool, saved: bool) -> dict[str, float]:
        started = perf_counter()
        measured = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        result = {name: float(value) for name, value in measured.items()}
        self.eval_seconds = perf_counter() - started
        self.best_valid_score, self.cur_step, self.stopped, improved = early_stopping(
            result[self.valid_metric],
            self.best_valid_score,
            self.cur_step,
            max_step=self.stopping_step,
            bigger=self.valid_metric_bigger,
        )
        if improved:
            self.best_valid_result, self.best_epoch = result, epoch
            if saved:
                self._save_checkpoint(epoch, verbose=False)
        return result

    def _report(self, epoch: int, loss: float, result: dict[str, float] | None, verbose: bool) -> None:
        """One line per epoch; the same numbers go to the log, TensorBoard, wandb and the run's row."""
        measured = {"epoch": epoch, "train_nll": loss, "targets_per_second": round(self.speed, 1)}
        self.evaluations.append({**measured, **{f"valid_{k}": v for k, v in (result or {}).items()}})
        line = f"epoch {epoch:>3}  train nll {loss:.4f}"
        if result is not None:
            shown = {k: v for k, v in result.items() if k in ("nll", "ndcg@10", self.valid_metric)}
            line += "".join(f"  valid {k} {v:.4f}" for k, v in shown.items())
            line += "  *" if self.best_epoch == epoch else f"  no gain: {self.cur_step}"
        line += f"  lr {self.optimizer.param_groups[0]['lr']:.1e}  {self.epoch_seconds:.1f}s"
        line += f" + {self.eval_seconds:.1f}s" if result is not None else ""
        line += f"  {self.speed / 1e3:.1f}K targets/s"
        if verbose:
            self.logger.info(line)
            if self.stopped:
                self.logger.info(f"stopped early: no better {self.valid_metric} since epoch {self.best_epoch}")
        self.tensorboard.add_scalar("Loss/Train", loss, epoch)
        for key, value in (result or {}).items():
            self.tensorboard.add_scalar(f"Valid/{key}", value, epoch)
        self.wandblogger.log_metrics({"epoch": epoch, "train_loss": loss, "train_step": epoch}, head="train")
        if result is not None:
            self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        """As RecBole's, with the checkpoint read safely."""
        if load_best_model and eval_data:
            path = model_file or self.saved_model_file
            self.model.load_state_dict(load_checkpoint(path, self.device)["state_dict"])
            self.logger.debug(f"loaded {path}")
        if eval_data and parallel.world_size() > 1:
            if not isinstance(eval_data, HistoryEvalDataLoader):
                raise UserError("sampled evaluation runs in one process; several need eval_args.mode: full")
            eval_data = eval_data.shard(parallel.rank(), parallel.world_size())
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def _check_data(self, train_data: Any) -> None:
        """Refuse to go on with a checkpoint that was trained on other data."""
        data_id = data_fingerprint(train_data._dataset)
        if self.data_id and self.data_id != data_id:
            raise UserError(
                f"the checkpoint {self.last_file} was trained on other data than '{self.config['dataset']}' holds now"
            )
        self.data_id = data_id

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write the model as it is, for evaluation and :func:`load_data_and_model`."""
        if parallel.rank() != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save_checkpoint({**self._model_state(), "epoch": epoch, "best_valid_result": self.best_valid_result}, path)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _model_state(self) -> dict[str, Any]:
        return {
            "config": plain_config(self.config),
            "data": self.data_id,
            "state_dict": self.model.state_dict(),
            "other_parameter": {},
        }

    def _save_last(self, epoch: int, step: int) -> None:
        """Write everything that continuing from the start of ``step`` of ``epoch`` needs."""
        epoch_loss = parallel.total(self.epoch_loss.clone()).item()
        states = parallel.gather(random_state())  # also makes every process wait until the best model is written
        if parallel.rank() != 0:
            return
        progress = {
            "epoch": epoch,
            "step": step,
            "global_step": self.global_step,
            "epoch_loss": epoch_loss,
            "epoch_targets": self.epoch_targets,
            "targets_seen": self.targets_seen,
            "seconds_train": self.seconds_train,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "evaluations": self.evaluations,
        }
        state = {**self._model_state(), "optimizer": self.optimizer.state_dict(), "random": states}
        save_checkpoint({**state, "progress": progress}, self.last_file)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a ``last`` checkpoint: model, optimizer, schedule, data position, random state, best so far.

        Raises:
            UserError: the file is damaged, no ``last`` checkpoint, or of another model.
        """
        state = load_checkpoint(resume_file, self.device)
        if "progress" not in state:
            raise UserError(f"{resume_file} holds a model but no training state; resume from a '.last.pth' file")
        try:
            self.model.load_state_dict(state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as failure:
            raise UserError(
                f"the checkpoint {resume_file} is of another model than these settings describe"
            ) from failure
        progress = state["progress"]
        self.start_epoch, self.start_step = progress["epoch"], progress["step"]
        self.global_step, self.seconds_train = progress["global_step"], progress["seconds_train"]
        self.epoch_loss.fill_(progress["epoch_loss"] / parallel.world_size())
        self.epoch_targets, self.targets_seen = progress["epoch_targets"], progress["targets_seen"]
        self.cur_step, self.stopped = progress["cur_step"], progress["stopped"]
        self.best_valid_score, self.best_valid_result = progress["best_valid_score"], progress["best_valid_result"]
        self.best_epoch, self.evaluations = progress["best_epoch"], progress["evaluations"]
        self.data_id = state["data"]
        self._adopt_best(resume_file)
        if parallel.rank() < len(state["random"]):  # more processes than before: the others keep their fresh seeds
            set_random_state(state["random"][parallel.rank()])
        self.logger.info(f"resumed {resume_file} at epoch {self.start_epoch}, step {self.start_step}")

    def _adopt_best(self, resume_file: str) -> None:
        """A run resumed under other settings (more epochs, say) has a new name; its best model so far comes along."""
        best = resume_file.removesuffix(".last.pth") + ".best.pth"
        if best != self.saved_model_file and os.path.isfile(best):
            save_checkpoint(load_checkpoint(best), self.saved_model_file)
