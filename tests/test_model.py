"""The model against torch's own encoder and loss, and the properties every causal model must have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import nn
from torch.nn import functional as F

from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError
from recbole_scale.model import layers
from recbole_scale.model.scaled_sasrec import ScaledSASRec, dropout_rates
from recbole_scale.model.sizes import (
    SIZE_NAMES,
    Shape,
    flops_per_interaction,
    load_size,
    parameter_groups,
    total_parameters,
)
from recbole_scale.settings import load_settings_file

PAPER_N = {"tiny": 98_304, "small": 786_432, "base": 1_572_864, "medium": 9_437_184, "large": 75_497_472,
           "xlarge": 829_440_000}  # fmt: skip


def make_config(**changes):
    from importlib.resources import files

    path = files("recbole_scale").joinpath("properties", "model", "ScaledSASRec.yaml")
    config = {
        **load_settings_file(str(path)),
        **load_size("tiny"),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "NEG_PREFIX": "neg_",
        "device": torch.device("cpu"),
    }
    return config | changes


def make_model(n_items: int = 30, **changes) -> ScaledSASRec:
    torch.manual_seed(0)
    return ScaledSASRec(make_config(**changes), SimpleNamespace(num=lambda field: n_items + 1))


def copy_into_torch_encoder(model: ScaledSASRec, eps: float) -> nn.TransformerEncoder:
    shape = model.shape
    layer = nn.TransformerEncoderLayer(
        shape.d_model, shape.n_heads, shape.inner_size, dropout=0.0, activation="gelu", layer_norm_eps=eps,
        batch_first=True, norm_first=True,
    )  # fmt: skip
    twin = nn.TransformerEncoder(layer, shape.n_layers, norm=nn.LayerNorm(shape.d_model, eps=eps))
    twin.norm.load_state_dict(model.final_norm.state_dict())
    for ours, theirs in zip(model.blocks, twin.layers, strict=True):
        theirs.self_attn.in_proj_weight.data.copy_(ours.attn.qkv.weight)
        theirs.self_attn.in_proj_bias.data.copy_(ours.attn.qkv.bias)
        theirs.self_attn.out_proj.load_state_dict(ours.attn.out.state_dict())
        theirs.linear1.load_state_dict(ours.ffn.up.state_dict())
        theirs.linear2.load_state_dict(ours.ffn.down.state_dict())
        theirs.norm1.load_state_dict(ours.ln_attn.state_dict())
        theirs.norm2.load_state_dict(ours.ln_ffn.state_dict())
    return twin


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_equals_torch_encoder_with_copied_weights(size):
    eps = 1e-5
    model = make_model(**load_size(size), layer_norm_eps=eps, initializer_range=0.2).eval()
    for parameter in model.parameters():  # biases and norms away from 0 and 1, so that a swap would show
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    twin = copy_into_torch_encoder(model, eps).eval()
    items = torch.randint(1, 31, (4, 50))
    mask = nn.Transformer.generate_square_subsequent_mask(50)
    with torch.no_grad():
        expected = twin(model.embed(items), mask=mask, is_causal=True)
        torch.testing.assert_close(model(items), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_parameter_groups_are_those_of_the_modules_and_of_the_paper(size):
    with torch.device("meta"):
        model = make_model(**load_size(size), initializer_range=0.02)
    groups = parameter_groups(model.shape)
    matrices = sum(p.numel() for name, p in model.blocks.named_parameters() if p.dim() == 2)
    assert groups["n_blocks"] == matrices == PAPER_N[size]
    assert groups["n_blocks_exact"] == sum(
        p.numel() for part in (model.blocks, model.final_norm) for p in part.parameters()
    )
    assert groups["n_item_embedding"] == model.item_embedding.weight.numel()
    assert groups["n_positions"] == model.position_embedding.weight.numel()
    assert total_parameters(model.shape) == sum(p.numel() for p in model.parameters())


def test_flops_agree_with_a_counter_of_matrix_products():
    from torch.utils.flop_counter import FlopCounterMode

    # with dropout on its weights, attention is plain matrix products, which the counter sees
    model = make_model(n_items=100, n_layers=2, hidden_size=32, n_heads=2, inner_size=128, attn_dropout_prob=0.1)
    model.softmax_chunk = 10_000
    items = torch.randint(1, 101, (8, 50))
    with FlopCounterMode(display=False) as counter:
        hidden = model(items)
        logits = hidden.reshape(-1, 32) @ model.item_embedding.weight[1:].T
        F.cross_entropy(logits, items.reshape(-1) - 1).backward()
    per_target = counter.get_total_flops() / items.numel()
    assert per_target == pytest.approx(flops_per_interaction(model.shape), rel=0.05)


def test_changing_an_item_changes_nothing_before_it():
    model = make_model(initializer_range=0.3).eval()
    items = torch.randint(1, 31, (2, 20))
    for position in (0, 7, 19):
        changed = items.clone()
        changed[:, position] = changed[:, position] % 30 + 1
        with torch.no_grad():
            before, after = model(items), model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.allclose(before[:, position], after[:, position])


def test_padding_changes_no_score_and_batches_agree_with_single_rows():
    model = make_model(initializer_range=0.3).eval()
    lengths = torch.tensor([50, 3, 17, 1])
    items = torch.randint(1, 31, (4, 50)) * (torch.arange(50) < lengths[:, None])
    with torch.no_grad():
        together = model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))
        for row, length in enumerate(lengths):
            alone = Interaction({"item_id_list": items[row : row + 1, :length], "item_length": length[None]})
            torch.testing.assert_close(together[row], model.full_sort_predict(alone)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_last_position_shortcut_equals_the_whole_forward(n_layers):
    model = make_model(n_layers=n_layers, initializer_range=0.3).eval()
    lengths = torch.tensor([12, 5, 1])
    items = torch.randint(1, 31, (3, 12)) * (torch.arange(12) < lengths[:, None])
    with torch.no_grad():
        whole = model(items)[torch.arange(3), lengths - 1]
        torch.testing.assert_close(model.encode_last(items, lengths), whole, atol=1e-5, rtol=1e-5)


def test_predict_is_a_column_of_full_sort_predict():
    model = make_model(initializer_range=0.3).eval()
    row = Interaction(
        {"item_id_list": torch.tensor([[3, 4, 0]]), "item_length": torch.tensor([2]), "item_id": torch.tensor([9])}
    )
    with torch.no_grad():
        assert model.predict(row).item() == pytest.approx(model.full_sort_predict(row)[0, 9].item(), abs=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_and_gradients_equal_plain_cross_entropy(dtype, tolerance, chunk):
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 16, dtype=dtype), torch.randn(41, 16, dtype=dtype)
    target = torch.randint(1, 41, (20,))
    results = []
    for loss in (
        lambda h, w: F.cross_entropy(h @ w[1:].T, target - 1),
        lambda h, w: layers.item_cross_entropy(h, w, target, chunk),
        lambda h, w: layers._checkpointed_cross_entropy(h, w[1:], target - 1, chunk),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = loss(h, w)
        value.backward()
        assert torch.equal(w.grad[0], torch.zeros_like(w.grad[0]))  # padding is no candidate
        results.append((value.float(), h.grad.float(), w.grad.float()))
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance * 10)


def test_window_loss_is_the_mean_over_counted_targets_only():
    model = make_model(hidden_dropout_prob=0.0).eval()
    items = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    targets = torch.tensor([[0, 3, 4, 5], [6, 7, 0, 0]])
    loss = model.calculate_loss(Interaction({"item_id_list": items, TARGET_LIST: targets}))
    logits = model(items) @ model.item_embedding.weight[1:].T
    losses = [F.cross_entropy(logits[b, t], targets[b, t] - 1) for b, t in targets.nonzero().tolist()]
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_row_loss_is_that_of_the_last_position():
    model = make_model(hidden_dropout_prob=0.0).eval()
    row = {"item_id_list": torch.tensor([[1, 2, 3, 0]]), "item_length": torch.tensor([3]), "item_id": torch.tensor([4])}
    window = {"item_id_list": torch.tensor([[1, 2, 3]]), TARGET_LIST: torch.tensor([[0, 0, 4]])}
    assert model.calculate_loss(Interaction(row)).item() == pytest.approx(
        model.calculate_loss(Interaction(window)).item(), abs=1e-6
    )


def test_residual_projections_start_smaller_and_padding_starts_at_zero():
    model = make_model(n_items=3000, n_layers=8, initializer_range=0.02)
    assert torch.equal(model.item_embedding.weight[0], torch.zeros(64))
    assert model.item_embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.02)
    assert model.blocks[0].ffn.up.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for block in model.blocks:
        for projection in (block.attn.out, block.ffn.down):
            assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # 1 / sqrt(2 * 8)


def test_dropout_falls_linearly_from_bottom_to_top():
    config = make_config(n_layers=5, dropout_bottom=0.4, dropout_top=0.0)
    assert dropout_rates(config) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert dropout_rates(config | {"hidden_dropout_prob": 0.25}) == [0.25] * 5
    model = make_model(n_layers=5, dropout_bottom=0.4, dropout_top=0.0, attn_dropout_prob=None)
    assert [block.attn.dropout for block in model.blocks] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert model.embedding_dropout == 0.4


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"n_heads": 3}, "not a multiple of n_heads"),
        ({"n_layers": 0}, "n_layers"),
        ({"hidden_act": "gellu"}, "did you mean 'gelu'"),
        ({"dropout_bottom": 1.5}, "dropout_bottom"),
        ({"loss_type": "BPR"}, "loss_type"),
    ],
)
def test_a_wrong_shape_is_one_sentence(changes, says):
    with pytest.raises(UserError, match=says):
        make_model(**changes)


def test_shape_counts_real_items():
    assert Shape.from_config(make_config(), n_items=30).n_items == 30
    assert make_model(n_items=30).shape.n_items == 30
