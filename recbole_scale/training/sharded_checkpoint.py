"""Sharded checkpoints through ``torch.distributed.checkpoint``, resumable by any number of processes, without pickles.

A checkpoint is a folder: each process's tensors in ``shards-*.distcp``, plain data in ``state-*.pt``, and
``index.json``, which says where each piece of each tensor lies. ``torch.distributed.checkpoint`` would keep that in a
pickled ``.metadata``; we neither write nor read one. The index is written last and renamed into place, so that a
checkpoint is the old one until it is the new one. Several machines need a file system in common.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo, _StoragePrefix
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from recbole_scale.errors import UserError
from recbole_scale.training import group
from recbole_scale.training.shards import empty_parts, map_tensors

INDEX = "index.json"
FORMAT = "recbole-scale sharded checkpoint, version 1"
DAMAGE = (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError)
PLACE = "__sharded__"  # stands in the plain state where a sharded tensor was


def save_sharded(state: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write a nest of plain data and tensors; each process writes its parts of the sharded ones.

    Every process must call it with the same nest of sharded tensors; the rest is taken from process 0.

    Raises:
        UserError: the disk is full or the folder cannot be written; the older checkpoint in it stays as it was.
    """
    sharded: dict[str, Tensor] = {}

    def take(path: str, tensor: Tensor) -> Any:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        sharded[path] = tensor.detach()
        return {PLACE: path}

    plain = map_tensors(state, take)
    writer = _Writer(Path(folder), plain)
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False)
    try:
        dcp.save(sharded, storage_writer=writer, planner=planner)
    except (dcp.api.CheckpointException, OSError) as failure:
        writer.remove_own()
        raise UserError(f"the checkpoint {folder} could not be written ({_in_a_line(_cause(failure))})") from failure


