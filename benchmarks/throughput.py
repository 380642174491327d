"""Targets per second, start, memory and ranking time of ScaledSASRec and of its peers, side by side in one run.

    python benchmarks/throughput.py --data dataset/ml-1m/ml-1m.inter --seconds 60 --peers replay recbole
    python benchmarks/throughput.py --data dataset/ml-1m/ml-1m.inter --sizes tiny small base medium large

Every system runs in a process (and the peers in an environment) of its own, one after the other, `--repeats` times
round; the table shows each system's best rate, since a shared machine only ever takes away. Peers are optional.
"share of matmul": training GFLOP/s (item softmax included) over those of a float32 matrix product timed between steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLUMNS = {
    "targets_per_second": ("targets/s", "{:,.0f}"),
    "gflops_per_second": ("GFLOP/s", "{:.1f}"),
    "matmul_gflops_per_second": ("matmul GFLOP/s", "{:.1f}"),
    "share_of_matmul": ("share of matmul", "{:.0%}"),
    "seconds_to_first_step": ("start s", "{:.1f}"),
    "seconds_full_ranking": ("ranking s", "{:.2f}"),
    "training_peak_mb": ("train MB", "{:,.0f}"),
    "peak_mb": ("peak MB", "{:,.0f}"),
    "epoch_seconds": ("epoch s", "{:,.1f}"),
    "ndcg@10": ("NDCG@10", "{:.4f}"),
}


def command(system: str, data: Path, seconds: float, size: str, settings: list[str]) -> list[str]:
    """Command line that measures one system."""
    if system == "scaled_sasrec":
        script = [sys.executable, str(HERE / "scaled_sasrec.py"), "--size", size]
    else:
        sys.path.insert(0, str(HERE / "peers"))
        from environments import ensure_environment  # type: ignore[import-not-found]

        script = [str(ensure_environment(system)), str(HERE / "peers" / f"{system}_sasrec.py")]
    more = settings if system == "scaled_sasrec" else []
    return [*script, "--data", str(data), "--seconds", str(seconds), *more]


def measure(system: str, data: Path, seconds: float, size: str, settings: list[str]) -> dict[str, Any]:
    """Run one measurement and return its figures."""
    done = subprocess.run(command(system, data, seconds, size, settings), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{system} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**figures, "data": data.stem, "seconds": seconds, "settings": settings}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best rate, start, ranking time and memory over repeats (each the least disturbed one)."""
    merged = dict(max(rows, key=lambda row: row["targets_per_second"]))
    for key in ("seconds_to_first_step", "seconds_full_ranking", "training_peak_mb", "peak_mb", "epoch_seconds"):
        values = [row[key] for row in rows if row.get(key) is not None]
        merged[key] = min(values) if values else None
    return merged


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, with each system's rate over that of the others."""
    ours = rows[0]["targets_per_second"]
    lines = ["| system | " + " | ".join(name for name, _ in COLUMNS.values()) + " | ours is |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for row in rows:
        cells = [form.format(row[key]) if row.get(key) is not None else "" for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {row['system']} | " + " | ".join(cells) + f" | {ours / row['targets_per_second']:.1f}x |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="dataset/NAME/NAME.inter")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each measurement")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], help="sizes of ScaledSASRec")
    parser.add_argument("--peers", nargs="*", default=[], choices=["replay", "recbole"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="more settings of ScaledSASRec, key=value")
    parser.add_argument("--out", type=Path, help="also append the rows to this JSON-lines file")
    arguments = parser.parse_args()
    systems = [("scaled_sasrec", size) for size in arguments.sizes] + [(peer, "") for peer in arguments.peers]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {system: [] for system in systems}
    for number in range(arguments.repeats):
        for system in systems:
            print(f"round {number + 1} of {arguments.repeats}: {' '.join(system)} ...", file=sys.stderr)
            row = measure(system[0], arguments.data.resolve(), arguments.seconds, system[1], arguments.set)
            found[system].append(row)
    rows = [best(found[system]) for system in systems]
    print(table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
