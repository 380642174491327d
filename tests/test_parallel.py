"""Two gloo processes against one: gradients, losses, metrics, checkpoints, and what happens when a rank dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, walk_rows, write_inter
from hypothesis import given
from hypothesis import strategies as st

from recbole_scale.data.windows import TARGET_LIST, TARGET_PLACES, deal
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training.parallel import interleave

SETTINGS = ["--dataset=walk", "--hidden_size=32", "--inner_size=128", "--MAX_ITEM_LIST_LENGTH=10", "--epochs=3",
            "--train_batch_size=128", "--show_progress=False", "--topk=[5,10]", "--hidden_dropout_prob=0",
            "--eval_batch_size=16"]  # fmt: skip


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def train(folder, *more, check=True):
    ours = {word.partition("=")[0] for word in more}
    settings = [word for word in SETTINGS if word.partition("=")[0] not in ours]
    command = [sys.executable, "-m", "recbole_scale", *settings, "--port", free_port(), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)
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
    for folder, processes in ((one, 1), (two, 2)):
        (row_file := folder / "results" / "runs.jsonl").unlink()  # a finished run that is resumed keeps the row it has
        train(folder, "--resume", str(best), f"--nproc={processes}")
        assert len(row_file.read_text().splitlines()) == 1  # one row a run, not one a rank
        assert last_row(folder)["processes"] == processes
    assert last_row(one)["test_metrics"] == last_row(two)["test_metrics"] == b["test_metrics"]


def test_fsdp_trains_like_one_process_and_its_checkpoints_go_on_in_one(folders, monkeypatch):
    from recbole.quick_start import load_data_and_model

    one, two = folders
    train(one)
    train(two, "--nproc=2", "--parallel=fsdp")
    a, b = last_row(one), last_row(two)
    assert a["run_id"] == b["run_id"] and b["processes"] == 2
    assert a["interactions_seen"] == b["interactions_seen"]
    for x, y in zip(a["evaluations"], b["evaluations"], strict=True):
        assert y["train_nll"] == pytest.approx(x["train_nll"], abs=1e-4)
        assert y["valid_nll"] == pytest.approx(x["valid_nll"], abs=1e-3)
    assert b["test_nll"] == pytest.approx(a["test_nll"], abs=1e-3)
    best, last = next(two.glob("saved/*.best.pth")), next(two.glob("saved/*.last.dcp"))
    # the best model in one file, evaluated by one process: equal to the last digit
    (two / "results" / "runs.jsonl").unlink()  # a finished run that is resumed keeps the row it has
    train(two, "--resume", "auto")
    assert last_row(two)["processes"] == 1 and last_row(two)["test_metrics"] == b["test_metrics"]
    # one process trains on from where two stopped, and two from one process's file
    numbers = []
    for folder, path, more in (
        (one, last, []),
        (two, next(one.glob("saved/*.last.pth")), ["--nproc=2", "--parallel=fsdp"]),
    ):
        train(folder, "--resume", str(path), "--epochs=4", *more)
        numbers.append(last_row(folder)["evaluations"])
    assert [len(curve) for curve in numbers] == [4, 4]
    assert numbers[0][-1]["train_nll"] == pytest.approx(numbers[1][-1]["train_nll"], abs=1e-3)
    monkeypatch.chdir(two)
    _, model, *_ = load_data_and_model(str(best))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


GRADIENTS = """
import os, sys, torch
import recbole_scale
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import group, parallel
settings = dict(hidden_size=32, inner_size=128, MAX_ITEM_LIST_LENGTH=10, train_batch_size=int(sys.argv[2]), topk=[5],
                hidden_dropout_prob=0.0, **group.torchrun_settings())
prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=settings))
model = build_model(prepared)
torch.manual_seed(1)
for p in model.parameters():
    p.data = torch.randn_like(p) * 0.1
loss_module = parallel.data_parallel(model)
gradients = []
for step in range(len(prepared.train_data)):
    model.zero_grad()
    ((batch, weight),) = prepared.train_data.parts(step, rank=group.rank(), world=group.world_size())
    (loss_module(batch) * weight).backward()
    gradients.append([p.grad.clone() for p in model.parameters()])
if group.rank() == 0:
    torch.save(gradients, sys.argv[1])
group.leave()
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


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_crashed_rank_ends_all_ranks_with_its_own_traceback(folders, mode):
    one, _ = folders
    (one / "crash.py").write_text(
        "import sys, recbole_scale\n"
        "from recbole_scale import cli\n"
        "from recbole_scale.training.trainer import ScaledSASRecTrainer\n"
        "from recbole_scale.training import group\n"
        "step = ScaledSASRecTrainer._train_step\n"
        "def broken(self, *a):\n"
        "    if group.rank() == 1 and self.global_step == 3:\n"
        "        raise ZeroDivisionError('rank one broke')\n"
        "    step(self, *a)\n"
        "ScaledSASRecTrainer._train_step = broken\n"
        "if __name__ == '__main__':\n"
        "    cli.run_recbole_command()\n"
    )
    command = [sys.executable, "crash.py", *SETTINGS, "--nproc=2", f"--parallel={mode}", "--port", free_port()]
    done = subprocess.run(command, cwd=one, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if "rank one broke" in line]
    assert len(told) == 1 and told[0].startswith(
        "error: this is a bug of recbole-scale (process 1: ZeroDivisionError: "
    )
    (kept,) = (one / "log").glob("bug-*.log")
    assert str(kept) in told[0] and "Traceback" not in done.stderr
    traceback = kept.read_text()
    assert "in broken" in traceback and "ZeroDivisionError: rank one broke" in traceback
    assert not any(is_of(process, one) for process in Path("/proc").glob("[0-9]*"))  # all ranks are gone
    assert not (one / "results").exists()


