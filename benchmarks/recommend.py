"""Time and memory of recommend: ``python benchmarks/recommend.py --checkpoint CK [--histories 1000000]``.

Each measurement is the command a user would type, in a process of its own, start and imports included: every user of
the checkpoint's data set (goal on ML-1M, two idle cores: under 5 s), or a file of so many histories (the data set's
own, repeated, one user a line); ``--histories 100000 1000000`` shows how the peak grows with the file.
One row each goes to ``results/recommend.jsonl``.
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

SCRIPT = Path(__file__).resolve().parents[1] / "run_scripts" / "recommend.py"


def write_histories(path: Path, checkpoint: str, data_path: str | None, lines: int) -> None:
    """The histories of the checkpoint's data set, their last items as raw ids, repeated under new user names."""
    from recbole_scale.serving.recommend import load_trained

    trained = load_trained(checkpoint, data_path)
    histories, names = trained.histories, trained.items.astype(str)
    assert histories is not None
    longest, users = int(trained.config["MAX_ITEM_LIST_LENGTH"]), len(histories.users)
    ends, starts = histories.offsets[1:], histories.offsets[:-1]
    texts = [
        " ".join(names[histories.items[max(start, end - longest) : end]])
        for start, end in zip(starts, ends, strict=True)
    ]
    with open(path, "w", encoding="utf-8") as file:
        for line in range(lines):
            file.write(f"u{line} {texts[line % users]}\n")


def measure(options: argparse.Namespace, users: str, out: Path) -> dict[str, Any]:
    """Run the command; wall-clock seconds of the whole process and its peak of resident memory."""
    command = [sys.executable, str(SCRIPT), f"--checkpoint={options.checkpoint}", f"--users={users}", f"--out={out}"]
    command += [f"--topk={options.topk}", *([f"--data_path={options.data_path}"] if options.data_path else [])]
    load, began = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"recommend ended with status {status}"
    seconds = time.perf_counter() - began
    print(said)
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1e3, 1),
        "file_mb": round(out.stat().st_size / 1e6, 1),
        "load_before": round(load, 1),
    }


def main() -> None:
    """Measure every user of the data set, then each file of histories, and append the rows."""
    from recbole_scale.runs.records import commit
    from recbole_scale.training.checkpoint import load_checkpoint

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_path", help="folder of data sets, where it is not the one of the training")
    parser.add_argument("--histories", type=int, nargs="*", default=[], help="lines of files of histories")
    parser.add_argument("--topk", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/recommend.jsonl"), help="(default: %(default)s)")
    options = parser.parse_args()
    config = load_checkpoint(options.checkpoint)["config"]
    about = {"model": config["model"], "size": config.get("size"), "dataset": config["dataset"], "topk": options.topk}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recommend-") as folder:
        for count in (None, *options.histories):
            users, histories = "all", Path(folder) / "histories.txt"
            if count is not None:
                users = str(histories)
                write_histories(histories, options.checkpoint, options.data_path, count)
            row = {"what": "every user" if count is None else f"{count:,} histories in a file", **about}
            row |= measure(options, users, Path(folder) / "lists.parquet")
            row |= {"cores": len(os.sched_getaffinity(0)), "commit": commit()}
            row["started"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            print(json.dumps(row))
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
