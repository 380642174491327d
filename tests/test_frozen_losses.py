"""Ten losses of tiny on the packaged synthetic log, frozen: a change of numbers is a decision, made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_scale.model.scaled_sasrec import ScaledSASRec
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training.trainer import ScaledSASRecTrainer

DATASETS = Path(__file__).parents[1] / "dataset"
# The first ten steps with the packaged defaults, nats. When they change on purpose, the commit says why.
FROZEN = [6.232116, 6.245083, 6.207388, 6.228567, 6.230782, 6.220119, 6.21993, 6.219725, 6.235133, 6.193286]


class Enough(Exception):
    """Ends the run after the tenth loss."""


def test_the_first_ten_losses_of_tiny_are_what_they_were(folder, monkeypatch):
    losses: list[float] = []
    original = ScaledSASRec.calculate_loss

    def record(self, interaction):
        if len(losses) == 10:
            raise Enough
        loss = original(self, interaction)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(ScaledSASRec, "calculate_loss", record)
    settings = {"data_path": str(DATASETS), "show_progress": False}
    config = make_config("ScaledSASRec", "synthetic", config_dict=settings)
    prepared = prepare(config)
    trainer = ScaledSASRecTrainer(config, build_model(prepared))
    with pytest.raises(Enough):
        trainer.fit(prepared.train_data, prepared.valid_data, saved=False)
    print([round(x, 6) for x in losses])
    assert losses == pytest.approx(FROZEN, rel=1e-5)
