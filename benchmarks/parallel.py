"""One process with two threads against two processes with one thread each (ddp, fsdp), on the same batches.

    python benchmarks/parallel.py --data dataset/ml-1m/ml-1m.inter --sizes tiny small --rounds 8

All systems are started once and take turns of `--steps` training steps; nobody else's work falls on one of them alone
that way. A row holds each system's best and median rate, the ratio to the one process, and what processes cost: CPU
time a target against one process with one thread (which a busy machine hardly changes), the exchange of gradients
(a step against one that keeps its gradients to itself), the bare collectives, uneven shares, and the gathering of an
evaluation. Rows are appended to results/parallel.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, cast

SYSTEMS = {  # processes, threads of each, mode
    "one": (1, 2, "auto"),
    "one thread": (1, 1, "auto"),  # whose CPU time is free of threads waiting for each other
    "ddp": (2, 1, "ddp"),
    "fsdp": (2, 1, "fsdp"),
}
COLUMNS = {
    "system": ("system", "{}"),
    "best_targets_per_second": ("targets/s, best", "{:,.0f}"),
    "median_ratio": ("ratio, median of rounds", "{:.2f}"),
    "best_ratio": ("ratio of bests", "{:.2f}"),
    "cpu_ratio": ("CPU time, 1 thread's over its", "{:.2f}"),
    "step_ms": ("step ms", "{:.1f}"),
    "exchange_ms": ("exchange of gradients ms", "{:.1f}"),
    "collectives_ms": ("bare collectives ms", "{:.1f}"),
    "wait_share": ("waiting for the larger share", "{:.1%}"),
    "evaluation_ms": ("evaluation ms", "{:,.0f}"),
    "gather_ms": ("of it gathering ms", "{:,.0f}"),
    "load_average": ("load of the machine", "{:.1f}"),
}


# One process of a system ------------------------------------------------------------------------------------------


class Worker:
    """A trainer that does single steps on demand."""

    def __init__(self, data: Path, size: str, mode: str, more: list[str]) -> None:
        from recbole_scale.runs.prepared import build_model, prepare
        from recbole_scale.runs.run import make_config
        from recbole_scale.settings import parse_arguments
        from recbole_scale.training import group, parallel
        from recbole_scale.training.trainer import ScaledSASRecTrainer

        settings = {"size": size, "epochs": 1000, "lr_schedule": "constant", "show_progress": False, "parallel": mode,
                    "metrics": ["Recall", "NDCG", "NLL"], "topk": [10], "data_path": str(data.parent.parent),
                    **group.torchrun_settings(), **parse_arguments(f"--{setting}" for setting in more)}  # fmt: skip
        config = make_config("ScaledSASRec", data.parent.name, config_dict=settings)
        self.prepared = prepare(config)
        self.trainer = ScaledSASRecTrainer(config, build_model(self.prepared))
        self.trainer.steps_per_epoch = len(self.prepared.train_data)
        self.trainer.eval_collector.data_collect(self.prepared.train_data)
        self.trainer.model.train()
        self.parallel, self.group = parallel, group
        self.at = 0

    def steps(self, n: int, keep: bool = False) -> dict[str, float]:
        """``n`` training steps; with ``keep`` gradients are not exchanged (ddp)."""
        data, trainer, targets = self.prepared.train_data, self.trainer, 0
        context = cast(Any, trainer.loss).no_sync() if keep else contextlib.nullcontext()
        wall, cpu = perf_counter(), process_time()
        with context:
            for step in range(self.at, self.at + n):
                step %= len(data)
                trainer._train_step(self.parts(step), data.count(step))
                trainer.losses.look(0, step + 1, len(data), (), ending=False)
                targets += data.count(step)
        wall, cpu = perf_counter() - wall, process_time() - cpu
        waits = [self._uneven(step % len(data)) for step in range(self.at, self.at + n)]
        self.at += n
        every = self.group.gather(cpu)
        return {"targets": targets, "wall": wall, "cpu": sum(every), "wait": sum(waits) / n}

    def parts(self, step: int) -> Any:
        """This process's part of a batch."""
        return self.prepared.train_data.parts(step, rank=self.group.rank(), world=self.group.world_size())

    def _uneven(self, step: int) -> float:
        """Share of its time that a process waits on average when time goes with targets: 1 - mean / largest."""
        sizes = self.group.gather(sum(len(part["target_places"]) for part, _ in self.parts(step)))
        return 1 - sum(sizes) / len(sizes) / max(sizes)

    def collectives(self, n: int) -> dict[str, float]:
        """Milliseconds of what a step sends, on its own: gradients, or parts of the model there and back."""
        import torch
        import torch.distributed as dist

        if self.group.world_size() == 1:
            return {"ms": 0.0}
        size, world = sum(p.numel() for p in self.trainer.model.parameters()), dist.get_world_size()
        whole, part, two = torch.ones(size + -size % world), torch.ones(-(-size // world)), torch.ones(2)
        dist.barrier()
        started = perf_counter()
        for _ in range(n):
            if self.parallel.is_sharded(self.trainer.loss):
                dist.all_gather_into_tensor(whole, part)
                dist.all_gather_into_tensor(whole, part)  # blocks are gathered again for the backward pass
                dist.reduce_scatter_tensor(part, whole)
            else:
                dist.all_reduce(whole)
            dist.all_reduce(two)
        return {"ms": (perf_counter() - started) / n * 1000}

    def evaluate(self, n: int) -> dict[str, float]:
        """Milliseconds of ranking all test users, and of them in gathering results and weights."""
        gathering = [0.0]
        original = self.group.gather

        def timed(value: Any) -> Any:
            started = perf_counter()
            gathered = original(value)
            gathering[0] += perf_counter() - started
            return gathered

        self.group.gather = timed
        started = perf_counter()
        with self.parallel.whole_model(self.trainer.loss):
            weights = perf_counter() - started
        started = perf_counter()
        self.trainer.evaluate(self.prepared.test_data, load_best_model=False)
        whole = perf_counter() - started
        self.group.gather = original
        self.trainer.model.train()
        return {"ms": whole * 1000, "gather_ms": (gathering[0] + weights) * 1000}


def serve(data: Path, size: str, mode: str, more: list[str]) -> None:
    """Answer the questions on stdin, one JSON line each; process 0 alone speaks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        worker = Worker(data, size, mode, more)
        for line in chain(["{}"], iter(sys.stdin.readline, "")):  # first: ready
            question = json.loads(line)
            answer = getattr(worker, question.pop("do"))(**question) if question else {}
            if worker.group.rank() == 0:
                print(json.dumps(answer), file=answers, flush=True)
        worker.group.leave()


# The systems side by side ------------------------------------------------------------------------------------------


class System:
    """All processes of one system."""

    def __init__(self, name: str, data: Path, size: str, more: list[str]) -> None:
        world, threads, mode = SYSTEMS[name]
        self.world, self.threads = world, threads
        self.rounds: list[dict[str, float]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, __file__, "--serve", mode, "--data", str(data), "--sizes", size, "--settings", *more]
        self.processes = []
        for rank in range(world):
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            if world > 1:
                group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
                environment |= {k: str(v) for k, v in {**group, "MASTER_PORT": port}.items()}
                environment["MASTER_ADDR"] = "127.0.0.1"
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        self.answer()  # ready

    def answer(self) -> dict[str, float]:
        line = self.processes[0].stdout.readline()
        if not line:
            raise SystemExit(f"a process of {self.processes[0].args} ended before its answer")
        found: dict[str, float] = json.loads(line)
        return found

    def ask(self, **question: Any) -> dict[str, float]:
        """Put a question to every process; returns process 0's answer."""
        for process in self.processes:
            print(json.dumps(question), file=process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()


def measure(data: Path, size: str, n_rounds: int, n_steps: int, more: list[str]) -> list[dict[str, Any]]:
    """Rows of all systems for one size."""
    systems = {name: System(name, data, size, more) for name in SYSTEMS}
    for system in systems.values():
        system.ask(do="steps", n=5)  # warm up
    for number in range(n_rounds):
        print(f"{size}: round {number + 1} of {n_rounds}", file=sys.stderr)
        for system in systems.values():
            system.rounds.append(system.ask(do="steps", n=n_steps))
    rows = [row(name, systems, n_steps, size) for name in systems]
    for system in systems.values():
        system.close()
    return rows


def row(name: str, systems: dict[str, System], n_steps: int, size: str) -> dict[str, Any]:
    """Figures of one system; ratios are to the one process in the same round."""
    system, alone, single = systems[name], systems["one"].rounds, systems["one thread"].rounds
    from recbole_scale.runs.records import commit, versions

    rates = [r["targets"] / r["wall"] for r in system.rounds]
    rates_alone = [r["targets"] / r["wall"] for r in alone]
    exchange = None
    if name == "ddp":
        kept = min(system.ask(do="steps", n=n_steps, keep=True)["wall"] for _ in range(3))
        exchange = (min(r["wall"] for r in system.rounds) - kept) / n_steps * 1000
    evaluations = [system.ask(do="evaluate", n=1) for _ in range(3)]
    evaluation = min(evaluations, key=lambda found: found["ms"])
    return {
        "system": f"{name.split()[0]}: {system.world} x {system.threads} thread{'s' * (system.threads > 1)}",
        "size": size,
        "processes": system.world,
        "threads": system.threads,
        "best_targets_per_second": max(rates),
        "median_targets_per_second": median(rates),
        "median_ratio": median(a / b for a, b in zip(rates, rates_alone, strict=True)),
        "best_ratio": max(rates) / max(rates_alone),
        "cpu_ratio": median(b["cpu"] / a["cpu"] for a, b in zip(system.rounds, single, strict=True)),
        "step_ms": min(r["wall"] for r in system.rounds) / n_steps * 1000,
        "exchange_ms": exchange,
        "collectives_ms": min(system.ask(do="collectives", n=20)["ms"] for _ in range(3)),
        "wait_share": median(r["wait"] for r in system.rounds),
        "evaluation_ms": evaluation["ms"],
        "gather_ms": evaluation["gather_ms"],
        "rounds": len(rates),
        "steps_of_a_round": n_steps,
        "load_average": round(os.getloadavg()[0], 1),  # well above the processes' own: others were at work too
        "versions": versions(),
        "commit": commit(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| size | " + " | ".join(name for name, _ in COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for found in rows:
        cells = [form.format(found[key]) if found[key] is not None else "" for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {found['size']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="dataset/NAME/NAME.inter")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    parser.add_argument("--settings", nargs="*", default=[], help="more settings, key=value")
    parser.add_argument("--out", type=Path, default=Path("results/parallel.jsonl"))
    parser.add_argument("--serve", choices=["auto", "ddp", "fsdp"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    if arguments.serve:
        serve(data, arguments.sizes[0], arguments.serve, arguments.settings)
        return
    rows = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for size in arguments.sizes:
        rows += (found := measure(data, size, arguments.rounds, arguments.steps, arguments.settings))
        with arguments.out.open("a") as file:  # now: a later size may be cut short
            file.writelines(json.dumps(each) + "\n" for each in found)
    print(table(rows))


if __name__ == "__main__":
    main()
