"""Many users, many processes: what is said at the start, what is not quadratic, and a torchrun that starts again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK, walk_rows, write_inter
from recbole.evaluator.collector import DataStruct
from test_resume import numbers

from recbole_scale.errors import UserError
from recbole_scale.plugin.evaluation import Gathered
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import group


@pytest.mark.parametrize("count", [2, 3])
def test_users_too_short_for_leave_one_out_are_told_at_the_start(folder, count):
    rows = [(f"u{user}", f"i{(user + step) % 20}", step) for user in range(30) for step in range(count)]
    write_inter(folder / "dataset" / "short" / "short.inter", rows)
    with pytest.raises(UserError, match=r"no interaction of 'short' is held out for valid .* needs users of three"):
        prepare(make_config("ScaledSASRec", "short", None, QUICK))


def test_what_batches_bring_is_joined_once_to_what_recbole_joins_each_time():
    ours, theirs, rng = Gathered(), DataStruct(), torch.Generator().manual_seed(0)
    for size in (3, 1, 7):
        part = torch.rand(size, 4, generator=rng)
        for struct in (ours, theirs):
            struct.update_tensor("rec.topk", part)
        part += 1  # what was handed in is nobody's to change
    ours.set("data.num_items", 5)
    whole = ours.whole()
    assert torch.equal(whole.get("rec.topk"), theirs.get("rec.topk")) and whole.get("data.num_items") == 5
    assert "rec.items" not in whole


def test_a_store_is_looked_at_under_the_name_of_the_attempt(monkeypatch):
    seen = {}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setattr(group.dist, "rendezvous", lambda *where: iter([(group.dist.HashStore(), 1, 2)]))
    monkeypatch.setattr(group.dist, "init_process_group", lambda backend, **named: seen.update(named))
    group._meet(torch.device("cpu"), "localhost:1", 1, 2)
    seen["store"].set("key", "of this attempt")
    assert isinstance(seen["store"], group.dist.PrefixStore) and (seen["rank"], seen["world_size"]) == (1, 2)
    assert seen["store"].underlying_store.get("attempt-2/key") == b"of this attempt"


def test_processes_that_do_not_meet_blame_no_setting(monkeypatch):
    def lost(*where):
        raise RuntimeError("The client socket has timed out after 60000ms while trying to connect")

    monkeypatch.setattr(group.dist, "rendezvous", lost)
    with pytest.raises(UserError, match=r"the 2 processes of this run did not find each other at localhost:1 .*timed"):
        group._meet(torch.device("cpu"), "localhost:1", 1, 2)


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again_and_ends_with_the_same_numbers(tmp_path):
    rows, told = {}, ""
    for name in ("whole", "killed"):
        folder = tmp_path / name
        write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows(n_users=400, n_items=50))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                   "--max_restarts=2", "-m", "recbole_scale", "--model=ScaledSASRec", "--dataset=walk", "--n_layers=1",
                   "--hidden_size=16", "--inner_size=64", "--MAX_ITEM_LIST_LENGTH=10", "--show_progress=False",
                   "--topk=[5,10]", "--epochs=6", "--train_batch_size=64", "--save_step=5", "--resume", "auto",
    ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if name == "killed":
            deadline = time.time() + 300
            while not list(folder.glob("saved/*.best.pth")) and process.poll() is None and time.time() < deadline:
                time.sleep(0.05)
            ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
            os.kill(int(ranks[-1]), signal.SIGKILL)
        told = process.communicate(timeout=500)[0]
        assert process.returncode == 0, told[-3000:]
        (rows[name],) = [json.loads(line) for line in (folder / "results" / "runs.jsonl").read_text().splitlines()]
    assert "resumed" in told
    assert numbers(rows["killed"]) == numbers(rows["whole"])
