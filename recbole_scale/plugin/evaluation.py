"""What RecBole's evaluation lacks: NLL, one pass for the top-k lists, and every list once more without seen items."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.utils import EvaluatorType, ModelType
from torch import Tensor

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Batch, Loader, RecBoleTrainer, RunConfig
from recbole_scale.model.likelihood import are_probabilities, held_out_nll, nll_kind
from recbole_scale.plugin.demands import check_demands
from recbole_scale.plugin.seen import Pairs
from recbole_scale.plugin.summing import from_sums, rows_needed, sums
from recbole_scale.training import group, parallel

PER_ROW = ("rec.", "data.label")  # entries of RecBole's data struct that hold one row per ranked user
LISTS = ("rec.items", "rec.topk")  # those of ranked lists


class NLL(AbstractMetric):
    """Cross-entropy of the held-out interactions in nats, and its standard error over them.

    It is over all items, the user's earlier ones included, whatever ``mask_history`` says: it measures the model's
    probabilities, not a ranking protocol. What it means depends on the model: :mod:`recbole_scale.model.likelihood`.
    Results are ``nll`` and ``nll_se``.
    """

    metric_type = EvaluatorType.RANKING
    metric_need = ["rec.nll"]  # noqa: RUF012 (RecBole's interface)
    smaller = True

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """Mean and standard error of the per-interaction values, rounded to at least six places."""
        if "rec.nll" not in dataobject:
            raise UserError("NLL needs the full ranking; set eval_args.mode: full or leave NLL out of metrics")
        values = dataobject.get("rec.nll").double()
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return self._rounded(values.mean().item(), error)

    def from_sums(self, dataobject: Any) -> dict[str, float]:
        """The same of all processes' users, of whom ``dataobject`` holds this one's."""
        values = dataobject.get("rec.nll").double()
        total, n = sums(values.sum().item(), len(values))
        (squares,) = sums((values - total / n).square().sum().item())
        return self._rounded(total / n, (squares / (n - 1) / n) ** 0.5 if n > 1 else float("nan"))

    def _rounded(self, mean: float, error: float) -> dict[str, float]:
        places = max(6, self.decimal_place)
        return {"nll": round(mean, places), "nll_se": round(error, places)}


class Gathered(DataStruct):
    """RecBole's data struct that joins what batches bring once, at the end: joining at each batch is quadratic."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, list[Tensor]] = {}

    def update_tensor(self, name: str, value: Tensor) -> None:
        """Add the rows of a batch."""
        self._parts.setdefault(name, []).append(value.detach().clone())

    def whole(self) -> DataStruct:
        """A data struct of RecBole's own."""
        struct = DataStruct()
        struct._data_dict = {**self._data_dict, **{name: torch.cat(parts) for name, parts in self._parts.items()}}
        return struct


class ScaleCollector(Collector):
    """RecBole's collector with NLL, top-k lists found once instead of once per metric, and lists without seen items."""

    register: Any
    data_struct: Any
    nll_kind: str | None = None  # of the last evaluation
    rows_of_a_batch: int | None = None  # where it is not eval_batch_size
    keep_rows = False  # whether every process is to have all users' rows, whatever the metrics need

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._rows_needed = rows_needed(config["metrics"])
        self._lists = {need for need in LISTS if self.register.need(need)}
        self._without_lists, self._only_lists = copy.copy(self.register), copy.copy(self.register)
        for need in list(vars(self.register)):
            if need in LISTS:
                delattr(self._without_lists, need)
            elif need.startswith(PER_ROW):
                delattr(self._only_lists, need)
        self.data_struct, self._filtered = Gathered(), Gathered()
        self._seen: Callable[[], Pairs] | None = None
        self._probabilities: bool | None = None

    def data_collect(self, train_data: Loader) -> None:
        """RecBole's trainers begin with this; a knowledge graph's loader has its interactions in another."""
        check_demands(self.config, train_data)
        super().data_collect(getattr(train_data, "general_dataloader", train_data))

    def collect_nll(self, model: object, scores: Tensor, row: Tensor, item: Tensor) -> None:
        """Keep the NLL of a batch if a metric asks for it; ``scores`` are as the model gave them, [B, V + 1]."""
        if not self.register.need("rec.nll"):
            return
        if self._probabilities is None:  # the first batch of an evaluation
            self._probabilities = are_probabilities(scores)
            self.nll_kind = nll_kind(model, self._probabilities)
        row, item = row.to(scores.device), item.to(scores.device)
        self.data_struct.update_tensor("rec.nll", held_out_nll(scores, row, item, self._probabilities))

    def leave_out_next(self, seen: Callable[[], Pairs] | None) -> None:
        """Make the lists of the next batch a second time without the (row, item) pairs that ``seen`` gives."""
        self._seen = seen if self._lists else None

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Batch, positive_u: Tensor | None, positive_i: Tensor | None
    ) -> None:
        """As RecBole's, and once more without what the users have seen; ``scores_tensor`` is changed by that."""
        self._collect(scores_tensor, interaction, positive_u, positive_i)
        if self._seen is None:
            return
        row, item = (part.to(scores_tensor.device) for part in self._seen())
        own = scores_tensor[positive_u, positive_i]
        scores_tensor[row, item] = -torch.inf
        scores_tensor[positive_u, positive_i] = own
        main = self.register, self.data_struct
        self.register, self.data_struct = self._only_lists, self._filtered
        self._collect(scores_tensor, interaction, positive_u, positive_i)
        (self.register, self.data_struct), self._seen = main, None

    def _collect(
        self, scores_tensor: Tensor, interaction: Batch, positive_u: Tensor | None, positive_i: Tensor | None
    ) -> None:
        """Where each row has one held-out item, no matrix of rows x items is made for it."""
        # labels have no positions; several held-out items a row have no one target
        if positive_u is None or positive_i is None or len(positive_u) != len(scores_tensor) or not self._lists:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        order = torch.argsort(positive_u)
        target = positive_i[order].to(scores_tensor.device)
        _, best = torch.topk(scores_tensor, max(self.topk), dim=-1)  # [B, k]
        if "rec.items" in self._lists:
            self.data_struct.update_tensor("rec.items", best)
        if "rec.topk" in self._lists:
            hits = (best == target[:, None]).int()
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, torch.ones_like(hits[:, :1])], dim=1))
        if self.register is not self._only_lists:
            full, self.register = self.register, self._without_lists
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            self.register = full

    def get_data_struct(self) -> Any:
        """What the evaluation gathered, on the CPU; forgets it for the next one.

        RecBole's own calls ``.cpu()`` on counts too, so that ItemCoverage and its kin never worked in 1.2.1.
        """
        gathered = self._from_all_processes(self.data_struct.whole())
        filtered = self._from_all_processes(self._filtered.whole())
        self.data_struct, self._filtered, self._probabilities = Gathered(), Gathered(), None
        for key, value in gathered._data_dict.items():
            gathered.set(key, value.cpu() if isinstance(value, Tensor) else value)
            if not key.startswith(PER_ROW):
                self.data_struct.set(key, value)
        for key, value in filtered._data_dict.items():
            filtered.set(key, value.cpu())
        gathered.filtered = filtered if filtered._data_dict else None
        return gathered

    def _from_all_processes(self, struct: Any) -> Any:
        """This process's rows; all processes' in the order that one would have seen, where a metric needs them so.

        ``own_rows`` of what is returned names the entries that are this process's alone.
        """
        if group.world_size() == 1:
            return struct
        mine = {key: value.cpu() for key, value in struct._data_dict.items() if key.startswith(PER_ROW)}
        kinds = group.gather({key: (value.shape[1:], value.dtype) for key, value in mine.items()})
        kind_of = {key: kind for part in kinds for key, kind in part.items()}  # a process may have ranked nobody
        together = {key for key in kind_of if self.keep_rows or key in self._rows_needed}
        for key, (shape, dtype) in kind_of.items():
            struct.set(key, mine.get(key, torch.empty(0, *shape, dtype=dtype)))
        parts = group.gather({key: mine[key] for key in together & mine.keys()}) if together else []
        for key in together:
            rows = [part[key] for part in parts if key in part]
            struct.set(key, parallel.interleave(rows, self.rows_of_a_batch or self.config["eval_batch_size"]))
        struct.own_rows = kind_of.keys() - together
        return struct


