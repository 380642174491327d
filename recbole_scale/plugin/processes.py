"""RecBole's own trainers on several processes: the same batches as one process sees, dealt out; gradients averaged.

Every process draws every batch, from the same random numbers, and trains on its rows of it. The mean of the processes'
losses, each weighted by the share of the terms that it averages, is the batch's; so are the gradients. Where no weights
make that true, every process takes the whole batch: the same numbers, and no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Batch, Loader, Model, RecBoleTrainer, RunConfig
from recbole_scale.training import group
from recbole_scale.training.checkpoint import random_state, set_random_state

# losses that compare the rows of a batch with each other: on a part of the batch they are another loss
IN_BATCH = ("FEARec", "MCCLK", "NCL", "SGL")
# losses that no weight of a part makes the whole's: terms of two counts (DIEN, KTUP, MKR), noise chosen by the losses
# before (DiffRec, LDiffRec), users from one list that is walked through (LINE); also S3Rec's pre-training, which draws
# segments from the other rows
WHOLE = ("DIEN", "DiffRec", "KTUP", "LDiffRec", "LINE", "MKR")
# losses that are sums over rows, where others are means, and the weights of a penalty that they add once for all rows
SUMS = {"CDAE": ("reg_weight_1", "reg_weight_2"), "ConvNCF": ("regs",), "ENMF": ("reg_weight",)}


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
    if reason:
        raise UserError(f"{model} trains in one process: {reason}")


def takes_whole_batches(config: RunConfig) -> bool:
    """Whether every process trains on all rows of every batch, and draws for them what one process would."""
    return config["model"] in WHOLE or (config["model"] == "S3Rec" and config["train_stage"] == "pretrain")


def share(batch: Batch, times: int, rank: int, world: int) -> Any:
    """Rows of one process: every ``world``-th row with its ``times - 1`` repetitions, which stand in blocks after all.

    Columns of another length (a knowledge graph's beside the interactions') are dealt by their own rows. Of fewer rows
    than processes the last ones have none.
    """

    def rows(length: int) -> Tensor:
        repeated = times if length == len(batch) and length % times == 0 else 1
        base = length // repeated
        return (torch.arange(repeated)[:, None] * base + torch.arange(base)[rank::world]).flatten()

    return Interaction({name: values[rows(len(values))] for name, values in batch.interaction.items()})


def weights_of(mine: Batch, batch: Batch, config: RunConfig, world: int) -> tuple[float, ...]:
    """What makes the mean over processes of the loss of ``mine`` the loss of the whole ``batch``.

    One weight, or one for each part of a loss that has several.
    """
    if config["model"] in SUMS:
        return (float(world),)
    counts = zip(_terms(mine, config), _terms(batch, config), strict=True)
    return tuple(part * world / max(whole, 1) for part, whole in counts)


def share_penalties(network: Model, model: str, world: int) -> None:
    """Divide what a sum over rows adds once among the processes, whose sums are added up."""
    for name in SUMS.get(model, ()):
        whole = getattr(network, name)
        setattr(network, name, [part / world for part in whole] if isinstance(whole, list) else whole / world)


def _terms(batch: Batch, config: RunConfig) -> tuple[int, ...]:
    """How many terms the batch's mean loss has, or each of its parts: rows, triples, BERT4Rec's masked places."""
    model, user = config["model"], config["USER_ID_FIELD"]
    if model == "BERT4Rec":
        return (int((batch[config["MASK_INDEX"]] > 0).sum()),)
    rows = len(batch[user]) if user in batch.columns else len(batch)
    if model not in ("CFKG", "CKE"):
        return (rows,)
    triples = len(batch[config["HEAD_ENTITY_ID_FIELD"]])
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
        self.whole = takes_whole_batches(trainer.config)
        if self.whole and group.rank() == 0:
            trainer.logger.info(
                f"{trainer.config['model']} trains on whole batches in every process, since its loss is no mean over "
                "rows: the same numbers as in one process, and only rankings are faster"
            )
        share_penalties(model, trainer.config["model"], group.world_size())
        for value in [*model.parameters(), *model.buffers()]:
            dist.broadcast(value.data, 0)
        for name in ("calculate_loss", "calculate_kg_loss", "calculate_rs_loss"):
            if hasattr(model, name):
                setattr(model, name, self._weighted(getattr(model, name)))
        trainer.saved_model_file = group.gather(trainer.saved_model_file)[0]
        self._evaluate, trainer.evaluate = trainer.evaluate, self.evaluate
        self._train_epoch, trainer._train_epoch = trainer._train_epoch, self.train_epoch

    def train_epoch(self, train_data: Loader, epoch_idx: int, *arguments: Any, **named: Any) -> Any:
        """As the trainer's, on this process's rows; the loss is the whole epoch's."""
        self._draw_alike(epoch_idx)
        batches = train_data if self.whole else _Dealt(train_data, self)
        return self.mean(self._train_epoch(batches, epoch_idx, *arguments, **named))

    def _draw_alike(self, epoch: int) -> None:
        """Draw what process 0 does, all the same batches; dropout of rows that are dealt is each process's own."""
        state = group.gather(random_state())[0]
        set_random_state({**state, "cuda": state["cuda"][:1] * len(state["cuda"])})
        if not self.whole:
            torch.manual_seed(self.trainer.config["seed"] + epoch * group.world_size() + group.rank())

    def of(self, batch: Batch, loader: Loader) -> Any:
        """This process's part of a batch of ``loader``.

        A batch that leaves a process less than two rows goes whole to all, since a mean of nothing and a batch
        normalisation of one row are no numbers.
        """
        world, config = group.world_size(), self.trainer.config
        times = getattr(getattr(loader, "general_dataloader", loader), "times", 1)  # of a knowledge graph's loader
        shares = [share(batch, times, rank, world) for rank in range(world)]
        if config["model"] not in SUMS and min(min(_terms(part, config)) for part in shares) < 2:
            self.weights = (1.0,)
            return batch
        mine = shares[group.rank()]
        self.weights = weights_of(mine, batch, config, world)
        return mine

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
