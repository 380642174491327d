"""FSDP2 on gloo against one process: steps, evaluation, sharded checkpoints, other numbers of processes, bad files."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sharding_worker import N_ITEMS, D, Run, batch_of

from recbole_scale.errors import UserError
from recbole_scale.training import parallel, sharded_checkpoint
from recbole_scale.training.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from recbole_scale.training.sharded_checkpoint import INDEX

WORKER = Path(__file__).with_name("helpers") / "sharding_worker.py"


def launch(world: int, task: str, folder: Path, mode: str = "fsdp") -> list[subprocess.CompletedProcess[str]]:
    """Run a task of tests/helpers/sharding_worker.py in ``world`` gloo processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(world):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{key: str(value) for key, value in group.items()}}
        command = [sys.executable, str(WORKER), task, str(folder), mode]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    done = []
    for process in started:
        _, told = process.communicate(timeout=600)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, None, told))
    return done


def succeed(world: int, task: str, folder: Path, mode: str = "fsdp", leaves: str = "found.pt") -> dict:
    done = launch(world, task, folder, mode)
    assert all(process.returncode == 0 for process in done), "\n".join(process.stderr[-2000:] for process in done)
    return torch.load(folder / leaves, weights_only=True)


def without_key_bias(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The softmax does not see the keys' bias: its gradient is rounding, which Adam blows up to full steps."""
    return {k: torch.cat([v[:D], v[2 * D :]]) if k.endswith("qkv.bias") else v for k, v in weights.items()}


def assert_close(found, expected, atol, rtol=0.0):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "cut"])
def test_steps_on_two_processes_equal_those_of_one(tmp_path, mode):
    """Gradients, loss, clipped norm and weights over five AdamW steps with decay groups."""
    found, alone = succeed(2, "gradients", tmp_path, mode), Run("auto")
    assert (found["mode"], parallel.mode_of(alone.loss)) == ("fsdp" if mode == "cut" else mode, "none")
    for number, step in enumerate(found["steps"]):
        expected = alone.step(number)
        assert_close(step["gradients"], expected["gradients"], atol=1e-5)
        torch.testing.assert_close(step["loss"], expected["loss"], atol=1e-5, rtol=0)
        torch.testing.assert_close(step["norm"], expected["norm"], atol=1e-5, rtol=1e-5)
        assert expected["norm"] > 0.5  # so that it was clipped
    assert_close(without_key_bias(found["weights"]), without_key_bias(alone.weights()), atol=1e-4)


def test_two_copies_cut_in_two_equal_one_process_and_go_on_from_what_a_thread_wrote(tmp_path):
    """HSDP, two machines of two processes, so to speak; its checkpoint is written while it goes on."""
    found, alone = succeed(4, "two_by_two", tmp_path), Run("auto")
    assert found["mode"] == "hsdp" and found["rows"] == (N_ITEMS + 1) / 2  # as neighbours share it
    for number, step in enumerate(found["steps"]):
        expected = alone.step(number)
        assert_close(step["gradients"], expected["gradients"], atol=1e-5)
        torch.testing.assert_close(step["loss"], expected["loss"], atol=1e-5, rtol=0)
        torch.testing.assert_close(step["norm"], expected["norm"], atol=1e-5, rtol=1e-5)
    assert_close(without_key_bias(found["weights"]), without_key_bias(alone.weights()), atol=1e-4)
    for resumed in found["resumed"]:  # bit for bit
        assert all(torch.equal(resumed[name], value) for name, value in found["weights"].items())
    alone.load(tmp_path / "last")
    for number in range(2, 5):
        alone.step(number)
    assert_close(without_key_bias(alone.weights()), without_key_bias(found["weights"]), atol=1e-5)


def test_what_hsdp_cuts_over_divides_the_processes():
    assert parallel.shards_of("hsdp", None, 2, 8) == 2 and parallel.shards_of("hsdp", 4, 2, 8) == 4
    assert parallel.shards_of("fsdp", 4, 2, 8) == 8
    with pytest.raises(UserError, match=r"over 3 processes \(shard_group\), but 8 train"):
        parallel.shards_of("hsdp", 3, 2, 8)