def is_of(process: Path, folder: Path) -> bool:
    """Whether a process of ``/proc`` works in ``folder``."""
    try:
        return (process / "cwd").readlink() == folder
    except OSError:  # gone meanwhile, or another user's
        return False


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_killed_rank_ends_the_run_with_one_sentence_and_the_run_goes_on(folders, mode):
    one, _ = folders
    command = [sys.executable, "-m", "recbole_scale", *SETTINGS, "--nproc=2", f"--parallel={mode}"]
    run = subprocess.Popen(
        [*(word for word in command if "epochs" not in word), "--epochs=100000", "--stopping_step=100000", "--port",
         free_port()],
        cwd=one, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 300
    while not list(one.glob("saved/*.best.pth")) and time.time() < deadline:  # both processes train by then
        time.sleep(0.1)
    os.kill(children(run.pid)[-1], signal.SIGKILL)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 1, told[-2000:]
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "was ended by SIGKILL" in errors[0] and "Traceback" not in told
    last = next(one.glob("saved/*.last.*"))
    done = train(one, "--resume", str(last), "--epochs=1", "--nproc=2", f"--parallel={mode}")
    assert "resumed" in done.stdout + done.stderr


def children(pid: int) -> list[int]:
    """Processes that train for the process ``pid``, in the order of their start (Linux)."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
    return found


def test_a_users_mistake_on_two_processes_is_one_sentence(folders):
    done = train(folders[0], "--nproc=2", "--learner=adamm", check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: learner is 'adamm', but must be one of adamw, adam, sgd, adagrad, rmsprop, sparse_adam; "
        "did you mean 'adam'?"
    ]
    assert "Traceback" not in done.stderr
    done = train(folders[0], "--nproc=2", "--model=Pop", check=False)
    assert done.returncode == 2 and "Pop trains in one process: it is counted" in done.stderr


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 9))
def test_dealing_gives_every_row_to_one_process_and_balances_rows_and_targets(counts, world):
    counts = np.array(counts)
    dealt = [deal(counts, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(counts)))
    assert all((np.diff(rows) > 0).all() for rows in dealt)
    sizes, targets = [len(rows) for rows in dealt], [int(counts[rows].sum()) for rows in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert max(targets) - min(targets) <= max(counts)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_process_builds_its_own_rows_and_weights_make_the_whole_batch(walk, pieces, world):
    loader = prepare(make_config("ScaledSASRec", "walk", config_dict={**QUICK, "train_batch_size": 32})).train_data
    for step in range(len(loader)):
        batch = loader.batch(step)
        rows, weights = [], []
        for rank in range(world):
            for part, weight in loader.parts(step, pieces, rank, world):
                places = part[TARGET_PLACES]
                assert torch.equal(places, part[TARGET_LIST].flatten().nonzero().squeeze(1))
                assert weight == pytest.approx(len(places) * world / loader.count(step)) or weight == 0
                weights.append(weight)
                rows += [row[row > 0].tolist() for row in part[TARGET_LIST]] if weight else []
        assert sum(weights) == pytest.approx(world)
        assert sorted(rows) == sorted(row[row > 0].tolist() for row in batch[TARGET_LIST])


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


def test_recboles_multi_node_flags_make_one_run_of_two_commands(folders):
    """Each command stands for a machine: its own process, counted from its --group_offset."""
    one, _ = folders
    command = [sys.executable, "-m", "recbole_scale", *SETTINGS, "--world_size=2", "--nproc=1", "--ip=127.0.0.1"]
    command += [f"--port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, f"--group_offset={offset}"], cwd=one, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for offset in (0, 1)
    ]  # fmt: skip
    told = [machine.communicate(timeout=240) for machine in started]
    assert [machine.returncode for machine in started] == [0, 0], told[0][1][-2000:] + told[1][1][-2000:]
    assert "Warning" not in told[0][1] + told[1][1]
    assert ["checkpoint" in out for out, _ in told] == [True, False]  # the first speaks for all
    row = last_row(one)
    assert row["processes"] == 2 and row["interactions_seen"] == 3 * row["unique_interactions"]
    assert len((one / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_torchrun_starts_the_same_command(folders):
    one, _ = folders
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run(
        [*command, "-m", "recbole_scale", *SETTINGS], cwd=one, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_row(one)["processes"] == 2
