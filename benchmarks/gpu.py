"""What one CUDA GPU gives: speed and memory of all six sizes and of others, bf16 against float32, and a small study.

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

import gpu_parts

CATALOGUES = (26_427, 240_320)  # MovieLens-20M and the Amazon mix of arXiv 2311.11351
WHEELS = Path(os.environ.get("WHEELS") or Path(__file__).resolve().parent / "wheels")
FETCHED = ("recbole==1.2.1", "colorlog", "texttable", "thop", "colorama", "tabulate")  # Python alone: any machine's
NEEDED = ("torch", "numpy", "pandas", "scipy", "sklearn", "pyarrow", "yaml", "tqdm", "psutil", "filelock",
          "tensorboard", "recbole", "colorlog", "texttable", "colorama", "tabulate")  # fmt: skip


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


def parts(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything to do, in order: arguments of a function of ``gpu_parts``, and as ``do`` its name."""
    device, smoke = "cpu" if given.smoke else "cuda", given.smoke
    both = {"device": device, "smoke": smoke}
    order = ("tiny", "xlarge", "base", "large", "small", "medium")
    bound = ("tiny", "base", "small")  # by launches; beyond their hidden_size of 128 the chunks are taken anyway
    kinds: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"precision": "bf16"}, order), ({"precision": "bf16", "compile": "graphs"}, bound),
        ({"precision": "bf16", "softmax": "chunks"}, bound), ({"precision": "bf16", "compile": True}, order),
        ({"precision": "float32"}, order), ({"precision": "float32", "tf32": True}, order)]  # fmt: skip
    if smoke:
        kinds = [kinds[0], kinds[4]]  # no compiler is asked for, no GPU's kernel
    steps = 2 if smoke else given.steps
    todo: list[dict[str, Any]] = [
        {"do": "speed", "size": size, "items": CATALOGUES[0], "steps": steps, "changes": changes, **both}
        for changes, sizes in kinds for size in sizes
    ]  # fmt: skip
    for system in ("bare", "recbole"):
        todo += [{"do": "peer", "system": system, "size": size, "items": CATALOGUES[0], "steps": steps, **both}
                 for size in ("tiny", "base")]  # fmt: skip
    epochs = 1 if smoke else given.epochs
    for name in ("bf16", "float32"):
        todo.append({"do": "curve", "data": given.data, "precision": name, "epochs": epochs, **both})
    last = {"do": "speed", "size": "xlarge", "items": CATALOGUES[1], "steps": 1, "changes": {"precision": "bf16"}}
    todo += [{**last, **both}, {"do": "study", "minutes": given.study_minutes, **both}]
    return [part for part in todo if not given.only or part["do"] in given.only]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, help="JSON lines are appended here")
    parser.add_argument("--minutes", type=float, help="begin no part later than this, and end the one that runs")
    parser.add_argument("--study_minutes", type=float, default=30, help="time of the study; what is left of --minutes")
    parser.add_argument("--only", nargs="+", choices=["speed", "peer", "curve", "study"], help="no other parts")
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
        if left is not None and "minutes" in part:
            part["minutes"] = left / 60
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
            settings = " ".join(f"{key}={value}" for key, value in row.get("changes", {}).items()) or row["system"]
            numbers = f"{row['tokens_per_second']:,.0f} | {row['ms_per_step']:.1f}"
            ours = f"{row['mfu']:.1%} | {peak} | {row['estimate_mib']:,.0f}" if "mfu" in row else f" | {peak} | "
            lines.append(f"| {row['size']} | {settings} | {numbers} | {ours} |")
    return "\n".join(lines)


def perform(part: dict[str, Any]) -> dict[str, Any]:
    """One of :func:`parts` in this process."""
    arguments = dict(part)
    acts: dict[str, Any] = {
        "speed": gpu_parts.speed,
        "peer": gpu_parts.peer,
        "curve": gpu_parts.curve,
        "study": gpu_parts.study,
    }
    return acts[arguments.pop("do")](**arguments)


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

    return {**row, "device": gpu_parts.device_name(device), "smoke": smoke, "versions": versions(), "commit": commit()}


if __name__ == "__main__":
    sys.exit(main())
