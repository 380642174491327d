"""RecBole's own models on several processes: gradients of one process, every user once, one checkpoint."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole_data import NAME, settings_of, with_first_weights, write_made
from test_every_model import DRAWS, evaluated_again

from recbole_scale.errors import exit_code
from recbole_scale.plugin.processes import Shared, share, share_penalties
from recbole_scale.training import group
from recbole_scale.training.processes import start

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
MODELS = {
    "SASRec": NO_DROPOUT, "GRU4Rec": {"dropout_prob": 0.0}, "BERT4Rec": NO_DROPOUT, "BPR": {}, "LightGCN": {},
    "DeepFM": {"dropout_prob": 0.0},
}  # fmt: skip
# blocks of negatives, rows beside triples that count nothing, sums with a penalty, means over rows and triples (in one,
# and one beside the other), whole users
MORE = {
    "SimpleX": {"dropout_prob": 0.0}, "KGCN": {"reg_weight": 0.0}, "ENMF": {"dropout_prob": 0.0, "reg_weight": 0.5},
    "ConvNCF": {"dropout_prob": 0.0}, "CDAE": {"corruption_ratio": 0.0, "reg_weight_1": 0.01},
    "CFKG": {}, "CKE": {"reg_weights": [0.0, 0.0]}, "RecVAE": {"dropout_prob": 0.0},
}  # fmt: skip
# whole batches in every process, with all that they draw, dropout too; two more that draw from numpy's and Python's
# numbers in their loss, as loaders do before it
WHOLE = {
    "DIEN": {"dropout_prob": 0.2}, "KTUP": {}, "S3Rec": {}, "LINE": {}, "MKR": {},
    "DiffRec": {"train_batch_size": 16}, "LDiffRec": {"train_batch_size": 16},
    "KGIN": {"node_dropout_rate": 0.5, "mess_dropout_rate": 0.0, "reg_weight": 0.0, "sim_regularity": 0.0},
    "DGCF": {"embedding_size": 8, "n_factors": 2, "reg_weight": 0.0},
}  # fmt: skip


def command(folder, model, *more, **settings):
    """``run_recbole`` in a process of its own."""
    write = {**settings_of(model), **settings}
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in write.items()]
    run = [sys.executable, "-m", "recbole_scale", f"--model={model}", f"--dataset={NAME}", *words, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def gradients(network, batch, weights=(1.0,)):
    network.zero_grad()
    losses = network.calculate_loss(batch, **{"encoder_flag": True} if type(network).__name__ == "RecVAE" else {})
    parts = losses if isinstance(losses, tuple) else (losses,)
    sum(w * part for w, part in zip(weights * (len(parts) // len(weights)), parts, strict=True)).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


@pytest.mark.parametrize("model", [*MODELS, *MORE])
@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_a_batch_make_the_whole_batchs_gradient(folder, monkeypatch, model, world):
    write_made(folder)
    prepared, network, _ = with_first_weights(model, **({**MODELS, **MORE}[model]))
    if model in ("ConvNCF", "RecVAE"):  # large gradients, which float32 rounds beyond 1e-6
        network.double()
    if hasattr(prepared.train_data, "set_mode"):
        from recbole.utils import KGDataLoaderState

        prepared.train_data.set_mode(KGDataLoaderState.RSKG)
    if model == "RecVAE":  # its noise is drawn anew each time
        monkeypatch.setattr(torch.Tensor, "normal_", lambda self, **_: self.zero_())
        rated = network.get_rating_matrix
        network.get_rating_matrix = lambda user: rated(user).double()
    loader, one_share, process = prepared.train_data, deepcopy(network), Shared.__new__(Shared)
    process.trainer = SimpleNamespace(config=prepared.config)
    share_penalties(one_share, model, world)
    monkeypatch.setattr(group, "world_size", lambda: world)
    *_, full, last = [next(iter(loader)), *loader]  # the last one is shorter, and may be the only one
    for batch in (full, last, *fewer(last, getattr(loader, "times", 1), world)):
        whole, together = gradients(network, batch), None
        for rank in range(world):
            monkeypatch.setattr(group, "rank", lambda rank=rank: rank)
            part = process.of(batch, loader)
            mine = gradients(one_share, part, tuple(weight / world for weight in process.weights))
            together = mine if together is None else [a + b for a, b in zip(together, mine, strict=True)]
        for expected, found in zip(whole, together, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def fewer(batch, times, world):
    """Of a batch of ``times`` blocks: one row and ``world`` rows, each with one triple and as many as rows."""
    if "MASK_INDEX" in batch.columns:  # a row without a mask alone has no loss in one process either
        batch = batch[(batch["MASK_INDEX"] > 0).any(1)]
    n = len(batch["user_id"]) // times
    for rows in (1, world):
        picked = share(batch, times, 0, -(-n // rows))
        for triples in (1, rows):
            yield Interaction({k: v[:triples] if k in TRIPLE else v for k, v in picked.interaction.items()})


TRIPLE = ("head_id", "relation_id", "tail_id", "neg_tail_id")


STEPS = """
import json, sys, torch
sys.path.insert(0, sys.argv[3])
import recbole_scale
from recbole_data import NAME, settings_of
from recbole.utils import get_trainer
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import group
found = {}
for model, more in json.loads(sys.argv[1]).items():
    settings = {**settings_of(model), **more, "clip_grad_norm": None, **group.torchrun_settings()}
    prepared = prepare(make_config(model, NAME, config_dict=settings))
    trainer = get_trainer(prepared.config["MODEL_TYPE"], model)(prepared.config, build_model(prepared))
    seen = found[model] = []
    def step(*a, model=trainer.model, seen=seen):
        seen.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
        return torch.optim.Adam.step(trainer.optimizer)
    trainer.optimizer.step = step
    loss = trainer._train_epoch(prepared.train_data, 0)
    trainer.eval_collector.data_collect(prepared.train_data)
    found[model] = [seen, loss, dict(trainer.evaluate(prepared.test_data, load_best_model=False))]
