"""A training step asks a GPU for nothing: every operation that would wait for it fails here, on a CPU."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import QUICK
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import trainer as module
from recbole_scale.training.trainer import ScaledSASRecTrainer

# item(), bool(tensor), tolist() of a scalar; sizes that depend on values; copies back to the host
WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "_unique2", "unique_consecutive",
        "equal"}  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Fails at what waits for the device."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        name = func.overloadpacket.__name__
        assert name not in WAIT, f"{func} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            assert all(at is None or at.dtype != torch.bool for at in args[1]), f"{func} by a mask waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 3}, {"loss_type": "SCE"}, {"learner": "sgd"}])
def test_a_step_waits_for_nothing(walk, monkeypatch, changes):
    monkeypatch.setattr(module, "guarded_step", partial(as_on_a_gpu, module.guarded_step))
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict={**QUICK, **changes}))
    trainer = ScaledSASRecTrainer(prepared.config, build_model(prepared))
    trainer.steps_per_epoch = len(prepared.train_data)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for step in range(2):
        parts = prepared.train_data.parts(step, trainer.accumulation_steps)
        with NoWaiting() as mode:
            trainer._train_step(parts, prepared.train_data.count(step))
        assert mode.seen > 50
    assert any(not torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))


def as_on_a_gpu(step, optimizer, good, wait):
    step(optimizer, good, wait=False)


def test_what_waits_is_seen():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.arange(3)[torch.tensor([True, False, True])]
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        bool(torch.ones(()).isfinite())
