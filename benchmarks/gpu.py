"""What one CUDA GPU gives: speed and memory of all six sizes, bf16 against float32 on real data, and xlarge's step.

    python benchmarks/gpu.py --out results/gpu.jsonl [--data dataset/ml-1m/ml-1m.inter]
    python benchmarks/gpu.py --smoke --out /tmp/gpu.jsonl     # everything, in small, on a CPU

    python benchmarks/gpu.py --wheels                         # with a network: fetches what such a machine lacks

Needs no network and no Ray; without `--data` the curves are trained on ml-100k, which RecBole brings along. What is
timed is the trainer's own step, on generated histories, the loader's thread included. Each part runs in a process of
its own and appends one JSON line as soon as it is known; a part that fails (no memory, say) appends its error
instead. The most telling part comes first, and with `--minutes` none begins after that time.
MFU is training FLOPs, item softmax included, over the device's dense bf16 peak: from its data sheet where the name is
known, else from a matrix product measured on the spot; the measured one stands in the row either way.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

SIZES = ("tiny", "small", "base", "medium", "large", "xlarge")
CATALOGUES = (26_427, 240_320)  # MovieLens-20M and the Amazon mix of arXiv 2311.11351
DATA_SHEET = {  # dense bf16 TFLOP/s; the first name found in the device's counts
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L40": 181.0,
    "L4": 121.0, "A10G": 70.0, "A10": 125.0, "A40": 150.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
SMALL = {"n_layers": 2, "hidden_size": 48, "inner_size": 192, "n_heads": 24, "train_batch_size": 200}  # --smoke
WHEELS = Path(os.environ.get("WHEELS") or Path(__file__).resolve().parent / "wheels")
FETCHED = ("recbole==1.2.1", "colorlog", "texttable", "thop", "colorama", "tabulate")  # Python alone: any machine's
NEEDED = ("torch", "numpy", "pandas", "scipy", "sklearn", "pyarrow", "yaml", "tqdm", "psutil", "filelock",
          "tensorboard", "recbole", "colorlog", "texttable", "colorama", "tabulate")  # fmt: skip
WARM, LENGTH = 3, 53  # steps before the clock starts; items of a generated history, of which two are held out


def fetch_wheels() -> int:
    """Download what a machine without network lacks; pip's exit code."""
    call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(WHEELS), *FETCHED]
    return subprocess.run(call).returncode


def use_wheels(folder: Path) -> None:
    """Unpack the wheels that are at hand and not installed, for this process and those it starts."""
    for wheel in sorted(WHEELS.glob("*.whl")):
        if importlib.util.find_spec(wheel.name.split("-")[0]) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(folder)])
    importlib.invalidate_caches()


