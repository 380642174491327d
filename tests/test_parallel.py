"""Two gloo processes against one: gradients, losses, metrics, checkpoints, and what happens when a rank dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK, walk_rows, write_inter

from recbole_scale.training.parallel import interleave

SETTINGS = ["--dataset=walk", "--hidden_size=32", "--inner_size=128", "--MAX_ITEM_LIST_LENGTH=10", "--epochs=3",
            "--train_batch_size=128", "--show_progress=False", "--topk=[5,10]", "--hidden_dropout_prob=0",
            "--eval_batch_size=16"]  # fmt: skip


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def train(folder, *more, check=True):
    command = [sys.executable, "-m", "recbole_scale", *SETTINGS, "--port", free_port(), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


def last_row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


@pytest.fixture
def folders(tmp_path):
    made = []
    for name in ("one", "two"):
        write_inter(tmp_path / name / "dataset" / "walk" / "walk.inter", walk_rows())
        made.append(tmp_path / name)
    return made


def test_two_processes_train_like_one_and_evaluate_exactly_the_same_users(folders):
    one, two = folders
    train(one)
    train(two, "--nproc=2")
    a, b = last_row(one), last_row(two)
    assert (a["processes"], b["processes"]) == (1, 2)
    assert a["interactions_seen"] == b["interactions_seen"]  # no target twice, none lost
    for x, y in zip(a["evaluations"], b["evaluations"], strict=True):
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=1e-4)
        assert y["valid_nll"] == pytest.approx(x["valid_nll"], abs=1e-3)
    # the same checkpoint, evaluated by one and by two processes: equal to the last digit
    best = next(two.glob("saved/*.last.pth"))
    for folder, more in ((one, []), (two, ["--nproc=2"])):
        train(folder, "--resume", str(best), *more)
    assert last_row(one)["test_metrics"] == last_row(two)["test_metrics"]
    assert len((two / "results" / "runs.jsonl").read_text().splitlines()) == 2  # one row a run, not one a rank


GRADIENTS = """
import os, sys, torch
import recbole_scale
from recbole_scale.run import build_model, make_config, prepare
from recbole_scale.training import parallel
from recbole_scale.data.windows import TARGET_LIST
settings = dict(hidden_size=32, inner_size=128, MAX_ITEM_LIST_LENGTH=10, train_batch_size=int(sys.argv[2]), topk=[5],
                hidden_dropout_prob=0.0, **parallel.torchrun_settings())
prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=settings))
model = build_model(prepared)
torch.manual_seed(1)
for p in model.parameters():
    p.data = torch.randn_like(p) * 0.1
loss_module = parallel.data_parallel(model)
gradients = []
for step in range(len(prepared.train_data)):
    model.zero_grad()
    batch, weight = parallel.share(prepared.train_data.batch(step), TARGET_LIST)
    (loss_module(batch) * weight).backward()
    gradients.append([p.grad.clone() for p in model.parameters()])
if parallel.rank() == 0:
    torch.save(gradients, sys.argv[1])
parallel.leave()
"""


@pytest.mark.parametrize("batch", [128, 10])  # 10: some steps have a single window, and one process none
def test_gradients_equal_one_process_with_the_same_global_batch(folders, batch):
    one, two = folders
    (one / "g.py").write_text(GRADIENTS)
    subprocess.run([sys.executable, one / "g.py", one / "g.pt", str(batch)], cwd=one, check=True, capture_output=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run([*command, one / "g.py", two / "g.pt", str(batch)], cwd=two, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = torch.load(one / "g.pt"), torch.load(two / "g.pt")
    assert len(expected) == len(found) > 1
    for a, b in zip(expected, found, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-4)


def test_a_crashed_rank_ends_all_ranks_with_its_own_traceback(folders):
    one, _ = folders
    (one / "crash.py").write_text(
        "import sys, recbole_scale\n"
        "from recbole_scale import cli\n"
        "from recbole_scale.training.trainer import ScaledSASRecTrainer\n"
        "from recbole_scale.training import parallel\n"
        "step = ScaledSASRecTrainer._train_step\n"
        "def broken(self, *a):\n"
        "    if parallel.rank() == 1 and self.global_step == 3:\n"
        "        raise ZeroDivisionError('rank one broke')\n"
        "    step(self, *a)\n"
        "ScaledSASRecTrainer._train_step = broken\n"
        "if __name__ == '__main__':\n"
        "    cli.run_recbole_command()\n"
    )
    started = time.time()
    command = [sys.executable, "crash.py", *SETTINGS, "--nproc=2", "--port", free_port()]
    done = subprocess.run(command, cwd=one, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, 2) and "ZeroDivisionError: rank one broke" in done.stderr
    assert time.time() - started < 100
    assert not (one / "results").exists()


def test_a_users_mistake_on_two_processes_is_one_sentence(folders):
    done = train(folders[0], "--nproc=2", "--learner=adamm", check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: learner 'adamm' is none of adamw, adam, sgd, adagrad, rmsprop; did you mean 'adam'?"]
    assert "Traceback" not in done.stderr
    done = train(folders[0], "--nproc=2", "--model=GRU4Rec", check=False)
    assert done.returncode == 2 and "trains in one process" in done.stderr


def test_interleave_restores_the_order_of_dealt_batches():
    rows = torch.arange(23)
    for world in (1, 2, 3, 9):
        parts = [
            torch.cat([b for i, b in enumerate(rows.split(5)) if i % world == r] or [rows[:0]]) for r in range(world)
        ]
        assert torch.equal(interleave([p for p in parts if len(p)], 5), rows)


def test_spawned_processes_know_our_names(walk):
    """RecBole's own spawn pickles its functions by name; the child learns our names from the script it imports."""
    (walk / "spawn.py").write_text(
        "import torch.multiprocessing as mp\n"
        "import recbole_scale\n"
        "from recbole.quick_start import run_recbole\n"
        "def work(rank, settings):\n"
        "    print('nll', run_recbole('ScaledSASRec', 'walk', config_dict=settings)['test_result']['nll'])\n"
        "if __name__ == '__main__':\n"
        f"    mp.spawn(work, ({QUICK!r},), nprocs=1)\n"
    )
    done = subprocess.run([sys.executable, "spawn.py"], cwd=walk, capture_output=True, text=True)
    assert done.returncode == 0 and "nll" in done.stdout, done.stderr[-2000:]


def test_torchrun_starts_the_same_command(folders):
    one, _ = folders
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run(
        [*command, "-m", "recbole_scale", *SETTINGS], cwd=one, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_row(one)["processes"] == 2
