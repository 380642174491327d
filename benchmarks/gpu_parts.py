"""What `gpu.py` measures: the trainer's step, the step of others, curves on real data, a small study. One row each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA_SHEET = {  # dense bf16 TFLOP/s; the first name found in the device's counts
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L40": 181.0,
    "L4": 121.0, "A10G": 70.0, "A10": 125.0, "A40": 150.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
SMALL = {"n_layers": 2, "hidden_size": 48, "inner_size": 192, "n_heads": 24, "train_batch_size": 200}  # --smoke
WARM, LENGTH = 5, 53  # steps before the clock starts (a graph is recorded in the third); items of a generated history


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def matmul_tflops(device: str, smoke: bool) -> float:
    """Best bf16 product of two square matrices out of ten."""
    import torch

    size = 256 if smoke else 8192
    a, b = torch.randn(2, size, size, device=device).bfloat16()
    times = []
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e12


def device_name(device: str) -> str:
    """Name of the GPU, or cpu."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def write_histories(folder: Path, users: int, items: int) -> None:
    """Random histories as RecBole's atomic file ``made``: every item occurs, each user has :data:`LENGTH` of them."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(0, items, users * LENGTH)
    drawn[:items] = np.arange(min(items, len(drawn)))
    user, time = np.divmod(np.arange(len(drawn)), LENGTH)
    (folder / "made").mkdir(parents=True)
    with open(folder / "made" / "made.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        np.savetxt(file, np.stack([user, drawn, time], 1), "%d", "\t")


def made_log(model: str, users: int, items: int, device: str, settings: dict[str, Any]) -> Any:
    """Random histories, read and cut for ``model``."""
    from recbole_scale.runs.prepared import prepare
    from recbole_scale.runs.run import make_config

    with in_a_folder() as folder:
        write_histories(folder / "dataset", users, items)
        every = {"data_path": f"{folder}/dataset", "show_progress": False, "epochs": 1, "topk": [10],
                 "use_gpu": device == "cuda", "data_cache": False}  # fmt: skip
        return prepare(make_config(model, "made", config_dict={**every, **settings}))


@contextmanager
def in_a_folder() -> Iterator[Path]:
    """Work in an empty folder, where log/, saved/ and results/ land, for as long as the context lasts."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(here)


