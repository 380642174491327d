"""Files that appear whole or not at all, and locks that go with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

from recbole_scale.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STALE_SECONDS = 3600  # where a file system knows no locks, a temporary file this old has no writer any more
OURS = re.compile(r"\.\d+(-\d+)?\.tmp$")  # how the names of temporary files end
LONGEST_NAME = 200  # of what a temporary file's name keeps of its target's


@contextmanager
def away() -> Iterator[str]:
    """Work in the folder of Python's own modules; gives the folder to come back to.

    An interpreter that is started takes modules from its working folder before all others, and Ray's workers from that
    of the process that started them: a ``pickle.py`` beside the data would be run.
    """
    home = os.getcwd()
    os.chdir(os.path.dirname(os.__file__))
    try:
        yield home
    finally:
        os.chdir(home)


class WholeFile:
    """A temporary file beside ``path`` that hashes what is written to it; ``.NAME.PID.tmp``, locked by its writer.

    A writer that was killed leaves its temporary file, whose lock is gone; the next writer of ``path`` removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        drop_stale(path.parent, path.name)
        self.temporary, self.handle = _new_temporary(path)
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write bytes and hash them; what goes to ``handle`` itself is not hashed."""
        self._digest.update(data)
        return self.handle.write(data)

    def sha256(self) -> str:
        """Return the SHA-256 of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Have the bytes on the disk."""
        self.handle.flush()
        os.fsync(self.handle.fileno())

    def drop(self) -> None:
        """Close and remove the temporary file, whatever state it is in."""
        with suppress(OSError):
            self.temporary.unlink()
        with suppress(OSError):
            self.handle.close()


def _new_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    for number in count():
        serial = f"{os.getpid()}" + (f"-{number}" if number else "")
        temporary = path.with_name(f".{path.name[:LONGEST_NAME]}.{serial}.tmp")
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # not taken for a dead writer's before it was locked
            return temporary, os.fdopen(descriptor, "w+b")
        os.close(descriptor)
    raise AssertionError("count() does not end")


def drop_stale(folder: Path, name: str = "") -> None:
    """Remove temporary files, of targets whose names begin with ``name``, that killed writers have left."""
    for found in glob.glob(os.path.join(glob.escape(str(folder)), f".{glob.escape(name[:LONGEST_NAME])}*.tmp")):
        if not OURS.search(found):
            continue
        with suppress(OSError):
            descriptor = os.open(found, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(found)
            except BlockingIOError:
                continue  # somebody writes it
            except OSError:
                if time.time() - os.fstat(descriptor).st_mtime > STALE_SECONDS:
                    os.unlink(found)
            finally:
                os.close(descriptor)


def check_writable(key: str, path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written, before what it is to hold has been paid for.

    Raises:
        UserError: naming the setting, the file and why.
    """
    path = Path(path).absolute()
    there = next(folder for folder in path.parents if folder.exists())  # the others are made when it is written
    probe = there / f".{path.name[:LONGEST_NAME]}.{os.getpid()}.probe"
    try:
        with open(probe, "xb"):
            pass
        probe.unlink()
    except OSError as fault:
        raise UserError(f"{key} {path} cannot be written ({(fault.strerror or str(fault)).lower()})") from fault


@contextmanager
def whole_files(*paths: Path, what: str = "") -> Iterator[tuple[WholeFile, ...]]:
    """Open temporary files beside ``paths``; all are renamed into place when the block ends well, none otherwise.

    Raises UserError when the disk is full or the folder cannot be written, naming the file as ``what`` it is; the
    temporaries are removed then, and the folders that were made for them.
    """
    files: list[WholeFile] = []
    made: list[Path] = []
    try:
        for path in paths:
            made += [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(WholeFile(path))
        yield tuple(files)
        for file in files:
            file.sync()
        for file in files:
            os.replace(file.temporary, file.path)
        _sync_folders({path.parent for path in paths})
    except OSError as fault:
        raise unwritten(paths[0], fault, what) from fault
    finally:
        for file in files:
            file.drop()
        for folder in sorted(set(made), key=lambda place: -len(place.parts)):  # those that nothing was written to
            with suppress(OSError):
                folder.rmdir()


def unwritten(path: str | os.PathLike[str], fault: OSError, what: str = "") -> UserError:
    """The sentence about a file that could not be written."""
    if what:
        return UserError(f"{what} {path} could not be written ({(fault.strerror or str(fault)).lower()})")
    if fault.errno in NO_SPACE:
        return UserError(f"no space left on the disk while writing '{path}': nothing was written")
    return UserError(f"cannot write '{path}': {fault.strerror or fault}")


def write_text(path: str | os.PathLike[str], text: str, what: str = "") -> None:
    """Write a text file in UTF-8, whole or not at all; errors as :func:`whole_files`."""
    with whole_files(Path(path), what=what) as (file,):
        file.write(text.encode())


def _sync_folders(folders: set[Path]) -> None:
    """Make the renames themselves last; some file systems cannot, which loses nothing that was promised."""
    for folder in folders:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class Held(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, held: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path``; the lock goes with the process, however it ends, and the file with the lock.

    Raises:
        Held: another process holds it after ``wait`` seconds; ``held`` is the sentence.
        UserError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, is_singleton=True)  # who holds it already in this thread holds it once more
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait, poll_interval=0.1)
    except Timeout as failure:
        raise Held(held) from failure
    except OSError as fault:
        raise unwritten(path, fault) from fault
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):
                path.unlink()
        lock.release()
