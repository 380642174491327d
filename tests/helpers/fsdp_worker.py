"""What each process of tests/test_fsdp_switches.py runs: ``python fsdp_worker.py JOBS ROWS``; the test runs it too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import recbole_scale  # noqa: F401 (registers the plugin)
from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.runs.run import make_config, train_and_test
from recbole_scale.training import group
from recbole_scale.training.trainer import ScaledSASRecTrainer


def train(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """The row of a run with ``job["settings"]``, in its own checkpoint folder."""
    settings = {**job["settings"], "checkpoint_dir": f"saved/{name}", **group.torchrun_settings()}
    with bad_steps(job.get("bad", ())):
        _, row = train_and_test(make_config("ScaledSASRec", "walk", config_dict=settings), resume=job.get("resume"))
    return row


@contextmanager
def bad_steps(steps: list[int]) -> Iterator[None]:
    """The loss of these steps is NaN in every process, until the run has gone back once."""
    loss, step = ScaledSASRec.calculate_loss, ScaledSASRecTrainer._train_step

    def calculate_loss(self: Any, interaction: Any) -> Any:
        return loss(self, interaction) * getattr(self, "factor", 1.0)

    def train_step(self: Any, *arguments: Any) -> None:
        bad = self.global_step in steps and self.guard.rollbacks == 0
        self.model.factor = float("nan") if bad else 1.0
        step(self, *arguments)

    ScaledSASRec.calculate_loss, ScaledSASRecTrainer._train_step = calculate_loss, train_step
    try:
        yield
    finally:
        ScaledSASRec.calculate_loss, ScaledSASRecTrainer._train_step = loss, step


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs, rows = Path(sys.argv[1]), {}
    for name, job in json.loads(jobs.read_text()).items():
        rows[name] = train(name, job)
    if group.rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(rows))
    group.leave()
