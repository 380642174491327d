"""ScaledSASRec's trainer inside RecBole's: same calls, logger, TensorBoard, wandb and early stopping; true resume."""

from __future__ import annotations

import math
import signal
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import early_stopping, set_color
from torch import Tensor
from tqdm import tqdm

from recbole_scale import signals
from recbole_scale.data.loaders import HistoryEvalDataLoader
from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError, check_choice
from recbole_scale.training import group, parallel
from recbole_scale.training.accumulation import accumulate, check_steps, micro_batches
from recbole_scale.training.budget import TimeBudget, check_seconds
from recbole_scale.training.checkpoint import run_stem
from recbole_scale.training.epoch_log import report_epoch
from recbole_scale.training.guard import Guard
from recbole_scale.training.optimizers import (
    SCHEDULES,
    build_optimizer,
    clipped_norm,
    guarded_step,
    learning_rate_factor,
)
from recbole_scale.training.state import Resumable
from recbole_scale.training.switching import Switch, phase

LOOK_EVERY_ON_GPU = 20  # steps between two looks at the losses, each of which waits for the device


class ScaledSASRecTrainer(Resumable, Trainer):
    """Trains on windows, evaluates with RecBole's evaluators, and writes ``last`` and ``best`` checkpoints.

    A run is a function of its settings: stopped at any step and resumed, it ends with the same numbers.
    """

    def __init__(self, config: Any, model: Any) -> None:
        self.phases = [phase(str(config["learner"]).lower(), config["learning_rate"], 0, "start")]
        self.switch, self.guard = Switch.from_config(config), Guard(config["spike_factor"])
        self.accumulation_steps = check_steps(config["accumulation_steps"])
        self.budget = TimeBudget(check_seconds(config["train_budget_seconds"], group.world_size()))
        # before the optimizer, which must see the parameters as training changes them: parts of them under fsdp
        self.loss = parallel.data_parallel(model, config["parallel"], bf16=model.precision == "bf16")
        super().__init__(config, model)
        for key in ("lr_schedule", "sgd_lr_schedule"):
            check_choice(key, config[key], SCHEDULES)
        stem = run_stem(config)
        self.saved_model_file = f"{stem}.best.pth"
        self.last_file = f"{stem}.last.{'dcp' if parallel.is_sharded(self.loss) else 'pth'}"
        self.resumed_file = ""
        self.global_step = self.phase_step = 0  # steps so far; first step of the present phase
        self.start_step = 0  # first step of ``start_epoch``, when a run stopped inside an epoch
        self.epoch_loss, self.epoch_targets = 0.0, 0  # summed nats and targets of this epoch
        self.unseen: list[tuple[Tensor, int]] = []  # (loss, gradient norm) and targets of steps not looked at yet
        self.look_every = 1 if self.device.type == "cpu" else LOOK_EVERY_ON_GPU
        self.seconds_train = 0.0
        self.evaluations: list[dict[str, Any]] = []
        self.stopped = False
        self.targets_seen = 0
        self.best_epoch = -1
        self.best_weights: dict[str, Tensor] | None = None  # kept here when no checkpoint is written
        self.data_id = ""
        self.stop_asked = 0  # the signal that asks this run to end, once all its processes know

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """Optimizer of the present phase."""
        config = self.config
        if self.second_phase:
            build = partial(build_optimizer, momentum=config["sgd_momentum"])
            return build(self.model, "sgd", config["sgd_learning_rate"], config["sgd_weight_decay"] or 0.0)
        return build_optimizer(self.model, config["learner"], config["learning_rate"], config["weight_decay"])

    @property
    def second_phase(self) -> bool:
        """Whether the optimizer has been switched to SGD."""
        return len(self.phases) > 1

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
        """Train until ``epochs`` or early stopping, and on with SGD if so set; as RecBole's ``Trainer.fit``.

        Returns:
            best valid score and the metrics of that evaluation.
        """
        self.eval_collector.data_collect(train_data)
        self.steps_per_epoch = len(train_data)
        self._check_data(train_data)
        if saved and self.resumed_file != self.last_file:
            self._save_last(self.start_epoch, self.start_step)
        self.budget.start(self.seconds_train)
        with signals.watched(), self._saving_when_interrupted(saved):
            for epoch in count(self.start_epoch):
                with signals.held():
                    if not self.budget.spent:
                        self._switch_if_due(epoch, saved)
                if self.stopped or self.budget.spent or epoch >= self._end():
                    break
                loss = self._train_epoch(train_data, epoch, show_progress=show_progress, saved=saved)
                due = (epoch + 1) % self.eval_step == 0 or self.budget.spent if self.eval_step > 0 else False
                measured = self._measure_epoch(valid_data, epoch, show_progress) if valid_data and due else None
                with signals.held():
                    self._end_epoch(epoch, loss, measured, verbose, saved, bool(valid_data))
                if callback_fn and measured is not None:
                    callback_fn(epoch, measured[self.valid_metric])
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _end_epoch(
        self, epoch: int, loss: float, result: dict[str, float] | None, verbose: bool, saved: bool, evaluates: bool
    ) -> None:
        """Take in an epoch's evaluation, report it, and save."""
        self.unsaved = None
        if result is not None:
            self._judge(result, epoch, saved)
        report_epoch(self, epoch, loss, result, verbose)
        self.start_step, self.epoch_targets, self.epoch_loss = 0, 0, 0.0
        if saved:
            if not evaluates or self.eval_step <= 0:
                self._save_checkpoint(epoch, verbose=False)
            self._save_last(epoch + 1, 0)

    def _end(self) -> int:
        """First epoch that the present phase does not reach."""
        return self.phases[1]["first_epoch"] + self.switch.sgd_epochs if self.second_phase else self.epochs

    def _switch_if_due(self, epoch: int, saved: bool) -> None:
        """End the first phase if its time has come: go back to the best model and on with SGD.

        The first phase's checkpoints are kept as ``.phase1.best.pth`` and ``.phase1.last.pth``.
        """
        if self.second_phase:
            return
        reason = self.switch.reason(epoch, self.stopped, self.cur_step, self.best_epoch, self.valid_metric)
        if reason is None:
            return
        if self.best_epoch >= 0:
            self._load_weights(self.best_weights or self._load(self.saved_model_file)["state_dict"])
        if saved:
            self._keep_first_phase()
        self.phases = [*self.phases, phase("sgd", self.config["sgd_learning_rate"], epoch, reason)]
        self.optimizer = self._build_optimizer()
        self.cur_step, self.stopped, self.phase_step = 0, False, self.global_step
        self.guard.rate_factor = 1.0
        if saved:
            self._save_last(epoch, 0)
        best = f"the best model, of epoch {self.best_epoch}" if self.best_epoch >= 0 else "the model as it is"
        self.logger.info(f"epoch {epoch:>3}  switched from {self.learner} to sgd, on from {best}: {reason}")
        self.tensorboard.add_text("Phase", f"sgd: {reason}", epoch)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False, saved: bool = False
    ) -> float:
        """One pass over the windows; returns the mean training loss in nats per target."""
        self.model.train()
        train_data.set_epoch(epoch_idx)
        bar = tqdm(initial=self.start_step, total=len(train_data), disable=not show_progress, ncols=100,
                   desc=set_color(f"Train {epoch_idx:>5}", "pink"), leave=False)  # fmt: skip
        started, save_step, already = perf_counter(), int(self.config["save_step"] or 0), self.epoch_targets
        step, last = self.start_step, len(train_data)
        self.budget.start(self.seconds_train)
        with signals.held():
            while step < last and not self.budget.spent:
                self._train_step(train_data.batch(step), train_data.count(step))
                step += 1
                bar.update()
                ends = self.budget.look() or step == last
                save = saved and save_step and step % save_step == 0 and not ends
                if save or ends or len(self.unseen) >= self.look_every:
                    trouble = self._look(epoch_idx, step, last, ending=bool(save) or ends)
                    if trouble:
                        step = self._roll_back(f"{trouble} at batch {step - 1} of epoch {epoch_idx}", saved)
                        bar.n = step
                    elif (save or (self.stop_asked and saved)) and self.guard.in_a_row == 0:  # before any trouble
                        self._save_last(epoch_idx, step)
                    if self.stop_asked:
                        bar.close()
                        raise signals.Interrupted(self.stop_asked)
                if step % 50 == 0:
                    bar.set_postfix_str(f"nll {self._mean_loss():.4f}", refresh=False)
            bar.close()
            self._note_unsaved(epoch_idx, step)
        self.optimizer.zero_grad(set_to_none=True)  # evaluation gets the gradients' memory
        self.epoch_seconds = perf_counter() - started
        self.seconds_train += self.epoch_seconds
        self.speed = max(0, self.epoch_targets - already) / max(self.epoch_seconds, 1e-9)  # targets per second
        return self._mean_loss()

    def _mean_loss(self) -> float:
        return self.epoch_loss / self.epoch_targets if self.epoch_targets else float("nan")

    def _train_step(self, batch: Any, n_targets: int) -> None:
        rate = self._learning_rate()
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        parts = micro_batches(batch, TARGET_LIST, self.accumulation_steps)
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=bool(self.enable_amp))
        loss = accumulate(self.loss, parts, autocast, self.device)
        norm = clipped_norm(self.model.parameters(), self.clip_grad_norm)
        # one sum over processes, so that all of them see, and decide, the same
        asked = loss.new_full((), float(signals.asked() or 0), dtype=torch.float64)
        measured = group.total(torch.stack([loss.double(), norm.double(), asked])) / group.world_size()  # [3]
        guarded_step(self.optimizer, measured.isfinite().all(), wait=self.device.type == "cpu")
        self.unseen.append((measured, n_targets))
        self.targets_seen += n_targets
        self.global_step += 1

    def _learning_rate(self) -> float:
        """Rate of this step: the phase's peak rate, its schedule, and the halvings after bad losses."""
        config, step = self.config, self.global_step - self.phase_step
        if self.second_phase:
            peak = float(config["sgd_learning_rate"])
            total, warmup, schedule = self.switch.sgd_epochs * self.steps_per_epoch, 0, config["sgd_lr_schedule"]
        else:
            peak = float(config["learning_rate"])
            total, warmup, schedule = self.epochs * self.steps_per_epoch, config["warmup_steps"], config["lr_schedule"]
            total = self.budget.total_steps(step, total)
        factor = learning_rate_factor(step, int(warmup or 0), total, schedule, config["lr_min_ratio"])
        return peak * factor * self.guard.rate_factor

    def _look(self, epoch: int, step: int, n_steps: int, ending: bool) -> str | None:
        """Take in the losses of the steps since the last look, up to ``step``; returns why the run must go back, if so.

        ``ending``: a checkpoint or an evaluation comes next, so the weights are looked at too.
        """
        first = step - len(self.unseen)
        values = torch.stack([measured for measured, _ in self.unseen]).tolist()  # waits for the device
        counts = [n_targets for _, n_targets in self.unseen]
        self.unseen = []
        for number, ((loss, norm, asked), n_targets) in enumerate(zip(values, counts, strict=True), first):
            if asked:
                self.stop_asked = signals.asked() or signal.SIGTERM  # this process's signal, or another one's
            remark = self.guard.see(loss, norm)
            if remark and group.rank() == 0:
                at = self.global_step - step + number
                self.logger.warning(f"epoch {epoch}, batch {number} of {n_steps} (step {at}): {remark}")
            if self.guard.must_go_back():
                return f"the training loss was not finite {self.guard.in_a_row} steps in a row"
            if self.guard.in_a_row == 0:
                self.epoch_loss += loss * n_targets
                self.epoch_targets += n_targets
        if (ending or self.stop_asked) and not math.isfinite(
            clipped_norm(self.model.parameters(), None, of_gradients=False).item()
        ):
            return "the weights were not finite"
        return None

    # Evaluation and early stopping ---------------------------------------------------------------------------------

    def _measure_epoch(self, valid_data: Any, epoch: int, show_progress: bool) -> dict[str, float]:
        started = perf_counter()
        measured = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        self.eval_seconds = perf_counter() - started
        return {name: float(value) for name, value in measured.items()}

    def _judge(self, result: dict[str, float], epoch: int, saved: bool) -> None:
        """Early stopping, and the best model so far."""
        self.best_valid_score, self.cur_step, self.stopped, improved = early_stopping(
            result[self.valid_metric],
            self.best_valid_score,
            self.cur_step,
            max_step=self.stopping_step if self.second_phase else self.switch.first_phase_steps(self.stopping_step),
            bigger=self.valid_metric_bigger,
        )
        if improved:
            self.best_valid_result, self.best_epoch = result, epoch
            if saved:
                self._save_checkpoint(epoch, verbose=False)
            elif self.switch.on and not self.second_phase:
                self.best_weights = {k: v.detach().cpu().clone() for k, v in self._model_state()["state_dict"].items()}
        best = {f"best_valid_{m}": (self.best_valid_result or {}).get(m) for m in (self.valid_metric, "nll")}
        self.phases = [*self.phases[:-1], {**self.phases[-1], "best_epoch": self.best_epoch, **best}]

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        """As RecBole's, with the checkpoint read safely."""
        if load_best_model and eval_data:
            path = model_file or self.saved_model_file
            self._load_weights(self._load(path)["state_dict"])
            self.logger.debug(f"loaded {path}")
        if eval_data and group.world_size() > 1:
            if not isinstance(eval_data, HistoryEvalDataLoader):
                raise UserError("sampled evaluation runs in one process; several need eval_args.mode: full")
            eval_data = eval_data.shard(group.rank(), group.world_size())
        trained = self.model
        with parallel.whole_model(self.loss) as self.model:
            try:
                return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
            finally:
                self.model = trained
