"""How long a run will take on this machine: a few steps of training and a batch of ranking, timed, and the start."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import EvaluatorType, get_trainer

from recbole_scale.interfaces import Loader, RecBoleTrainer, RunConfig
from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.model.sizes import flops_per_interaction
from recbole_scale.runs.prepared import Prepared
from recbole_scale.text import duration
from recbole_scale.training.optimizers import build_optimizer, clipped_norm

STEPS = 3  # timed, after one that warms up
ENOUGH_SECONDS = 1.0  # after which no further step is timed: long ones vary little
MOST_FLOPS = 3e11  # of a step that is tried, on a CPU some 3 s
MOST_SECONDS = 5.0  # of the steps of a model whose FLOPs are not counted


@dataclass(frozen=True)
class Speed:
    """Seconds of one training target, of ranking one user, and from the process's start until its data was ready."""

    per_target: float
    per_user: float
    start: float
    steps: int = STEPS  # that were timed

    def seconds(self, targets: int, epochs: int, users: int) -> float:
        """Of a run of ``epochs``, each evaluated once on ``users``, who are tested at the end."""
        return self.start + epochs * targets * self.per_target + (epochs + 1) * users * self.per_user


def measure_speed(prepared: Prepared, network: ScaledSASRec) -> Speed | None:
    """Time a few steps; None where one step alone would take too long to try.

    The network is left with changed weights: it is for planning, not for training.
    """
    start = _age()
    loader = prepared.train_data
    on_cpu = prepared.config["device"].type == "cpu"
    if on_cpu and flops_per_interaction(network.shape) * loader.token_budget > MOST_FLOPS:
        return None
    optimizer = build_optimizer(network, prepared.config["learner"], 1e-6, 0.0)
    network.train()
    taken = []
    for batch, _ in zip(_again_and_again(loader), range(1 + STEPS), strict=False):
        begun = _now(network)
        with torch.autocast(prepared.config["device"].type, torch.bfloat16, enabled=network.precision == "bf16"):
            loss = network.calculate_loss(batch.to(prepared.config["device"]))
        loss.backward()
        clipped_norm(network.parameters(), {"max_norm": 1.0})
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(_now(network) - begun)
        if sum(taken[1:]) > ENOUGH_SECONDS:
            break
    per_target = median(taken[1:] or taken) * len(loader) / max(loader.n_targets, 1)
    return Speed(per_target, _per_user(prepared, network), start, max(1, len(taken) - 1))


def told(prepared: Prepared, network: object) -> str:
    """The line of a plan: minutes of the whole run and what they are made of, for any model of RecBole's too."""
    config, steps = prepared.config, STEPS
    if isinstance(network, ScaledSASRec):
        speed = measure_speed(prepared, network)
        if speed is None:
            return "not timed: one step alone takes more than a few seconds on this machine"
        epochs = config["epochs"]
        start, steps, ranking = speed.start, speed.steps, speed.per_user * len(prepared.valid_data.dataset)
        epoch = prepared.train_data.n_targets * speed.per_target
    elif not isinstance(network, torch.nn.Module):
        return "not timed: trees grow in whole rounds"
    elif not config["single_spec"]:
        return "not timed: a plan is made by one process"
    else:
        start = _age()
        epochs, epoch, ranking = _measure_trainer(prepared, network)
    every = min(config["eval_step"], max(epochs, 1))
    rankings = epochs // every if every > 0 else 0
    parts = f"start {duration(start)}, {epochs} epoch{'s' * (epochs > 1)} of {duration(epoch)}"
    parts += f", ranking {duration(ranking)} each" if ranking else ""
    valid, tested = (max(len(data.dataset), 1) for data in (prepared.valid_data, prepared.test_data))
    whole = duration(start + epochs * epoch + (rankings + tested / valid) * ranking)
    most = "at most " if 0 < config["stopping_step"] < rankings else ""  # where valid gains nothing it ends earlier
    return f"{most}about {whole} on this machine ({parts}; timed on {steps} step{'s' * (steps > 1)})"


def _age() -> float:
    """Seconds since this process began."""
    return time.time() - psutil.Process().create_time()


class _FirstBatches:
    """A loader cut to its first batches; ``passes`` are the seconds that each pass over all of them would take."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.passes: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        begun = before = time.perf_counter()
        taken: list[float] = []
        for batch in islice(self._loader, 1 + STEPS):
            yield batch
            now = time.perf_counter()
            taken.append(now - before)
            before = now
            if now - begun > MOST_SECONDS:
                break
        self.passes.append(median(taken[1:] or taken) * len(self._loader))

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _measure_trainer(prepared: Prepared, network: AbstractRecommender) -> tuple[int, float, float]:
    """Epochs that RecBole's trainer of this model makes, and seconds of one epoch and of one ranking."""
    with _trainer_of(prepared.config, network) as trainer:
        batches = _FirstBatches(prepared.train_data)
        if hasattr(network, "e_step"):  # NCL groups its users and items before some epochs
            begun = _now(network)
            network.e_step()
            batches.passes.append((_now(network) - begun) / trainer.num_m_step)
        trainer._train_epoch(batches, 0)
        if "pretrain" in str(prepared.config["train_stage"]):
            return trainer.pretrain_epochs, sum(batches.passes), 0.0
        return trainer.epochs, sum(batches.passes), _seconds_of_ranking(trainer, prepared.valid_data)


@contextmanager
def _trainer_of(config: RunConfig, network: object) -> Iterator[Any]:
    """RecBole's trainer without the folders that it makes."""
    kept = {key: config[key] for key in ("checkpoint_dir", "log_wandb")}
    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"], config["log_wandb"] = folder, False
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
        board = Path(trainer.tensorboard.log_dir)
        try:
            yield trainer
        finally:
            trainer.tensorboard.close()
            shutil.rmtree(board, ignore_errors=True)
            with suppress(OSError):  # other runs' folders are in it
                board.parent.rmdir()
            for key, value in kept.items():
                config[key] = value


@torch.no_grad()
def _seconds_of_ranking(trainer: RecBoleTrainer, data: Any) -> float:
    """Of one evaluation, by the way of ``Trainer.evaluate``."""
    trainer.model.eval()
    full = isinstance(data, FullSortEvalDataLoader)
    if full:
        trainer.item_tensor = data._dataset.get_item_feature().to(trainer.device)
    if trainer.config["eval_type"] == EvaluatorType.RANKING:
        trainer.tot_item_num = data._dataset.item_num
    batches = _FirstBatches(data)
    for batch in batches:
        found = (trainer._full_sort_batch_eval if full else trainer._neg_sample_batch_eval)(batch)
        trainer.eval_collector.eval_batch_collect(found[1], found[0], *found[2:])
    return sum(batches.passes)


def _again_and_again(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


@torch.no_grad()
def _per_user(prepared: Prepared, network: ScaledSASRec) -> float:
    network.eval()
    batch = next(iter(prepared.valid_data))[0].to(prepared.config["device"])
    seconds = []
    for _ in range(2):
        begun = _now(network)
        scores = network.full_sort_predict(batch).view(len(batch), -1)
        torch.topk(scores, min(max(prepared.config["topk"]), scores.shape[1]))
        seconds.append(_now(network) - begun)
    return min(seconds) / len(batch)


def _now(network: torch.nn.Module) -> float:
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
