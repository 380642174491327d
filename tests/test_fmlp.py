"""FMLPRec against numpy's circular convolution, its equations written out, and its count of parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUICK

import recbole_scale
from recbole_scale.errors import UserError
from recbole_scale.model.fmlp import FilterLayer, pad_left
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config

SMALL = {**QUICK, "metrics": ["Recall", "NDCG", "NLL"], "valid_metric": "NLL"}


@pytest.mark.parametrize("length", [10, 9])
def test_the_filter_is_a_circular_convolution_over_positions(length):
    torch.manual_seed(0)
    layer = FilterLayer(length, d_model=3, dropout=0.0, eps=1e-12)
    kernel = np.random.default_rng(0).normal(size=(length, 3))  # any real kernel ...
    spectrum = np.fft.rfft(kernel, axis=0)  # ... is reached by some filter
    layer.weight.data = torch.tensor(np.stack([spectrum.real, spectrum.imag], -1), dtype=torch.float32)
    x = np.random.default_rng(1).normal(size=(2, length, 3))
    expected = np.zeros_like(x)
    for t in range(length):
        for s in range(length):
            expected[:, t] += kernel[(t - s) % length] * x[:, s]
    found = layer.filtered(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def network_of(**settings):
    return build_model(prepare(make_config("FMLPRec", "walk", config_dict={**SMALL, **settings})))


def test_forward_is_the_papers_equations(walk):
    """Embedding, filter, feed-forward, residuals and LayerNorms in numpy, in float64."""
    network = network_of(n_layers=2).eval()
    for parameter in network.parameters():  # initial LayerNorms and biases would hide a missing one
        parameter.data += 0.1 * torch.randn_like(parameter)
    items, length = torch.tensor([[5, 3, 9, 0, 0, 0, 0, 0, 0, 0]]), torch.tensor([3])
    p = {k: v.double().numpy() for k, v in network.state_dict().items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = norm(p["item_embedding.weight"][[0] * 7 + [5, 3, 9]] + p["position_embedding.weight"], "norm")  # [T, D]
    for i in range(2):
        w = p[f"blocks.{i}.filter.weight"]
        filtered = np.fft.irfft(np.fft.rfft(x, axis=0) * (w[..., 0] + 1j * w[..., 1]), n=len(x), axis=0)
        x = norm(x + filtered, f"blocks.{i}.filter.norm")
        up = np.maximum(x @ p[f"blocks.{i}.ffn.up.weight"].T + p[f"blocks.{i}.ffn.up.bias"], 0)
        x = norm(x + up @ p[f"blocks.{i}.ffn.down.weight"].T + p[f"blocks.{i}.ffn.down.bias"], f"blocks.{i}.norm")
    np.testing.assert_allclose(network(items, length)[0].detach().numpy(), x[-1], atol=1e-4)


def test_padding_goes_to_the_left():
    rows = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]])
    assert pad_left(rows, torch.tensor([2, 4, 1])).tolist() == [[0, 0, 1, 2], [3, 4, 5, 6], [0, 0, 0, 7]]


def test_parameters_at_2_x_64_and_length_50(walk):
    """73,344 in the blocks, 76,672 without the items; arXiv 2311.11351 states 168K and does not say of what."""
    network = network_of(n_layers=2, hidden_size=64, inner_size=256, MAX_ITEM_LIST_LENGTH=50)
    filters, feed_forward, norms = 26 * 64 * 2, 2 * 64 * 256 + 256 + 64, 2 * 2 * 64
    blocks = 2 * (filters + feed_forward + norms)
    assert sum(p.numel() for p in network.blocks.parameters()) == blocks == 73_344
    others = sum(p.numel() for p in network.parameters()) - network.item_embedding.weight.numel()
    assert others == blocks + 50 * 64 + 2 * 64 == 76_672


@pytest.mark.parametrize("loss", [{}, {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform"}}])
def test_training_lowers_the_loss_below_chance(walk, loss):
    sampled = {"sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    if loss:
        loss["train_neg_sample_args"] |= sampled
    result = recbole_scale.run("FMLPRec", "walk", config_dict={**SMALL, "epochs": 4, "learning_rate": 0.01, **loss})
    assert result["test_result"]["recall@5"] > 2 * 5 / 40  # twice chance on 40 items
    if not loss:
        assert result["nll"] < np.log(40)


def test_losses_are_nats_over_real_items(walk):
    prepared = prepare(make_config("FMLPRec", "walk", config_dict=SMALL))
    network = build_model(prepared).eval()
    batch = next(iter(prepared.train_data))
    scores = network.full_sort_predict(batch)
    expected = torch.nn.functional.cross_entropy(scores[:, 1:], batch["item_id"] - 1)
    torch.testing.assert_close(network.calculate_loss(batch), expected)
    torch.testing.assert_close(network.predict(batch), scores.gather(1, batch["item_id"][:, None])[:, 0])


def test_wrong_settings_are_one_sentence(walk):
    with pytest.raises(UserError, match=r"hidden_act is 'rel', but must be one of .*; did you mean 'relu'"):
        network_of(hidden_act="rel")
