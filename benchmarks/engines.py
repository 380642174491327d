"""``prepare csv`` beside its steps in Polars: text read, ids and times checked, 5-core, sorted, written.

``python benchmarks/engines.py --rows 2000000 --out results/engines.jsonl`` (Polars from ``pip install polars``). What
Polars' lines do not do: name file, line and column of a bad row, mend quotes, count what was dropped by reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data import FOUR, write_text

SCRIPT = str(Path(__file__).resolve().parents[1] / "run_scripts" / "prepare_data.py")
COLUMNS = ["--user", "userId", "--item", "movieId", "--time", "timestamp"]
POLARS = """
import sys
import polars as pl
names = {"userId": pl.String, "movieId": pl.String, "rating": pl.Float64, "timestamp": pl.String}
log = pl.scan_csv(sys.argv[1], schema=names).collect()
time = log["timestamp"].cast(pl.Int64, strict=True)
assert not (log["userId"] == "").any() and not (log["movieId"] == "").any()
log = log.with_columns(time).unique(maintain_order=True)
before = -1
while before != len(log):
    before = len(log)
    log = log.filter((pl.len().over("userId") >= 5) & (pl.len().over("movieId") >= 5))
first = log.with_row_index().group_by("userId", maintain_order=True).agg(pl.col("index").first().alias("first"))
log = log.join(first, on="userId").sort("first", "timestamp", maintain_order=True)
log.select("userId", "movieId", "timestamp").write_csv(sys.argv[2], separator="\\t")
"""


def measured(words: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and the peak in MiB of a Python process with these arguments."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, words
    wall = time.perf_counter() - started
    return {"seconds": wall, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}


def main() -> None:
    """Write both rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--out", default="results/engines.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open(options.out, "w") as out:
        raw = Path(folder, "ratings.csv")
        write_text(raw, options.rows, "userId,movieId,rating,timestamp\n", ",", FOUR)
        ours = [SCRIPT, "csv", "--raw", str(raw), *COLUMNS, "--user_core", "5", "--item_core", "5"]
        for engine, words in (
            ("prepare", [*ours, "--out", str(Path(folder, "made"))]),
            ("polars", ["-c", POLARS, str(raw), str(Path(folder, "made.inter"))]),
        ):
            row = {"engine": engine, "rows": options.rows, **measured(words), "cores": os.cpu_count()}
            out.write(json.dumps(row) + "\n")
            print(row)


if __name__ == "__main__":
    main()
