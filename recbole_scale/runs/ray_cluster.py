"""What a Ray cluster's nodes hold, and whether they can do our work, found out before any of it is handed out."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from recbole_scale.errors import UserError
from recbole_scale.files import away

Node = Mapping[str, float]  # CPU, GPU, ... that a node has


def initialise(ray: Any, **options: Any) -> None:
    """Start Ray or join it as ``options`` say, quietly; its workers take no module from the working folder."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the driver; Ray's own 15 starves runs on a busy machine
    with away():
        ray.init(log_to_driver=False, logging_level="ERROR", **options)


def nodes_of(ray: Any) -> list[Node]:
    """Resources of every living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share_of_a_run(nodes: Sequence[Node], cpus: float | None, gpus: float | None) -> dict[str, float]:
    """What each run gets: as asked, else a GPU where a node has one and the CPUs that go with it, else one CPU."""
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0
    if cpus is None:
        cpus = 1.0
        with_gpus = [node for node in nodes if gpus and node.get("GPU", 0.0) >= gpus]
        if with_gpus:  # as many as let every GPU of the poorest such node work
            share = min(node.get("CPU", 0.0) / (node["GPU"] // gpus) for node in with_gpus)
            cpus = float(int(share)) if share >= 1 else max(share, 0.01)
    return {"CPU": cpus, "GPU": gpus}


def at_once(nodes: Sequence[Node], share: Mapping[str, float], what: str) -> int:
    """How many shares the nodes hold together.

    Raises:
        UserError: no node holds one, so that Ray would wait for ever.
    """
    wanted = {kind: amount for kind, amount in share.items() if amount}
    count = sum(int(min(node.get(kind, 0.0) / amount + 1e-9 for kind, amount in wanted.items())) for node in nodes)
    if count == 0:
        lacking = [kind for kind, amount in wanted.items() if all(node.get(kind, 0.0) < amount for node in nodes)]
        asks = " and ".join(f"{wanted[kind]:g} {kind}" for kind in lacking or wanted)
        have = "; ".join(f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU" for node in nodes)
        where = "this machine has" if len(nodes) == 1 else "no node of the cluster holds that; they have"
        raise UserError(f"{what} asks for {asks}, but {where} {have}")
    return count


def check_nodes(ray: Any, folders: Sequence[str]) -> None:
    """Ask every node whether it can import this package, and sees the folders that runs read and write.

    Raises:
        UserError: one cannot, with its name.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = f".{uuid4().hex}"
    marked = []
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / mark).touch()
        marked.append(str((Path(folder) / mark).absolute()))

    def look(paths: list[str]) -> tuple[str, str]:  # pickled by value: the node may not have this package
        host = socket.gethostname()
        try:
            import recbole_scale.runs.run  # noqa: F401 (whether it can be)
        except Exception as failure:
            return host, f"cannot import recbole_scale there ({type(failure).__name__}: {failure})"
        unseen = [os.path.dirname(path) for path in paths if not os.path.exists(path)]
        return host, f"does not see {unseen[0]}; runs need a folder that all nodes share" if unseen else ""

    try:
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        placed = [task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in alive]
        for host, trouble in ray.get([one.remote(marked) for one in placed]):
            if trouble:
                raise UserError(f"the node {host} {trouble}")
    finally:
        for path in marked:
            os.unlink(path)
