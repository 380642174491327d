"""k micro-batches give the step of the whole batch: gradients, losses, whole runs, and the same over two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch
from conftest import QUICK, walk_rows, write_inter
from torch import nn
from torch.nn import functional as F

import recbole_scale
from recbole_scale.data.windows import TARGET_LIST
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training.accumulation import accumulate, built_ahead
from recbole_scale.training.parallel import BatchLoss

NO_DROPOUT = {**QUICK, "hidden_dropout_prob": 0.0, "train_batch_size": 64}


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(9, 9)
        self.held_back = 0

    def forward(self, batch):
        counted = batch[TARGET_LIST] != 0
        inputs = F.one_hot(batch["item_id_list"][counted] % 9, 9).float()
        return F.cross_entropy(self.linear(inputs), batch[TARGET_LIST][counted] % 9)

    @contextmanager
    def no_sync(self):
        self.held_back += 1
        yield


@pytest.fixture
def loader(walk):
    return prepare(make_config("ScaledSASRec", "walk", config_dict=NO_DROPOUT)).train_data


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 5000])
def test_gradients_equal_the_whole_batch_with_unequal_targets(loader, steps):
    batch, whole, cut = loader.batch(1), Toy(), Toy()
    expected = whole(batch)
    expected.backward()
    parts = loader.parts(1, steps)
    assert len(parts) == min(steps, len(batch[TARGET_LIST]))
    assert sum(share for _, share in parts) == pytest.approx(1)
    loss = accumulate(cut, parts, nullcontext, "cpu")
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(cut.linear.weight.grad, whole.linear.weight.grad, atol=1e-6, rtol=1e-6)
    assert cut.held_back == len(parts) - 1  # gradients travel once a step


def test_the_models_gradients_equal_the_whole_batch(walk):
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=NO_DROPOUT))
    model = build_model(prepared)
    gradients = []
    for steps in (1, 4):
        model.zero_grad()
        amp = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)
        accumulate(BatchLoss(model), prepared.train_data.parts(1, steps), amp, "cpu")
        gradients.append([p.grad.clone() for p in model.parameters()])
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(y, x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta: as a GPU, in a thread, without memory to pin
def test_batches_built_ahead_are_those_that_were_asked_for(loader, device):
    asked = [0, 1, 2, 1, 2, 3, 0, len(loader) - 1]  # a run goes back, too
    built = []

    def build(step):
        built.append(step)
        return loader.parts(step, 2)

    with built_ahead(build, len(loader), torch.device(device)) as take:
        found = [take(step) for step in asked]
    for step, parts in zip(asked, found, strict=True):
        for (mine, weight), (expected, share) in zip(parts, loader.parts(step, 2), strict=True):
            assert weight == share and torch.equal(mine[TARGET_LIST], expected[TARGET_LIST])
    assert built == asked if device == "cpu" else len(built) > len(asked) and max(built) < len(loader)


def test_a_batch_that_cannot_be_built_fails_where_it_is_asked_for():
    def build(step):
        raise OSError(f"batch {step} is gone")

    with pytest.raises(OSError, match="batch 3 is gone"), built_ahead(build, 9, torch.device("meta")) as take:
        take(3)


def test_a_run_in_micro_batches_gives_the_same_curve(walk):
    curves = []
    for steps in (1, 3):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**NO_DROPOUT, "accumulation_steps": steps})
        row = json.loads((walk / "results" / "runs.jsonl").read_text().splitlines()[-1])
        curves.append(row)
    a, b = curves
    assert a["interactions_seen"] == b["interactions_seen"]
    for x, y in zip(a["evaluations"], b["evaluations"], strict=True):
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=2e-5)
        assert y["valid_nll"] == pytest.approx(x["valid_nll"], abs=2e-5)


@pytest.mark.parametrize("value", [0, -1, 2.5, "two", True])
def test_a_wrong_number_of_steps_is_one_sentence(walk, value):
    with pytest.raises(UserError, match=r"accumulation_steps is .* whole number"):
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**QUICK, "accumulation_steps": value})


TWO_PROCESSES = """
import sys
import recbole_scale, torch
from recbole_scale.training import accumulation, group, parallel
from torch.nn.parallel import DistributedDataParallel as DDP
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from contextlib import nullcontext
settings = dict(hidden_size=32, inner_size=128, MAX_ITEM_LIST_LENGTH=10, train_batch_size=int(sys.argv[2]), topk=[5],
                hidden_dropout_prob=0.0, **group.torchrun_settings())
prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=settings))
model = build_model(prepared)
torch.manual_seed(1)
for p in model.parameters():
    p.data = torch.randn_like(p) * 0.1
loss, gradients = parallel.data_parallel(model), []
for step in range(8):
    model.zero_grad()
    parts = prepared.train_data.parts(step, int(sys.argv[3]), group.rank(), group.world_size())
    accumulation.accumulate(loss, parts, nullcontext, "cpu")
    gradients.append([p.grad.clone() for p in model.parameters()])
if group.rank() == 0:
    torch.save(gradients, sys.argv[1])
group.leave()
"""


def test_two_processes_with_micro_batches_equal_one_process_with_the_whole_batch(tmp_path):
    write_inter(tmp_path / "dataset" / "walk" / "walk.inter", walk_rows())
    (tmp_path / "g.py").write_text(TWO_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=240)
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for batch in ("128", "24"):  # 24: parts of one window, of which one process has none
        one = run([sys.executable, "g.py", "one.pt", batch, "1"])
        two = run([*many, "g.py", "two.pt", batch, "3"])
        assert one.returncode == two.returncode == 0, one.stderr[-1000:] + two.stderr[-2000:]
        for a, b in zip(torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt"), strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(y, x, atol=1e-6, rtol=1e-4)