def test_bf16_blocks_keep_float32_parts_and_follow_autocast(tmp_path):
    found, alone = succeed(2, "gradients", tmp_path, "bf16"), Run("auto", bf16=True)
    assert {value.dtype for value in found["weights"].values()} == {torch.float32}
    expected = alone.step(0)
    for name, value in expected["gradients"].items():
        if not name.endswith("qkv.bias"):
            close = torch.nn.functional.cosine_similarity(
                found["steps"][0]["gradients"][name].ravel(), value.ravel(), 0
            )
            assert close > 0.999, name
    torch.testing.assert_close(found["steps"][0]["loss"], expected["loss"], atol=0.01, rtol=0)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A checkpoint of two processes after two steps, and the weights of three steps more."""
    folder = tmp_path_factory.mktemp("written")
    succeed(2, "write", folder)
    return folder


@pytest.mark.parametrize("world", [2, 4])
def test_a_checkpoint_of_two_processes_goes_on_in_two_and_four(written, world):
    uninterrupted = torch.load(written / "found.pt", weights_only=True)["weights"]
    resumed = succeed(world, "resume", written, leaves="resumed.pt")["weights"]
    if world == 2:
        assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())  # bit for bit
    assert_close(without_key_bias(resumed), without_key_bias(uninterrupted), atol=1e-5)


def test_a_checkpoint_of_two_processes_goes_on_in_one(written):
    state = load_checkpoint(written / "last")
    alone = Run("auto")
    for number in range(2):
        alone.step(number)
    assert_close(without_key_bias(state["state_dict"]), without_key_bias(alone.weights()), atol=1e-4)
    expected = alone.optimizer.state_dict()
    assert state["optimizer"]["param_groups"] == expected["param_groups"]
    for number, values in expected["state"].items():  # both moments and the step count of every parameter
        assert_close(state["optimizer"]["state"][number], values, atol=1e-5)
    alone.load(written / "last")
    for number in range(2, 5):
        alone.step(number)
    uninterrupted = torch.load(written / "found.pt", weights_only=True)["weights"]
    assert_close(without_key_bias(alone.weights()), without_key_bias(uninterrupted), atol=1e-5)


def test_a_checkpoint_in_one_file_goes_on_sharded(tmp_path):
    alone = Run("auto")
    for number in range(2):
        alone.step(number)
    save_checkpoint(alone.state(), tmp_path / "last")
    resumed = succeed(2, "resume", tmp_path, leaves="resumed.pt")["weights"]
    for number in range(2, 5):
        alone.step(number)
    assert_close(without_key_bias(resumed), without_key_bias(alone.weights()), atol=1e-5)


def test_the_whole_model_for_evaluation(tmp_path):
    """Two processes score one and two batches between two training steps."""
    found = succeed(2, "evaluation", tmp_path)
    alone = Run("auto")
    alone.model.load_state_dict(found["weights"])
    with torch.no_grad():
        assert torch.equal(found["scores"], alone.model.scores(batch_of(0)["input"]))


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path):
    done = launch(2, "full_disk", tmp_path)
    for process in done:
        assert process.returncode == 2 and "Traceback" not in process.stderr, process.stderr[-2000:]
        assert "could not be written (file too large)" in process.stderr
    state = load_checkpoint(tmp_path / "last")
    assert_close(state["state_dict"], Run("auto").weights(), atol=0)
    assert len(list((tmp_path / "last").iterdir())) == 4  # index, state, two shards; nothing of the failed save


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", [".metadata", "state", "shards"])
def test_nothing_in_a_checkpoint_is_unpickled(written, tmp_path, where):
    folder, trap = tmp_path / "last", tmp_path / "sprung"
    shutil.copytree(written / "last", folder)
    if where == ".metadata":  # torch.distributed.checkpoint's own index, which it would unpickle
        (folder / ".metadata").write_bytes(pickle.dumps(Malicious(trap)))
        load_checkpoint(folder)
    else:
        for path in folder.glob(f"{where}-*"):
            torch.save({"state_dict": Malicious(trap)}, path)
            path.write_bytes(path.read_bytes().ljust(500_000, b"\0") if where == "shards" else path.read_bytes())
        index = json.loads((folder / INDEX).read_text())  # whoever does this on purpose mends the checksums as well
        index["files"] = {name: sharded_checkpoint._checksum(folder / name) for name in index["files"]}
        index["checksum"] = sharded_checkpoint._own_checksum(index)
        (folder / INDEX).write_text(json.dumps(index))
        with pytest.raises(UserError, match=r"pickled Python objects or is damaged|is damaged") as told:
            load_checkpoint(folder)
        assert len(str(told.value).splitlines()) == 1
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()  # the trap itself works


def test_no_flipped_bit_is_believed(written, tmp_path):
    """400 copies with one bit flipped, in a file drawn by its size or, as often, in the index."""
    folder, rng = tmp_path / "last", random.Random(0)
    shutil.copytree(written / "last", folder)
    files = sorted(folder.iterdir())
    for _ in range(400):
        sizes = [path.stat().st_size for path in files]
        path = rng.choice([folder / INDEX, rng.choices(files, sizes)[0]])
        whole = path.read_bytes()
        damaged, at = bytearray(whole), rng.randrange(len(whole))
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(folder)
        path.write_bytes(whole)
    load_checkpoint(folder)


@pytest.mark.parametrize("damage", ["cut", "missing", "outside", "index", "format"])
def test_a_damaged_checkpoint_is_one_sentence(written, tmp_path, damage):
    folder = tmp_path / "last"
    shutil.copytree(written / "last", folder)
    shard, index = next(folder.glob("shards-*")), folder / INDEX
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:1000])
    elif damage == "missing":
        shard.unlink()
    elif damage == "outside":
        index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    elif damage == "index":
        index.write_text(index.read_text()[:500])
    else:
        index.write_text(index.read_text().replace("version 2", "version 7"))
    with pytest.raises(UserError, match="is damaged") as told:
        load_checkpoint(folder)
    assert len(str(told.value).splitlines()) == 1


def test_the_newer_of_file_and_folder_is_resumed(tmp_path):
    file, folder = tmp_path / "run.last.pth", tmp_path / "run.last.dcp"
    assert last_checkpoint(str(file)) is None
    file.touch()
    assert last_checkpoint(str(folder)) == str(file)
    folder.mkdir()
    assert last_checkpoint(str(folder)) == str(file)  # no index yet: no checkpoint
    (folder / INDEX).touch()
    os.utime(file, (1, 1))
    assert last_checkpoint(str(file)) == str(folder)


@pytest.mark.parametrize("gib", [0.001, 64])
def test_auto_is_one_mode_in_the_plan_and_in_the_run(walk, monkeypatch, gib):
    """What other programs hold now may change whether it fits, but not what every process must agree on."""
    import recbole_scale.model.memory as memory
    from recbole_scale.runs.plan import training_setup
    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.run import make_config

    config = make_config("ScaledSASRec", "walk", config_dict={"parallel": "auto", "topk": [5], "state": "error"})
    network = build_model(prepare(config))
    total = SimpleNamespace(total=int(gib * 2**30), available=0)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: total)
    planned = training_setup(config, network, 1000, processes=2)
    monkeypatch.setattr(parallel.group, "world_size", lambda: 2)
    assert planned.parallel == parallel.choose_mode("auto", network, config["device"])
    assert planned.parallel == ("ddp" if gib > 1 else "fsdp")
    assert memory.available_memory(config["device"], 0, 2) <= memory.memory_of_a_process(config["device"], 2)


def test_auto_chooses_by_what_fits(monkeypatch):
    model, cpu = torch.nn.Linear(1000, 1000, bias=False), torch.device("cpu")  # 4 MB of weights, 16 MB of states
    assert parallel.choose_mode("auto", model, cpu) == parallel.choose_mode("fsdp", model, cpu) == "none"
    monkeypatch.setattr(parallel.group, "world_size", lambda: 2)
    for memory, mode in ((33e6, "ddp"), (31e6, "fsdp")):
        monkeypatch.setattr(parallel, "memory_of_a_process", lambda *_, memory=memory: memory)
        assert parallel.choose_mode("auto", model, cpu) == mode
    assert parallel.choose_mode("ddp", model, cpu) == "ddp"
