"""ScaledSASRec: a pre-LN decoder over item ids, trained at every position with the full softmax.

Source: arXiv 2311.11351 (a GPT-2 style block on SASRec's task); our own choices are documented in the README.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recbole_scale.data.windows import TARGET_LIST, TARGET_PLACES
from recbole_scale.interfaces import Batch, ByKey
from recbole_scale.model.layers import DecoderBlock, dropout, init_weights, layer_rates
from recbole_scale.model.memory import softmax_chunk
from recbole_scale.model.precision import prepare_gpu, resolve_precision
from recbole_scale.model.sampled_softmax import SampledSoftmax, proposal
from recbole_scale.model.sizes import Shape
from recbole_scale.model.softmax import item_cross_entropy, softmax_kernel
from recbole_scale.model.width import scale_initial, width_ratio
from recbole_scale.settings import ScaledSASRecSettings

if TYPE_CHECKING:
    from recbole_scale.data.rows import SplitDataset


class ScaledSASRec(SequentialRecommender):
    """A decoder-only sequential recommender of any size, with RecBole's model interface.

    ``config`` needs the keys of ``properties/model/ScaledSASRec.yaml``; ``dataset`` gives the number of items.
    Item id 0 is padding, on the right; it is never a candidate.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: ByKey, dataset: SplitDataset) -> None:
        super().__init__(config, dataset)
        settings = ScaledSASRecSettings.read(config)
        self.shape = shape = Shape.from_config(config, self.n_items - 1)
        device = config["device"]
        self.precision = resolve_precision(settings.precision, device, bool(config["enable_amp"]))
        self.activation_checkpointing = settings.activation_checkpointing
        if device.type == "cuda":
            prepare_gpu(settings.tf32)
        pad_heads = device.type == "cuda" if settings.pad_heads is None else settings.pad_heads
        self.softmax = softmax_kernel(settings.softmax, shape.d_model, shape.n_items, device)
        rates = dropout_rates(settings)
        self.embedding_dropout = rates[0] if settings.dropout_embedding is None else settings.dropout_embedding
        sparse = settings.learner == "sparse_adam"
        self.item_embedding = nn.Embedding(self.n_items, shape.d_model, padding_idx=0, sparse=sparse)
        self.position_embedding = nn.Embedding(shape.max_length, shape.d_model)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                shape.d_model,
                shape.n_heads,
                shape.inner_size,
                activation=settings.hidden_act,
                eps=settings.layer_norm_eps,
                dropout=rate,
                attn_dropout=attn_rate,
                pad_heads=pad_heads,
            )
            for rate, attn_rate in zip(rates, attention_rates(settings), strict=True)
        )
        self.final_norm = nn.LayerNorm(shape.d_model, eps=settings.layer_norm_eps)
        init_weights(self, list(self.blocks), settings.initializer_range)
        self.width_ratio = width_ratio(config)
        scale_initial(self, self.width_ratio)
        self.sampled = sampled_softmax(settings, dataset, shape.n_items) if settings.loss_type == "SCE" else None
        candidates = shape.n_items if self.sampled is None else min(self.sampled.n_samples, shape.n_items)
        self.softmax_chunk = settings.softmax_chunk or softmax_chunk(candidates, device)
        if self.precision == "bf16_weights":
            self.to(torch.bfloat16)
        self.graphs = settings.compile == "graphs"
        if settings.compile:
            self.compile_blocks()

    def compile_blocks(self) -> None:
        """Compile each block in place: names in the checkpoint stay, and equal blocks share what is compiled.

        With ``graphs`` a GPU also records what each launches, once a shape, and replays it; a CPU has no graphs.
        """
        # every rate of a layer is a constant of its own to the compiler, so that each layer is a version of one code
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(self.blocks))
        for block in self.blocks:
            block.compile(dynamic=True, mode="reduce-overhead" if self.graphs else None)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """Products in bfloat16 where ``precision`` is bf16; a context for what runs inside."""
        device_type = self.item_embedding.weight.device.type
        known = device_type if device_type in ("cpu", "cuda") else "cpu"
        return torch.autocast(known, torch.bfloat16, enabled=enabled and self.precision == "bf16")

    def embed(self, item_seq: Tensor) -> Tensor:
        """Item ids [B, T] to the first block's input [B, T, D]."""
        x = self.item_embedding(item_seq) + self.position_embedding.weight[: item_seq.shape[1]]  # [B, T, D]
        return dropout(x, self.embedding_dropout, self.training)

    def forward(self, item_seq: Tensor) -> Tensor:
        """Item ids [B, T], padded on the right, to hidden states [B, T, D]."""
        if self.graphs:  # nothing of an earlier pass is needed any more: its memory may be written again
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            x = self.embed(item_seq)
            for block in self.blocks:
                if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)  # [B, T, D]
                else:
                    x = block(x)  # [B, T, D]
            return self.final_norm(x)

    def encode_last(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Hidden state of each history's last item, [B, D]; the last block is computed for that position only."""
        last = item_seq_len - 1  # [B]
        with self.autocast():
            if not torch.compiler.is_exporting():  # an exported graph has one width
                item_seq = item_seq[:, : int(item_seq_len.max())]
            x = self.embed(item_seq)
            # histories have any width, and graphs are recorded for a few
            *lower, top = [block.forward if self.graphs else block for block in self.blocks]
            for block in lower:
                x = block(x)
            return self.final_norm(top(x, last)).squeeze(1)

    def calculate_loss(self, interaction: Batch) -> Tensor:
        """Mean cross-entropy in nats over the batch's targets, exact or (``loss_type: SCE``) sampled.

        A batch of windows holds ``target_list`` [B, T] (0: no loss there), and perhaps ``target_places`` [M], where it
        is not 0, without which a GPU must be waited for; a batch of RecBole's rows holds one target per row.
        """
        item_seq = interaction[self.ITEM_SEQ]
        if TARGET_LIST in interaction:
            target = interaction[TARGET_LIST]
            known = TARGET_PLACES in interaction
            places = interaction[TARGET_PLACES] if known else target.flatten().nonzero().squeeze(1)  # [M]
            hidden = self.forward(item_seq).flatten(0, 1).index_select(0, places)  # [M, D]
            target = target.flatten().index_select(0, places)  # [M]
        else:
            hidden, target = (
                self._training_last(item_seq, interaction[self.ITEM_SEQ_LEN]),
                interaction[self.POS_ITEM_ID],
            )
        with self.autocast(enabled=False):
            return self._item_loss(hidden, target)

    def _item_loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Loss of ``hidden`` [M, D] against items ``target`` [M]; logits in bfloat16 on a GPU only, sums in float32."""
        if not isinstance(self.item_embedding, nn.Embedding):  # its rows lie in several processes
            low = hidden.device.type == "cuda" and self.precision != "float32"
            cut: Tensor = self.item_embedding.item_cross_entropy(
                hidden.to(torch.bfloat16 if low else torch.float32), target, self.softmax_chunk
            )
            return cut
        weight = self.item_embedding.weight
        if hidden.device.type == "cuda" and self.precision != "float32":
            hidden = hidden.bfloat16()
        elif hidden.dtype == torch.bfloat16:  # a CPU's products in bfloat16 would sum in it too
            hidden = hidden.float()
        if self.sampled is not None:
            loss: Tensor = self.sampled(hidden, weight, target, self.softmax_chunk, self.item_embedding.sparse)
            return loss
        if self.softmax != "triton":  # which rounds the weights itself, and their gradient not at all
            weight = weight.to(hidden.dtype)
        return item_cross_entropy(hidden, weight, target, self.softmax_chunk, self.softmax)

    def _training_last(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        hidden = self.forward(item_seq)
        return hidden[torch.arange(len(hidden), device=hidden.device), item_seq_len - 1]  # [B, D]

    def predict(self, interaction: Batch) -> Tensor:
        """Score of one given item per row, [B]."""
        hidden = self.encode_last(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (hidden.float() * self.item_embedding(interaction[self.ITEM_ID]).float()).sum(-1)

    def full_sort_predict(self, interaction: Batch) -> Tensor:
        """Score (logit) of every item, [B, V + 1], float32; column 0 is padding."""
        hidden = self.encode_last(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        with self.autocast(enabled=False):
            return hidden.float() @ self.item_embedding.weight.float().T


def dropout_rates(settings: ScaledSASRecSettings) -> list[float]:
    """Dropout rate of each layer, bottom first; the embedding takes the first unless it has its own.

    ``hidden_dropout_prob`` (one for all) wins over ``dropout_rates`` (a list), and that over ``dropout_bottom`` to
    ``dropout_top``.
    """
    if settings.hidden_dropout_prob is not None:
        return [settings.hidden_dropout_prob] * settings.n_layers
    if settings.dropout_rates is not None:
        return settings.dropout_rates
    return layer_rates(settings.n_layers, settings.dropout_bottom, settings.dropout_top)


def attention_rates(settings: ScaledSASRecSettings) -> list[float]:
    """Dropout rate of each layer's attention weights: ``attn_dropout_prob`` if set, else the layer's own."""
    rates = dropout_rates(settings)
    return rates if settings.attn_dropout_prob is None else [settings.attn_dropout_prob] * len(rates)


def sampled_softmax(settings: ScaledSASRecSettings, dataset: SplitDataset, n_items: int) -> SampledSoftmax:
    """The sampled loss of ``settings``, with a proposal from the training part of ``dataset``."""
    if settings.sce_power:
        counts = dataset.split.item_counts(dataset.histories, n_items)[1:]
    else:
        counts = np.zeros(n_items, dtype=np.int64)  # uniform, whatever they are
    return SampledSoftmax(proposal(counts, settings.sce_power), settings.sce_samples)
