"""RecBole's own trainers on several processes: the same batches as one process sees, dealt out; gradients averaged.

Every process draws every batch, from the same random numbers, and trains on its rows of it. The mean of the processes'
losses, each weighted by the share of the terms that it averages, is the batch's; so are the gradients.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Batch, Loader, Model, RecBoleTrainer, RunConfig
from recbole_scale.training import group

# losses that compare the rows of a batch with each other: on a part of the batch they are another loss
IN_BATCH = ("FEARec", "MCCLK", "NCL", "SGL")
# losses that add to a mean over rows what is counted otherwise: a mean over steps of histories, a sum over triples
MIXED = ("DIEN", "KTUP")
# losses that are sums over rows, where others are means
SUMS = ("CDAE", "ConvNCF", "ENMF")
# weights of a penalty that those losses add once for all rows
PENALTIES = {"CDAE": ("reg_weight_1", "reg_weight_2"), "ConvNCF": ("regs",)}


def check_several(model: str, kind: Any) -> None:
    """Refuse several processes for a model that they would train differently, or not at all.

    Raises:
        UserError: saying why.
    """
    reason = ""
    if kind == ModelType.TRADITIONAL or model == "NCEPLRec":
        reason = "it is counted, not trained by gradients"
    elif kind == ModelType.DECISIONTREE:
        reason = "it grows trees, it is not trained by gradients"
    elif model in IN_BATCH:
        reason = (
            "its loss compares the rows of a batch with each other, and would be another one on a part of the batch"
        )
    elif model in MIXED:
        reason = "its loss adds terms of two counts, and no weight of a part of the batch is right for both"
    if reason:
        raise UserError(f"{model} trains in one process: {reason}")


def share(batch: Batch, times: int, rank: int, world: int) -> Any:
    """Rows of one process: every ``world``-th row with its ``times - 1`` repetitions, which stand in blocks after all.

    Columns of another length (a knowledge graph's beside the interactions') are dealt by their own rows.
    """

    def rows(length: int) -> Tensor:
        repeated = times if length == len(batch) and length % times == 0 else 1
        base = length // repeated
        mine = torch.arange(rank, base, world) if rank < base else torch.zeros(1, dtype=torch.long)
        return (torch.arange(repeated)[:, None] * base + mine).flatten()

    return Interaction({name: values[rows(len(values))] for name, values in batch.interaction.items()})


def weights_of(mine: Batch, batch: Batch, config: RunConfig, world: int) -> tuple[float, ...]:
    """What makes the mean over processes of the loss of ``mine`` the loss of the whole ``batch``.

    One weight, or one for each part of a loss that has several.
    """
    model = config["model"]
    of_triples = model == "MKR" and config["HEAD_ENTITY_ID_FIELD"] in batch.columns
    if model in SUMS or of_triples or (model == "S3Rec" and config["train_stage"] == "pretrain"):
        return (float(world),)
    counts = zip(_terms(mine, config), _terms(batch, config), strict=True)
    return tuple(part * world / max(whole, 1) for part, whole in counts)


def share_penalties(network: Model, model: str, world: int) -> None:
    """Divide what a sum over rows adds once among the processes, whose sums are added up."""
    for name in PENALTIES.get(model, ()):
        whole = getattr(network, name)
        setattr(network, name, [part / world for part in whole] if isinstance(whole, list) else whole / world)


def _terms(batch: Batch, config: RunConfig) -> tuple[int, ...]:
    """How many terms the batch's mean loss has, or each of its parts: rows, triples, BERT4Rec's masked places."""
    model = config["model"]
    if model == "BERT4Rec":
        return (int((batch[config["MASK_INDEX"]] > 0).sum()),)
    if model not in ("CFKG", "CKE"):
        return (len(batch),)
    rows, triples = len(batch[config["USER_ID_FIELD"]]), len(batch[config["HEAD_ENTITY_ID_FIELD"]])
    return (rows + triples,) if model == "CFKG" else (rows, triples, rows)


def one_of_several(trainer_class: Any) -> Any:
    """``trainer_class`` as it is in a single process; in one of several its trainers share their work."""
    if group.world_size() == 1:
        return trainer_class

    def begin(self: Any, config: RunConfig, model: Model) -> None:
        trainer_class.__init__(self, config, model)
        Shared(self)

    return type(trainer_class.__name__, (trainer_class,), {"__init__": begin})


class Shared:
    """Makes a trainer of RecBole's one of several: weights, batches, gradients, evaluations, checkpoint."""

    def __init__(self, trainer: RecBoleTrainer) -> None:
        self.trainer = trainer
        self.weights: tuple[float, ...] = (1.0,)
        model = trainer.model
        torch.manual_seed(trainer.config["seed"] + group.rank())  # each its own dropout
        drawn = group.gather((random.getstate(), np.random.get_state()))[0]  # all the same batches
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        share_penalties(model, trainer.config["model"], group.world_size())
        for value in [*model.parameters(), *model.buffers()]:
            dist.broadcast(value.data, 0)
        for name in ("calculate_loss", "calculate_kg_loss", "calculate_rs_loss"):
            if hasattr(model, name):
                setattr(model, name, self._weighted(getattr(model, name)))
        trainer.saved_model_file = group.gather(trainer.saved_model_file)[0]
        self._evaluate, trainer.evaluate = trainer.evaluate, self.evaluate
        self._train_epoch, trainer._train_epoch = trainer._train_epoch, self.train_epoch

    def train_epoch(self, train_data: Loader, *arguments: Any, **named: Any) -> Any:
        """As the trainer's, on this process's rows; the loss is the whole epoch's."""
        return self.mean(self._train_epoch(_Dealt(train_data, self), *arguments, **named))

    def of(self, batch: Batch, loader: Loader) -> Any:
        """This process's part of a batch of ``loader``."""
        world, rank = group.world_size(), group.rank()
        times = getattr(getattr(loader, "general_dataloader", loader), "times", 1)  # of a knowledge graph's loader
        mine = share(batch, times, rank, world)
        empty = rank >= len(batch) // times  # it repeats a row that another process has
        self.weights = (0.0,) if empty else weights_of(mine, batch, self.trainer.config, world)
        return mine

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """Leave the random numbers that batches are drawn from as they were: what a loss draws goes by its rows."""
        before = random.getstate(), np.random.get_state()
        yield
        random.setstate(before[0])
        np.random.set_state(before[1])

    def mean(self, loss: Any) -> Any:
        """Mean over the processes of an epoch's loss, one number or several."""
        if loss is None:
            return loss
        several = loss if isinstance(loss, tuple) else (loss,)
        values = torch.tensor(several, dtype=torch.float64, device=self.trainer.device)
        means = tuple((group.total(values) / group.world_size()).tolist())
        return means if isinstance(loss, tuple) else means[0]

    def _weighted(self, loss_of: Callable[..., Any]) -> Callable[..., Any]:
        def weighted(*arguments: Any, **named: Any) -> Any:
            losses = loss_of(*arguments, **named)
            parts = losses if isinstance(losses, tuple) else (losses,)
            weights = self.weights if len(self.weights) == len(parts) else self.weights * len(parts)
            parts = tuple(part * weight for part, weight in zip(parts, weights, strict=True))
            if torch.is_grad_enabled():
                first = next(part for part in parts if part.requires_grad)
                first.register_hook(self._average_at_the_end)
            return parts if isinstance(losses, tuple) else parts[0]

        return weighted

    def _average_at_the_end(self, gradient: Tensor) -> None:
        """Called as a backward pass begins: gradients are averaged when it ends, before they are clipped."""
        torch.autograd.Variable._execution_engine.queue_callback(self._average_gradients)

    def _average_gradients(self) -> None:
        parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]
        device = parameters[0].device
        there = group.total(torch.tensor([float(p.grad is not None) for p in parameters], device=device)) > 0
        used = [p for p, somewhere in zip(parameters, there.tolist(), strict=True) if somewhere]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in used if p.grad is not None]  # all of them
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        group.total(flat).div_(group.world_size())
        for gradient, part in zip(gradients, flat.split([p.numel() for p in used]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def evaluate(self, eval_data: Loader, load_best_model: bool = True, *arguments: Any, **named: Any) -> Any:
        """As the trainer's, each batch ranked by one process; metrics are of all, in every process."""
        if load_best_model:
            dist.barrier()  # process 0 has written it
        for value in self.trainer.model.buffers():
            dist.broadcast(value.data, 0)  # running means of a batch normalisation
        part = eval_data
        if eval_data:
            part, self.trainer.eval_collector.rows_of_a_batch = part_of(eval_data), eval_data.step
        return self._evaluate(part, load_best_model, *arguments, **named)


class _Dealt:
    """A training loader that hands out this process's rows of each batch."""

    def __init__(self, loader: Loader, shared: Shared) -> None:
        self._loader, self._shared = loader, shared

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            with self._shared.same_draws():
                yield self._shared.of(batch, self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def part_of(loader: Loader) -> Any:
    """Every ``world_size``-th batch of an evaluation loader, whose own ``shard`` does it where it has one.

    Elsewhere every process draws all batches, so that sampled negatives are the same, and looks at its own.
    """
    rank, world = group.rank(), group.world_size()
    if hasattr(loader, "shard"):
        return loader.shard(rank, world)
    whole: Any = type(loader)

    class PartOfBatches(whole):
        """What an evaluation still takes for a loader of its kind."""

        def __iter__(self) -> Iterator[Any]:
            return (batch for number, batch in enumerate(super().__iter__()) if number % world == rank)

        def __len__(self) -> int:
            return len(range(rank, super().__len__(), world))

        def __bool__(self) -> bool:
            return True  # a process without a batch joins the others' gathering

    part = copy(loader)
    part.__class__ = PartOfBatches
    return part
