"""Measure RePlay's SASRec on one `.inter` file: run it with the Python of the `replay` environment.

    benchmarks/.envs/replay/bin/python benchmarks/peers/replay_sasrec.py --data ml-1m.inter --seconds 60

One JSON line on stdout, everything else on stderr. RePlay's own parts do the work: `SasRec.from_params` with its
full cross-entropy, its Lightning module, its Parquet data module and transforms, its metrics callback. Ours are the
reading of the file, which RePlay leaves to its user, and a clock in a Lightning callback.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.data.nn.parquet.parquet_module import ParquetModule
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

IMPORTS_DONE = time.perf_counter()

ITEMS = "item_id"
SEQUENCE_LENGTH = 50
EMBEDDING = 64
BLOCKS = 2
HEADS = 2
TEST_BATCH = 512
# Tuned on ML-1M with two cores, 2-3 runs of 12-15 s on a shared machine, mean thousands of targets/s: 21.0 with 32,
# 22.0 with 64, 22.7 with 128, 21.2 with 256; runs of one size differ by up to 2.8, so 64-256 are nearly level.
DEFAULT_BATCH = 128


@dataclass
class Histories:
    """Item codes of all users, one after the other in time order; user u owns items[starts[u] : starts[u + 1]]."""

    items: np.ndarray  # [interactions], codes 0 .. item_count - 1
    starts: list[int]  # [users + 1]
    item_count: int

    def training_spans(self, windows: str) -> list[tuple[int, int]]:
        """Rows to train on, without the last two interactions (valid, test): the latest one of each user, or all.

        A row of up to 51 items gives up to 50 targets. 'all' cuts edge to edge, so that each interaction but a
        user's first is a target once an epoch; 'last' is what RePlay's reader keeps of one row a user. RePlay itself
        cuts no windows; 'all' is the default because it gives the same epoch as ours and less padding.
        """
        spans = []
        for start, end in itertools.pairwise(self.starts):
            stop = end - 2
            first = start if windows == "all" else max(start, stop - SEQUENCE_LENGTH - 1)
            spans += [(a, min(a + SEQUENCE_LENGTH + 1, stop)) for a in range(first, stop - 1, SEQUENCE_LENGTH)]
        return spans

    def test_spans(self) -> list[tuple[int, int]]:
        """The latest 50 items before the test item of each user with three interactions or more."""
        users = itertools.pairwise(self.starts)
        return [(max(start, end - 1 - SEQUENCE_LENGTH), end - 1) for start, end in users if end - start >= 3]


@dataclass
class Clock(lightning.Callback):
    """Counts the targets trained and the time spent in the training loop, and ends it."""

    limit: float
    targets: int = 0
    training_seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)  # of the epochs that ran to their end
    first_step: tuple[float, float] | None = None  # (process age, perf_counter)
    _start: float = 0.0
    _epoch_start: float = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: dict, batch_index: int) -> None:
        now = time.perf_counter()
        self.first_step = self.first_step or (process_age(), now)
        self.targets += int(batch["target_padding_mask"].sum())
        self.training_seconds = now - self._start
        if self.training_seconds >= self.limit:
            trainer.should_stop = True
        if batch_index + 1 == trainer.num_training_batches:
            self.epoch_seconds.append(now - self._epoch_start)


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


def read_histories(data: Path) -> Histories:
    """Read `user_id`, `item_id` and `timestamp` of a RecBole atomic file; ties in time keep the order of the file."""
    with data.open() as lines:
        header = lines.readline().rstrip("\n").split("\t")
    names = {column.split(":")[0]: column for column in header}
    user, item, timestamp = (names[name] for name in ("user_id", "item_id", "timestamp"))
    table = pa.csv.read_csv(
        data,
        parse_options=pa.csv.ParseOptions(delimiter="\t"),
        convert_options=pa.csv.ConvertOptions(
            include_columns=[user, item, timestamp],
            column_types={user: pa.string(), item: pa.string(), timestamp: pa.float64()},
        ),
    )
    users, items = (table[name].combine_chunks().dictionary_encode() for name in (user, item))
    user_codes = users.indices.to_numpy()
    order = np.lexsort((table[timestamp].to_numpy(), user_codes))
    starts = [0, *np.cumsum(np.bincount(user_codes)).tolist()]
    item_codes = items.indices.to_numpy().astype(np.int64)
    return Histories(item_codes[order], starts, len(items.dictionary))


def write_parquet(path: Path, columns: dict[str, list[np.ndarray]]) -> None:
    """Write ragged rows of item codes, the form in which RePlay reads them."""
    arrays = {}
    for name, rows in columns.items():
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
        arrays[name] = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(rows)))
    pa.parquet.write_table(pa.table(arrays), path)


def data_module(histories: Histories, options: argparse.Namespace, schema: TensorSchema, folder: Path) -> ParquetModule:
    items = histories.items
    train_path, test_path = folder / "train.parquet", folder / "test.parquet"
    write_parquet(train_path, {ITEMS: [items[a:b] for a, b in histories.training_spans(options.windows)]})
    test_spans = histories.test_spans()
    test_columns = {
        ITEMS: [items[a:b] for a, b in test_spans],
        "ground_truth": [items[b : b + 1] for _, b in test_spans],
    }
    write_parquet(test_path, test_columns)

    padding = histories.item_count
    return ParquetModule(
        batch_size={"train": options.batch, "test": TEST_BATCH},
        metadata={
            "train": {ITEMS: {"shape": SEQUENCE_LENGTH + 1, "padding": padding}},
            "test": {
                ITEMS: {"shape": SEQUENCE_LENGTH, "padding": padding},
                "ground_truth": {"shape": 1, "padding": -1},
            },
        },
        transforms=make_default_sasrec_transforms(schema),
        train_path=str(train_path),
        test_path=str(test_path),
    )


def item_schema(item_count: int) -> TensorSchema:
    feature = TensorFeatureInfo(
        ITEMS,
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=EMBEDDING,
        padding_value=item_count,
        cardinality=item_count,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEMS)],
    )
    return TensorSchema([feature])


def figures(clock: Clock, options: argparse.Namespace, ranking: dict[str, float], targets_per_epoch: int) -> dict:
    assert clock.first_step is not None, "not one optimizer step was made"
    rate = clock.targets / clock.training_seconds
    whole_epochs = clock.epoch_seconds
    return {
        "system": "RePlay SASRec",
        "targets_per_second": rate,
        "seconds_to_first_step": clock.first_step[0],
        "seconds_after_imports_to_first_step": clock.first_step[1] - IMPORTS_DONE,
        "seconds_full_ranking": ranking["seconds"],
        "peak_mb": peak_mb(),
        "epoch_seconds": sum(whole_epochs) / len(whole_epochs) if whole_epochs else targets_per_epoch / rate,
        "ndcg@10": ranking["ndcg@10"],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("replay-rec", "torch", "lightning", "numpy")},
        },
        "epoch_seconds_measured": bool(whole_epochs),
        "targets": clock.targets,
        "targets_per_epoch": targets_per_epoch,
        "training_seconds": clock.training_seconds,
        "training_peak_mb": ranking["training_peak_mb"],
        "batch": options.batch,
        "windows": options.windows,
        "inner": options.inner or EMBEDDING,
        "threads": torch.get_num_threads(),
    }


def train_and_rank(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    histories = read_histories(options.data)
    schema = item_schema(histories.item_count)
    data = data_module(histories, options, schema, folder)
    model = SasRec.from_params(
        schema,
        embedding_dim=EMBEDDING,
        num_heads=HEADS,
        num_blocks=BLOCKS,
        max_sequence_length=SEQUENCE_LENGTH,
        dropout=options.dropout,
        hidden_dim=options.inner,
    )
    module = LightningModule(model, optimizer_factory=OptimizerFactory(learning_rate=options.learning_rate))
    clock = Clock(options.seconds)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        min_epochs=0,  # else the clock could not stop the first epoch
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, ComputeMetricsCallback(metrics=["ndcg"], ks=[10], item_count=histories.item_count)],
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data)
    training_peak_mb = peak_mb()

    start = time.perf_counter()
    metrics = trainer.test(module, datamodule=data, verbose=False)[0]
    ranking = {"seconds": time.perf_counter() - start, "training_peak_mb": training_peak_mb}
    ranking["ndcg@10"] = float(metrics["ndcg@10"])
    # RePlay also trains the first item of a padded row, from padding alone; it counts as a target here.
    lengths = [b - a for a, b in histories.training_spans(options.windows)]
    return figures(clock, options, ranking, sum(min(length, SEQUENCE_LENGTH) for length in lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="RecBole atomic file with user_id, item_id, timestamp")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time inside the loop")
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH, help="rows of up to 50 targets per step")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument(
        "--inner", type=int, default=None, help="feed-forward width (RePlay's default: the embedding's)"
    )
    parser.add_argument(
        "--windows", choices=("all", "last"), default="all", help="train on all or on each user's latest"
    )
    parser.add_argument("--seed", type=int, default=2020)
    options = parser.parse_args()
    options.data = options.data.resolve(strict=True)

    result_file = stdout_for_the_result()
    warnings.filterwarnings("ignore", module="lightning|replay|torch")
    with tempfile.TemporaryDirectory() as folder:
        result = train_and_rank(options, Path(folder))
    print(json.dumps(result), file=result_file, flush=True)


if __name__ == "__main__":
    main()
