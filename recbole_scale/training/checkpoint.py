"""Checkpoints of tensors and plain data: written whole or not at all, read without unpickling.

Nothing here knows the model or RecBole; a state is any nest of dicts, lists, tensors, numbers and strings.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_scale.errors import OF_THE_MACHINE, UserError
from recbole_scale.files import drop_stale, locked, unwritten, whole_files
from recbole_scale.interfaces import RunConfig
from recbole_scale.settings import before_data, run_id
from recbole_scale.training.seal import DAMAGE, check_seal, reason, seal

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CHECKPOINT = "the checkpoint"  # what messages call it


def save_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``state`` to ``path``, whole or not at all, sealed so that :func:`load_checkpoint` sees any damage.

    Raises:
        UserError: the disk is full or the folder cannot be written; an older file at ``path`` is left as it was.
    """
    with whole_files(Path(path), what=CHECKPOINT) as (file,):
        try:
            torch.save(state, file.handle)
        except RuntimeError as failure:  # how torch reports a failed write
            raise failure.__context__ if isinstance(failure.__context__, OSError) else OSError(str(failure)) from None
        seal(file.handle)


def load_checkpoint(
    path: str | os.PathLike[str], map_location: Any = "cpu", mesh: DeviceMesh | None = None
) -> dict[str, Any]:
    """Read a checkpoint, a file or a sharded folder, with ``weights_only=True``.

    Args:
        path: the checkpoint.
        map_location: device of whole tensors.
        mesh: processes that cut the model among them; each gets its parts of the floating-point tensors.

    Raises:
        UserError: the checkpoint is missing, cut short, damaged, or holds pickled Python objects.
    """
    if os.path.isdir(path):
        from recbole_scale.training.sharded_checkpoint import load_sharded

        return _checked(load_sharded(path, mesh), path)
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint {path}")
    if mesh is None:
        return _load_file(path, map_location)
    from recbole_scale.training.shards import cut

    state: dict[str, Any] = cut(_load_file(path, "cpu", mmap=True), mesh)  # only this process's parts are read
    return state


def load_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint to look at its settings and its state of training: tensors are mapped or left out, not read.

    Raises:
        UserError: as :func:`load_checkpoint`.
    """
    if os.path.isdir(path):
        from recbole_scale.training.sharded_checkpoint import plain_parts

        return _checked(plain_parts(path), path)
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint {path}")
    return _load_file(path, "cpu", mmap=True)


def _load_file(path: str | os.PathLike[str], map_location: Any, mmap: bool = False) -> dict[str, Any]:
    try:
        check_seal(path)
        state = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as failure:
        raise UserError(
            f"the checkpoint {path} holds pickled Python objects or is damaged, and is not loaded; "
            "checkpoints written after 'import recbole_scale' hold tensors and plain data only"
        ) from failure
    except DAMAGE as failure:
        raise UserError(f"the checkpoint {path} is damaged ({reason(failure)})") from failure
    return _checked(state, path)


def _checked(state: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(state, dict) or "state_dict" not in state:
        raise UserError(f"the file {path} is no checkpoint of a model: it has no 'state_dict'")
    return state


def set_aside_if_damaged(path: str) -> bool:
    """Whether a checkpoint's bytes are not those that were written; it then bears another name, and a line says so.

    Raises:
        UserError: it cannot be read or renamed, which is no damage.
    """
    try:
        if os.path.isdir(path):
            from recbole_scale.training.sharded_checkpoint import check_folder

            check_folder(path)
        else:
            check_seal(path)
        return False
    except DAMAGE as failure:
        if isinstance(failure, OSError) and failure.errno in OF_THE_MACHINE:
            raise UserError(f"the checkpoint {path} cannot be read ({reason(failure)})") from failure
        told = f"the checkpoint {path} is damaged ({reason(failure)})"
    names = (f"{path}.damaged{'-' * bool(n)}{n or ''}" for n in count())
    aside = next(name for name in names if not os.path.lexists(name))
    try:
        os.rename(path, aside)
    except OSError as fault:
        raise unwritten(aside, fault, CHECKPOINT) from fault
    getLogger().error(f"{told} and set aside as {os.path.basename(aside)}")
    return True


def copy_checkpoint(path: str, copy: str) -> None:
    """Copy a checkpoint, a file or a sharded folder (whose index goes last); whatever is at ``copy`` is whole.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    source, target = Path(path), Path(copy)
    names = [""]
    if source.is_dir():
        names = sorted((file.name for file in source.iterdir()), key=lambda name: name == "index.json")
    for name in names:
        with open(source / name, "rb") as read, whole_files(target / name, what=CHECKPOINT) as (file,):
            shutil.copyfileobj(read, file.handle, 8 << 20)
    if source.is_dir():
        for piece in target.iterdir():  # of an older copy
            if piece.name not in names:
                piece.unlink(missing_ok=True)


