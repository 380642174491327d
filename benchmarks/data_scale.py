"""Start-up time and peak memory on large logs: first read, cached start, first steps of training, a dry run.

    python benchmarks/data_scale.py --rows 20000000 --work /tmp/scale --out results/data_scale.jsonl
    python benchmarks/data_scale.py --rows 100000000 --work /tmp/scale --steps first_read cached_start dry_run
    python benchmarks/data_scale.py --users 5000000 --work /tmp/scale --steps dry_run whole_run

The log is generated in MovieLens-20M's shape (`recbole_scale.prepare.synthetic`) and kept in `--work` until `--clean`.
Every step runs in a process of its own; its seconds count from the process's start, imports included, and its memory
is the largest resident set (VmHWM), mapped pages of the cache included. The disk's cache is warm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scaled_sasrec import TimeIsUp, peak_mb, process_age

TRAINING_STEPS = 1000
WHOLE_RUN = {  # a minute of training, then a sample of the users is ranked on valid and on test
    "size": "tiny", "loss_type": "SCE", "sce_samples": 1024, "learner": "sparse_adam", "train_budget_seconds": 60,
    "valid_users": 20_000, "test_users": 20_000,
}  # fmt: skip
LIMITS = {  # seconds and MB that issue 6 allows
    ("load20m", "first_read"): "60 s, 6,000 MB",
    ("load20m", "cached_start"): "5 s, 2,000 MB",
    ("load20m", "training"): "4,000 MB",
    ("load100m", "dry_run"): "24,000 MB",
    ("short5m", "dry_run"): "30 s, 3,000 MB",
}


def name_of(rows: int, shuffled: bool) -> str:
    """Name of the generated data set."""
    return f"load{rows // 1_000_000}m" + ("-shuffled" if shuffled else "")


def generate(work: Path, rows: int, shuffled: bool) -> Path:
    """Write the log unless it is there; return its path. Shuffled: in no order of users or times."""
    from recbole_scale.files import whole_files
    from recbole_scale.prepare.synthetic import SyntheticProcess, SyntheticSettings, write_synthetic
    from recbole_scale.prepare.writing import AtomicWriter

    shape = SyntheticSettings(int(138_000 * rows / 20e6), int(26_000 * (rows / 20e6) ** 0.5), rows)
    folder = work / name_of(rows, shuffled)
    path = folder / f"{folder.name}.inter"
    if path.exists():
        return path
    if not shuffled:
        write_synthetic(shape, folder)
        return path
    chunks = list(SyntheticProcess(shape).chunks())
    order = np.random.default_rng(0).permutation(rows)
    columns = {name: np.concatenate([chunk[name] for chunk in chunks])[order] for name in ("user", "item", "time")}
    with whole_files(path) as (file,):
        writer = AtomicWriter(file, list(columns))
        for start in range(0, rows, 1 << 20):
            writer.write({name: values[start : start + (1 << 20)] for name, values in columns.items()})
    return path


def generate_short(work: Path, users: int) -> Path:
    """Write a log of users of two to twenty interactions each, user by user, unless it is there; return its path."""
    from recbole_scale.files import whole_files
    from recbole_scale.prepare.writing import AtomicWriter

    folder = work / f"short{users // 1_000_000}m"
    path = folder / f"{folder.name}.inter"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    with whole_files(path) as (file,):
        writer = AtomicWriter(file, ["user", "item", "time"])
        for first in range(0, users, 50_000):
            user = np.arange(first, min(first + 50_000, users))
            user = np.repeat(user, rng.integers(2, 21, len(user)))
            item = (rng.pareto(0.8, len(user)) * 50).astype(np.int64) % 200_000
            writer.write({"user": user, "item": item, "time": rng.integers(1_500_000_000, 1_600_000_000, len(user))})
    return path


# Steps: each runs in a fresh process ---------------------------------------------------------------------------------


def prepared(path: Path, **settings: Any) -> Any:
    """What every command does first: settings, reading, filters, split, loaders."""
    from recbole_scale.runs.prepared import prepare
    from recbole_scale.runs.run import make_config

    fixed = {"data_path": str(path.parent.parent), "show_progress": False}
    return prepare(make_config("ScaledSASRec", path.parent.name, config_dict={**fixed, **settings}))


def figures(run: Any, **more: Any) -> dict[str, Any]:
    """Seconds since the process started, peak memory, and what names the data."""
    histories = run.dataset.histories
    return {
        **spent(),
        "users": len(histories.users),
        "interactions": len(histories.items),
        "fingerprint": run.fingerprint,
        **more,
    }


def drop_caches(path: Path) -> None:
    """Make the next start a first one."""
    for cache in path.parent.glob("*.cache"):
        cache.unlink()


def recbole_read(path: Path) -> dict[str, Any]:
    """RecBole's own filtering and remapping, over our csv reader."""
    from recbole_scale.data.dataset import HistoryDataset

    HistoryDataset.recipe = lambda self: None  # type: ignore[method-assign]
    return figures(prepared(path))


def first_read(path: Path) -> dict[str, Any]:
    """Up to the end of `prepare()`, writing the cache."""
    drop_caches(path)
    run = prepared(path)
    (cache,) = path.parent.glob("*.cache")
    return figures(run, cache_mb=round(cache.stat().st_size / 1e6), file_mb=round(path.stat().st_size / 1e6))


