"""Measure stock RecBole 1.2.1 SASRec on one `.inter` file: run it with the Python of the `recbole` environment.

    benchmarks/.envs/recbole/bin/python benchmarks/peers/recbole_sasrec.py --data ml-1m.inter --seconds 60

One JSON line on stdout, everything else on stderr. RecBole's own `run_recbole` does all the work, from the
configuration to the test ranking. What differs from stock: names that numpy 2 dropped are put back, an absent Ray is
stood in for, a clock sits around the trainer's batches, and the run ends after `--seconds` of training instead of
after 300 epochs, without validation and without a checkpoint in between.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DATASET = "peer"  # a name RecBole has no properties for; for "ml-100k" it would ignore data_path
SEQUENCE_LENGTH = 50

# Everything here that is RecBole's default is named because the comparison rests on it.
CONFIGURATION: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 64,
    "inner_size": 256,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "learning_rate": 0.001,
    "MAX_ITEM_LIST_LENGTH": SEQUENCE_LENGTH,
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "repeatable": True,  # the history stays in the ranking
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "eval_batch_size": 4096,
    "metric_decimal_place": 6,
    "epochs": 1_000_000,  # the clock ends the run
    "eval_step": 0,  # no validation
    "use_gpu": False,
    "show_progress": False,
}


class TimeIsUp(Exception):
    """Leaves RecBole's training loop between two batches."""


class Clock:
    """Counts the rows trained and the time spent in the batch loop."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.rows = 0
        self.training_seconds = 0.0
        self.epoch_seconds: list[float] = []  # of the epochs that ran to their end
        self.rows_per_epoch = 0
        self.first_step: tuple[float, float] | None = None  # (process age, perf_counter)
        self.anomaly_mode: bool | None = None
        self.ranking_seconds: float | None = None
        self.training_peak_mb: float | None = None

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield the batches of one epoch; control comes back here after each optimizer step."""
        self.rows_per_epoch = len(loader.dataset)
        epoch_start = last = time.perf_counter()
        for batch in loader:
            yield batch
            now = time.perf_counter()
            self.first_step = self.first_step or (process_age(), now)
            self.rows += len(batch)
            self.training_seconds += now - last
            last = now
            if self.training_seconds >= self.limit:
                raise TimeIsUp
        self.epoch_seconds.append(time.perf_counter() - epoch_start)


class TimedLoader:
    """RecBole's train loader with the clock around its batches."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self._loader = loader
        self._clock = clock

    def __iter__(self) -> Iterator[Any]:
        return self._clock.batches(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def process_age() -> float:
    """Seconds since this process started (Linux), at the 10 ms steps in which the kernel keeps the start."""
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


def peak_mb() -> float:
    """Largest resident set so far. `ru_maxrss` would do, but it starts at the size of the process that forked us."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def stdout_for_the_result() -> Any:
    """Send all that libraries print to stderr and return a file that still writes to stdout."""
    result_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return result_file


def import_recbole() -> types.ModuleType:
    """Import `recbole.quick_start` on numpy 2 and without Ray; returns the module that holds `run_recbole`."""
    for old_name, dtype in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if not hasattr(np, old_name):
            setattr(np, old_name, dtype)
    if importlib.util.find_spec("ray") is None:  # needed for tune.report in the hyper-parameter search alone
        ray = types.ModuleType("ray")
        ray.tune = types.ModuleType("ray.tune")
        sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    return importlib.import_module("recbole.quick_start.quick_start")


def timed_trainer(clock: Clock, keep_anomaly_mode: bool) -> type:
    """RecBole's Trainer, its training cut off by the clock and its test ranking timed."""
    import torch
    from recbole.trainer import Trainer

    class TimedTrainer(Trainer):
        def fit(self, train_data: Any, *arguments: Any, **options: Any) -> tuple[float, None]:
            if not keep_anomaly_mode:
                torch.autograd.set_detect_anomaly(False)
            clock.anomaly_mode = torch.is_anomaly_enabled()
            with contextlib.suppress(TimeIsUp):
                super().fit(TimedLoader(train_data, clock), *arguments, **options)
            clock.training_peak_mb = peak_mb()
            return -1.0, None

        def evaluate(self, *arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = super().evaluate(*arguments, **options)
            clock.ranking_seconds = time.perf_counter() - start
            return result

    return TimedTrainer


def figures(clock: Clock, imports_done: float, ndcg: float, batch: int) -> dict[str, Any]:
    import torch

    assert clock.first_step is not None, "not one optimizer step was made"
    rate = clock.rows / clock.training_seconds
    whole_epochs = clock.epoch_seconds
    return {
        "system": "RecBole SASRec",
        "targets_per_second": rate,
        "seconds_to_first_step": clock.first_step[0],
        "seconds_after_imports_to_first_step": clock.first_step[1] - imports_done,
        "seconds_full_ranking": clock.ranking_seconds,
        "peak_mb": peak_mb(),
        "epoch_seconds": sum(whole_epochs) / len(whole_epochs) if whole_epochs else clock.rows_per_epoch / rate,
        "ndcg@10": ndcg,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("recbole", "torch", "numpy", "pandas")},
        },
        "epoch_seconds_measured": bool(whole_epochs),
        "targets": clock.rows,
        "targets_per_epoch": clock.rows_per_epoch,
        "training_seconds": clock.training_seconds,
        "training_peak_mb": clock.training_peak_mb,
        "batch": batch,
        "anomaly_mode": clock.anomaly_mode,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="RecBole atomic file with user_id, item_id, timestamp")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time inside the batch loop")
    parser.add_argument("--batch", type=int, default=2048, help="rows per optimizer step (RecBole's default: 2048)")
    parser.add_argument(
        "--anomaly",
        choices=("on", "off"),
        default="on",
        help="torch's anomaly mode: 'on' leaves it as importing RecBole's sequential models sets it",
    )
    options = parser.parse_args()
    data = options.data.resolve(strict=True)
    result_file = stdout_for_the_result()
    sys.argv = sys.argv[:1]  # RecBole reads the command line for itself

    quick_start = import_recbole()
    clock = Clock(options.seconds)
    trainer_class = timed_trainer(clock, keep_anomaly_mode=options.anomaly == "on")
    quick_start.get_trainer = lambda *_: trainer_class
    imports_done = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:  # RecBole leaves log/ and log_tensorboard/ where it runs
        os.chdir(folder)
        (Path(folder) / DATASET).mkdir()
        (Path(folder) / DATASET / f"{DATASET}.inter").symlink_to(data)
        result = quick_start.run_recbole(
            model="SASRec",
            dataset=DATASET,
            config_dict={**CONFIGURATION, "data_path": folder, "train_batch_size": options.batch},
            saved=False,
        )
        os.chdir(data.parent)
    ndcg = float(result["test_result"]["ndcg@10"])
    print(json.dumps(figures(clock, imports_done, ndcg, options.batch)), file=result_file, flush=True)


if __name__ == "__main__":
    main()
