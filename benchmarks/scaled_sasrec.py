"""Measure ScaledSASRec on one `.inter` file, as `peers/` measures the others.

    python benchmarks/scaled_sasrec.py --data ml-1m.inter --seconds 60 [--size tiny] [key=value ...]

One JSON line on stdout, everything else on stderr. The package's own data path, trainer and evaluation do the work;
a clock sits around the training step and ends the run after `--seconds` of training. Between steps a float32 matrix
product of 1,024 x 1,024 is timed, the machine's peak under the same load; its time is no part of the training's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


class TimeIsUp(Exception):
    """Leaves the training loop between two steps."""


def process_age() -> float:
    """Seconds since this process started (Linux), at the 10 ms steps in which the kernel keeps the start."""
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


def peak_mb() -> float:
    """Largest resident set so far, MB. `ru_maxrss` would start at the size of the process that forked us."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def matmul_gflops(device: Any, seconds: float = 0.1, size: int = 1024) -> tuple[float, float]:
    """Float32 products of two square matrices: (GFLOP done, seconds taken)."""
    import torch

    a, b = torch.randn(2, size, size, device=device)
    out, done, began = torch.empty_like(a), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(a, b, out=out)
        done += 1
        if a.is_cuda:
            torch.cuda.synchronize()
    return done * 2 * size**3 / 1e9, time.perf_counter() - began


def measure(data: Path, seconds: float, size: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train for `seconds`, rank all users once, and return the figures."""
    from recbole_scale.model.sizes import flops_per_interaction, parameter_groups
    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.run import make_config
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    imported = time.perf_counter()
    clock: dict[str, float] = {"first": 0.0, "age": 0.0, "targets": 0.0, "seconds": 0.0}
    products: list[tuple[float, float]] = []
    pairs: list[tuple[float, float]] = []  # targets per second of a stretch of steps, GFLOP/s of the product after it
    since = [0.0, 0.0]  # targets and seconds since the last product

    class TimedTrainer(ScaledSASRecTrainer):
        def _train_step(self, parts: Any, n_targets: int) -> None:
            start = time.perf_counter()
            super()._train_step(parts, n_targets)
            now = time.perf_counter()
            if not clock["first"]:  # the first step warms up; it counts for the start, not for the rate
                clock.update(first=now - imported, age=process_age())
                return
            for key, more in (("targets", n_targets), ("seconds", now - start)):
                clock[key] += more
            since[:] = [since[0] + n_targets, since[1] + now - start]
            if since[1] >= 0.5:  # a fifth of the time goes to the peak, spread over the run
                products.append(matmul_gflops(self.device))
                pairs.append((since[0] / since[1], products[-1][0] / products[-1][1]))
                since[:] = [0.0, 0.0]
            if clock["seconds"] >= seconds:
                raise TimeIsUp

    fixed = {"size": size, "epochs": 1000, "lr_schedule": "constant", "eval_step": 0, "show_progress": False,
             "metrics": ["Recall", "NDCG", "NLL"], "topk": [10], "data_path": str(data.parent.parent)}  # fmt: skip
    config = make_config("ScaledSASRec", data.parent.name, config_dict={**fixed, **settings})
    prepared = prepare(config)
    network = build_model(prepared)
    trainer = TimedTrainer(config, network)
    with contextlib.suppress(TimeIsUp):
        trainer.fit(prepared.train_data, None, saved=False)
    training_peak = peak_mb()
    start = time.perf_counter()
    result = trainer.evaluate(prepared.test_data, load_best_model=False)
    ranking = time.perf_counter() - start
    rate = clock["targets"] / clock["seconds"]
    flops = flops_per_interaction(network.shape)
    import torch

    products = products or [matmul_gflops(config["device"])]
    pairs = pairs or [(rate, products[0][0] / products[0][1])]
    product_rate = sum(done for done, _ in products) / sum(spent for _, spent in products)
    shares = sorted(speed * flops / 1e9 / product for speed, product in pairs)
    from recbole_scale.runs.records import commit, versions

    return {
        "system": f"ScaledSASRec {size}",
        "targets_per_second": rate,
        "seconds_to_first_step": clock["age"],
        "seconds_after_imports_to_first_step": clock["first"],
        "seconds_full_ranking": ranking,
        "peak_mb": peak_mb(),
        "training_peak_mb": training_peak,
        "epoch_seconds": prepared.train_data.n_targets / rate,
        "ndcg@10": result["ndcg@10"],
        "test_nll": result["nll"],
        "n_blocks": parameter_groups(network.shape)["n_blocks"],
        "gflops_per_second": rate * flops / 1e9,
        "matmul_gflops_per_second": product_rate,
        "share_of_matmul": shares[len(shares) // 2],  # median over stretches, each against the product next to it
        "share_of_matmul_mean": rate * flops / 1e9 / product_rate,
        "training_seconds": clock["seconds"],
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="an .inter file in a folder of its own name")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("settings", nargs="*", help="more settings, key=value")
    arguments = parser.parse_args()
    result_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    from recbole_scale.settings import parse_arguments

    settings = parse_arguments(f"--{setting}" for setting in arguments.settings)
    data = arguments.data.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # log/ and log_tensorboard/ land here
        figures = measure(data, arguments.seconds, arguments.size, settings)
    print(json.dumps(figures), file=result_file)


if __name__ == "__main__":
    main()
