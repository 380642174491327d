"""The NLL of any model: -log p where its scores are probabilities, and a word for what the number is elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole_data import with_first_weights, write_made

from recbole_scale.challenges.scoring import rank_targets
from recbole_scale.model.likelihood import are_probabilities, held_out_nll


def test_both_formulas_by_hand():
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.5, 0.0]])
    row, item = torch.tensor([0, 1]), torch.tensor([3, 2])
    assert are_probabilities(scores) and not are_probabilities(scores * 1.01) and not are_probabilities(scores - 0.01)
    np.testing.assert_allclose(held_out_nll(scores, row, item, probabilities=True), [-np.log(0.4), -np.log(0.5)], 1e-6)
    by_hand = [np.log(sum(np.exp(np.array(s[1:])))) - s[i] for s, i in zip(scores.tolist(), (3, 2), strict=True)]
    np.testing.assert_allclose(held_out_nll(scores, row, item), by_hand, 1e-6)
    impossible = held_out_nll(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0]), torch.tensor([2]), probabilities=True)
    assert torch.isfinite(impossible).all() and impossible > 80
    assert not are_probabilities(torch.zeros(3, 5))
    counts = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    assert not are_probabilities(counts) and not are_probabilities(torch.tensor([[0.5, 0.5], [0.5, 2.5]]))


@pytest.mark.parametrize("model", ["RepeatNet", "SASRecCPR", "GRU4RecCPR"])
def test_probabilities_give_the_loss_that_the_model_trains_on(folder, model):
    write_made(folder)
    prepared, network, trainer = with_first_weights(model, metric_decimal_place=8)
    found = trainer.evaluate(prepared.test_data, load_best_model=False)
    network.eval()
    with torch.no_grad():
        losses = [(network.calculate_loss(batch), len(batch)) for batch, *_ in prepared.test_data]
    own = sum(float(loss) * rows for loss, rows in losses) / sum(rows for _, rows in losses)
    assert found["nll"] == pytest.approx(own, abs=1e-5)
    assert abs(found["nll"] - np.log(30)) > 1e-3  # what a second softmax gives whatever was learnt
    assert trainer.eval_collector.nll_kind == "probabilities"
    batch, *_, target = next(iter(prepared.test_data))  # the challenges' own scoring
    with torch.no_grad():
        scores = network.full_sort_predict(batch)
    expected = -scores[torch.arange(len(target)), target].log()
    torch.testing.assert_close(rank_targets(scores, target, None, True)[1], expected)


@pytest.mark.parametrize("model", ["SASRec", "NARM", "CORE", "FDSA"])
def test_likelihoods_are_the_loss_that_the_model_trains_on(folder, model):
    """RecBole's softmax has a place for padding too; with it the numbers are equal, ours leaves it out."""
    write_made(folder)
    prepared, network, trainer = with_first_weights(model, metric_decimal_place=8)
    found = trainer.evaluate(prepared.test_data, load_best_model=False)
    network.eval()
    with torch.no_grad():
        (batch, *_), *others = prepared.test_data
        scores, loss = network.full_sort_predict(batch), float(network.calculate_loss(batch))
    assert not others and trainer.eval_collector.nll_kind == "likelihood"
    padding = (scores.logsumexp(1) - scores[:, 1:].logsumexp(1)).mean()
    assert found["nll"] == pytest.approx(loss - float(padding), abs=1e-5)


KINDS = {
    "ScaledSASRec": ("likelihood", {}), "MultiVAE": ("likelihood", {}), "S3Rec": ("scores", {}),
    "GRU4Rec": ("scores", {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}),
    "BPR": ("scores", {}), "EASE": ("scores", {}), "ItemKNN": ("scores", {}), "DIN": ("scores", {}),
}  # fmt: skip


@pytest.mark.parametrize("model", KINDS)
def test_the_kind_says_how_the_scores_came_about(folder, model):
    write_made(folder)
    kind, settings = KINDS[model]
    prepared, _, trainer = with_first_weights(model, **settings)
    trainer.evaluate(prepared.test_data, load_best_model=False)
    assert trainer.eval_collector.nll_kind == kind
