"""Sampled softmax: exact where it should be, its logQ correction against numpy, and its approach to the exact loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUICK
from recbole.data.interaction import Interaction
from test_model import make_model
from torch.nn import functional as F

from recbole_scale.data.histories import Histories
from recbole_scale.data.splits import Split
from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.model.sampled_softmax import (
    SampledSoftmax,
    proposal,
    sampled_cross_entropy,
)

V, M, D = 200, 40, 12


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(M, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(V + 1, D, generator=generator, dtype=torch.float64) * 0.7
    return hidden.to(dtype), weight.to(dtype), torch.randint(1, V + 1, (M,), generator=generator)


def skewed() -> np.ndarray:
    return proposal(np.arange(V) ** 2, 0.75)


def loss_and_gradients(loss, hidden, weight, target) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(hidden, weight, target)
    value.backward()
    return value.detach(), hidden.grad, weight.grad


def exact(hidden, weight, target):
    return F.cross_entropy(hidden @ weight[1:].T, target - 1)


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("samples", [V, V + 50])
def test_with_every_item_it_is_the_exact_loss_and_gradient(samples, chunk):
    sampler = SampledSoftmax(skewed(), samples)
    found = loss_and_gradients(lambda h, w, t: sampler(h, w, t, chunk), *problem())
    for ours, expected in zip(found, loss_and_gradients(exact, *problem()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def numpy_twin(hidden, weight, target, items, q) -> float:
    """The estimate written out, one target at a time."""
    losses = []
    for h, t in zip(hidden, target - 1, strict=True):
        scores = weight[1:] @ h
        total = np.exp(scores[t]) + sum(np.exp(scores[i]) / (len(items) * q[i]) for i in items if i != t)
        losses.append(np.log(total) - scores[t])
    return float(np.mean(losses))


def test_one_draw_equals_the_estimate_written_out_in_numpy():
    hidden, weight, target = problem()
    sampler = SampledSoftmax(skewed(), 30)
    torch.manual_seed(3)
    items, correction = sampler.draw()
    items[:5] = target[:5] - 1  # accidental hits
    correction = torch.from_numpy(np.log(30 * skewed()[items.numpy()]))
    found = sampled_cross_entropy(hidden, weight[1:], target - 1, items, correction, 9)
    expected = numpy_twin(hidden.numpy(), weight.numpy(), target.numpy(), items.numpy(), skewed())
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_draws_follow_the_proposal_and_the_correction_is_its_log():
    q = skewed()
    sampler = SampledSoftmax(q, V - 1)
    torch.manual_seed(0)
    seen = np.zeros(V)
    for _ in range(2000):
        items, correction = sampler.draw()
        np.add.at(seen, items.numpy(), 1)
    np.testing.assert_allclose(correction.numpy(), np.log((V - 1) * q[items.numpy()]), rtol=1e-5, atol=1e-6)
    n = seen.sum()
    deviation = (seen - n * q) / np.sqrt(n * q * (1 - q))  # standard normal, if the draws follow q
    assert abs(deviation).max() < 5 and 0.8 < deviation.std() < 1.2


@pytest.mark.parametrize("q", [proposal(np.zeros(V), 0.0), skewed()], ids=["uniform", "popular"])
def test_the_sum_over_other_items_is_estimated_without_bias(q):
    """exp(loss) is the estimated sum over exp(target's score): its mean over draws is the exact one."""
    hidden, weight, target = (part[:1] if at != 1 else part for at, part in enumerate(problem()))
    sampler = SampledSoftmax(q, 50)
    torch.manual_seed(0)
    ratios = torch.stack([sampler(hidden, weight, target, 100).exp() for _ in range(3000)])
    error = ratios.std() / len(ratios) ** 0.5
    assert abs(ratios.mean() - exact(hidden, weight, target).exp()) < 4 * error


def test_the_loss_and_gradient_approach_the_exact_ones_as_the_sample_grows():
    hidden, weight, target = problem()
    value, _, gradient = loss_and_gradients(exact, hidden, weight, target)
    torch.manual_seed(0)
    biases, distances = [], []
    for samples in (5, 20, 80, 199):
        sampler = SampledSoftmax(proposal(np.zeros(V), 0.0), samples)
        runs = [
            loss_and_gradients(lambda h, w, t, s=sampler: s(h, w, t, 100), hidden, weight, target) for _ in range(100)
        ]
        biases.append((value - torch.stack([run[0] for run in runs]).mean()).item())
        mean_gradient = torch.stack([run[2] for run in runs]).mean(0)
        distances.append(((mean_gradient - gradient).norm() / gradient.norm()).item())
    assert biases[0] > 2 * biases[1] > 4 * biases[2] > 0  # from below, and faster than the sample doubles
    assert abs(biases[3]) < 0.1 * biases[0] and abs(biases[3]) < 0.08
    assert distances[0] > distances[1] > distances[2] > distances[3] and distances[3] < 0.15


def test_proposal_is_by_count_to_the_power_and_draws_every_item():
    counts = np.array([0, 3, 15])
    np.testing.assert_allclose(proposal(counts, 0.5), np.array([1, 2, 4]) / 7)
    np.testing.assert_allclose(proposal(counts, 0), np.full(3, 1 / 3))
    np.testing.assert_allclose(proposal(counts, 1), np.array([1, 4, 16]) / 21)


def test_counts_are_those_of_the_training_part_only():
    items = np.array([1, 2, 3, 2, 2, 4, 1, 1])  # three users of 4, 2 and 2; the last one does not train
    histories = Histories(items, np.array([1, 2, 3]), np.array([0, 4, 6, 8]))
    split = Split(np.array([2, 1, 1]), np.array([3, 1, 1]), np.array([True, True, False]))
    assert split.item_counts(histories, 5).tolist() == [0, 1, 2, 0, 0, 0]
    assert split.item_counts(histories, 5, everybody=True).tolist() == [0, 2, 2, 0, 0, 0]


def test_the_model_trains_with_it_and_is_evaluated_exactly():
    batch = Interaction({"item_id_list": torch.tensor([[1, 2, 3, 4]]), TARGET_LIST: torch.tensor([[2, 3, 4, 5]])})
    whole = make_model(hidden_dropout_prob=0.0)
    same = make_model(hidden_dropout_prob=0.0, loss_type="SCE", sce_samples=30, sce_power=0)
    assert same.calculate_loss(batch).item() == pytest.approx(whole.calculate_loss(batch).item(), abs=1e-5)
    few = make_model(hidden_dropout_prob=0.0, loss_type="SCE", sce_samples=3, sce_power=0)
    assert few.calculate_loss(batch).item() != pytest.approx(whole.calculate_loss(batch).item(), abs=1e-5)
    assert few.state_dict().keys() == whole.state_dict().keys()  # so that training can go on with the other loss
    rows = Interaction({"item_id_list": torch.tensor([[1, 2]]), "item_length": torch.tensor([2])})
    with torch.no_grad():
        torch.testing.assert_close(few.eval().full_sort_predict(rows), whole.eval().full_sort_predict(rows))


def test_a_run_from_config_draws_by_training_counts(walk):
    import recbole_scale

    result = recbole_scale.run(
        "ScaledSASRec", "walk", config_dict={**QUICK, "loss_type": "SCE", "sce_samples": 20, "sce_power": 0.5}
    )
    assert 0 < result["nll"] < np.log(40) + 1
