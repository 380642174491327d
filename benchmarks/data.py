"""Rows per second and peak memory of the generator, of every reader, and of a whole preparation, on generated files.

    python benchmarks/data.py --rows 2000000 --out results/data_benchmark.json

Each step runs in a fresh process. Peak memory is the process's highest resident set, imports included ("base").
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from recbole_scale.prepare.command import prepare
from recbole_scale.prepare.filters import Filters
from recbole_scale.prepare.readers import Options, read_raw
from recbole_scale.prepare.synthetic import SyntheticProcess, SyntheticSettings, write_synthetic

OWN = Options(columns={"user": "user", "item": "item", "time": "time"})
MOVIELENS_USERS, MOVIELENS_ITEMS, MOVIELENS_ROWS = 138_493, 26_744, 20_000_263


def settings_for(rows: int) -> SyntheticSettings:
    """Return MovieLens-20M's shape at another number of rows: as many rows a user, items with the square root."""
    share = rows / MOVIELENS_ROWS
    return SyntheticSettings(max(10, int(MOVIELENS_USERS * share)), max(100, int(MOVIELENS_ITEMS * share**0.5)), rows)


def tables(rows: int) -> Iterator[pa.Table]:
    """Yield the generated log in chunks: user, item, rating, time (seconds)."""
    for chunk in SyntheticProcess(settings_for(rows)).chunks():
        rating = (chunk["item"] % 5 + 1).astype(np.float64)
        yield pa.table({"user": chunk["user"], "item": chunk["item"], "rating": rating, "time": chunk["time"]})


def write_text(path: Path, rows: int, header: str, delimiter: str, order: tuple[str, ...], scale: int = 1) -> None:
    """Write the log as delimited text, gzipped when the name says so; '::' is written as two columns' ':'."""
    opener: Any = partial(gzip.open, compresslevel=1) if path.suffix == ".gz" else open
    with opener(path, "wb") as handle:
        handle.write(header.encode())
        for table in tables(rows):
            table = table.set_column(3, "time", pa.array(table["time"].to_numpy() * scale))
            columns = [table[name] for name in order]
            if delimiter == "::":
                empty = pa.array([""] * len(table))
                columns = [part for column in columns for part in (column, empty)][:-1]
            body = pa.table(columns, names=[str(at) for at in range(len(columns))])
            options = pa.csv.WriteOptions(include_header=False, delimiter=delimiter[0], quoting_style="none")
            pa.csv.write_csv(body, handle, options)


def write_json(path: Path, rows: int, names: tuple[str, str, str, str], scale: int) -> None:
    """Write gzipped json lines with a review text of about 100 characters in each."""
    text = "a review of about one hundred characters, as the published files have, only that theirs say something."
    user, item, rating, at = (f'"{name}": ' for name in names)
    form = f'{{{{{rating}{{}}, "reviewText": "{text}", {user}"A{{}}", {item}"B{{}}", {at}{{}}}}}}\n'
    with gzip.open(path, "wt", compresslevel=1) as handle:
        for table in tables(rows):
            columns = (table[name].to_pylist() for name in ("rating", "user", "item", "time"))
            handle.writelines(form.format(*row[:3], row[3] * scale) for row in zip(*columns, strict=True))


def write_iso(path: Path, rows: int) -> None:
    """Write a user's own csv with ISO times."""
    with open(path, "wb") as handle:
        handle.write(b"user,item,time\n")
        for table in tables(rows):
            stamps = table["time"].cast(pa.timestamp("s")).cast(pa.string())
            body = pa.table([table["user"], table["item"], stamps], names=["user", "item", "time"])
            pa.csv.write_csv(body, handle, pa.csv.WriteOptions(include_header=False, quoting_style="none"))


def write_parquet(path: Path, rows: int) -> None:
    """Write a user's own parquet file with integer ids and timestamps."""
    pq.write_table(pa.concat_tables(tables(rows)), path)


def write_sequences(path: Path, rows: int) -> None:
    """Write one user a line."""
    with open(path, "w") as handle:
        for table in tables(rows):
            user, item = table["user"].to_numpy(), table["item"].to_numpy()
            edges = np.flatnonzero(np.diff(user)) + 1
            for number, part in zip(user[np.concatenate([[0], edges])], np.split(item, edges), strict=True):
                handle.write(f"{number} {' '.join(map(str, part))}\n")


