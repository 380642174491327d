"""What one CUDA GPU gives: speed and memory of all six sizes, bf16 against float32 on real data, and xlarge's step.

    python benchmarks/gpu.py --out results/gpu.jsonl [--data dataset/ml-1m/ml-1m.inter]
    python benchmarks/gpu.py --smoke --out /tmp/gpu.jsonl     # everything, in small, on a CPU

Needs no network and no Ray; without `--data` the curves are trained on ml-100k, which RecBole brings along. Each part
runs in a process of its own and appends one JSON line; a part that fails (no memory, say) appends its error instead.
MFU is training FLOPs, item softmax included, over the device's dense bf16 peak: from its data sheet where the name is
known, else from a matrix product measured on the spot; the measured one stands in the row either way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import Steps

SIZES = ("tiny", "small", "base", "medium", "large", "xlarge")
CATALOGUES = (26_427, 240_320)  # MovieLens-20M and the Amazon mix of arXiv 2311.11351
DATA_SHEET = {  # dense bf16 TFLOP/s; the first name found in the device's counts
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L40": 181.0,
    "L4": 121.0, "A10G": 70.0, "A10": 125.0, "A40": 150.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
SMALL = {"n_layers": 2, "hidden_size": 48, "inner_size": 192, "n_heads": 24, "train_batch_size": 200}  # --smoke


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


def speed(size: str, items: int, steps: int, device: str, smoke: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """Forward, backward and optimizer of one size on random items: rate, MFU, peak memory."""
    import torch

    from recbole_scale.model.memory import memory_plan
    from recbole_scale.model.sizes import flops_per_interaction
    from recbole_scale.runs.plan import training_setup

    run = Steps(size, 50 if smoke else items, device, **({**changes, **SMALL} if smoke else changes))
    first = run.step()  # also tunes kernels and makes the optimizer's states
    wait(device)
    began = time.perf_counter()
    losses = [run.step() for _ in range(steps)]
    wait(device)
    seconds = (time.perf_counter() - began) / max(steps, 1)
    measured, name = matmul_tflops(device, smoke), device_name(device)
    sheet = next((peak for known, peak in DATA_SHEET.items() if known in name), None)
    rate = run.tokens / seconds if steps else None
    tflops = rate * flops_per_interaction(run.model.shape) / 1e12 if rate else None
    plan = memory_plan(run.model.shape, training_setup(run.config, run.model, run.tokens))
    return {
        "part": "speed" if steps else "one step",
        "size": size,
        "items": run.items,
        "tokens": run.tokens,
        "precision": run.model.precision,
        "changes": changes,
        "losses": [first, *losses],
        "tokens_per_second": rate,
        "tflops_per_second": tflops,
        "mfu": tflops / (sheet or measured) if tflops else None,
        "mfu_of_measured_matmul": tflops / measured if tflops else None,
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
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # log/ and saved/ land here
        result = run("ScaledSASRec", path.parent.name if path else "ml-100k", config_dict=settings)
        row = json.loads(Path("rows.jsonl").read_text().splitlines()[-1])
        os.chdir(here)
    by_epoch = [{key: at[key] for key in ("epoch", "train_nll", "valid_nll")} for at in row["evaluations"]]
    return {"part": "curve", "precision": precision, "data": row["dataset"], "size": "small", "curve": by_epoch,
            "test_nll": result["nll"], "seconds_train": row["seconds_train"]}  # fmt: skip


def parts(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything to do, in order: arguments of :func:`speed` or :func:`curve`."""
    device, smoke = "cpu" if given.smoke else "cuda", given.smoke
    both = {"device": device, "smoke": smoke}
    precisions = ("bf16", "float32")
    todo = [
        {"do": "speed", "size": size, "items": CATALOGUES[0], "steps": 2 if smoke else given.steps, **both,
         "changes": {"precision": precision}}
        for size in SIZES for precision in precisions if precision == "bf16" or size != "xlarge"
    ]  # fmt: skip
    epochs = 1 if smoke else given.epochs
    todo += [{"do": "curve", "data": given.data, "precision": name, "epochs": epochs, **both} for name in precisions]
    last = {"do": "speed", "size": "xlarge", "steps": 0, **both, "changes": {"precision": "bf16"}}
    return todo + [{**last, "items": items} for items in CATALOGUES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended here")
    parser.add_argument("--data", default="", help="dataset/NAME/NAME.inter for the curves")
    parser.add_argument("--steps", type=int, default=20, help="steps timed, after one to warm up")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the curves")
    parser.add_argument("--smoke", action="store_true", help="small models, on a CPU")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(perform(json.loads(given.one))))
        return 0
    given.out.parent.mkdir(parents=True, exist_ok=True)
    out, failures = given.out.resolve(), 0
    for number, part in enumerate(parts(given)):
        # --smoke starts one process only, to see that it works
        row = perform(part) if given.smoke and number else in_a_process(part)
        failures += "error" in row
        with out.open("a") as file:
            file.write(json.dumps(stamped(row, part["device"], given.smoke)) + "\n")
        names = ("part", "size", "precision", "items", "tokens_per_second", "mfu", "error")
        print({name: row[name] for name in names if row.get(name) is not None}, flush=True)
    return 1 if failures else 0


def perform(part: dict[str, Any]) -> dict[str, Any]:
    """One of :func:`parts` in this process."""
    arguments = dict(part)
    act = speed if arguments.pop("do") == "speed" else curve
    return act(**arguments)


def in_a_process(part: dict[str, Any]) -> dict[str, Any]:
    """The same in a fresh process, whose failure is a row too."""
    call = [sys.executable, __file__, "--out", "unused", "--one", json.dumps(part)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return row
    return {**part, "error": (done.stderr.strip().splitlines() or ["killed"])[-1][:300]}


def stamped(row: dict[str, Any], device: str, smoke: bool) -> dict[str, Any]:
    """The row with where it was measured and with what."""
    from recbole_scale.runs.records import commit, versions

    return {**row, "device": device_name(device), "smoke": smoke, "versions": versions(), "commit": commit()}


if __name__ == "__main__":
    sys.exit(main())
