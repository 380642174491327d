"""The command ``recbole-scale compare``: ScaledSASRec beside RecBole's models, everybody treated alike."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_scale.compare import runs as planning
from recbole_scale.compare import table
from recbole_scale.compare.options import parser
from recbole_scale.compare.runs import Budget, Run
from recbole_scale.data.splits import split_in_words
from recbole_scale.errors import UserError, check_choice
from recbole_scale.files import locked, whole_files
from recbole_scale.runs.records import COLUMNS
from recbole_scale.runs.row_file import check_appendable
from recbole_scale.terminal import columns


def parse_seconds(text: str) -> float:
    """Seconds of ``600``, ``600s``, ``10m`` or ``1h``.

    Raises:
        UserError: another form, or not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise UserError(f"--budget {text} is no time; write 600s, 10m or 1h")
    return seconds


def budget_of(arguments: argparse.Namespace) -> Budget:
    """The budget that was asked for; only one may be."""
    if arguments.budget and arguments.epochs is not None:
        raise UserError("--epochs and --budget are two budgets; give one of them")
    if arguments.epochs is not None and arguments.epochs < 1:
        raise UserError(f"--epochs is {arguments.epochs}, but must be at least 1")
    seconds = parse_seconds(arguments.budget) if arguments.budget else None
    if arguments.patience is None:
        return Budget(arguments.epochs, seconds)
    if arguments.epochs is not None or seconds is not None:
        raise UserError("--patience ends runs that have no budget; leave it out, or --epochs and --budget")
    return Budget(patience=arguments.patience)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write and print the table; 1 when a run failed."""
    arguments, settings = parser().parse_with_settings(argv)
    budget = budget_of(arguments)
    reference = arguments.reference or arguments.models[0]
    check_choice("--reference", reference, arguments.models)
    for name in ("seeds", "jobs", "samples", "patience"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}, but must be at least 1")
    out = arguments.out or Path("results") / f"compare-{arguments.dataset}"
    shared = {**settings, **({"data_path": arguments.data_path} if arguments.data_path else {})}
    check_appendable(arguments.results_file, COLUMNS)
    seeds = range(1, arguments.seeds + 1)
    planned = planning.plan_runs(arguments.dataset, arguments.models, seeds, budget, shared)
    held = f"another comparison works in {out}; wait for it, or choose another --out"
    with locked(out / ".lock", held):
        planning.carry_out(arguments.dataset, planned, out, arguments.results_file, arguments.jobs)
    done = planning.finished_rows(arguments.results_file, planned, out)
    lines = gather(planned, done, out, arguments.results_file, reference, arguments.samples)
    title = describe(arguments.dataset, budget, reference, arguments.seeds, list(done.values()), planned[0], lines)
    cells = table.cells(lines, reference)
    write_tables(out, title, *cells)
    print(f"{title}\n\n{table.as_text(*cells, columns(sys.stdout) - 1)}\n")
    return int(any(line.failed is not None for line in lines))


def gather(
    planned: list[Run], done: dict[str, dict[str, Any]], out: Path, results_file: str, reference: str, samples: int
) -> list[table.Line]:
    """The table's lines from the rows (``done``, by ``run_id``) and users of finished runs."""
    failed = planning.failed_rows(results_file, planned)
    groups: dict[str, list[dict[str, Any]]] = {run.name: [] for run in planned}
    users: dict[str, list[Path]] = {run.name: [] for run in planned}
    errors = {}
    for run in planned:
        if run.run_id in done:
            groups[run.name].append(done[run.run_id])
            users[run.name].append(planning.per_user_file(out, run.run_id))
        elif run.run_id in failed:
            errors[run.name] = str(failed[run.run_id]["error"])
    return table.summarise(groups, users, reference, errors, samples)


def describe(
    dataset: str,
    budget: Budget,
    reference: str,
    seeds: int,
    rows: list[dict[str, Any]],
    run: Run,
    lines: Sequence[table.Line] = (),
) -> str:
    """What the table shows, in words; the CPU threads are those that the finished runs had."""
    metric, arguments = run.settings["valid_metric"], {**planning.PROTOCOL["eval_args"], **run.settings["eval_args"]}
    cut = split_in_words(None if run.settings.get("benchmark_filename") else arguments["split"], arguments["group_by"])
    mode = arguments["mode"]["test"] if isinstance(arguments["mode"], dict) else arguments["mode"]
    ranking = "full ranking over all items" if mode == "full" else f"ranking among sampled items ({mode})"
    threads = sorted({int(row["threads"]) for row in rows})
    users, best = "the same users", " Best of a column: <."
    if not table.same_users(lines):
        own = ", ".join(f"{line.name} {line.users:,}" for line in lines if line.users)
        shared_users = max(line.shared for line in lines)
        users, best = f"the {shared_users:,} users whom all ranked, means over each model's own ({own})", ""
    shared = f" on {' or '.join(map(str, threads))} CPU thread{'s' * (threads != [1])}" if threads else ""
    history = "masked" if run.settings.get("mask_history") else "not masked"
    drawn = "seed 1" if seeds == 1 else f"seeds 1 to {seeds}"
    return (
        f"{dataset}: {budget}{shared}, {drawn}. {cut}, {ranking}, history {history}; "
        f"tested is the epoch with the best valid {metric}. Mean ± standard deviation over "
        f"seeds; differences from {reference} are over {users} (paired bootstrap), p after Holm's correction, "
        f"* below 0.05. Filtered: without the items that a user had. NLL of scores: of a softmax over scores that no "
        f"likelihood was trained for; -log p: of probabilities.{best}"
    )


def write_tables(out: Path, title: str, header: list[str], body: list[list[str]]) -> None:
    """Write ``table.txt``, ``.md`` and ``.tex``."""
    text = f"{title}\n\n{table.as_text(header, body)}\n"
    bold = title.replace("Best of a column: <.", "Best of a column in bold.")
    comment = "% " + bold.replace("\n", " ")
    with whole_files(*(out / f"table.{kind}" for kind in ("txt", "md", "tex")), what="the table") as (txt, md, tex):
        txt.write(text.encode())
        md.write(f"{bold}\n\n{table.as_markdown(header, body)}\n".encode())
        tex.write(f"{comment}\n{table.as_latex(header, body)}\n".encode())
