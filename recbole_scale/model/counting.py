"""Two baselines that count instead of training, in seconds: the last item again, and what followed it (Markov)."""

from __future__ import annotations

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from scipy import sparse
from torch import Tensor, nn

from recbole_scale.interfaces import Batch, ByKey, DataSet

ROWS_AT_ONCE = 65_536
BACK_OFF = 1.0  # pseudo-counts of popularity in each item's successors


class Counting(SequentialRecommender):
    """What both share: popularity of the training targets, smoothed by one, and a loss that trains nothing."""

    input_type = InputType.POINTWISE

    def __init__(self, config: ByKey, dataset: DataSet) -> None:
        super().__init__(config, dataset)
        self.nothing = nn.Parameter(torch.zeros(1))
        counts = np.ones(self.n_items)
        counts[0] = 0  # padding
        pairs = sparse.csr_matrix((self.n_items, self.n_items))
        rows = dataset.inter_feat
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[np.arange(start, min(start + ROWS_AT_ONCE, len(rows)))]
            target, last = part[self.ITEM_ID].numpy(), self.last_items(part).numpy()
            counts += np.bincount(target, minlength=self.n_items)
            pairs += sparse.coo_matrix((np.ones(len(target)), (last, target)), shape=pairs.shape).tocsr()
        self.popularity = torch.from_numpy(counts / counts.sum()).float().to(config["device"])  # [V + 1]
        self.pairs = pairs

    def last_items(self, interaction: Batch) -> Tensor:
        """Newest item of each history, [B]."""
        place = (interaction[self.ITEM_SEQ_LEN] - 1).clamp_min(0)[:, None]
        last: Tensor = interaction[self.ITEM_SEQ].gather(1, place)[:, 0]
        return last

    def calculate_loss(self, interaction: Batch) -> Tensor:
        """A number that nothing is learnt from."""
        return self.nothing.sum()

    def predict(self, interaction: Batch) -> Tensor:
        """Score of each row's item, [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]


class RepeatLast(Counting):
    """The history again, newest first, then the most popular items; scores are no probabilities."""

    def full_sort_predict(self, interaction: Batch) -> Tensor:
        """Scores of all items, [B, V + 1]: 1, 2, 3, ... for items of the history by how late they came, else 0..1."""
        items = interaction[self.ITEM_SEQ]  # [B, T]
        scores = self.popularity.expand(len(items), -1).clone()
        place = torch.arange(1, items.shape[1] + 1, device=items.device).expand_as(items)
        return scores.scatter_reduce(1, items, place * (items > 0).float(), "amax")


class Markov(Counting):
    """Probability of each item after the last one: counted, smoothed by one pseudo-count of popularity."""

    def full_sort_predict(self, interaction: Batch) -> Tensor:
        """Probabilities of all items, [B, V + 1]."""
        rows = self.pairs[self.last_items(interaction).cpu().numpy()]
        seen = torch.from_numpy(rows.toarray()).float().to(self.popularity.device)
        total = seen.sum(1, keepdim=True) + BACK_OFF
        return (seen + BACK_OFF * self.popularity) / total
