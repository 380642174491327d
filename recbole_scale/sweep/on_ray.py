"""A sweep's runs on a Ray cluster: as many at once as its CPUs and GPUs allow. Rows come back to the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_scale.fit.rows import Row
from recbole_scale.plugin.compat import load_ray_tune
from recbole_scale.sweep.sweep import Engine, OnEpoch, Point, run_point

_PATHS = {"data_path": "dataset", "checkpoint_dir": "saved"}


def on_ray(address: str, cpus: float | None = None, gpus: float | None = None, keep: str = "best") -> Engine:
    """Engine that hands each run to Ray, with ``cpus`` and ``gpus`` for each; None: see :func:`share_of_a_run`.

    A run whose worker dies is tried once more, from its checkpoint, and then is a failed row. Epochs are not told.

    Args:
        address: ``auto`` for the cluster of this machine, ``HOST:PORT`` of another, ``local`` to start one here.
        cpus: CPUs per run; its worker uses as many threads.
        gpus: GPUs per run, fractions allowed.
        keep: checkpoints to keep, see :func:`run_point`.
    """

    def engine(points: Sequence[Point], on_epoch: OnEpoch) -> Iterator[tuple[Point, Row]]:
        load_ray_tune()
        import ray

        started_here = not ray.is_initialized()
        if started_here:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        try:
            share = share_of_a_run(ray.cluster_resources(), cpus, gpus)
            yield from _run_all(ray, points, {**share, "max_retries": 1}, keep)
        finally:
            if started_here:
                ray.shutdown()

    return engine


def share_of_a_run(cluster: Mapping[str, float], cpus: float | None, gpus: float | None) -> dict[str, float]:
    """What each run gets: as asked, else a GPU where there are some and the CPUs that go with it, else one CPU."""
    if gpus is None:
        gpus = 1.0 if cluster.get("GPU", 0.0) >= 1 else 0.0
    if cpus is None:
        at_once = cluster.get("GPU", 0.0) / gpus if gpus else cluster.get("CPU", 1.0)
        cpus = max(1.0, cluster.get("CPU", 1.0) // max(at_once, 1.0))
    return {"num_cpus": cpus, "num_gpus": gpus}


def _run_all(ray: Any, points: Sequence[Point], options: dict[str, Any], keep: str) -> Iterator[tuple[Point, Row]]:
    remote = ray.remote(**options)(_on_worker)
    waiting = {remote.remote(_absolute(point), options["num_cpus"], keep): point for point in points}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        point = waiting.pop(ready)
        try:
            yield point, ray.get(ready)
        except ray.exceptions.RayError as failure:
            sentence = " ".join(str(failure).split())[:300]
            yield point, {"run_id": point.run_id, "status": "failed", "error": f"the worker died: {sentence}",
                          "dataset": point.dataset, "model": "ScaledSASRec", "seed": point.settings.get("seed"),
                          "n_blocks": point.n_blocks}  # fmt: skip


def _on_worker(point: Point, cpus: float, keep: str) -> Row:
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    return run_point(point, keep=keep)


def _absolute(point: Point) -> Point:
    """The same run with paths that hold in a worker's own folder."""
    settings = dict(point.settings)
    for name, default in _PATHS.items():
        settings[name] = str(Path(settings.get(name, default)).resolve())
    if settings.get("per_user_file"):
        settings["per_user_file"] = str(Path(settings["per_user_file"]).resolve())
    paths = tuple(str(Path(name).resolve()) if Path(name).is_file() else name for name in point.config_files)
    return replace(point, settings=settings, config_files=paths)
