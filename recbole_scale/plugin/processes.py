"""RecBole's own trainers on several processes: the same batches as one process sees, dealt out; gradients averaged.

Every process draws every batch, from the same random numbers, and trains on its rows of it. The mean of the processes'
losses, each weighted by the share of the terms that it averages, is the batch's; so are the gradients.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_scale.errors import UserError
from recbole_scale.training import group

# losses that compare the rows of a batch with each other: on a part of the batch they are another loss
IN_BATCH = ("FEARec", "MCCLK", "NCL", "SGL")
# losses that are sums over rows, where others are means
SUMS: tuple[str, ...] = ()


def check_several(model: str, kind: Any) -> None:
    """Refuse several processes for a model that they would train differently, or not at all.

    Raises:
        UserError: saying why.
    """
    reason = ""
    if kind == ModelType.TRADITIONAL or model == "Random":
        reason = "it is counted, not trained by gradients"
    elif kind == ModelType.DECISIONTREE:
        reason = "it grows trees, it is not trained by gradients"
    elif model in IN_BATCH:
        reason = "its loss compares the rows of a batch with each other, and would be another one on a part of the batch"
    if reason:
        raise UserError(f"{model} trains in one process: {reason}")


def share(batch: Any, times: int, rank: int, world: int) -> Any:
    """Rows of one process: every ``world``-th row with its ``times - 1`` repetitions, which stand in blocks after all.

    Columns of another length (a knowledge graph's beside the interactions') are dealt by their own rows.
    """

    def rows(length: int) -> Tensor:
        repeated = times if length == len(batch) and length % times == 0 else 1
        base = length // repeated
        mine = torch.arange(rank, base, world) if rank < base else torch.zeros(1, dtype=torch.long)
        return (torch.arange(repeated)[:, None] * base + mine).flatten()

    return Interaction({name: values[rows(len(values))] for name, values in batch.interaction.items()})


def terms(batch: Any, config: Any) -> int:
    """How many terms the batch's mean loss has: its rows, or BERT4Rec's masked places."""
    if config["model"] == "BERT4Rec":
        return max(int((batch[config["MASK_INDEX"]] > 0).sum()), 1)
    return len(batch)


class Shared:
    """Makes a trainer of RecBole's one of several: weights, batches, gradients, evaluations and the checkpoint's name.

    In a single process nothing is changed.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.weight = trainer, 1.0
        if group.world_size() == 1:
            return
        model = trainer.model
        for value in [*model.parameters(), *model.buffers()]:
            dist.broadcast(value.data, 0)
        for name in ("calculate_loss", "calculate_kg_loss", "calculate_rs_loss"):
            if hasattr(model, name):
                setattr(model, name, self._weighted(getattr(model, name)))
        trainer.saved_model_file = group.gather(trainer.saved_model_file)[0]
        self._evaluate, trainer.evaluate = trainer.evaluate, self.evaluate

    def of(self, batch: Any, loader: Any) -> Any:
        """This process's part of a batch of ``loader``."""
        world, rank = group.world_size(), group.rank()
        if world == 1:
            return batch
        mine = share(batch, getattr(loader, "times", 1), rank, world)
        empty = rank >= len(batch) // getattr(loader, "times", 1)
        if self.trainer.config["model"] in SUMS:
            self.weight = 0.0 if empty else float(world)
        else:
            config = self.trainer.config
            self.weight = 0.0 if empty else terms(mine, config) * world / terms(batch, config)
        return mine

    def mean(self, loss: Any) -> Any:
        """Mean over the processes of an epoch's loss, one number or several."""
        if group.world_size() == 1 or loss is None:
            return loss
        self._check_random_numbers()
        several = loss if isinstance(loss, tuple) else (loss,)
        values = torch.tensor(several, dtype=torch.float64, device=self.trainer.device)
        means = tuple((group.total(values) / group.world_size()).tolist())
        return means if isinstance(loss, tuple) else means[0]

    def _check_random_numbers(self) -> None:
        """Every process must have drawn the same batches."""
        drawn = hashlib.sha256(repr((random.getstate(), np.random.get_state())).encode()).hexdigest()
        if len(set(group.gather(drawn))) > 1:
            name = self.trainer.config["model"]
            raise UserError(f"{name} trains in one process: it draws random numbers by the rows of a batch")

    def _weighted(self, loss_of: Callable[..., Any]) -> Callable[..., Any]:
        def weighted(*arguments: Any, **named: Any) -> Any:
            losses = loss_of(*arguments, **named)
            parts = losses if isinstance(losses, tuple) else (losses,)
            parts = tuple(part * self.weight for part in parts)
            if torch.is_grad_enabled():
                first = next(part for part in parts if part.requires_grad)
                first.register_hook(self._average_at_the_end)
            return parts if isinstance(losses, tuple) else parts[0]

        return weighted

    def _average_at_the_end(self, gradient: Tensor) -> None:
        """Called as a backward pass begins: gradients are averaged when it ends, before they are clipped."""
        torch.autograd.Variable._execution_engine.queue_callback(self._average_gradients)  # type: ignore[attr-defined]

    def _average_gradients(self) -> None:
        parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]
        device = parameters[0].device
        there = group.total(torch.tensor([float(p.grad is not None) for p in parameters], device=device)) > 0
        used = [p for p, somewhere in zip(parameters, there.tolist(), strict=True) if somewhere]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in used])  # type: ignore[union-attr]
        group.total(flat).div_(group.world_size())
        for p, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
            p.grad.copy_(part.view_as(p))  # type: ignore[union-attr]

    def evaluate(self, eval_data: Any, load_best_model: bool = True, *arguments: Any, **named: Any) -> Any:
        """As the trainer's, each batch ranked by one process; metrics are of all, in every process."""
        if load_best_model:
            dist.barrier()  # process 0 has written it
        for value in self.trainer.model.buffers():
            dist.broadcast(value.data, 0)  # running means of a batch normalisation
        part = part_of(eval_data) if eval_data else eval_data
        return self._evaluate(part, load_best_model, *arguments, **named)


class _PartOfBatches:
    """Every ``world_size``-th batch of an evaluation loader; all are drawn, so that sampled negatives are the same."""

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()  # type: ignore[misc]
        return (batch for number, batch in enumerate(batches) if number % group.world_size() == group.rank())

    def __len__(self) -> int:
        return len(range(group.rank(), super().__len__(), group.world_size()))  # type: ignore[misc]

    def __bool__(self) -> bool:
        return True  # a process without a batch joins the others' gathering


def part_of(loader: Any) -> Any:
    """The batches of this process."""
    if hasattr(loader, "shard"):
        return loader.shard(group.rank(), group.world_size())
    part = copy(loader)
    part.__class__ = type("PartOfBatches", (_PartOfBatches, type(loader)), {})
    return part
