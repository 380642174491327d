"""ScaledSASRec's trainer inside RecBole's: same calls, logger, TensorBoard, wandb and early stopping; true resume."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from recbole.trainer import Trainer
from torch import Tensor

from recbole_scale import signals
from recbole_scale.bars import bar
from recbole_scale.data.loaders import HistoryEvalDataLoader, WindowDataLoader
from recbole_scale.errors import UserError
from recbole_scale.interfaces import Loader, RunConfig
from recbole_scale.text import counted
from recbole_scale.training import group, parallel
from recbole_scale.training.accumulation import Parts, accumulate, built_ahead
from recbole_scale.training.best import Best, Bests
from recbole_scale.training.budget import TimeBudget
from recbole_scale.training.checkpoint import run_stem
from recbole_scale.training.epoch_log import report_epoch
from recbole_scale.training.figures import Figures
from recbole_scale.training.guard import MAX_ROLLBACKS, Guard
from recbole_scale.training.optimization import Optimization
from recbole_scale.training.optimizers import clear_gradients, clipped_norm, guarded_step
from recbole_scale.training.part import Part
from recbole_scale.training.progress import Progress
from recbole_scale.training.run_checkpoints import RunCheckpoints, best_file
from recbole_scale.training.step_losses import StepLosses
from recbole_scale.training.stopping import Stopping
from recbole_scale.training.trunk import Trunk, shared_trunk

if TYPE_CHECKING:
    from recbole_scale.model.scaled_sasrec import ScaledSASRec


class ScaledSASRecTrainer(Figures, Trainer):
    """Trains on windows, evaluates with RecBole's evaluators, and writes ``last`` and ``best`` checkpoints.

    A run is a function of its settings: stopped at any step and resumed, it ends with the same numbers. Its state lies
    in parts: :class:`Progress`, :class:`Guard`, :class:`TimeBudget`, :class:`Bests`, :class:`Optimization`.
    """

    model: ScaledSASRec

    def __init__(self, config: RunConfig, model: ScaledSASRec) -> None:
        self.accumulation_steps = config["accumulation_steps"]
        self.progress, self.guard = Progress(), Guard(config["spike_factor"])
        self.budget = TimeBudget(config["train_budget_seconds"])
        self.bests = Bests(config["valid_metric"], config["valid_metric_bigger"], config["metrics"], config["topk"])
        # before the optimizer, which must see the parameters as training changes them: parts of them under fsdp
        self.loss = parallel.loss_of(model, config)
        self.optimization = Optimization(config, model)
        self.stopping = Stopping(self.bests, self.optimization, self.progress, self.budget)
        super().__init__(config, model)
        parts: dict[str, Part] = {"": self.progress, "guard": self.guard, "budget": self.budget, "bests": self.bests,
                                  "optimization": self.optimization}  # fmt: skip
        stem = run_stem(config)
        self.checkpoints = RunCheckpoints(stem, config, self.loss, self.optimization, parts)
        self.saved_model_file = best_file(stem, self.bests.chosen, chosen=True)
        self.other_model_file = best_file(stem, self.bests.other, chosen=False) if self.bests.other else None
        self.last_file = self.checkpoints.last_file
        self.resumed_file = ""
        self.began, self.seconds_before = perf_counter(), 0.0  # of this process; what those before it took
        self.losses = StepLosses(self.guard, self.progress, self.device)
        self.best_weights: dict[str, Tensor] | None = None  # kept here when no checkpoint is written
        self.trunk: Trunk | None = None

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        return self.optimization.optimizer

    # Training ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: WindowDataLoader,
        valid_data: Loader | None = None,
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
        self.checkpoints.trains_on(train_data._dataset)
        progress = self.progress
        if saved and self.budget.seconds is None and not self.second_phase:
            self.trunk = shared_trunk(self.config, self.optimization.schedule, self.steps_per_epoch, self.last_file)
        if self.trunk and self.global_step == 0 and (found := self.trunk.furthest(self.bests)):
            self.resume_checkpoint(found[0])
            progress.trunk_step, self.seconds_before = found[1], 0.0  # what the trunk took is in the other run's row
        if saved and self.resumed_file != self.last_file:
            self._save_last(progress.epoch, progress.step)
        self.budget.start()
        with signals.watched(), self.checkpoints.saving_when_interrupted(saved):
            while True:
                epoch = progress.epoch
                with signals.held():
                    self._switch_if_due(epoch, saved)
                if progress.stopped or self.budget.spent or epoch >= self.optimization.end:
                    break
                loss = self._train_epoch(train_data, epoch, show_progress=show_progress, saved=saved)
                due = (epoch + 1) % self.eval_step == 0 or self.budget.spent if self.eval_step > 0 else False
                result = self._measure_epoch(valid_data, show_progress) if valid_data and due else None
                with signals.held():
                    self._end_epoch(epoch, loss, result, verbose, saved, bool(valid_data))
                if callback_fn and result is not None:
                    callback_fn(epoch, result[self.bests.chosen.metric])
        best = self.bests.chosen
        score = self.best_valid_score if best.score is None else best.score  # RecBole's worst: nothing was evaluated
        self._add_hparam_to_tensorboard(score)
        return score, best.result

    def _end_epoch(
        self, epoch: int, loss: float, result: dict[str, float] | None, verbose: bool, saved: bool, evaluates: bool
    ) -> None:
        """Take in an epoch's evaluation, report it, and save."""
        self.checkpoints.unsaved = None
        improved = self._judge(result, epoch, saved) if result is not None else []
        report_epoch(self, epoch, loss, result, improved, verbose)
        self.progress.end_epoch()
        if saved:
            if not evaluates or self.eval_step <= 0:
                self._save_checkpoint(epoch, verbose=False)
            self._save_last(epoch + 1, 0)

    def _switch_if_due(self, epoch: int, saved: bool) -> None:
        """End the first phase if its time has come: go back to the best model and on with SGD.

        The first phase's checkpoints are kept as ``.phase1.best.pth`` and ``.phase1.last.pth``.
        """
        if self.second_phase or self.budget.spent:
            return
        best, optimization = self.bests.chosen, self.optimization
        stopped, waited = self.progress.stopped, best.waited
        reason = optimization.switch.reason(epoch, stopped, waited, best.epoch, best.metric, optimization.end)
        if reason is None:
            return
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif best.epoch >= 0:
            self.checkpoints.load_weights(self.saved_model_file)
        if saved:
            self.checkpoints.keep_first_phase(self.bests, partial(self._save_checkpoint, best.epoch, False))
        optimization.switch_over(epoch, self.global_step, reason)
        self.optimizer = optimization.optimizer
        best.waited, self.progress.stopped = 0, False
        self.guard.rate_factor = 1.0
        if saved:
            self._save_last(epoch, 0)
        found = f"the best model, of epoch {best.epoch}" if best.epoch >= 0 else "the model as it is"
        self.logger.info(f"epoch {epoch:>3}  switched from {self.learner} to sgd, on from {found}: {reason}")
        self.tensorboard.add_text("Phase", f"sgd: {reason}", epoch)

    def _train_epoch(
        self,
        train_data: WindowDataLoader,
        epoch_idx: int,
        loss_func: Any = None,
        show_progress: bool = False,
        saved: bool = False,
    ) -> float:
        """One pass over the windows; returns the mean training loss in nats per target."""
        self.model.train()
        train_data.set_epoch(epoch_idx)
        progress, step, last = self.progress, self.progress.step, len(train_data)
        shown = bar(initial=step, total=last, disable=not show_progress, desc=f"train {epoch_idx:>3}")
        started, save_step, already = perf_counter(), self.config["save_step"], progress.epoch_targets
        self.budget.start()
        build = partial(train_data.parts, pieces=self.accumulation_steps, rank=group.rank(), world=group.world_size())
        with signals.held(), built_ahead(build, last, self.device) as parts:
            while step < last and not self.budget.spent:
                self._train_step(parts(step), train_data.count(step))
                step += 1
                shown.update()
                ends = self.budget.look() or step == last
                branches = self.trunk is not None and self.global_step == self.trunk.branch
                save = branches or (saved and save_step and step % save_step == 0 and not ends)
                if save or ends or self.losses.due:
                    trouble = self.losses.look(epoch_idx, step, last, self.model.parameters(), bool(save) or ends)
                    if trouble:
                        step = self._roll_back(f"{trouble} at batch {step - 1} of epoch {epoch_idx}", saved)
                        shown.n = step
                    elif saved and (save or self.losses.stop_asked) and self.guard.in_a_row == 0:  # before any trouble
                        self.budget.stop()
                        self._save_last(epoch_idx, step)
                        if branches and self.trunk and not self.optimization.schedule.cut:
                            self.checkpoints.finish()
                            self.trunk.keep(self.last_file, self.checkpoints.stem, self.bests)
                    if self.losses.stop_asked:
                        shown.close()
                        raise signals.Interrupted(self.losses.stop_asked)
                if step % 50 == 0:
                    shown.set_postfix_str(f"nll {progress.mean_loss:.4f}", refresh=False)
            shown.close()
            progress.step = step
            self.budget.stop()
            self.checkpoints.note_unsaved()
        self.optimizer.zero_grad(set_to_none=True)  # evaluation gets the gradients' memory
        self.epoch_seconds = perf_counter() - started
        self.speed = max(0, progress.epoch_targets - already) / max(self.epoch_seconds, 1e-9)  # targets per second
        return progress.mean_loss

    def _train_step(self, parts: Parts, n_targets: int) -> None:
        progress = self.progress
        self.optimization.set_rate(progress.global_step, self.steps_per_epoch, self.budget, self.guard.rate_factor)
        # what a graph has written is written again by the next part: gradients add up elsewhere
        kept = self.model.blocks.parameters() if self.model.graphs and len(parts) > 1 else ()
        clear_gradients(self.optimizer, kept)
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=bool(self.enable_amp))
        loss = accumulate(self.loss, parts, autocast, self.device)
        norm = clipped_norm(self.model.parameters(), self.clip_grad_norm)
        guarded_step(self.optimizer, self.losses.add(loss, norm, n_targets), wait=self.device.type == "cpu")
        progress.targets_seen += n_targets
        progress.global_step += 1

    def _roll_back(self, trouble: str, saved: bool) -> int:
        """Return to the last good checkpoint with half the learning rate; returns the step to go on from."""
        guard, progress = self.guard, self.progress
        guard.check_return(trouble, self.last_file if saved else None, self.config["learning_rate"])
        before = guard.state_dict()
        self.checkpoints.restore(self.last_file)
        guard.went_back(before)
        if group.rank() == 0:
            self.logger.warning(
                f"{trouble}: back to batch {progress.step} of epoch {progress.epoch} with the learning rate x "
                f"{guard.rate_factor:g} (return {guard.rollbacks} of at most {MAX_ROLLBACKS})"
            )
        self._save_last(progress.epoch, progress.step)
        return progress.step

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def _save_last(self, epoch: int, step: int) -> None:
        """Write everything that continuing from the start of ``step`` of ``epoch`` needs."""
        self.progress.epoch, self.progress.step = epoch, step
        self.progress.seconds = self.seconds_before + perf_counter() - self.began
        self.checkpoints.save_last()

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write the model as it is, as RecBole's, to ``saved_model_file``."""
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        self.checkpoints.save_model(path, epoch, self.bests.chosen.result)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a ``last`` checkpoint: model, optimizer, schedule, data position, random state, best so far.

        Raises:
            UserError: the file is damaged, no ``last`` checkpoint, of another model, or of a longer run.
        """
        self.checkpoints.restore(resume_file)
        progress, end = self.progress, self.optimization.end
        self.seconds_before = progress.seconds
        if progress.epoch > end:
            raise UserError(
                f"{resume_file} has trained {counted(progress.epoch, 'epoch')}, more than the {end} of these settings"
            )
        self.optimizer = self.optimization.optimizer
        self.checkpoints.adopt_bests(resume_file, self.bests)
        self.resumed_file = resume_file
        self.logger.info(f"resumed {resume_file} at epoch {progress.epoch}, step {progress.step}")

    # Evaluation and early stopping ---------------------------------------------------------------------------------

    def _measure_epoch(self, valid_data: Loader, show_progress: bool) -> dict[str, float]:
        started = perf_counter()
        measured = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        self.eval_seconds = perf_counter() - started
        return {name: float(value) for name, value in measured.items()}

    def _judge(self, result: dict[str, float], epoch: int, saved: bool) -> list[Best]:
        """Keep the model where it is a best one, and count patience; returns the bests that it is."""
        improved = self.stopping.judge(epoch, result, self.steps_per_epoch)
        chosen = self.bests.chosen
        if saved and improved:
            self.checkpoints.save_bests(improved, self.bests, partial(self._save_checkpoint, epoch, False))
        elif chosen in improved and self.optimization.switch.on and not self.second_phase:
            self.best_weights = self.checkpoints.tensors()
        return improved

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Loader,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """As RecBole's, with the checkpoint read safely."""
        if load_best_model and eval_data:
            self.checkpoints.load_weights(model_file or self.saved_model_file)
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
