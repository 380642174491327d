"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from recbole_scale.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WholeFile:
    """A temporary file beside ``path`` that counts and hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._handle: IO[bytes] = open(self.temporary, "wb")  # noqa: SIM115 (closed by sync or drop)
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write bytes; the signature every writer needs."""
        self._handle.write(data)
        self._digest.update(data)

    def sha256(self) -> str:
        """Return the SHA-256 of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Have the bytes on the disk."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()

    def drop(self) -> None:
        """Close and remove the temporary file, whatever state it is in."""
        with suppress(OSError):
            self._handle.close()
        with suppress(OSError):
            self.temporary.unlink()


@contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[WholeFile, ...]]:
    """Open temporary files beside ``paths``; all are renamed into place when the block ends well, none otherwise.

    Raises UserError when the disk is full or the folder cannot be written; the temporaries are removed then.
    """
    files: list[WholeFile] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(WholeFile(path))
        yield tuple(files)
        for file in files:
            file.sync()
        for file in files:
            os.replace(file.temporary, file.path)
        _sync_folders({path.parent for path in paths})
    except OSError as fault:
        if fault.errno in NO_SPACE:
            raise UserError(f"no space left on the disk while writing '{paths[0]}': nothing was written") from fault
        raise UserError(f"cannot write '{paths[0]}': {fault.strerror or fault}") from fault
    finally:
        for file in files:
            file.drop()


def _sync_folders(folders: set[Path]) -> None:
    """Make the renames themselves last; some file systems cannot, which loses nothing that was promised."""
    for folder in folders:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