class ScaleEvaluator(Evaluator):
    """RecBole's evaluator, which measures the second lists too.

    Attributes:
        filtered: metrics of the last evaluation's lists without what each user had seen, by RecBole's names; empty
            where there were no second lists.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.filtered: dict[str, float] = {}

    def evaluate(self, dataobject: Any) -> Any:
        """All metrics of what was gathered (:meth:`ScaleCollector.get_data_struct`)."""
        second, self.filtered = getattr(dataobject, "filtered", None), {}
        if second is not None:
            for key, value in dataobject._data_dict.items():
                if not key.startswith(PER_ROW):
                    second.set(key, value)
            for metric in self.metric_class.values():
                if set(LISTS) & set(metric.metric_need) and all(need in second for need in metric.metric_need):
                    found = _measured(metric, second)
                    self.filtered |= {name: float(value) for name, value in found.items()}
        return {
            name: value
            for kind in self.metrics
            for name, value in _measured(self.metric_class[kind], dataobject).items()
        }


def _measured(metric: Any, struct: Any) -> dict[str, float]:
    """A metric of all users."""
    own_rows: set[str] = getattr(struct, "own_rows", set())
    if own_rows & set(metric.metric_need):
        return from_sums(metric, struct)
    found: dict[str, float] = metric.calculate_metric(struct)
    return found


def rank_batch(self: RecBoleTrainer, batched_data: Any) -> Any:
    """RecBole's ``Trainer._full_sort_batch_eval``: one scoring for the NLL, the ranking, and that without seen items.

    Where the ranking itself leaves them out (``mask_history: True``, or RecBole's ``repeatable: False``) there is no
    second one.
    """
    interaction, history, positive_u, positive_i = batched_data
    seen = getattr(interaction, "seen", None)
    scores = _scores_of_all_items(self, interaction.to(self.device)).view(-1, self.tot_item_num)
    self.eval_collector.collect_nll(self.model, scores, positive_u, positive_i)
    scores[:, 0] = -torch.inf
    if history is not None and len(history[0]):
        scores[history] = -torch.inf
    elif self.config["mask_history"] and seen is not None:
        own = scores[positive_u, positive_i]
        scores[tuple(part.to(scores.device) for part in seen())] = -torch.inf
        scores[positive_u, positive_i] = own
    elif self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL or self.config["repeatable"]:
        self.eval_collector.leave_out_next(seen)
    return interaction, scores, positive_u, positive_i


def _scores_of_all_items(trainer: RecBoleTrainer, interaction: Interaction) -> Tensor:
    """Scores [B, V + 1], or flat, as the model gives them; models that score pairs alone are asked for each pair."""
    try:
        scores: Tensor = trainer.model.full_sort_predict(interaction)
    except NotImplementedError:
        pairs = interaction.repeat_interleave(trainer.tot_item_num)
        pairs.update(trainer.item_tensor.repeat(len(interaction)))
        scores = trainer._spilt_predict(pairs, len(pairs))
    return scores
