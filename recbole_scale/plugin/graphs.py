"""KGAT, KGIN and MCCLK without dgl and torch_scatter, which have no build for today's torch."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.model.knowledge_aware_recommender import KGAT as RecBolesKGAT
from scipy.sparse import coo_matrix
from torch import Tensor

from recbole_scale.interfaces import RunConfig

SCATTER = "torch_scatter"


class KGAT(RecBolesKGAT):
    """RecBole's, with the graph's edges at hand as arrays; dgl held them once more, for the first weights alone."""

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        super().__init__(config, _WithoutDgl(dataset))

    def init_graph(self) -> Tensor:
        """The sum over relations r of D_r^-1 A_r, sparse [users + entities, users + entities]."""
        heads, tails, relations = self.all_hs.numpy(), self.all_ts.numpy(), self.all_rs.numpy()
        _, which, edges = np.unique(relations * self.matrix_size[0] + heads, return_inverse=True, return_counts=True)
        whole = coo_matrix((1 / edges[which], (heads, tails)), shape=self.matrix_size).tocsr().tocoo()
        places = torch.from_numpy(np.stack([whole.row, whole.col]).astype(np.int64))
        values = torch.from_numpy(whole.data.astype(np.float32))
        return torch.sparse_coo_tensor(places, values, self.matrix_size, device=self.device)


class _WithoutDgl:
    """A data set that makes no graph of dgl's."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def ckg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        return None if form == "dgl" else self._dataset.ckg_graph(form=form, value_field=value_field)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


def scatter_mean(src: Tensor, index: Tensor, dim_size: int, dim: int = 0) -> Tensor:
    """Means [dim_size, D] of the rows of ``src`` [n, D] by group ``index`` [n]; zeros where a group is empty."""
    rows = torch.bincount(index, minlength=dim_size).clamp(min=1)
    return src.new_zeros(dim_size, *src.shape[1:]).index_add(dim, index, src) / rows[:, None]


def scatter_softmax(src: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Softmax of each column of ``src`` [n, D] within the groups ``index`` [n]."""
    groups = int(index.max()) + 1
    places = index[:, None].expand_as(src)
    largest = src.new_full((groups, src.shape[1]), -torch.inf).scatter_reduce(dim, places, src.detach(), "amax")
    parts = (src - largest[index]).exp()
    return parts / parts.new_zeros(largest.shape).index_add(dim, index, parts)[index]


def provide_scatter() -> None:
    """Stand in for torch_scatter, which KGIN and MCCLK import at every step, where it is not installed."""
    if SCATTER not in sys.modules and find_spec(SCATTER) is None:
        module: Any = types.ModuleType(SCATTER)
        module.__spec__ = ModuleSpec(SCATTER, None)
        module.scatter_mean, module.scatter_softmax = scatter_mean, scatter_softmax
        sys.modules[SCATTER] = module
