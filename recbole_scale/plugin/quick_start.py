"""``recbole.quick_start.run``: RecBole's function for several processes, with this package in every one of them."""

from __future__ import annotations

from typing import Any

import torch.multiprocessing as mp

from recbole_scale.files import away
from recbole_scale.signals import ends_by_signal
from recbole_scale.training import group
from recbole_scale.training.processes import start


def run(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: str = "5678",
    group_offset: int = 0,
) -> Any:
    """As RecBole's; returns the result of the process of rank 0, None where that is on another machine."""
    from recbole.quick_start import run_recbole

    call = {"model": model, "dataset": dataset, "config_file_list": config_file_list, "saved": saved}
    if nproc == 1 and world_size <= 0:
        return run_recbole(**call, config_dict=config_dict)
    world = world_size if world_size > 0 else nproc
    members = {"world_size": world, "ip": ip, "port": port, "nproc": nproc, "offset": group_offset}
    with away():  # it may start a process
        results = mp.get_context("spawn").SimpleQueue()
    start(_member, (results, call, {**(config_dict or {}), **members}), nproc)
    return None if results.empty() else results.get()


def _member(local_rank: int, results: Any, call: dict[str, Any], settings: dict[str, Any]) -> None:
    """One process; unpickling this function has imported the package."""
    from recbole.quick_start import quick_start

    seed_all = quick_start.init_seed
    # RecBole adds the rank to the seed, so that what a model draws beside its weights would be another in each process
    quick_start.init_seed = lambda seed, reproducibility: seed_all(call_seed(seed), reproducibility)
    first: list[int] = []

    def call_seed(seed: int) -> int:
        first.append(seed)
        return first[0]

    with ends_by_signal(True), group.first_failure_speaks():
        result = quick_start.run_recbole(**call, config_dict={**settings, "local_rank": local_rank})
    if group.rank() == 0:
        results.put(result)
    group.leave()