def write_zip(path: Path, rows: int) -> None:
    """Write the published MovieLens zip."""
    inside = path.with_suffix(".csv")
    write_text(inside, rows, "userId,movieId,rating,timestamp\n", ",", ("user", "item", "rating", "time"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(inside, "ml-20m/ratings.csv")
    inside.unlink()


FOUR = ("user", "item", "rating", "time")
REVIEW = ("reviewerID", "asin", "overall", "unixReviewTime")
NEW_REVIEW = ("user_id", "parent_asin", "rating", "timestamp")
HEAD_2023 = ",".join(NEW_REVIEW) + "\n"
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
# label -> (format, file name, writer)
CASES: dict[str, tuple[str, str, Callable[[Path, int], None]]] = {
    "ml-100k": ("ml-100k", "u.data", lambda path, rows: write_text(path, rows, "", "\t", FOUR)),
    "ml-1m, ml-10m (::)": ("ml-1m", "ratings.dat", lambda path, rows: write_text(path, rows, "", "::", FOUR)),
    "ml-20m, 25m, 32m csv": (
        "ml-20m",
        "ratings.csv",
        lambda path, rows: write_text(path, rows, "userId,movieId,rating,timestamp\n", ",", FOUR),
    ),
    "ml-20m zip": ("ml-20m", "ml-20m.zip", write_zip),
    "amazon-2014 csv": ("amazon-2014", "ratings_A.csv", lambda path, rows: write_text(path, rows, "", ",", FOUR)),
    "amazon-2014, 2018 json.gz": ("amazon-2018", "A_5.json.gz", lambda path, rows: write_json(path, rows, REVIEW, 1)),
    "amazon-2023 csv.gz": (
        "amazon-2023",
        "A.csv.gz",
        lambda path, rows: write_text(path, rows, HEAD_2023, ",", FOUR, 1000),
    ),
    "amazon-2023 jsonl.gz": ("amazon-2023", "A.jsonl.gz", lambda path, rows: write_json(path, rows, NEW_REVIEW, 1000)),
    "csv, epoch": ("csv", "log.csv", lambda path, rows: write_text(path, rows, "user,item,rating,time\n", ",", FOUR)),
    "csv, ISO times": ("csv", "iso.csv", write_iso),
    "parquet": ("parquet", "log.parquet", write_parquet),
    "sequences": ("sequences", "log.txt", write_sequences),
    "inter": ("inter", "log.inter", lambda path, rows: write_text(path, rows, INTER, "\t", FOUR)),
}


def peak_mib() -> float:
    """Return this process's highest resident set; Linux's VmHWM, for ru_maxrss may hold the parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def run_step(step: str, name: str, path: Path, rows: int) -> dict[str, float]:
    """Run one step in this process: generate, read, or prepare (read, sort, filter to 5-core, count, write)."""
    base, begun = peak_mib(), time.perf_counter()
    if step == "generate":
        write_synthetic(settings_for(rows), path / "generated")
        done = rows
    elif step == "read":
        done = len(read_raw(name, [path], OWN if name in ("csv", "parquet") else None).log)
    else:
        filters = Filters(duplicates="pair", user_core=5, item_core=5)
        sys.stdout = sys.stderr  # the account is not part of this process's one line of output
        done = prepare(name, [path], path.parent / "prepared", filters=filters).card["rows_read"]
        sys.stdout = sys.__stdout__
    return {"rows": done, "seconds": time.perf_counter() - begun, "peak_mib": peak_mib(), "base_mib": base}


def measure(step: str, name: str, path: Path, rows: int, repeats: int) -> dict[str, float]:
    """Run a step in fresh processes; return the fastest run and the highest peak."""
    command = [sys.executable, __file__, "--step", step, "--format", name, "--path", str(path), "--rows", str(rows)]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(runs, key=lambda run: run["seconds"])
    if best["rows"] != rows:
        raise SystemExit(f"{step} of {name} gave {best['rows']} rows, not {rows}")
    return {**best, "peak_mib": max(run["peak_mib"] for run in runs)}


def benchmark(rows: int, repeats: int, only: str) -> list[dict[str, Any]]:
    """Measure every step and print the table as it grows."""
    found: list[dict[str, Any]] = []
    print(f"| step | file MB | rows/s | seconds | peak MiB | of it imports |\n|{'---|' * 6}")

    def add(label: str, step: str, name: str, path: Path, megabytes: float) -> None:
        run = measure(step, name, path, rows, repeats)
        rate = run["rows"] / run["seconds"]
        found.append({"step": label, "file_mb": megabytes, "rows_per_second": rate, **run})
        print(
            f"| {label} | {megabytes:.0f} | {rate:,.0f} | {run['seconds']:.2f} | {run['peak_mib']:,.0f} | "
            f"{run['base_mib']:,.0f} |",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        if only in "generate":
            add("generate .inter", "generate", "", Path(folder), 0)
        for label, (name, file, write) in CASES.items():
            if only not in label:
                continue
            path = Path(folder) / file
            write(path, rows)
            megabytes = path.stat().st_size / 1e6
            add(f"read {label}", "read", name, path, megabytes)
            if name == "inter":
                add("prepare inter, 5-core", "prepare", name, path, megabytes)
            path.unlink()
    return found


def main() -> None:
    """Parse the arguments; run all steps, or one when called as a step's process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=2, help="fresh processes a step; the fastest counts")
    parser.add_argument("--only", default="", help="steps whose name holds this text")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    for hidden in ("--step", "--format", "--path"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(run_step(given.step, given.format, Path(given.path), given.rows)))
        return
    found = benchmark(given.rows, given.repeats, given.only)
    if given.out:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "pyarrow": pa.__version__}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps([{**row, **machine} for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
