"""KGAT, KGIN and MCCLK on plain torch: what stands in for dgl and torch_scatter, against loops over edges."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from recbole_data import with_first_weights, write_made

from recbole_scale.plugin.graphs import scatter_mean, scatter_softmax

INDEX = torch.tensor([3, 0, 3, 1, 0, 3, 5])  # groups 2 and 4 are empty


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_means_and_softmax_of_groups_are_those_of_loops(scale):
    source = scale * torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means, softmax = scatter_mean(src=source, index=INDEX, dim_size=8, dim=0), scatter_softmax(source, INDEX, dim=0)
    expected = np.zeros((8, 4))
    for group in range(8):
        members = np.flatnonzero(INDEX.numpy() == group)
        if len(members):
            rows = source.numpy()[members]
            expected[group] = rows.mean(0)
            powers = np.exp(rows - rows.max(0))
            np.testing.assert_allclose(softmax.numpy()[members], powers / powers.sum(0), rtol=1e-12)
    np.testing.assert_allclose(means.numpy(), expected, rtol=1e-12)


def test_their_gradients_are_those_of_differences():
    source = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: scatter_mean(x, INDEX, 6), (source,))
    assert torch.autograd.gradcheck(lambda x: scatter_softmax(x, INDEX), (source,))


def test_kgats_first_weights_share_each_node_among_its_edges_of_a_relation(folder):
    write_made(folder)
    prepared, network, _ = with_first_weights("KGAT")
    data = prepared.train_data._dataset
    users, items = (data.inter_feat[field].tolist() for field in ("user_id", "item_id"))
    edges = [(u, data.user_num + i, "taken") for u, i in zip(users, items, strict=True)]
    edges += [(tail, head, kind) for head, tail, kind in edges]
    triples = (data.kg_feat[field].tolist() for field in ("head_id", "tail_id", "relation_id"))
    edges += [(data.user_num + h, data.user_num + t, r) for h, t, r in zip(*triples, strict=True)]
    of_a_kind = Counter((head, kind) for head, _, kind in edges)
    expected = np.zeros((data.user_num + data.entity_num,) * 2)
    for head, tail, kind in edges:
        expected[head, tail] += 1 / of_a_kind[head, kind]
    found = network.init_graph().to_dense().numpy()
    assert len(edges) > 500 and 0.5 <= expected.max() <= 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)
