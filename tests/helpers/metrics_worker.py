"""What each process of tests/test_summed_metrics.py runs: ``python metrics_worker.py FOLDER``; the test runs it too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recbole.config import Config

import recbole_scale  # noqa: F401 (registers the plugin)
from recbole_scale.plugin.evaluation import ScaleCollector, ScaleEvaluator
from recbole_scale.training import group

SUMS = ["Hit", "MRR", "MAP", "Recall", "NDCG", "Precision", "ItemCoverage", "NLL"]
ROWS = ["AveragePopularity", "GiniIndex", "ShannonEntropy"]  # which look at all lists together
N_ITEMS, BATCH = 40, 5
Config.compatibility_settings(Config)  # names that numpy has no more; RecBole sets them as it makes one


def measure(metrics: list[str], users: int, targets: int, keep_rows: bool = False) -> dict[str, Any]:
    """Metrics of random scores, of the batches that are this process's, of all kinds and without seen items."""
    config = {"metrics": metrics, "topk": [1, 5, 10], "device": torch.device("cpu"), "metric_decimal_place": 12,
              "eval_args": {"mode": {"valid": "full", "test": "full"}}, "eval_batch_size": BATCH}  # fmt: skip
    collector, evaluator = ScaleCollector(config), ScaleEvaluator(config)
    collector.keep_rows = keep_rows
    collector.data_struct.set("data.num_items", N_ITEMS)
    collector.data_struct.set("data.count_items", {item: item * item for item in range(N_ITEMS)})
    draw = torch.Generator().manual_seed(users)
    scores = torch.randn(users, N_ITEMS, generator=draw)
    held_out = torch.stack([1 + torch.randperm(N_ITEMS - 1, generator=draw)[:targets] for _ in range(users)])
    seen = (scores > 1).nonzero()
    for number, rows in enumerate(torch.arange(users).split(BATCH)):
        if number % group.world_size() != group.rank():
            continue
        own = seen[(seen[:, 0] >= rows[0]) & (seen[:, 0] <= rows[-1])] - torch.tensor([int(rows[0]), 0])
        row = torch.arange(len(rows)).repeat_interleave(targets)
        item, part = held_out[rows].flatten(), scores[rows].clone()
        collector.collect_nll(SimpleNamespace(), part, row, item)
        part[:, 0] = -torch.inf
        collector.leave_out_next(lambda own=own: (own[:, 0], own[:, 1]))
        collector.eval_batch_collect(part, None, row, item)
    struct = collector.get_data_struct()
    found = {name: float(value) for name, value in evaluator.evaluate(struct).items()}
    return {"all": found, "filtered": evaluator.filtered, "rows": len(struct.get("rec.topk"))}


CASES = {"sums": (SUMS, 17, 1), "several targets": (SUMS, 17, 3), "rows too": (SUMS + ROWS, 17, 1),
         "kept": (SUMS, 17, 1, True), "one batch": (SUMS, 4, 1)}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    group.join(group.torchrun_settings(), use_gpu=False)
    gathered: list[Any] = []
    gather = group.gather
    group.gather = lambda value: (gathered.append(value), gather(value))[1]  # type: ignore[assignment]
    rows = {}
    for name, case in CASES.items():
        gathered.clear()
        rows[name] = measure(*case)
        sizes = [value.numel() for told in gathered for value in told.values() if isinstance(value, torch.Tensor)]
        rows[name]["travelled"] = max(sizes, default=0)
    Path(sys.argv[1], f"{group.rank()}.json").write_text(json.dumps(rows))
    group.leave()
