"""What a sweep costs beside training and evaluation: seconds per run for plan, data, model, records, checkpoints.

    python benchmarks/sweep.py --dataset ml-1m --runs 5

One JSON line on stdout. The sweep is the package's own, in this process; clocks sit around the trainer's `fit` (less
its checkpoint writes) and `evaluate`, and what is left of the wall time is the overhead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    data_path = arguments.data_path.resolve()
    import torch

    from recbole_scale.runs.records import commit, versions
    from recbole_scale.sweep import command as sweep_command
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    useful = {"seconds": 0.0}

    def timed(name: str) -> None:
        original = getattr(ScaledSASRecTrainer, name)

        def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(self, *args, **kwargs)
            finally:
                useful["seconds"] += time.perf_counter() - start

        setattr(ScaledSASRecTrainer, name, measured)

    timed("_train_epoch")
    timed("evaluate")
    seeds = [str(seed) for seed in range(1, arguments.runs + 1)]
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)
        start = time.perf_counter()
        failed = sweep_command.main(
            ["--dataset", arguments.dataset, "--shapes", "1x8", "--seeds", *seeds, "--epochs", "1", "--rows",
             "rows.jsonl", f"--data_path={data_path}", "--train_batch_size=16384"]
        )  # fmt: skip
        wall = time.perf_counter() - start
        os.chdir(home)
    row = {
        "benchmark": "sweep",
        "dataset": arguments.dataset,
        "runs": arguments.runs,
        "wall_seconds": round(wall, 2),
        "training_and_evaluation_seconds": round(useful["seconds"], 2),
        "overhead_seconds_per_run": round((wall - useful["seconds"]) / arguments.runs, 3),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "versions": versions(),
        "commit": commit(),
    }
    print(json.dumps(row))
    sys.exit(failed)


if __name__ == "__main__":
    main()