def speed(size: str, items: int, steps: int, device: str, smoke: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """The trainer's own steps of one size: rate, MFU, peak memory."""
    import torch

    from recbole_scale.model.memory import memory_plan
    from recbole_scale.model.sizes import flops_per_interaction
    from recbole_scale.runs.plan import training_setup
    from recbole_scale.runs.prepared import build_model
    from recbole_scale.training.accumulation import built_ahead
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    warm = WARM if steps > 1 else 0
    users = 60 if smoke else 16384 // 50 * (steps + warm + 1)
    prepared = made_log(
        "ScaledSASRec", users, 50 if smoke else items, device, {"size": size, **changes, **(SMALL if smoke else {})}
    )
    config = prepared.config
    model = build_model(prepared)
    trainer, loader = ScaledSASRecTrainer(config, model), prepared.train_data
    trainer.steps_per_epoch, last = len(loader), min(len(loader), warm + steps)
    model.train()
    taken = []

    with built_ahead(loader.parts, last, config["device"]) as parts:
        for step in range(last):
            if step == warm:
                wait(device)
                began = time.perf_counter()
            trainer._train_step(parts(step), loader.count(step))
            taken.append(loader.count(step))
            if trainer.losses.due or step + 1 == last:
                trainer.losses.look(0, step + 1, last, model.parameters(), ending=False)
        wait(device)
        seconds = time.perf_counter() - began
    targets = sum(taken[warm:])
    measured, name = matmul_tflops(device, smoke), device_name(device)
    sheet = next((peak for known, peak in DATA_SHEET.items() if known in name), None)
    rate = targets / seconds
    tflops = rate * flops_per_interaction(model.shape) / 1e12
    tokens = loader.token_budget
    plan = memory_plan(model.shape, training_setup(config, model, tokens))
    return {
        "part": "speed" if steps > 1 else "one step",
        "size": size,
        "items": model.shape.n_items,
        "tokens": tokens,
        "precision": model.precision,
        "softmax": model.softmax,
        "changes": changes,
        "steps": last - warm,
        "train_nll": trainer.progress.mean_loss,
        "tokens_per_second": rate,
        "ms_per_step": 1000 * seconds / (last - warm),
        "tflops_per_second": tflops,
        "mfu": tflops / (sheet or measured),
        "mfu_of_measured_matmul": tflops / measured,
        "peak_tflops_data_sheet": sheet,
        "peak_tflops_measured": measured,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
        "estimate_mib": (plan.peak - plan.framework) / 2**20,
    }


def curve(data: str, precision: str, epochs: int, device: str, smoke: bool) -> dict[str, Any]:
    """Training and valid NLL by epoch on real data, at one precision."""
    from recbole_scale.runs.run import run

    size = {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 8}
    settings: dict[str, Any] = {"epochs": epochs, "precision": precision, "show_progress": False, "seed": 1,
                                "use_gpu": device == "cuda", "results_file": "rows.jsonl", "stopping_step": 1000,
                                "topk": [10], **(size if smoke else {"size": "small"})}  # fmt: skip
    path = Path(data).resolve() if data else None
    if path:
        settings["data_path"] = str(path.parent.parent)
    with in_a_folder():
        result = run("ScaledSASRec", path.parent.name if path else "ml-100k", config_dict=settings)
        row = json.loads(Path("rows.jsonl").read_text().splitlines()[-1])
    by_epoch = [{key: at[key] for key in ("epoch", "train_nll", "valid_nll")} for at in row["evaluations"]]
    return {"part": "curve", "precision": precision, "data": row["dataset"], "size": "small", "curve": by_epoch,
            "test_nll": result["nll"], "seconds_train": row["seconds_train"]}  # fmt: skip


def peer(system: str, size: str, items: int, steps: int, device: str, smoke: bool) -> dict[str, Any]:
    """The step of another SASRec of the shape of ``size``, in float32 as it comes: ``bare`` torch, or ``recbole``.

    ``bare`` is torch's own encoder with the softmax at every position, its batches on the device beforehand; RecBole's
    trains one target a row, in batches of 2,048, as its trainer does.
    """
    import torch

    from recbole_scale.model.sizes import load_size

    own = {"n_layers": 1, "n_heads": 1, "hidden_size": 16, "inner_size": 64} if smoke else load_size(size)
    shape = {name: int(own[name]) for name in ("n_layers", "n_heads", "hidden_size", "inner_size")}
    items = 50 if smoke else items
    rows, take_step = (_bare if system == "bare" else _recbole)(shape, items, steps, device, smoke)
    for step in range(steps + WARM):
        if step == WARM:
            wait(device)
            began = time.perf_counter()
        take_step(step)
    wait(device)
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    return {"part": "peer", "system": system, "size": size, "items": items, "precision": "float32", "steps": steps,
            "tokens_per_second": rows * steps / seconds, "ms_per_step": 1000 * seconds / steps,
            "peak_mib": peak}  # fmt: skip


def _bare(shape: dict[str, int], items: int, steps: int, device: str, smoke: bool) -> tuple[int, Any]:
    """Targets of a step, and a function that takes one."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, length, batch = shape["hidden_size"], 50, 4 if smoke else 16384 // 50
    layer = nn.TransformerEncoderLayer(width, shape["n_heads"], shape["inner_size"], 0.2, "gelu", batch_first=True,
                                       norm_first=True)  # fmt: skip
    table, places = nn.Embedding(items + 1, width, device=device), nn.Embedding(length, width, device=device)
    blocks = nn.TransformerEncoder(layer, shape["n_layers"], nn.LayerNorm(width), False).to(device)
    parts = nn.ModuleList([table, places, blocks])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(1, items + 1, (4, batch, length + 1), device=device)
    mask = nn.Transformer.generate_square_subsequent_mask(length, device=torch.device(device))

    def take_step(step: int) -> None:
        one = ids[step % len(ids)]
        hidden = blocks(table(one[:, :-1]) + places.weight, mask=mask, is_causal=True).flatten(0, 1)
        loss = F.cross_entropy(hidden @ table.weight[1:].T, one[:, 1:].flatten() - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return batch * length, take_step


def _recbole(shape: dict[str, int], items: int, steps: int, device: str, smoke: bool) -> tuple[int, Any]:
    """The same of RecBole's SASRec."""
    import torch

    from recbole_scale.runs.prepared import build_model

    batch = 64 if smoke else 2048
    users = 60 if smoke else max(items // LENGTH + 1, batch * (steps + WARM + 1) // 50 + 1)
    changes = {**shape, "loss_type": "CE", "train_neg_sample_args": None, "train_batch_size": batch}
    prepared = made_log("SASRec", users, items, device, changes)
    model = build_model(prepared).train()
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=1e-3), iter(prepared.train_data)

    def take_step(step: int) -> None:
        optimizer.zero_grad()
        model.calculate_loss(next(batches).to(device)).backward()
        optimizer.step()

    return batch, take_step


def study(minutes: float, device: str, smoke: bool) -> dict[str, Any]:
    """`recbole-scale study` on a generated log of MovieLens-20M's shape, from tiny (98K) to large (75M)."""
    from recbole_scale.prepare.synthetic import SyntheticSettings, write_synthetic

    made = SyntheticSettings(*((60, 50, 1_500) if smoke else (138_493, 26_744, 20_000_263)))
    sizes = ("1x8", "1x16", "1x32") if smoke else ("tiny", "small", "base", "medium", "large")
    began = time.perf_counter()
    with in_a_folder() as folder:
        card = write_synthetic(made, folder / "dataset" / "ml-20m-like")
        left = max(1.0, minutes - (time.perf_counter() - began) / 60)
        verb = "from recbole_scale.cli import recbole_scale_command as main; main()"
        call = [sys.executable, "-c", verb, "study", "--dataset", "ml-20m-like", "--sizes", *sizes, "--predict", "10x",
                "--minutes", f"{left:.1f}", f"--use_gpu={device == 'cuda'}",
                *(["--dry_run"] if smoke else [])]  # fmt: skip
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["killed"])[-1])
        found = folder / "studies" / "ml-20m-like" / "runs.jsonl"
        rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    names = ("n_blocks", "epochs", "test_metrics", "seconds_train", "interactions_seen", "learning_rate")
    return {"part": "study", "minutes": minutes, "data": vars(made), "possible_nats": card["nats_per_interaction"],
            "runs": [{name: row.get(name) for name in names} for row in rows],
            "said": done.stdout.strip().splitlines()[-40:]}  # fmt: skip