if group.rank() == 0:
    torch.save(found, sys.argv[2])
group.leave()
"""


EACH = [pytest.param(("DIEN", "KTUP"), id="whole"), pytest.param((*MODELS, *WHOLE), id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("models", EACH)
def test_two_processes_take_one_processs_steps_and_measure_its_metrics(folder, models):
    """Gradients of every step of an epoch, its loss, and the metrics after it."""
    write_made(folder)
    (folder / "steps.py").write_text(STEPS)
    asked = json.dumps({model: {**MODELS, **WHOLE}[model] for model in models})
    tests = str(Path(__file__).with_name("helpers"))
    subprocess.run([sys.executable, "steps.py", asked, "one.pt", tests], cwd=folder, check=True, capture_output=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run([*torchrun, "steps.py", asked, "two.pt", tests], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(folder / name, weights_only=False) for name in ("one.pt", "two.pt"))
    for model in models:
        (steps, loss, metrics), (others, other_loss, other_metrics) = one[model], two[model]
        assert len(steps) == len(others) > 1
        for expected, found in zip(steps, others, strict=True):
            for a, b in zip(expected, found, strict=True):
                torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-3)
        assert other_loss == pytest.approx(loss, rel=1e-4)
        if model not in DRAWS:
            assert other_metrics == pytest.approx(metrics, abs=1e-4)  # a sum of floats in another order, no more
    told = [line for line in done.stderr.splitlines() if "trains on whole batches in every process" in line]
    assert len(told) == len({*models} & {*WHOLE} - {"KGIN", "DGCF"})  # process 0 alone says it


@pytest.mark.parametrize(
    "model", ["BPR", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SASRecF", "DIEN"))]
)
def test_a_run_of_two_processes_is_one_run(folder, model):
    """One row, one checkpoint, whose metrics in one process are the row's: each user was ranked once."""
    write_made(folder)
    done = command(folder, model, "--nproc=2", "--port", free_port(), epochs=2, eval_batch_size=7)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (folder / "results" / "runs.jsonl").read_text().splitlines()
    row = json.loads(rows[0])
    assert len(rows) == 1 and row["processes"] == 2 and len(row["evaluations"]) == 2
    found = list((folder / "saved").glob("*.pth"))
    assert len(found) == 1
    assert evaluated_again(str(found[0])) == row["test_metrics"]