def absent() -> list[str]:
    """Packages without which nothing can be timed and which are not here."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


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


def speed(size: str, items: int, steps: int, device: str, smoke: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """The trainer's own steps of one size: rate, MFU, peak memory."""
    import torch

    from recbole_scale.model.memory import memory_plan
    from recbole_scale.model.sizes import flops_per_interaction
    from recbole_scale.runs.plan import training_setup
    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.run import make_config
    from recbole_scale.training.accumulation import built_ahead
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    warm = WARM if steps > 1 else 0
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # log/ lands here
        write_histories(
            Path(folder) / "dataset", 60 if smoke else 16384 // 50 * (steps + warm + 1), 50 if smoke else items
        )
        settings = {"size": size, "data_path": f"{folder}/dataset", "show_progress": False, "epochs": 1, "topk": [10],
                    "use_gpu": device == "cuda", "data_cache": False, **changes}  # fmt: skip
        config = make_config("ScaledSASRec", "made", config_dict={**settings, **(SMALL if smoke else {})})
        prepared = prepare(config)
        os.chdir(here)
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
    order = ("tiny", "xlarge", "base", "large", "small", "medium")
    kinds: list[dict[str, Any]] = [{"precision": "bf16"}, {"precision": "bf16", "softmax": "chunks"},
                                   {"precision": "bf16", "compile": True}, {"precision": "float32"},
                                   {"precision": "float32", "tf32": True}]  # fmt: skip
    if smoke:
        kinds = [kinds[0], kinds[3]]  # no compiler is asked for, no GPU's kernel
    todo = [
        {"do": "speed", "size": size, "items": CATALOGUES[0], "steps": 2 if smoke else given.steps, **both,
         "changes": changes}
        for changes in kinds for size in order
        # beyond hidden_size 128 the chunks are taken anyway
        if changes.get("softmax") is None or size in ("tiny", "small", "base")
    ]  # fmt: skip
    epochs = 1 if smoke else given.epochs
    for name in ("bf16", "float32"):
        todo.append({"do": "curve", "data": given.data, "precision": name, "epochs": epochs, **both})
    last = {"do": "speed", "size": "xlarge", "items": CATALOGUES[1], "steps": 1, "changes": {"precision": "bf16"}}
    return [*todo, {**last, **both}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON lines are appended here")
    parser.add_argument("--minutes", type=float, help="begin no part later than this, and end the one that runs")
    parser.add_argument("--wheels", action="store_true", help="only download what a machine without network lacks")
    parser.add_argument("--data", default="", help="dataset/NAME/NAME.inter for the curves")
    parser.add_argument("--steps", type=int, default=20, help="steps timed, after one to warm up")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the curves")
    parser.add_argument("--smoke", action="store_true", help="small models, on a CPU")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(perform(json.loads(given.one))))
        return 0
    if given.wheels:
        return fetch_wheels()
    if not given.out:
        parser.error("--out is missing: where the JSON lines go")
    with tempfile.TemporaryDirectory() as folder:
        use_wheels(Path(folder))
        if missing := absent():
            print(
                f"error: {', '.join(missing)} cannot be imported; where there is a network, "
                f"'bash benchmarks/gpu.sh --wheels' puts what is Python alone into {WHEELS}, "
                "to be carried along",
                file=sys.stderr,
            )
            return 2
        return measure_all(given)


def measure_all(given: argparse.Namespace) -> int:
    """Take every part in turn while there is time; 1 if one failed."""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    out, failures, rows = given.out.resolve(), 0, []
    until = time.monotonic() + 60 * given.minutes if given.minutes else None
    for number, part in enumerate(parts(given)):
        left = until - time.monotonic() if until else None
        if left is not None and left <= 0:
            break
        # --smoke starts one process only, to see that it works
        row = perform(part) if given.smoke and number else in_a_process(part, left)
        failures += "error" in row
        rows.append(stamped(row, part["device"], given.smoke))
        with out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print({name: row[name] for name in ("part", "size", "changes", "error") if name in row}, flush=True)
    print(table(rows))
    return 1 if failures else 0


def table(rows: list[dict[str, Any]]) -> str:
    """The timed steps as a Markdown table."""
    lines = ["| size | settings | targets/s | ms a step | MFU | peak MiB | planned MiB |", "|---" * 7 + "|"]
    for row in rows:
        if "ms_per_step" in row:
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
            settings = " ".join(f"{key}={value}" for key, value in row["changes"].items())
            numbers = f"{row['tokens_per_second']:,.0f} | {row['ms_per_step']:.1f} | {row['mfu']:.1%} | {peak}"
            lines.append(f"| {row['size']} | {settings} | {numbers} | {row['estimate_mib']:,.0f} |")
    return "\n".join(lines)


def perform(part: dict[str, Any]) -> dict[str, Any]:
    """One of :func:`parts` in this process."""
    arguments = dict(part)
    act = speed if arguments.pop("do") == "speed" else curve
    return act(**arguments)


def in_a_process(part: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """The same in a fresh process, whose failure is a row too, and so is taking longer than ``seconds``."""
    call = [sys.executable, __file__, "--out", "unused", "--one", json.dumps(part)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**part, "error": "the time was up"}
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
