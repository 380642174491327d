"""``learner: sparse_adam``: of the items a step moves the batch's alone, by torch's own sparse Adam as a twin."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import QUICK
from recbole.data.interaction import Interaction
from test_model import make_model
from test_parallel import SETTINGS, train

import recbole_scale
from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError
from recbole_scale.settings import parse_arguments
from recbole_scale.training.optimizers import build_optimizer, clipped_norm, guarded_step

SPARSE = {"loss_type": "SCE", "learner": "sparse_adam"}
V, D = 30, 4


def table(sparse: bool = True) -> torch.nn.Embedding:
    torch.manual_seed(0)
    return torch.nn.Embedding(V, D, padding_idx=0, sparse=sparse)


def backward(model: torch.nn.Embedding, step: int) -> torch.Tensor:
    """A gradient of ten rows with repeats and padding, another for every step; the rows."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(0, V, (10,), generator=generator)
    (model(rows) * torch.randn(10, D, generator=generator)).sum().backward()
    return rows.unique()


def test_rows_move_as_by_torchs_sparse_adam():
    ours, twin = table(), table()
    optimizer = build_optimizer(ours, "sparse_adam", 0.01, 0.1)
    expected = torch.optim.SparseAdam(twin.parameters(), lr=0.01)
    for step in range(6):
        before = ours.weight.detach().clone()
        for model, its in ((ours, optimizer), (twin, expected)):
            its.zero_grad()
            rows = backward(model, step)
            its.step()
        torch.testing.assert_close(ours.weight, twin.weight, rtol=1e-5, atol=1e-7)
        others = torch.ones(V, dtype=torch.bool).index_fill_(0, rows[rows > 0], False)
        assert torch.equal(ours.weight[others], before[others])  # the padding's row too
    state = optimizer.state[ours.weight]
    torch.testing.assert_close(state["exp_avg_sq"], expected.state[twin.weight]["exp_avg_sq"])


def test_where_every_row_is_touched_it_is_adamw():
    ours, dense = table(), table(sparse=False)
    optimizers = build_optimizer(ours, "sparse_adam", 0.01, 0.1), build_optimizer(dense, "adamw", 0.01, 0.1)
    for step in range(5):
        factor = torch.randn(V, D, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((ours, dense), optimizers, strict=True):
            optimizer.zero_grad()
            (model(torch.arange(V)) * factor).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, dense.weight, rtol=1e-6, atol=1e-8)
    a, b = (optimizer.state_dict() for optimizer in optimizers)
    assert {k: v.shape for k, v in a["state"][0].items()} == {k: v.shape for k, v in b["state"][0].items()}


@pytest.mark.parametrize("clip", [None, {"max_norm": 0.1}, {"max_norm": 0.5, "norm_type": 1.0}])
def test_norm_and_clipping_are_those_of_the_dense_gradient(clip):
    ours, dense = table(), table(sparse=False)
    for model in (ours, dense):
        backward(model, 3)
    norms = [clipped_norm(model.parameters(), clip) for model in (ours, dense)]
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(ours.weight.grad.to_dense(), dense.weight.grad)


@pytest.mark.parametrize("wait", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(wait):
    model = table()
    optimizer = build_optimizer(model, "sparse_adam", 0.01, 0.0)
    for step, good in enumerate((False, True, False, True)):
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
        optimizer.zero_grad()
        backward(model, step)
        guarded_step(optimizer, torch.tensor(good), wait)
        after = model.state_dict(), optimizer.state_dict()["state"]
        if good:
            assert not torch.equal(after[0]["weight"], before[0]["weight"])
        else:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert int(optimizer.state[model.weight]["step"]) == 2


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_models_gradient_is_the_dense_one_with_the_batchs_rows_alone(precision):
    batch = Interaction({"item_id_list": torch.tensor([[1, 2, 3, 0]]), TARGET_LIST: torch.tensor([[2, 3, 4, 0]])})
    found = []
    for learner in ("adamw", "sparse_adam"):
        settings = {"hidden_dropout_prob": 0.0, "loss_type": "SCE", "sce_samples": 3, "sce_power": 0}
        model = make_model(**settings, learner=learner, precision=precision)
        torch.manual_seed(1)
        loss = model.calculate_loss(batch)
        loss.backward()
        found.append((loss.detach(), model.item_embedding.weight.grad))
    (loss, dense), (same, sparse) = found
    assert torch.equal(loss, same) and sparse.is_sparse and len(sparse.coalesce().indices()[0]) <= 4 + 3
    torch.testing.assert_close(sparse.to_dense(), dense)


def test_a_run_learns_and_goes_on_after_a_stop_with_the_same_numbers(walk, monkeypatch):
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    settings = {**QUICK, **SPARSE, "sce_samples": 10, "epochs": 3, "train_batch_size": 64, "save_step": 3}
    settings |= {"learning_rate": 0.02, "accumulation_steps": 2}
    expected = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    curve = json.loads((walk / "results" / "runs.jsonl").read_text())["evaluations"]
    assert curve[-1]["valid_nll"] < curve[0]["valid_nll"] - 0.05
    save, saves = ScaledSASRecTrainer._save_last, []

    class Stop(Exception):
        pass

    def save_and_stop(self, epoch, step):
        save(self, epoch, step)
        saves.append(step)
        if len(saves) == 5:
            raise Stop

    monkeypatch.setattr(ScaledSASRecTrainer, "_save_last", save_and_stop)
    settings |= {"checkpoint_dir": "other"}
    with pytest.raises(Stop):
        recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    resumed = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings, resume="auto")
    assert resumed["test_result"] == expected["test_result"]


def test_two_processes_train_like_one(walk):
    """With all items drawn nothing is random, so that both see the same losses."""
    more = ["--loss_type=SCE", "--learner=sparse_adam", "--sce_samples=100", "--epochs=2", "--accumulation_steps=2"]
    train(walk, *more, "--nproc=2")
    names = {word.partition("=")[0] for word in more}
    shared = [word for word in SETTINGS if word.partition("=")[0] not in names]
    settings = parse_arguments([*shared, *more, "--checkpoint_dir=alone", "--results_file=alone.jsonl"])
    recbole_scale.run("ScaledSASRec", settings.pop("dataset"), config_dict=settings)
    curves = [
        [(epoch["train_nll"], epoch["valid_nll"]) for epoch in json.loads((walk / file).read_text())["evaluations"]]
        for file in ("results/runs.jsonl", "alone.jsonl")
    ]
    assert curves[0] == [pytest.approx(pair, abs=1e-3) for pair in curves[1]]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"loss_type": "CE"}, "learner: sparse_adam needs loss_type: SCE"),
        ({"optimizer_switch": True}, "learner: sparse_adam cannot switch to SGD"),
        ({"parallel": "fsdp"}, "learner: sparse_adam needs whole copies of the model; parallel: ddp has them"),
    ],
)
def test_what_it_cannot_go_with_is_one_sentence(walk, changes, words):
    with pytest.raises(UserError, match=words):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, **SPARSE, **changes}, dry_run=True)


def test_the_plan_times_its_step(walk):
    plan = recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, **SPARSE}, dry_run=True)["plan"]
    assert "timed on 3 steps" in plan
