"""What a switch costs or gains per training step: two settings, their steps taken in turn in one process.

    python benchmarks/switches.py --size base --a precision=float32 --b precision=bf16 --out results/switches.jsonl
    python benchmarks/switches.py --size tiny --items 1000000 --a loss_type=SCE sce_power=0 \\
        --b loss_type=SCE sce_power=0 learner=sparse_adam --out results/switches.jsonl

Taken in turn, both see the same load of a shared machine; the figure is the median of the ratios of neighbouring steps.
Random items, windows of 50, the size's own batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from memory import Steps


def seconds(run: Steps) -> tuple[float, float]:
    """Time of one optimizer step, and of that the processor's."""
    began, spent = time.perf_counter(), time.process_time()
    run.step()  # ends with loss.item(), which waits for the device
    return time.perf_counter() - began, time.process_time() - spent


def compare(size: str, a: dict[str, Any], b: dict[str, Any], steps: int, items: int, device: str) -> dict[str, Any]:
    """Time of B over time of A, and both rates."""
    import torch

    from recbole_scale.runs.records import commit, versions

    runs = [Steps(size, items, device, **changes) for changes in (a, b)]
    for run in runs:  # the first step makes the optimizer's states, and compiles
        run.step()
    times = [(seconds(runs[0]), seconds(runs[1])) for _ in range(steps)]
    pairs = [(first[0], later[0]) for first, later in times]
    ratios = sorted(later / first for first, later in pairs)
    return {
        "size": size,
        "a": a,
        "b": b,
        "time_b_over_a": statistics.median(ratios),
        "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "seconds_a": statistics.median(first for first, _ in pairs),
        "seconds_b": statistics.median(later for _, later in pairs),
        "cpu_seconds_a": statistics.median(first[1] for first, _ in times),
        "cpu_seconds_b": statistics.median(later[1] for _, later in times),
        "targets_per_second_a": runs[0].tokens / min(first for first, _ in pairs),
        "targets_per_second_b": runs[1].tokens / min(later for _, later in pairs),
        "steps": steps,
        "tokens": runs[0].tokens,
        "items": items,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "commit": commit(),
    }


def main() -> None:
    from recbole_scale.settings import parse_arguments

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", default="base")
    parser.add_argument("--a", nargs="*", default=[], help="settings of A, key=value")
    parser.add_argument("--b", nargs="*", default=[], help="settings of B")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--items", type=int, default=3706)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="append the row to this JSON-lines file")
    given = parser.parse_args()
    a, b = (parse_arguments(f"--{setting}" for setting in settings) for settings in (given.a, given.b))
    row = compare(given.size, a, b, given.steps, given.items, given.device)
    low, high = row["quartiles"]
    names = [" ".join(part) or "the defaults" for part in (given.a, given.b)]
    ratio = f"{row['time_b_over_a']:.3f} x that with {names[0]} (quartiles {low:.3f} to {high:.3f})"
    print(f"{given.size}: a step with {names[1]} takes {ratio}")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