def run_stem(config: RunConfig) -> str:
    """Path of a run's checkpoints up to ``.best.pth``, ``.last.pth`` and so on."""
    return os.path.join(config["checkpoint_dir"], f"{config['model']}-{config['dataset']}-{run_id(config)}")


@contextmanager
def held_run(stem: str) -> Iterator[None]:
    """Hold a run's checkpoints for this process, and remove what killed writers of them have left.

    Raises:
        Held: another process trains this run. The lock goes with its process, however that ends.
    """
    lock = Path(f"{stem}.lock")
    sentence = f"another process trains this very run (it holds {lock}); wait for it, or choose another checkpoint_dir"
    with locked(lock.with_name(f".{lock.name}"), sentence):
        drop_stale(lock.parent, lock.stem)
        yield


def link_checkpoint(path: str, twin: str) -> None:
    """Let ``twin`` be the checkpoint file ``path`` is now, whatever is written to ``path`` later; a link where it can.

    Raises:
        UserError: neither a link nor a copy could be written; an older file at ``twin`` is left as it was.
    """
    temporary = Path(twin).with_name(f".{Path(twin).name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, twin)
    except OSError:  # a file system without links, say
        copy_checkpoint(path, twin)
    finally:
        temporary.unlink(missing_ok=True)  # of two links to one file, a rename leaves both


def last_checkpoint(last_file: str) -> str | None:
    """The newer of a run's ``.last.pth`` (a file) and ``.last.dcp`` (a sharded folder), None when there is neither.

    Args:
        last_file: either name; a run that changes between sharded and whole training leaves both.
    """
    stem = os.path.splitext(last_file)[0]
    found = {f"{stem}.pth": f"{stem}.pth", f"{stem}.dcp": os.path.join(f"{stem}.dcp", "index.json")}
    present = [path for path, dated in found.items() if os.path.isfile(dated)]
    return max(present, key=lambda path: os.stat(found[path]).st_mtime_ns, default=None)


def plain_config(config: RunConfig) -> dict[str, Any]:
    """What the user set, with model and data set by name: enough to build the same RecBole Config again.

    Defaults that the data decided are among it, since a model may be looked at beside other data.
    """
    before = before_data(config)
    decided = {key: config[key] for key in before} | ({"by_data": before} if before else {})
    external = {k: v for k, v in config.external_config_dict.items() if k != "local_rank"}
    return {**external, **decided, "model": config["model"], "dataset": config["dataset"]}


def random_state() -> dict[str, Any]:
    """State of the random number generators that training draws from (Python, numpy, torch, each CUDA device)."""
    _, numpy_key, position, has_gauss, gauss = np.random.get_state()
    version, python_key, python_gauss = random.getstate()
    return {
        "python": [version, list(python_key), python_gauss],
        "numpy": [torch.from_numpy(np.asarray(numpy_key).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to what :func:`random_state` saw; CUDA states of absent devices are passed over."""
    version, python_key, python_gauss = state["python"]
    random.setstate((version, tuple(python_key), python_gauss))
    key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
