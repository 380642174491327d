"""The row of a finished run: what it was, what it cost, what it measured. Columns: ``runs/records.py``."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from recbole_scale.interfaces import Trainer
from recbole_scale.runs import plan, records
from recbole_scale.runs.prepared import Prepared
from recbole_scale.runs.records import RunRow
from recbole_scale.runs.references import reference_losses
from recbole_scale.settings import before_data
from recbole_scale.training import group


def run_row(prepared: Prepared, network: object, trainer: Trainer, result: dict[str, Any], both: RunRow) -> RunRow:
    """The run's row.

    ``both``: the columns of :func:`~recbole_scale.runs.measuring.measured_bests`.
    """
    config = prepared.config
    seen = getattr(trainer, "targets_seen", None)
    costs = plan.costs(prepared, network)
    each = costs.get("flops_per_interaction")
    guard = getattr(trainer, "guard", None)
    test, best = result["test_result"] or {}, result["best_valid_result"] or {}
    by_nll = both.get("test_metrics_nll") or test
    bests = getattr(trainer, "bests", None)
    valid_by_nll = next((b.result for b in bests.all if b.kind == "nll"), None) if bests else None
    return {
        "run_id": result["run_id"],
        "resumed_from": result["resumed_from"],
        "status": "ok",
        "error": None,
        "dataset": config["dataset"],
        "data_fingerprint": prepared.fingerprint,
        "data_digest": prepared.digest,
        "split": config["eval_args"]["split"],
        "model": config["model"],
        **costs,
        **reference_losses(prepared.test_data.dataset),
        "flops_total": seen * each if seen is not None and each is not None else None,
        "interactions_seen": seen,
        "data_fraction": config["data_fraction"],
        "epochs": max(len(getattr(trainer, name, ())) for name in ("train_loss_dict", "evaluations")),
        "valid_metric": config["valid_metric"],
        "trunk_step": getattr(getattr(trainer, "progress", None), "trunk_step", None),
        "best_epoch": getattr(trainer, "best_epoch", None),
        "seed": config["seed"],
        "evaluations": getattr(trainer, "evaluations", None),
        "phases": getattr(trainer, "phases", None),
        "skipped_steps": getattr(guard, "skipped_steps", None),
        "spikes": getattr(guard, "spikes", None),
        "rollbacks": getattr(guard, "rollbacks", None),
        "best_valid_metrics": best,
        "best_valid_metrics_filtered": result["best_valid_result_filtered"],
        "best_valid_nll": (valid_by_nll or best).get("nll"),
        "test_metrics": test,
        "test_metrics_filtered": result["test_result_filtered"],
        "test_nll": by_nll.get("nll"),
        "test_nll_se": by_nll.get("nll_se"),
        "nll_kind": trainer.eval_collector.nll_kind,
        **both,
        "seconds_train": round(trainer.seconds_train, 2) if hasattr(trainer, "seconds_train") else None,
        "peak_memory_mb": peak_memory_mb(config["device"]),
        "device": torch.cuda.get_device_name(config["device"]) if config["device"].type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": group.world_size(),
        "versions": records.versions(),
        "commit": records.commit(),
        "settings": records.without_paths(config.external_config_dict),
        "by_data": {key: config[key] for key in before_data(config)},
    }


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory used so far, MB: resident memory of the process, or allocated memory of the GPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
