"""ScaledSASRec: a pre-LN decoder over item ids, trained at every position with the full softmax.

Source: arXiv 2311.11351 (a GPT-2 style block on SASRec's task); our own choices are documented in the README.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError, check_choice
from recbole_scale.model.layers import ACTIVATIONS, DecoderBlock, init_weights, item_cross_entropy, layer_rates
from recbole_scale.model.sizes import Shape, softmax_chunk


class ScaledSASRec(SequentialRecommender):
    """A decoder-only sequential recommender of any size, with RecBole's model interface.

    ``config`` needs the keys of ``properties/model/ScaledSASRec.yaml``; ``dataset`` gives the number of items.
    Item id 0 is padding, on the right; it is never a candidate.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.shape = shape = Shape.from_config(config, self.n_items - 1)
        check_choice("hidden_act", config["hidden_act"], ACTIVATIONS)
        check_choice("loss_type", config["loss_type"], ["CE"])
        self.softmax_chunk = config["softmax_chunk"] or softmax_chunk(shape, config["device"].type)
        rates = dropout_rates(config)
        attn_rates = (
            [config["attn_dropout_prob"]] * shape.n_layers if config["attn_dropout_prob"] is not None else rates
        )
        self.embedding_dropout = rates[0]
        self.item_embedding = nn.Embedding(self.n_items, shape.d_model, padding_idx=0)
        self.position_embedding = nn.Embedding(shape.max_length, shape.d_model)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                shape.d_model,
                shape.n_heads,
                shape.inner_size,
                activation=config["hidden_act"],
                eps=config["layer_norm_eps"],
                dropout=rate,
                attn_dropout=attn_rate,
            )
            for rate, attn_rate in zip(rates, attn_rates, strict=True)
        )
        self.final_norm = nn.LayerNorm(shape.d_model, eps=config["layer_norm_eps"])
        init_weights(self, list(self.blocks), config["initializer_range"])

    def embed(self, item_seq: Tensor) -> Tensor:
        """Item ids [B, T] to the first block's input [B, T, D]."""
        x = self.item_embedding(item_seq) + self.position_embedding.weight[: item_seq.shape[1]]  # [B, T, D]
        return F.dropout(x, self.embedding_dropout, self.training)

    def forward(self, item_seq: Tensor) -> Tensor:
        """Item ids [B, T], padded on the right, to hidden states [B, T, D]."""
        x = self.embed(item_seq)
        for block in self.blocks:
            x = block(x)  # [B, T, D]
        return self.final_norm(x)

    def encode_last(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Hidden state of each history's last item, [B, D]; the last block is computed for that position only."""
        last = item_seq_len - 1  # [B]
        x = self.embed(item_seq[:, : int(item_seq_len.max())])
        for block in self.blocks[:-1]:
            x = block(x)
        return self.final_norm(self.blocks[-1](x, last)).squeeze(1)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean cross-entropy in nats over the batch's targets.

        A batch of windows holds ``target_list`` [B, T] (0: no loss there); a batch of RecBole's rows holds one
        target per row.
        """
        item_seq = interaction[self.ITEM_SEQ]
        if TARGET_LIST in interaction:
            target = interaction[TARGET_LIST]
            counted = target != 0  # [B, T]
            hidden, target = self.forward(item_seq)[counted], target[counted]  # [M, D], [M]
        else:
            hidden, target = (
                self._training_last(item_seq, interaction[self.ITEM_SEQ_LEN]),
                interaction[self.POS_ITEM_ID],
            )
        return item_cross_entropy(hidden, self.item_embedding.weight, target, self.softmax_chunk)

    def _training_last(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        hidden = self.forward(item_seq)
        return hidden[torch.arange(len(hidden), device=hidden.device), item_seq_len - 1]  # [B, D]

    def predict(self, interaction: Any) -> Tensor:
        """Score of one given item per row, [B]."""
        hidden = self.encode_last(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (hidden * self.item_embedding(interaction[self.ITEM_ID])).sum(-1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score (logit) of every item, [B, V + 1]; column 0 is padding."""
        hidden = self.encode_last(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return hidden @ self.item_embedding.weight.T


def dropout_rates(config: Any) -> list[float]:
    """Dropout rate of each layer: ``hidden_dropout_prob`` if set, else ``dropout_bottom`` to ``dropout_top``."""
    for key in ("hidden_dropout_prob", "attn_dropout_prob", "dropout_bottom", "dropout_top"):
        rate = config[key]
        if rate is not None and not (isinstance(rate, int | float) and 0 <= rate < 1):
            raise UserError(f"{key} is {rate!r}, but must lie in 0..1 (1 excluded)")
    if config["hidden_dropout_prob"] is not None:
        return [float(config["hidden_dropout_prob"])] * config["n_layers"]
    return layer_rates(config["n_layers"], float(config["dropout_bottom"]), float(config["dropout_top"]))