def fails(local_rank, kind):
    """Process 1 meets what no program can mend, or a bug."""
    if local_rank == 1:
        full = OSError(28, "No space left on device", "a.npz")
        raise {"memory": MemoryError(), "disk": full, "bug": KeyError("x")}[kind]


TOLD = {"memory": "error: there is not enough memory",
        "disk": "error: 'a.npz' cannot be read or written (no space left",
        "bug": "error: this is a bug of recbole-scale (process 1: KeyError: 'x')"}  # fmt: skip


@pytest.mark.parametrize("kind", TOLD)
def test_what_one_process_cannot_mend_is_told_in_its_own_sentence(folder, capsys, monkeypatch, kind):
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    code = exit_code(lambda: start(fails, (kind,), 2))
    told = capsys.readouterr().err
    assert told.startswith(TOLD[kind]) and told.count("\n") == 1 and code == (1 if kind == "bug" else 2)
    assert not list(folder.glob("pytorch*"))


@pytest.mark.parametrize(("more", "says"), [(["--n_heads=5"], "hidden_size"), ([], "file too large")])
def test_a_run_of_two_processes_tells_a_mistake_and_a_full_disk(walk, more, says):
    """The disk is full for files of more than 20,000 bytes: checkpoints."""
    words = ["--hidden_size=16", "--inner_size=64", "--n_layers=2", "--epochs=2", "--topk=[5]", *more]
    run = [sys.executable, "-m", "recbole_scale", "--dataset=walk", "--nproc=2", "--port", free_port(), *words]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *run], cwd=walk, capture_output=True, text=True, timeout=300
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and says in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not list((walk / "saved").glob(".*"))


WRONG = {
    "Pop": "it is counted",
    "EASE": "it is counted",
    "NCEPLRec": "it is counted",
    "XGBoost": "it grows trees",
    "NCL": "its loss compares the rows",
    "SGL": "its loss compares the rows",
}


@pytest.mark.parametrize("model", WRONG)
def test_what_several_processes_cannot_train_says_why(folder, model):
    from recbole_scale.errors import UserError
    from recbole_scale.runs.run import make_config

    write_made(folder)
    several = {"local_rank": 0, "offset": 0, "world_size": 2, "nproc": 2, "ip": "localhost", "port": "1"}
    with pytest.raises(UserError, match=f"{model} trains in one process: {WRONG[model]}"):
        make_config(model, NAME, config_dict=settings_of(model) | several)
    with pytest.raises(UserError, match=f"{model} trains in one process"):  # as a dry run asks
        make_config(model, NAME, config_dict=settings_of(model) | {"world_size": 2})


def test_recboles_own_call_with_several_processes(folder):
    write_made(folder)
    (folder / "call.py").write_text(
        "import recbole_scale\n"
        "from recbole.quick_start import run\n"
        "if __name__ == '__main__':\n"
        f"    settings = {settings_of('BPR')!r}\n"
        f"    print(run('BPR', '{NAME}', config_dict=settings, nproc=2, port='{free_port()}')['test_result']['nll'])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "call.py"], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 2 < float(done.stdout.splitlines()[-1]) < 5
    assert len(list((folder / "saved").glob("*.pth"))) == 1


@pytest.mark.slow
def test_two_machines_are_one_run(folder):
    """Each command is a machine of one process, by RecBole's flags; one row, and the metrics of one process."""
    write_made(folder)
    alone = command(folder, "SASRec", epochs=2, results_file="one.jsonl", **NO_DROPOUT)
    assert alone.returncode == 0, alone.stderr[-3000:]
    shared = ("--nproc=1", "--world_size=2", "--ip=localhost", f"--port={free_port()}")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda rank: command(
            folder, "SASRec", *shared, f"--group_offset={rank}", epochs=2, results_file="two.jsonl", **NO_DROPOUT
        ), range(2)))  # fmt: skip
    assert [one.returncode for one in done] == [0, 0], [one.stderr[-2000:] for one in done]
    (one,), (two,) = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()] for name in ("one.jsonl", "two.jsonl")
    )
    assert two["processes"] == 2 and two["test_metrics"] == pytest.approx(one["test_metrics"], abs=1e-4)
