"""A fair trial of layer-wise dropout (LAD): every kind of rates tuned on valid loss, the winners again on fresh seeds.

    python benchmarks/dropout_trial.py --dataset ml-1m --shapes 12x32 2x64 --fraction 0.1 --epochs 60 \\
        --rows results/ml-1m/dropout_trial.jsonl

The gain that arXiv 2311.11351 reports is that of a model that overfits, so few users train for many epochs. The rate
after the embedding is the same in all arms: what differs is how rates go from layer to layer. Runs are those of
``sweep``: a finished one is skipped, and a killed one goes on. Read in the end: mean test NLL on the fresh seeds, and
the difference to the best uniform rate, paired over them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from ablation import effect, read

# (rate of the first layer, of the last); linear between
ARMS = {
    "uniform": [(0.0, 0.0), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)],
    "falling": [(0.2, 0.0), (0.4, 0.0), (0.3, 0.1), (0.6, 0.0), (0.4, 0.2)],
    "rising": [(0.0, 0.2), (0.0, 0.4)],
}
Pair = tuple[float, float]
Row = dict[str, Any]


def sweep(options: argparse.Namespace, shape: str, seeds: list[int], rates: Pair) -> None:
    """Make the runs of one arm that are missing."""
    from recbole_scale.sweep.command import main

    words = ["--dataset", options.dataset, "--shapes", shape, "--seeds", *map(str, seeds), "--rows", str(options.rows),
             "--fractions", str(options.fraction), "--epochs", str(options.epochs), "--keep", "none",
             f"--dropout_embedding={options.embedding}", f"--dropout_bottom={rates[0]}", f"--dropout_top={rates[1]}",
             "--attn_dropout_prob=null", f"--stopping_step={options.epochs}", *options.settings]  # fmt: skip
    if main(words):
        raise SystemExit(f"a run failed; its row in {options.rows} says why")


def losses(rows: list[Row], shape: str, rates: Pair, column: str, seeds: list[int]) -> list[float]:
    """``column`` of an arm's runs, one a seed, in the order of ``seeds``."""
    mine = {
        row["seed"]: float(row[column])
        for row in rows
        if row["status"] == "ok" and f"{row['n_layers']}x{row['d_model']}" == shape
        if (row["settings"]["dropout_bottom"], row["settings"]["dropout_top"]) == rates
    }
    return [mine[seed] for seed in seeds]


def winners(rows: list[Row], shape: str, seeds: list[int]) -> dict[str, Pair]:
    """The pair of least mean valid NLL of each kind."""
    return {
        kind: min(pairs, key=lambda pair: mean(losses(rows, shape, pair, "best_valid_nll", seeds)))
        for kind, pairs in ARMS.items()
    }


def table(rows: list[Row], shape: str, chosen: dict[str, Pair], seeds: list[int]) -> str:
    """A row for each kind's winner on the fresh seeds, as Markdown."""
    found = {kind: losses(rows, shape, pair, "test_nll", seeds) for kind, pair in chosen.items()}
    lines = [f"| {shape}, {len(seeds)} fresh seeds | rates | test NLL | against uniform (95 %) |", "|---|---|---|---|"]
    for kind, (first, last) in chosen.items():
        apart = [a - b for a, b in zip(found[kind], found["uniform"], strict=True)]
        told = f"{mean(found[kind]):.4f} | {'' if kind == 'uniform' else effect(apart)}"
        lines.append(f"| {kind}, best of {len(ARMS[kind])} | {first:g} to {last:g} | {told} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """Train what is missing and print a table for each shape."""
    for shape in options.shapes:
        for pair in (pair for pairs in ARMS.values() for pair in pairs):
            sweep(options, shape, options.seeds, pair)
        chosen = winners(read(options.rows), shape, options.seeds)
        for pair in chosen.values():
            sweep(options, shape, options.fresh, pair)
        print(table(read(options.rows), shape, chosen, options.fresh))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--shapes", nargs="+", default=["12x32"], help="LAYERSxWIDTH")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds that choose")
    parser.add_argument("--fresh", nargs="+", type=int, default=[11, 12, 13, 14, 15], help="seeds that are told")
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the users that train")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--embedding", type=float, default=0.1, help="rate after the embedding, in all arms")
    parser.add_argument("--rows", type=Path, required=True, help="rows of all runs, of this trial alone")
    from recbole_scale.errors import exit_code

    options, more = parser.parse_known_args()
    options.settings = more  # --key=value
    sys.exit(exit_code(lambda: run(options)))


if __name__ == "__main__":
    main()
