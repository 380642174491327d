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
from recbole_scale.model.precision import check_compiler, resolve_precision
from recbole_scale.model.scaled_sasrec import ScaledSASRec, dropout_rates
from recbole_scale.model.sizes import (
    SIZE_NAMES,
    Shape,
    flops_per_interaction,
    load_size,
    parameter_groups,
    total_parameters,
)
from recbole_scale.model.softmax import ChunkedCrossEntropy, item_cross_entropy
from recbole_scale.settings import ScaledSASRecSettings, load_settings_file, properties_folder

PAPER_N = {"tiny": 98_304, "small": 786_432, "base": 1_572_864, "medium": 9_437_184, "large": 75_497_472,
           "xlarge": 829_440_000}  # fmt: skip


def make_config(**changes):

    path = properties_folder() / "model" / "ScaledSASRec.yaml"
    config = {
        **load_settings_file(str(path)),
        **load_size("tiny"),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "NEG_PREFIX": "neg_",
        "device": torch.device("cpu"),
        "enable_amp": False,
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
        lambda h, w: item_cross_entropy(h, w, target, chunk),
        lambda h, w: ChunkedCrossEntropy.apply(h, w[1:], target - 1, chunk),
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
    assert dropout_rates(ScaledSASRecSettings.read(config)) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert dropout_rates(ScaledSASRecSettings.read(config | {"hidden_dropout_prob": 0.25})) == [0.25] * 5
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


# Dropout, precision, checkpointing, compiling ------------------------------------------------------------------------


def test_listed_rates_reach_attention_residual_and_embedding_of_every_layer():
    rates = [0.5, 0.3, 0.05]
    model = make_model(n_layers=3, dropout_rates=rates, attn_dropout_prob=None)
    assert model.embedding_dropout == 0.5
    assert [block.dropout for block in model.blocks] == rates
    assert [block.attn.dropout for block in model.blocks] == rates
    own = make_model(n_layers=3, dropout_rates=rates, attn_dropout_prob=0.2)
    assert [block.attn.dropout for block in own.blocks] == [0.2] * 3
    apart = make_model(n_layers=3, dropout_rates=rates, dropout_embedding=0.1)
    assert apart.embedding_dropout == 0.1 and [block.dropout for block in apart.blocks] == rates
    assert [block.dropout for block in own.blocks] == rates
    assert (
        dropout_rates(ScaledSASRecSettings.read(make_config(n_layers=3, dropout_bottom=0.2, dropout_top=0.2)))
        == [0.2] * 3
    )


def test_rates_are_those_of_the_masks_drawn(monkeypatch):
    """What is dropped, counted where it happens: the embedding, and each layer's attention and two residuals."""
    rates, seen = [0.6, 0.4, 0.2], []
    model = make_model(n_layers=3, dropout_rates=rates, attn_dropout_prob=None).train()
    drop = layers.ByteDropout.apply

    def counted(x, rate):
        out = drop(torch.ones_like(x), rate)
        seen.append((x.shape[-1], (out == 0).float().mean().item()))
        return x * out

    monkeypatch.setattr(layers.ByteDropout, "apply", counted)
    model(torch.randint(1, 31, (16, 50)))
    attention = [share for width, share in seen if width == 50]  # T x T weights
    assert attention == pytest.approx(rates, abs=0.02)
    stream = [share for width, share in seen if width == 64]
    assert stream == pytest.approx([0.6, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2], abs=0.02)
    assert len(seen) == 10
    seen.clear()
    model.eval()(torch.randint(1, 31, (2, 50)))
    assert not seen


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_our_dropout_drops_its_share_keeps_the_mean_and_its_gradient_is_its_mask(rate):
    torch.manual_seed(0)
    x = torch.ones(1001, 999, requires_grad=True)
    out = layers.dropout(x, rate, True)
    out.sum().backward()
    n = x.numel()
    assert abs((out == 0).sum().item() - n * rate) < 5 * (n * rate * (1 - rate)) ** 0.5
    assert torch.equal(x.grad, out.detach()) and out.max().item() == pytest.approx(1 / (1 - rate))
    for flat in (out.detach().flatten() != 0, (out.detach() != 0).T.flatten()):  # neighbours are independent
        both = (flat[1:] & flat[:-1]).float().mean().item()
        assert both == pytest.approx((1 - rate) ** 2, abs=0.003)
    assert layers.dropout(x, rate, False) is x and layers.dropout(x, 0.0, True) is x


def test_attention_with_dropout_is_softmax_with_a_mask_on_its_weights(monkeypatch):
    """With a mask of ones it is torch's own attention; a dropped weight then scales what is left."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 7, 5, requires_grad=True)
    mask = (torch.rand(2, 4, 7, 7) > 0.3) / 0.7
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = (q @ k.transpose(2, 3) / 5**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    masked = (scores.softmax(-1) * mask) @ v
    for drop, reference in ((lambda w, r, t: w, expected), (lambda w, r, t: w * mask.view_as(w), masked)):
        monkeypatch.setattr(layers, "dropout", drop)
        found = layers.causal_attention(q, k, v, 0.3)
        torch.testing.assert_close(found, reference, atol=1e-6, rtol=1e-5)
        sums = (found.pow(2).sum(), reference.pow(2).sum())
        ours, theirs = (torch.autograd.grad(value, (q, k, v), retain_graph=True) for value in sums)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "rates, says",
    [
        ([0.1], "has 1 rates, but must list one for each of the 2 layers"),
        (0.1, "dropout_rates is 0.1, but must be a list"),
        (
            [0.1, 1.0],
            r"dropout_rates is \[0.1, 1.0\], but must be a list, each entry a number from 0 to 1 \(1 excluded",
        ),
        ([0.1, "x"], "dropout_rates is"),
        ([True, 0.1], "dropout_rates is"),
    ],
)
def test_wrong_rates_are_one_sentence(rates, says):
    with pytest.raises(UserError, match=says):
        make_model(dropout_rates=rates)


def window_batch(n_items: int = 30, rows: int = 6, length: int = 20) -> Interaction:
    items = torch.randint(1, n_items + 1, (rows, length), generator=torch.Generator().manual_seed(5))
    return Interaction({"item_id_list": items, TARGET_LIST: items.roll(-1, 1)})


def gradients(model: ScaledSASRec, seed: int = 7) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model.train().calculate_loss(window_batch())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_checkpointed_blocks_give_exactly_the_same_gradients_with_dropout():
    settings = {"n_layers": 3, "dropout_bottom": 0.4, "dropout_top": 0.1, "attn_dropout_prob": None}
    loss, expected = gradients(make_model(**settings))
    again, found = gradients(make_model(**settings, activation_checkpointing=True))
    assert torch.equal(loss, again)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other, _ = gradients(make_model(**settings), seed=8)
    assert not torch.equal(loss, other)  # dropout was at work


def test_precision_is_resolved_by_device_and_setting(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert resolve_precision("auto", cpu) == "float32"
    assert resolve_precision("auto", cpu, enable_amp=True) == "bf16"
    assert resolve_precision("float32", cpu, enable_amp=True) == "float32"
    for has, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert resolve_precision("auto", gpu) == expected
    with pytest.raises(UserError, match="did you mean 'bf16'"):
        make_model(precision="bf1")


def test_bf16_multiplies_in_bfloat16_and_keeps_the_rest_in_float32():
    settings = {"n_layers": 2, "hidden_dropout_prob": 0.0, "initializer_range": 0.2}
    seen = {}
    model = make_model(**settings, precision="bf16")
    model.blocks[0].ffn.up.register_forward_hook(lambda module, args, out: seen.update(up=out.dtype))
    model.blocks[1].register_forward_hook(lambda module, args, out: seen.update(stream=out.dtype))
    loss, found = gradients(model)
    assert seen == {"up": torch.bfloat16, "stream": torch.float32} and loss.dtype == torch.float32
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    exact, expected = gradients(make_model(**settings))
    assert 0 < abs(loss - exact) < 0.02 * exact
    flat, flat_expected = (torch.cat([g[n].flatten() for n in expected]) for g in (found, expected))
    assert F.cosine_similarity(flat, flat_expected, dim=0) > 0.99
    rows = Interaction({"item_id_list": torch.tensor([[1, 2]]), "item_length": torch.tensor([2])})
    assert model.eval().full_sort_predict(rows).dtype == torch.float32


@pytest.mark.parametrize("learner, rate", [("adamw", 1e-2), ("sgd", 0.3)])
def test_bf16_weights_take_steps_with_a_float32_loss(learner, rate):
    from recbole_scale.training.optimizers import build_optimizer

    model = make_model(precision="bf16_weights", hidden_dropout_prob=0.0)
    optimizer = build_optimizer(model, learner, rate, 0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.calculate_loss(window_batch())
        assert loss.dtype == torch.float32
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert all(s.dtype == torch.bfloat16 for state in optimizer.state.values() for s in state.values() if s.dim())
    assert losses[-1] < losses[0] - 0.1


def test_a_loss_in_bfloat16_sums_in_float32():
    """10,000 equal targets: a sum in bfloat16 would stand still at 256 times one of them."""
    hidden, weight = torch.zeros(10_000, 4, dtype=torch.bfloat16), torch.zeros(8, 4, dtype=torch.bfloat16)
    loss = item_cross_entropy(hidden, weight, torch.ones(10_000, dtype=torch.long), 16)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(torch.tensor(7.0).log().item(), rel=1e-4)


@pytest.mark.parametrize("kind", [pytest.param(True, marks=pytest.mark.slow), "graphs"])
def test_compiled_blocks_give_the_same_loss_gradients_and_names(kind):
    import shutil

    if not shutil.which("g++"):
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    settings = {"n_layers": 2, "hidden_size": 16, "inner_size": 32, "hidden_dropout_prob": 0.0}
    loss, expected = gradients(make_model(**settings))
    model = make_model(**settings, compile=kind)
    assert model.state_dict().keys() == expected.keys()
    found_loss, found = gradients(model)
    assert found_loss.item() == pytest.approx(loss.item(), abs=1e-5)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_without_a_compiler_compile_is_one_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UserError, match=r"compile needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layers": 2, "hidden_size": 1200, "inner_size": 4800, "n_heads": 24},
        {"size": "large", "dropout_bottom": 0.1, "dropout_top": 0.1},
    ],
    ids=["wide", "24 layers without LAD"],
)
def test_the_papers_negative_results_run_from_config_alone(walk, shape):
    import recbole_scale

    settings = {"topk": [5], "show_progress": False, "epochs": 1, "train_batch_size": 4096, "MAX_ITEM_LIST_LENGTH": 5,
                "dropout_bottom": 0.1, "dropout_top": 0.1}  # fmt: skip
    told = recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, **shape}, dry_run=True)["plan"]
    expected = ("2 layers x 1200, 24 heads", "N 34.6M") if "hidden_size" in shape else ("24 layers x 512", "N 75.5M")
    assert all(text in told for text in expected)
    assert "dropout    0.1\n" in told