def load_sharded(folder: str | os.PathLike[str], mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Read a checkpoint that any number of processes wrote.

    Args:
        folder: the checkpoint.
        mesh: processes that share its tensors from now on, all of which must call; None: whole tensors on the CPU.

    Raises:
        UserError: the folder is no checkpoint, is damaged or holds pickled objects. Nothing in it is unpickled.
    """
    folder = Path(folder)
    try:
        index = _read_index(folder)
        with open(folder / index["state"], "rb") as file:
            plain = torch.load(file, map_location="cpu", weights_only=True)
        metadata = _metadata(index)
        tensors = {name: _room(told, mesh) for name, told in index["tensors"].items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
            dcp.load(tensors, storage_reader=_Reader(folder, metadata), planner=planner, no_dist=mesh is None)
        state: dict[str, Any] = _fill(plain, tensors)
    except (dcp.api.CheckpointException, pickle.UnpicklingError, *DAMAGE) as failure:
        cause = _cause(failure)
        if group.lost_peer(cause):
            raise
        if isinstance(cause, pickle.UnpicklingError):
            raise UserError(
                f"the checkpoint {folder} holds pickled Python objects or is damaged, and is not loaded"
            ) from failure
        raise UserError(f"the checkpoint {folder} is damaged ({_in_a_line(cause)})") from failure
    return state


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder that holds a whole sharded checkpoint."""
    return os.path.isfile(os.path.join(path, INDEX))


class _Writer(dcp.FileSystemWriter):
    """Writes tensors under names of this save alone; the last step is the index, which makes them the checkpoint."""

    def __init__(self, folder: Path, plain: dict[str, Any]) -> None:
        super().__init__(folder)
        self.folder, self.plain = folder, plain
        self.save_name = uuid4().hex[:12]  # process 0's counts: it hands the plan to the others

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        """Give each process's files a name; process 0 calls this for all."""
        return [
            dataclasses.replace(plan, storage_data=_StoragePrefix(f"shards-{self.save_name}-{rank}-"))
            for rank, plan in enumerate(plans)
        ]

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Process 0, when all shards are on disk: plain state, index, and away with the older save."""
        state = f"state-{self.save_name}.pt"
        _write(self.folder / state, lambda file: torch.save(self.plain, file))
        placed = {written.index: written.storage_data for part in results for written in part}
        text = json.dumps({"format": FORMAT, "state": state, "tensors": _describe(metadata, placed)})
        _write(self.folder / f".{INDEX}.tmp", lambda file: file.write(text.encode()))
        os.replace(self.folder / f".{INDEX}.tmp", self.folder / INDEX)
        for path in self.folder.iterdir():
            if path.name.startswith(("shards-", "state-")) and self.save_name not in path.name:
                path.unlink(missing_ok=True)

    def remove_own(self) -> None:
        """Away with what a failed save has left; process 0 knows its name."""
        for path in self.folder.glob(f"*-{self.save_name}*"):
            path.unlink(missing_ok=True)
        (self.folder / f".{INDEX}.tmp").unlink(missing_ok=True)


def _write(path: Path, write: Any) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


class _Reader(dcp.FileSystemReader):
    """Reads tensors with ``weights_only=True`` (FileSystemReader's way), and their places from our index."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self) -> Metadata:
        """What :func:`_metadata` made of the index; FileSystemReader would unpickle ``.metadata``."""
        return self._metadata


def _describe(metadata: Metadata, placed: dict[MetadataIndex, Any]) -> dict[str, Any]:
    """Dtype, size and pieces of each tensor, as plain data."""
    described = {}
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)  # nothing but tensors is handed to dcp.save
        pieces = []
        for chunk in tensor.chunks:
            at = placed[MetadataIndex(name, chunk.offsets)]
            pieces.append([list(chunk.offsets), list(chunk.sizes), at.relative_path, at.offset, at.length])
        dtype = str(tensor.properties.dtype).removeprefix("torch.")
        described[name] = {"dtype": dtype, "size": list(tensor.size), "pieces": pieces}
    return described


def _read_index(folder: Path) -> dict[str, Any]:
    index = json.loads((folder / INDEX).read_text("utf-8"))
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{INDEX} is not of format '{FORMAT}'")
    names = [index["state"], *(piece[2] for tensor in index["tensors"].values() for piece in tensor["pieces"])]
    for name in names:
        if not isinstance(name, str) or name != os.path.basename(name) or name.startswith("."):
            raise ValueError(f"{INDEX} names a file outside the folder: {name!r}")
    return index


def _metadata(index: dict[str, Any]) -> Metadata:
    """The index as ``torch.distributed.checkpoint`` knows it: tensors only, so that nothing is loaded as an object."""
    tensors: dict[str, Any] = {}
    placed = {}
    for name, told in index["tensors"].items():
        dtype = getattr(torch, told["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{INDEX} has no dtype for {name}")
        chunks = []
        for offsets, sizes, path, start, length in told["pieces"]:
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            placed[MetadataIndex(name, offsets)] = _StorageInfo(path, int(start), int(length))
        tensors[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(told["size"]), chunks)
    return Metadata(tensors, storage_data=placed)


def _room(told: dict[str, Any], mesh: DeviceMesh | None) -> Tensor:
    dtype = getattr(torch, told["dtype"])
    return torch.zeros(told["size"], dtype=dtype) if mesh is None else empty_parts(told["size"], dtype, mesh)


def _fill(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Put the sharded tensors back to their places in the plain state."""
    if isinstance(state, dict):
        if PLACE in state:
            return tensors[state[PLACE]]
        return {key: _fill(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_fill(value, tensors) for value in state)
    return state


def _cause(failure: BaseException) -> BaseException:
    """The first process's own failure, where ``torch.distributed.checkpoint`` has gathered several."""
    while isinstance(failure, dcp.api.CheckpointException):
        failure = failure.failures[min(failure.failures)][0]
    return failure


def _in_a_line(failure: BaseException) -> str:
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror.lower()
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:160]