def first_read_5_core(path: Path) -> dict[str, Any]:
    """As `first_read`, with repeated pairs dropped and a 5-core."""
    drop_caches(path)
    five = "[5,inf)"
    return figures(prepared(path, user_inter_num_interval=five, item_inter_num_interval=five, rm_dup_inter="first"))


def cached_start(path: Path) -> dict[str, Any]:
    """Up to the end of `prepare()`, from the cache that `first_read` wrote."""
    return figures(prepared(path))


def epochs(path: Path) -> dict[str, Any]:
    """Cutting and batching the windows of three more epochs."""
    loader = prepared(path).train_data
    seconds = []
    for epoch in range(1, 4):
        started = time.perf_counter()
        loader.set_epoch(epoch)
        seconds.append(time.perf_counter() - started)
    return {"seconds": round(min(seconds), 2), "peak_mb": round(peak_mb()), "windows": len(loader.windows),
            "batches": len(loader), "padding": round(loader.padding, 4), "per": "epoch"}  # fmt: skip


def training(path: Path) -> dict[str, Any]:
    """The first steps of an epoch, size tiny."""
    from recbole_scale.runs.prepared import build_model
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    class Stopping(ScaledSASRecTrainer):
        def _train_step(self, batch: Any, n_targets: int) -> None:
            super()._train_step(batch, n_targets)
            if self.global_step == 1:
                self.first_step = process_age()
            if self.global_step == TRAINING_STEPS:
                raise TimeIsUp

    run = prepared(path, size="tiny", metrics=["Recall", "NDCG", "NLL"])
    trainer = Stopping(run.config, build_model(run))
    with contextlib.suppress(TimeIsUp):
        trainer.fit(run.train_data, None, saved=False)
    return figures(run, steps=trainer.global_step, seconds_to_first_step=round(trainer.first_step, 2))


def dry_run(path: Path) -> dict[str, Any]:
    """`run_recbole --dry_run` of a log that was never read before."""
    import recbole_scale

    drop_caches(path)
    settings = {"data_path": str(path.parent.parent)}
    plan = recbole_scale.run("ScaledSASRec", path.parent.name, config_dict=settings, dry_run=True)["plan"]
    return {**spent(), "plan": plan.splitlines()}


def whole_run(path: Path) -> dict[str, Any]:
    """`run_recbole` to its row: :data:`WHOLE_RUN`, from the cache where there is one."""
    import recbole_scale

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fixed = {"data_path": str(path.parent.parent), "show_progress": False}
        recbole_scale.run("ScaledSASRec", path.parent.name, config_dict={**fixed, **WHOLE_RUN})
        row = json.loads(Path("results/runs.jsonl").read_text())
    wanted = ("n_users", "n_items", "interactions_seen", "seconds_train", "seconds_evaluate", "users_valid",
              "users_tested", "best_valid_metrics", "test_metrics")  # fmt: skip
    return {**spent(), **{name: row[name] for name in wanted}, "settings": WHOLE_RUN}


def spent() -> dict[str, Any]:
    """What this process took so far, and how many others wanted the processor (mean of a minute)."""
    seconds = {"seconds": round(process_age(), 2), "cpu_seconds": round(time.process_time(), 2)}
    return {**seconds, "peak_mb": round(peak_mb()), "load": round(os.getloadavg()[0], 1)}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    step.__name__: step
    for step in (recbole_read, first_read, cached_start, epochs, training, dry_run, whole_run, first_read_5_core)
}


def measure(step: str, path: Path, work: Path) -> dict[str, Any]:
    """Run one step in a fresh process and return its figures."""
    from recbole_scale.runs.records import commit

    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", step, "--work", str(path)],
        capture_output=True, text=True, cwd=work,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{step} failed:\n{done.stderr[-3000:]}")
    return {"step": step, "data": path.stem, **json.loads(done.stdout.splitlines()[-1]), "commit": commit()}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, with what issue 6 allows."""
    lines = ["| data | step | seconds | peak MB | allowed |", "|---|---|---|---|---|"]
    for row in rows:
        allowed = LIMITS.get((row["data"], row["step"]), "")
        lines.append(f"| {row['data']} | {row['step']} | {row['seconds']:.1f} | {row['peak_mb']:,} | {allowed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--shuffled", action="store_true", help="rows in no order of users or times")
    parser.add_argument("--users", type=int, help="instead of --rows: users of 2 to 20 interactions each")
    parser.add_argument("--work", type=Path, required=True, help="folder for the generated log")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--out", type=Path, help="also append the rows to this JSON-lines file")
    parser.add_argument("--clean", action="store_true", help="delete the generated log afterwards")
    parser.add_argument("--child", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        result_file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to stderr
        print(json.dumps(STEPS[arguments.child](arguments.work)), file=result_file)
        return
    work = arguments.work.resolve()
    path = (
        generate_short(work, arguments.users) if arguments.users else generate(work, arguments.rows, arguments.shuffled)
    )
    rows = []
    for step in arguments.steps:
        rows.append(measure(step, path, arguments.work))
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    if arguments.clean:
        shutil.rmtree(path.parent)


if __name__ == "__main__":
    main()
