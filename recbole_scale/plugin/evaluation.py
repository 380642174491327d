"""What RecBole's evaluation lacks: NLL, one pass for the top-k lists, and ranking without a user's earlier items."""

from __future__ import annotations

import copy
from typing import Any

import torch
from recbole.evaluator import Collector
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_scale.errors import UserError
from recbole_scale.training import group, parallel

PER_ROW = ("rec.", "data.label")  # entries of RecBole's data struct that hold one row per ranked user


class NLL(AbstractMetric):
    """Cross-entropy of the held-out interactions in nats, and its standard error over them.

    The softmax is over all items, the user's earlier ones included, whatever ``mask_history`` says: it measures the
    model's probabilities, not a ranking protocol. Results are ``nll`` and ``nll_se``.
    """

    metric_type = EvaluatorType.RANKING
    metric_need = ["rec.nll"]  # noqa: RUF012 (RecBole's interface)
    smaller = True

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """Mean and standard error of the per-interaction values, rounded to at least six places."""
        if "rec.nll" not in dataobject:
            raise UserError("NLL needs the full ranking; set eval_args.mode: full or leave NLL out of metrics")
        values = dataobject.get("rec.nll").double()
        places = max(6, self.decimal_place)
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return {"nll": round(values.mean().item(), places), "nll_se": round(error, places)}


def held_out_nll(scores: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """``-log softmax(scores)`` of each held-out interaction.

    Args:
        scores: scores of all items with column 0 (padding) at -inf, [B, V + 1].
        row: row of each interaction, [n].
        item: item of each interaction, [n].

    Returns:
        nats, float32 [n].
    """
    scores = scores.float()
    return torch.logsumexp(scores, dim=1)[row] - scores[row, item]


class ScaleCollector(Collector):
    """RecBole's collector with NLL, and with the top-k lists found once instead of once per metric."""

    register: Any
    data_struct: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._without_lists = copy.copy(self.register)
        for need in ("rec.items", "rec.topk"):
            self._without_lists.__dict__.pop(need, None)

    def collect_nll(self, scores: Tensor, row: Tensor, item: Tensor) -> None:
        """Keep the NLL of a batch (see :func:`held_out_nll`) if a metric asks for it."""
        if self.register.need("rec.nll"):
            self.data_struct.update_tensor(
                "rec.nll", held_out_nll(scores, row.to(scores.device), item.to(scores.device))
            )

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor | None, positive_i: Tensor | None
    ) -> None:
        """As RecBole's; where each row has one held-out item, no matrix of rows x items is made for it."""
        # labels have no positions; several held-out items a row have no one target
        lists = self.register.need("rec.items") or self.register.need("rec.topk")
        if positive_u is None or positive_i is None or len(positive_u) != len(scores_tensor) or not lists:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        order = torch.argsort(positive_u)
        target = positive_i[order].to(scores_tensor.device)
        _, best = torch.topk(scores_tensor, max(self.topk), dim=-1)  # [B, k]
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", best)
        if self.register.need("rec.topk"):
            hits = (best == target[:, None]).int()
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, torch.ones_like(hits[:, :1])], dim=1))
        full, self.register = self.register, self._without_lists
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        self.register = full

    def get_data_struct(self) -> Any:
        """What the evaluation gathered, on the CPU; forgets it for the next one.

        RecBole's own calls ``.cpu()`` on counts too, so that ItemCoverage and its kin never worked in 1.2.1.
        """
        gathered = self._from_all_processes(self.data_struct)
        self.data_struct = DataStruct()
        for key, value in gathered._data_dict.items():
            gathered.set(key, value.cpu() if isinstance(value, Tensor) else value)
            if not key.startswith(PER_ROW):
                self.data_struct.set(key, value)
        return gathered

    def _from_all_processes(self, struct: Any) -> Any:
        """What all processes gathered, row by row in the order that one process would have seen."""
        if group.world_size() == 1:
            return struct
        mine = {key: value.cpu() for key, value in struct._data_dict.items() if key.startswith(PER_ROW)}
        parts = group.gather(mine)
        for key in {key for part in parts for key in part}:
            rows = [part[key] for part in parts if key in part]
            struct.set(key, parallel.interleave(rows, self.config["eval_batch_size"]))
        return struct


def rank_batch(self: Any, batched_data: Any) -> Any:
    """RecBole's ``Trainer._full_sort_batch_eval`` that takes the NLL before earlier items leave the ranking."""
    interaction, history_index, positive_u, positive_i = batched_data
    interaction, scores, positive_u, positive_i = self._scale_original_rank((interaction, None, positive_u, positive_i))
    self.eval_collector.collect_nll(scores, positive_u, positive_i)
    if history_index is not None:
        scores[history_index] = -torch.inf
    return interaction, scores, positive_u, positive_i
