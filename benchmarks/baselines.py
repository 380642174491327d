"""RecBole's SASRec on rows made on demand beside stock RecBole's table: start, training speed, peak memory.

    python benchmarks/baselines.py --data dataset/ml-1m/ml-1m.inter --seconds 20 --batch 256

Each measurement is a fresh process on the same file, settings and cores, one after the other; one JSON row each goes
to results/baselines.jsonl. Both read the file with this package's reader and train with RecBole's own trainer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process: read, split, build, train for ``seconds`` of steps."""
    os.chdir(tempfile.mkdtemp())
    import torch
    from recbole.utils import get_trainer

    from recbole_scale.runs.measuring import measured_fit
    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.row import peak_memory_mb
    from recbole_scale.runs.run import make_config

    data = Path(arguments.data)
    settings = {
        "data_path": str(data.parent.parent),
        "rows_on_demand": arguments.worker == "ours",
        "train_batch_size": arguments.batch,
        "train_budget_seconds": arguments.seconds,
        "train_neg_sample_args": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "data_cache": False,
        "eval_step": 0,
        "show_progress": False,
        "metrics": ["Recall"],
        "valid_metric": "Recall@10",
    }
    prepared = prepare(make_config(arguments.model, data.stem, config_dict=settings))
    network = build_model(prepared)
    trainer = get_trainer(prepared.config["MODEL_TYPE"], arguments.model)(prepared.config, network)
    ready, cpu, at_start = process_age(), time.process_time(), peak_memory_mb(torch.device("cpu"))
    measured_fit(trainer, prepared, saved=False)
    return {
        "model": arguments.model,
        "rows": {"ours": "on demand", "stock": "RecBole's table"}[arguments.worker],
        "dataset": data.stem,
        "batch": arguments.batch,
        "seconds_to_first_step": round(ready, 1),
        "cpu_seconds_to_first_step": round(cpu, 1),  # does not grow with a neighbour's load
        "peak_before_training_mb": at_start,
        "targets_per_second": trainer.evaluations[-1]["targets_per_second"],
        "peak_training_mb": peak_memory_mb(torch.device("cpu")),
        "threads": torch.get_num_threads(),
    }


def process_age() -> float:
    """Seconds since this process started (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure both in turn and add two rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", default="dataset/ml-1m/ml-1m.inter")
    parser.add_argument("--model", default="SASRec")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", default="results/baselines.jsonl")
    parser.add_argument("--worker", choices=["ours", "stock"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print("ROW " + json.dumps(measure(arguments)))
        return
    from recbole_scale.runs.records import commit

    arguments.data = str(Path(arguments.data).resolve())
    for worker in ("ours", "stock"):
        passed = [f"--{name}={getattr(arguments, name)}" for name in ("data", "model", "seconds", "batch")]
        command = [sys.executable, __file__, f"--worker={worker}", *passed]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(next(line for line in output.splitlines() if line.startswith("ROW "))[4:])
        row |= {"commit": commit(), "load": round(os.getloadavg()[0], 1)}
        row["started"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row))


if __name__ == "__main__":
    main()
