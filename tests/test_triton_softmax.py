"""The GPU kernel of the item softmax, run by Triton's interpreter on a CPU, against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

# conftest.py has its interpreter run the kernels
pytest.importorskip("triton", reason="Triton is not installed here, so its interpreter cannot run the kernel")

from recbole_scale.model.softmax import ChunkedCrossEntropy, item_cross_entropy
from recbole_scale.model.triton_softmax import ITEMS, ROWS, TritonCrossEntropy

SIZES = [(100, 130, 64), (7, 5, 50), (ROWS, ITEMS, 16), (ROWS + 1, 2 * ITEMS + 1, 24), (1, 1, 8)]


def loss_and_gradients(function, hidden, weight):
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    loss = function(*inputs)
    (0.25 * loss).backward()
    return loss, *(tensor.grad for tensor in inputs)


@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_is_exact_in_float32(size):
    m, v, d = size
    torch.manual_seed(0)
    hidden, weight, index = torch.randn(m, d), 0.3 * torch.randn(v, d), torch.randint(0, v, (m,))
    ours = loss_and_gradients(lambda h, w: TritonCrossEntropy.apply(h, w, index), hidden, weight)
    twin = loss_and_gradients(lambda h, w: F.cross_entropy(h @ w.T, index), hidden.double(), weight.double())
    for mine, true in zip(ours, twin, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-7)


def test_the_kernel_in_bfloat16_is_as_good_as_the_chunks():
    torch.manual_seed(1)
    hidden, weight = torch.randn(90, 64).bfloat16(), (0.3 * torch.randn(100, 64)).bfloat16()
    index = torch.randint(0, 100, (90,))
    ours = loss_and_gradients(lambda h, w: TritonCrossEntropy.apply(h, w, index), hidden, weight)
    chunks = loss_and_gradients(lambda h, w: ChunkedCrossEntropy.apply(h, w, index, 32), hidden, weight)
    twin = loss_and_gradients(lambda h, w: F.cross_entropy(h @ w.T, index), hidden.double(), weight.double())
    assert ours[0].dtype == torch.float32 and ours[1].dtype == ours[2].dtype == torch.bfloat16
    for mine, other, true in zip(ours, chunks, twin, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-2, atol=1e-3)
        assert (mine - true).abs().max() <= 2 * (other - true).abs().max() + 1e-6


def test_float32_weights_get_the_gradient_of_bfloat16_products_unrounded():
    """Against float64 from the same bfloat16 numbers. The softmax goes into the product with 8 bits, which costs 1.1e-3
    of the gradient's norm when rounded (a GPU) and 2.3e-3 when cut off (the interpreter); a gradient written in
    bfloat16, as that of hidden is, cannot be nearer than 1.7e-3."""
    torch.manual_seed(2)
    hidden, weight = torch.randn(70, 64).bfloat16(), (0.3 * torch.randn(131, 64)).bfloat16()
    index = torch.randint(0, 131, (70,))
    ours = loss_and_gradients(lambda h, w: TritonCrossEntropy.apply(h, w, index), hidden, weight.float())
    twin = loss_and_gradients(lambda h, w: F.cross_entropy(h @ w.T, index), hidden.double(), weight.double())
    assert (ours[1].dtype, ours[2].dtype) == (torch.bfloat16, torch.float32)
    assert (ours[0] - twin[0]).abs() < 1e-6
    assert (ours[2] - twin[2]).norm() <= 2.5e-3 * twin[2].norm()
    rounded = (twin[1].bfloat16() - twin[1]).norm() / twin[1].norm()
    assert 1.5e-3 < rounded < (ours[1] - twin[1]).norm() / twin[1].norm() < 6e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_loss_through_the_kernel_is_exact_to_a_thousandth_its_gradients_to_their_format(dtype):
    torch.manual_seed(2)
    hidden, weight = torch.randn(70, 64).to(dtype), (0.3 * torch.randn(131, 64)).to(dtype)  # row 0 is padding
    target = torch.randint(1, 131, (70,))
    ours = loss_and_gradients(lambda h, w: item_cross_entropy(h, w, target, 16, "triton"), hidden, weight)
    twin = loss_and_gradients(lambda h, w: F.cross_entropy(h @ w[1:].T, target - 1), hidden.double(), weight.double())
    torch.testing.assert_close(ours[0].double(), twin[0], rtol=1e-3, atol=0)
    most = 1e-3 if dtype == torch.float32 else 1e-2  # softmax and gradients are written with 8 bits
    for mine, true in zip(ours[1:], twin[1:], strict=True):
        assert (mine - true).norm() <= most * true.norm()
    assert not ours[2][0].any()


def test_large_logits_do_not_overflow():
    hidden, weight = torch.full((3, 16), 30.0), torch.randn(20, 16)
    index = torch.tensor([0, 5, 19])
    loss = TritonCrossEntropy.apply(hidden, weight, index)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, index), rtol=1e-5, atol=1e-4)
