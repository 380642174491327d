"""FSDP on two gloo processes with every switch of training, each run against one process with the same settings.

All runs of two processes share one start of the two (helpers/fsdp_worker.py), which takes longer than the training.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import walk_rows, write_inter
from fsdp_worker import train

from recbole_scale.training.checkpoint import load_checkpoint

WORKER = Path(__file__).with_name("helpers") / "fsdp_worker.py"
SMALL = {"hidden_size": 32, "inner_size": 128, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 2, "train_batch_size": 128,
         "topk": [5, 10], "hidden_dropout_prob": 0.0, "eval_batch_size": 16, "show_progress": False,
         "parallel": "fsdp", "valid_metric": "NLL"}  # fmt: skip
PARTS, AGAIN = {"accumulation_steps": 3}, {"activation_checkpointing": True}
SWITCH = {"switch_at_epoch": 1, "sgd_epochs": 2, "sgd_learning_rate": 0.1}
DROPPED = {"hidden_dropout_prob": None, "dropout_bottom": 0.3, "dropout_top": 0.1, "attn_dropout_prob": None}
JOBS = {
    "accumulation": {"settings": {**SMALL, **PARTS}},
    "checkpointing": {"settings": {**SMALL, **AGAIN}},
    "cut": {"settings": {**SMALL, "cut_items": True, **PARTS, "train_batch_size": 64}},
    "switch": {"settings": {**SMALL, **SWITCH}},
    "all": {"settings": {**SMALL, **PARTS, **AGAIN, **SWITCH}},
    "all in bf16": {"settings": {**SMALL, **PARTS, **AGAIN, **SWITCH, "precision": "bf16"}},
    "all in bf16 weights": {"settings": {**SMALL, **PARTS, **AGAIN, **SWITCH, "precision": "bf16_weights"}},
    "rollback": {
        "settings": {**SMALL, "train_batch_size": 64, "save_step": 4, "async_checkpoints": True},
        "bad": [10, 11, 12],
    },
}
ONLY_TWO = {
    "dropped": {"settings": {**SMALL, **DROPPED}},
    "dropped, checkpointing": {"settings": {**SMALL, **DROPPED, **AGAIN}},
}
TOLERANCE = {"all in bf16": (3e-3, 3e-3), "all in bf16 weights": (1e-2, 1e-2)}  # products, and weights, of 8 bits


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[dict, dict, Path]:
    """Rows of one process and of two by job, and the two processes' folder."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for folder in (one, two):
        write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one)
        expected = {name: train(name, job) for name, job in JOBS.items()}
        shorter = {**SMALL, **SWITCH, "sgd_epochs": 1}  # ends in the second phase; two processes go on from there
        train("shorter", {"settings": shorter})
    last = next(path for path in one.glob("saved/shorter/*.last.pth") if "phase1" not in path.name)
    resumed = {"resumed": {**JOBS["switch"], "resume": str(last)}}
    (two / "jobs.json").write_text(json.dumps({**JOBS, **ONLY_TWO, **resumed}))
    start_two(two)
    return expected, json.loads((two / "rows.json").read_text()), two


