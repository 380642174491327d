"""Sharded checkpoints through ``torch.distributed.checkpoint``, resumable by any number of processes, without pickles.

A checkpoint is a folder: each process's tensors in ``shards-*.distcp``, plain data in ``state-*.pt``, and
``index.json``, which says where each piece of each tensor lies. ``torch.distributed.checkpoint`` would keep that in a
pickled ``.metadata``; we neither write nor read one. The index is written last and renamed into place, so that a
checkpoint is the old one until it is the new one; it holds a checksum of every file and of itself. Several machines
need a file system in common.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
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
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.futures import Future

from recbole_scale.errors import UserError
from recbole_scale.files import unwritten, whole_files
from recbole_scale.training import group
from recbole_scale.training.seal import DAMAGE, checksum, reason
from recbole_scale.training.shards import empty_parts, map_tensors

INDEX = "index.json"
FORMAT = "recbole-scale sharded checkpoint, version 2"
PLACE = "__sharded__"  # stands in the plain state where a sharded tensor was


def save_sharded(state: dict[str, Any], folder: str | os.PathLike[str], process_group: Any = None) -> None:
    """Write a nest of plain data and tensors; each process writes its parts of the sharded ones.

    Every process must call it with the same nest of sharded tensors; the rest is taken from process 0.
    ``process_group``: through which they agree, in a thread one that nothing else uses; None: the run's.

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
        dcp.save(sharded, storage_writer=writer, planner=planner, process_group=process_group)
    except (dcp.api.CheckpointException, OSError) as failure:
        writer.remove_own()
        _quiet_streams()
        cause = _cause(failure)
        if group.lost_peer(cause):
            raise cause from failure
        raise unwritten(
            folder, cause if isinstance(cause, OSError) else OSError(reason(cause)), "the checkpoint"
        ) from failure


def _quiet_streams() -> None:
    """torch's stream flushes its closed file once more as it is forgotten, which Python 3.13 shows as a traceback."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda found: None if "NoCloseWriter" in repr(found.object) else before(found)


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
        _check_files(folder, index["files"], shared=mesh is not None)
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
        raise UserError(f"the checkpoint {folder} is damaged ({reason(cause)})") from failure
    return state


def plain_parts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds besides its sharded tensors.

    Raises:
        UserError: the folder is no checkpoint or is damaged.
    """
    try:
        index = _read_index(Path(folder))
        with open(Path(folder) / index["state"], "rb") as file:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *DAMAGE) as failure:
        raise UserError(f"the checkpoint {folder} is damaged ({reason(failure)})") from failure
    return state


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise ValueError or OSError when a checkpoint's files are not those that were once written."""
    _check_files(Path(folder), _read_index(Path(folder))["files"], shared=False)


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

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Write this process's shards; each result also carries the checksum of its file."""
        results = super().write_data(plan, planner).wait()
        sums = {
            name: _checksum(self.folder / name) for name in {result.storage_data.relative_path for result in results}
        }
        done: Future[list[WriteResult]] = Future()
        done.set_result([
            dataclasses.replace(result, storage_data=(result.storage_data, sums[result.storage_data.relative_path]))
            for result in results
        ])  # fmt: skip
        return done

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Process 0, when all shards are on disk: plain state, index, and away with the older save."""
        state = f"state-{self.save_name}.pt"
        with whole_files(self.folder / state) as (file,):
            torch.save(self.plain, file.handle)
        written = [result for part in results for result in part]
        placed = {result.index: result.storage_data[0] for result in written}
        files = {result.storage_data[0].relative_path: result.storage_data[1] for result in written}
        files[state] = _checksum(self.folder / state)
        index = {"format": FORMAT, "state": state, "files": files, "tensors": _describe(metadata, placed)}
        with whole_files(self.folder / INDEX) as (file,):
            file.write(json.dumps(index | {"checksum": _own_checksum(index)}).encode())
        self._remove(lambda name: self.save_name not in name)

    def remove_own(self) -> None:
        """Away with what a failed save has left; process 0 knows its name."""
        self._remove(lambda name: self.save_name in name)

    def _remove(self, chosen: Callable[[str], bool]) -> None:
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.startswith(("shards-", "state-")) and chosen(path.name):
                    path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return checksum(file, os.fstat(file.fileno()).st_size)


def _own_checksum(index: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps({**index, 'checksum': None}, sort_keys=True).encode()):08x}"


def _check_files(folder: Path, files: dict[str, str], shared: bool) -> None:
    """Refuse files that are not what was once written; processes that load together share the work."""
    names = sorted(files)
    mine = names[group.rank() :: group.world_size()] if shared else names
    wrong = [name for name in mine if not (folder / name).is_file() or _checksum(folder / name) != files[name]]
    if shared:
        wrong = [name for part in group.gather(wrong) for name in part]
    if wrong:
        raise ValueError(f"the checksum of {wrong[0]} is wrong")


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
    if index.get("checksum") != _own_checksum(index):
        raise ValueError(f"the checksum of {INDEX} is wrong")
    names = [
        index["state"],
        *index["files"],
        *(piece[2] for tensor in index["tensors"].values() for piece in tensor["pieces"]),
    ]
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
