"""Where a study's runs go, one by one or several at once: this process, this machine's cores, a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import LoadedData
from recbole_scale.runs.ray_cluster import at_once, nodes_of, share_of_a_run
from recbole_scale.sweep.engine import Engine, Gate, RowsFile, in_process

WORKER_START = 10.0  # seconds until Ray's workers have imported what a run needs


@dataclass(frozen=True)
class Machines:
    """What runs a study.

    Attributes:
        at_once: runs at a time.
        threads: CPU threads of each.
        apart: whether each run reads its data anew, in a process of its own.
        engine: of a rows file and a gate.
    """

    at_once: int
    threads: int
    apart: bool
    engine: Callable[[str, Gate], Engine]


@contextmanager
def machines(options: argparse.Namespace, loaded: LoadedData) -> Iterator[Machines]:
    """Where ``--jobs`` and ``--ray_address`` send the runs; a Ray cluster is joined until the block ends.

    Raises:
        UserError: no jobs, both of them, or no such cluster.
    """
    if options.jobs < 1:
        raise UserError(f"--jobs is a number of runs at once, not {options.jobs}")
    if options.jobs > 1 and options.ray_address:
        raise UserError("--jobs is for this machine and --ray_address for a cluster; give one of them")
    threads = torch.get_num_threads()
    if options.jobs == 1 and options.ray_address is None:
        yield Machines(1, threads, False, lambda rows, gate: in_process(loaded, RowsFile(rows, "none"), gate))
        return
    from recbole_scale.sweep.on_ray import joined, on_ray

    cpus = max(1, threads // options.jobs) if options.jobs > 1 else None
    with joined(options.ray_address or "local", cpus and cpus * options.jobs) as ray:
        nodes = nodes_of(ray)
        share = share_of_a_run(nodes, cpus, None)
        count = at_once(nodes, share, "a run")

        def engine(rows: str, gate: Gate) -> Engine:
            return on_ray("auto", share["CPU"], share["GPU"], RowsFile(rows, "none"), gate=gate)

        yield Machines(min(count, options.jobs) if cpus else count, max(1, int(share["CPU"])), True, engine)


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """So many CPU threads inside, as a run of its own will have."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
