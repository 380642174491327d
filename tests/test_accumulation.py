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
from recbole_scale.runs.run import build_model, make_config, prepare
from recbole_scale.training.accumulation import accumulate, micro_batches
from recbole_scale.training.parallel import BatchLoss

NO_DROPOUT = {**QUICK, "hidden_dropout_prob": 0.0, "train_batch_size": 64}


class Batch(dict):
    """A dict of tensors that is sliced like RecBole's Interaction."""

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else Batch({k: v[key] for k, v in self.items()})

    def to(self, device):
        return self


def uneven_batch():
    torch.manual_seed(0)
    target = torch.randint(1, 9, (7, 5))
    for row, kept in enumerate((5, 1, 4, 2, 5, 3, 1)):
        target[row, kept:] = 0
    return Batch({"x": torch.randn(7, 5, 4), TARGET_LIST: target})


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(4, 9)
        self.held_back = 0

    def forward(self, batch):
        counted = batch[TARGET_LIST] != 0
        return F.cross_entropy(self.linear(batch["x"][counted]), batch[TARGET_LIST][counted])

    @contextmanager
    def no_sync(self):
        self.held_back += 1
        yield


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_gradients_equal_the_whole_batch_with_unequal_targets(steps):
    batch, whole, cut = uneven_batch(), Toy(), Toy()
    expected = whole(batch)
    expected.backward()
    parts = micro_batches(batch, TARGET_LIST, steps)
    assert len(parts) == min(steps, 7)
    assert sum(share for _, share in parts) == pytest.approx(1)
    loss = accumulate(cut, parts, nullcontext, "cpu")
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(cut.linear.weight.grad, whole.linear.weight.grad, atol=1e-6, rtol=1e-6)
    assert cut.held_back == len(parts) - 1  # gradients travel once a step


def test_parts_without_targets_are_left_out():
    batch = uneven_batch()
    batch[TARGET_LIST][2:5] = 0
    parts = micro_batches(batch, TARGET_LIST, 7)
    assert len(parts) == 4
    loss = accumulate(Toy(), parts, nullcontext, "cpu")
    assert loss.item() == pytest.approx(Toy()(batch).item(), abs=1e-6)


def test_the_models_gradients_equal_the_whole_batch(walk):
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=NO_DROPOUT))
    model = build_model(prepared)
    batch = prepared.train_data.batch(1)
    gradients = []
    for steps in (1, 4):
        model.zero_grad()
        amp = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)
        accumulate(BatchLoss(model), micro_batches(batch, TARGET_LIST, steps), amp, "cpu")
        gradients.append([p.grad.clone() for p in model.parameters()])
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(y, x, atol=1e-6, rtol=1e-5)


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
from recbole_scale.runs.run import build_model, make_config, prepare
from recbole_scale.data.windows import TARGET_LIST
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
    parts = accumulation.micro_batches(prepared.train_data.batch(step), TARGET_LIST, int(sys.argv[3]))
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


def test_slices_behave_like_recboles_interaction():
    """The toy batch stands for the real one."""
    from recbole.data.interaction import Interaction

    real = Interaction(dict(uneven_batch()))
    for (a, x), (b, y) in zip(
        micro_batches(real, TARGET_LIST, 3), micro_batches(uneven_batch(), TARGET_LIST, 3), strict=True
    ):
        assert x == y and torch.equal(a[TARGET_LIST], b[TARGET_LIST])