def start_two(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in ("0", "1"):
        environment = {**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), "jobs.json", "rows.json"]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True))  # fmt: skip
    told = [process.communicate(timeout=900)[1] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(text[-2500:] for text in told)


def assert_same_run(found: dict, expected: dict, train_nll: float = 1e-4, valid_nll: float = 1e-3) -> None:
    assert (found["processes"], expected["processes"]) == (2, 1)
    assert found["run_id"] == expected["run_id"] and found["interactions_seen"] == expected["interactions_seen"]
    for x, y in zip(expected["evaluations"], found["evaluations"], strict=True):
        assert (y["epoch"], y["phase"]) == (x["epoch"], x["phase"])
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=train_nll)
        assert y["valid_nll"] == pytest.approx(x["valid_nll"], abs=valid_nll)
    for x, y in zip(expected["phases"], found["phases"], strict=True):
        assert y == {**x, "best_valid_nll": pytest.approx(x["best_valid_nll"], abs=valid_nll)}
    assert found["test_nll"] == pytest.approx(expected["test_nll"], abs=valid_nll)
    for name in ("skipped_steps", "rollbacks", "best_epoch", "epochs"):
        assert found[name] == expected[name], name


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_as_one_with_the_same_switches(runs, name):
    expected, found, _ = runs
    assert_same_run(found[name], expected[name], *TOLERANCE.get(name, ()))
    losses = [epoch["valid_nll"] for epoch in found[name]["evaluations"]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.02  # each phase learned something


def test_the_switch_is_in_the_row_and_sgd_went_on_from_adam(runs):
    for rows in runs[:2]:
        first, second = rows["all"]["phases"]
        assert (first["optimizer"], second["optimizer"], second["first_epoch"]) == ("adamw", "sgd", 1)
        assert second["reason"] == "switch_at_epoch 1" and second["best_epoch"] == 2


def test_both_best_models_of_two_processes_are_whole_and_of_their_epochs(runs):
    _, rows, folder = runs
    for name in ("all", "accumulation"):
        row = rows[name]
        for ending, kind in (("best", "nll"), ("best-ranking", "ranking")):
            state = load_checkpoint(
                next(p for p in folder.glob(f"saved/{name}/*.{ending}.pth") if "phase1" not in p.name)
            )
            assert state["epoch"] == row[f"best_epoch_{kind}"]
            assert state["state_dict"]["item_embedding.weight"].shape == (row["n_items"] + 1, row["d_model"])
        assert row["test_metrics"] == row["test_metrics_nll"] and row["test_metrics_ranking"]["ndcg@10"] > 0


def test_checkpointed_blocks_draw_their_masks_again(runs):
    """With dropout a block computed again must drop the same numbers, in each process its own."""
    plain, again = (runs[1][name]["evaluations"] for name in ONLY_TWO)
    for x, y in zip(plain, again, strict=True):
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=1e-6)
        assert y["valid_nll"] == pytest.approx(x["valid_nll"], abs=2e-6)


def test_three_bad_steps_send_both_processes_back(runs):
    _, rows, folder = runs
    row = rows["rollback"]
    assert (row["skipped_steps"], row["rollbacks"], row["epochs"]) == (3, 1, 2)
    assert row["interactions_seen"] == 2 * row["unique_interactions"]  # what was trained again counts once
    logs = "".join(path.read_text() for path in (folder / "log").rglob("*.log"))
    assert logs.count("back to batch 8 of epoch 0 with the learning rate x 0.5 (return 1 of at most 5)") == 1
    state = load_checkpoint(next(folder.glob("saved/rollback/*.last.dcp")))
    assert state["progress"]["guard"]["rate_factor"] == 0.5 and state["progress"]["epoch"] == 2
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_one_processs_sgd_goes_on_in_two(runs):
    """The whole model's fused kernel, which is in the checkpoint, cannot update parts."""
    expected, found, _ = runs
    assert_same_run(found["resumed"], expected["switch"])


@pytest.mark.parametrize("kept", ["last", "phase1.last"])
def test_two_processes_checkpoints_go_on_in_one_on_both_sides_of_the_switch(runs, monkeypatch, kept):
    expected, _, folder = runs
    monkeypatch.chdir(folder)
    longer = {"settings": {**SMALL, **SWITCH, "sgd_epochs": 3}}
    path = next(p for p in folder.glob(f"saved/switch/*.{kept}.dcp") if ("phase1" in p.name) == ("phase1" in kept))
    row = train(f"from {kept}", {**longer, "resume": str(path)})
    assert [epoch["phase"] for epoch in row["evaluations"]] == ["adam", "sgd", "sgd", "sgd"]
    for x, y in zip(expected["switch"]["evaluations"], row["evaluations"], strict=False):
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=1e-4)
    assert row["evaluations"][3]["valid_nll"] < row["evaluations"][2]["valid_nll"]
