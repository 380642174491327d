"""FMLPRec: filters learned in the frequency domain in the place of attention, with RecBole's model interface.

Source: Zhou et al., "Filter-enhanced MLP is All You Need for Sequential Recommendation", arXiv 2202.13556, section 3.
A filter mixes all positions, later ones too, so the model is not causal: it is trained on one row per prefix, for the
item after it, as RecBole's own models are. The paper trains on one sampled negative (equation 12; ``loss_type: BPR``);
the default here is the full softmax, as for RecBole's SASRec, so that losses can be compared.
"""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.loss import BPRLoss
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_scale.interfaces import Batch, ByKey, KnownIds
from recbole_scale.model.layers import FeedForward
from recbole_scale.settings import FMLPRecSettings


class FilterLayer(nn.Module):
    """``LayerNorm(x + drop(irfft(W * rfft(x))))``: a circular convolution over positions, one kernel a channel.

    ``W`` is complex, [T // 2 + 1, D], kept as its real and imaginary parts. Source: equations 4 to 7.
    """

    def __init__(self, length: int, d_model: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length // 2 + 1, d_model, 2))
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.dropout = dropout

    def filtered(self, x: Tensor) -> Tensor:
        """The convolution alone, [B, T, D] to [B, T, D]."""
        spectrum = torch.fft.rfft(x.float(), dim=1) * torch.view_as_complex(self.weight)  # [B, T // 2 + 1, D]
        return torch.fft.irfft(spectrum, n=x.shape[1], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        return self.norm(x + F.dropout(self.filtered(x), self.dropout, self.training))


class FilterBlock(nn.Module):
    """A filter and a feed-forward layer, each with dropout, residual and LayerNorm after it (equations 7 to 9)."""

    def __init__(self, length: int, d_model: int, inner_size: int, activation: str, dropout: float, eps: float) -> None:
        super().__init__()
        self.filter = FilterLayer(length, d_model, dropout, eps)
        self.ffn = FeedForward(d_model, inner_size, activation, dropout=0.0)
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.dropout = dropout

    def forward(self, x: Tensor, last_only: bool = False) -> Tensor:
        """Map ``x`` [B, T, D] to [B, T, D]; with ``last_only`` to its last position, [B, D]."""
        x = self.filter(x)
        if last_only:
            x = x[:, -1]
        return self.norm(x + F.dropout(self.ffn(x), self.dropout, self.training))


class FMLPRec(SequentialRecommender):
    """Filter-enhanced MLP over item ids.

    Histories are padded on the left, as the paper's authors do: the newest item stands in the last slot, where the
    prediction is read, whatever the length. RecBole's rows, padded on the right, are shifted first. A padding slot
    holds its position's embedding alone and is filtered like any other.
    """

    def __init__(self, config: ByKey, dataset: KnownIds) -> None:
        super().__init__(config, dataset)
        settings = FMLPRecSettings.read(config)
        d_model, eps = settings.hidden_size, settings.layer_norm_eps
        self.loss_type, self.dropout = settings.loss_type, settings.hidden_dropout_prob
        self.item_embedding = nn.Embedding(self.n_items, d_model, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, d_model)
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.blocks = nn.ModuleList(
            FilterBlock(self.max_seq_length, d_model, settings.inner_size, settings.hidden_act, self.dropout, eps)
            for _ in range(settings.n_layers)
        )
        self._init_weights(settings.initializer_range)

    def _init_weights(self, std: float) -> None:
        """Matrices, embeddings and filters normal(0, ``std``); padding row and biases 0; LayerNorm 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | FilterLayer):
                nn.init.normal_(module.weight, 0.0, std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.item_embedding.weight[0])

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Item ids [B, T], padded on the right, and their numbers [B], to the state after the last item, [B, D]."""
        x = self.item_embedding(pad_left(item_seq, item_seq_len)) + self.position_embedding.weight  # [B, T, D]
        x = F.dropout(self.norm(x), self.dropout, self.training)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1](x, last_only=True)

    def calculate_loss(self, interaction: Batch) -> Tensor:
        """Mean cross-entropy in nats over the rows' targets, or the pairwise loss with one sampled negative each."""
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        target = interaction[self.POS_ITEM_ID]
        if self.loss_type == "CE":
            return F.cross_entropy(hidden @ self.item_embedding.weight[1:].T, target - 1)  # padding is no candidate
        negative = self.item_embedding(interaction[self.NEG_ITEM_ID])
        loss: Tensor = BPRLoss()((hidden * self.item_embedding(target)).sum(-1), (hidden * negative).sum(-1))
        return loss

    def predict(self, interaction: Batch) -> Tensor:
        """Score of one given item per row, [B]."""
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (hidden * self.item_embedding(interaction[self.ITEM_ID])).sum(-1)

    def full_sort_predict(self, interaction: Batch) -> Tensor:
        """Score (logit) of every item, [B, V + 1]; column 0 is padding."""
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return hidden @ self.item_embedding.weight.T


def pad_left(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Move the padding of rows [B, T] from the right to the left; ``item_seq_len`` [B] ids keep their order."""
    source = torch.arange(item_seq.shape[1], device=item_seq.device) - (item_seq.shape[1] - item_seq_len[:, None])
    return item_seq.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0)  # [B, T]
