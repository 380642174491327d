"""Time and memory of the five challenges: ``python benchmarks/challenges.py --checkpoint CK --window_checkpoint CK``.

Each challenge runs in a process of its own, cases included, on a checkpoint of the tiny model: wall-clock and CPU
seconds, largest resident memory. Goals on two idle cores: long tail, cold start and multi-domain 15 s each, robustness
(4 kinds x 5 ratios x 3 seeds, and the clean cases) 90 s, trajectory (10 steps, greedy and truth) 30 s, memory 2 GB.
Rows go to ``results/challenges_speed.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

GOALS = {"long_tail": 15, "cold_start": 15, "multi_domain": 15, "robustness": 90, "trajectory": 30}
GOAL_MB = 2000


def measure(challenge: str, checkpoint: str, data_path: str | None, threads: int) -> dict[str, object]:
    """One challenge in this process."""
    import torch

    from recbole_scale.challenges.models import open_checkpoints
    from recbole_scale.challenges.suite import Options, make_suite, measure_all
    from recbole_scale.challenges.table import tidy
    from recbole_scale.runs.records import commit

    torch.set_num_threads(threads)
    options = Options(challenges=(challenge,), noise=("delete", "replace", "swap", "insert"), seeds=3)
    begin, cpu = time.perf_counter(), time.process_time()
    (point,) = open_checkpoints([checkpoint], data_path)
    suite = make_suite(point, options, int(point.config["MAX_ITEM_LIST_LENGTH"]))
    measured = measure_all([point], suite, options)
    rows = tidy(measured, None, False)
    return {
        "challenge": challenge,
        "dataset": point.config["dataset"],
        "model": point.config["model"],
        "size": measured[0].about["size"],
        "sets": len(suite),
        "rows": len(rows),
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
        "goal_seconds": GOALS[challenge],
        "commit": commit(),
    }


def main() -> None:
    """Run the challenges one after the other and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", help="tiny on ml-1m: long tail, cold start, robustness")
    parser.add_argument("--domain_checkpoint", help="tiny on amazon-mix5: multi-domain")
    parser.add_argument("--window_checkpoint", help="tiny on ml-1m-cut10: trajectory")
    parser.add_argument("--data_path", help="folder of data sets, where it is not the one of the training")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--out", default="results/challenges_speed.jsonl", help="(default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    of = {"multi_domain": options.domain_checkpoint, "trajectory": options.window_checkpoint}
    if options.one:
        checkpoint = of.get(options.one, options.checkpoint)
        print(json.dumps(measure(options.one, checkpoint, options.data_path, options.threads)))
        return
    print(f"{'challenge':<14}{'data set':<14}{'sets':>6}{'s':>9}{'CPU s':>9}{'MB':>8}{'goal s':>8}")
    for challenge, goal in GOALS.items():
        if not of.get(challenge, options.checkpoint):
            continue
        found = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", challenge], capture_output=True, text=True
        )
        if found.returncode:
            raise SystemExit(found.stderr)
        row = json.loads(found.stdout.splitlines()[-1])
        met = row["seconds"] <= goal and row["peak_memory_mb"] <= GOAL_MB
        print(
            f"{challenge:<14}{row['dataset']:<14}{row['sets']:>6}{row['seconds']:>9.1f}{row['cpu_seconds']:>9.1f}"
            f"{row['peak_memory_mb']:>8.0f}{goal:>8}  {'met' if met else 'NOT MET'}",
            flush=True,
        )
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
