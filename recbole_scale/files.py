"""Files that appear whole or not at all, and atomic files written in chunks."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_scale.prepare.columns import Coded, Interactions
from recbole_scale.errors import UserError

CHUNK_ROWS = 1 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FIELDS = {
    "user": "user_id:token",
    "item": "item_id:token",
    "rating": "rating:float",
    "time": "timestamp:float",
    "domain": "domain:token",
}


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


class AtomicWriter:
    """Writes an atomic file's header, then rows in chunks, into a :class:`WholeFile`. ``roles``: its columns."""

    def __init__(self, file: WholeFile, roles: list[str]) -> None:
        self._file = file
        self.roles = [role for role in FIELDS if role in roles]
        self.rows = 0
        file.write(("\t".join(FIELDS[role] for role in self.roles) + "\n").encode())

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append rows: role -> pyarrow array or numpy array of integers, all of one length."""
        table = pa.table({role: _as_array(columns[role]) for role in self.roles})
        sink = pa.BufferOutputStream()
        options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        pa.csv.write_csv(table, sink, options)
        self._file.write(sink.getvalue())
        self.rows += table.num_rows


def write_interactions(file: WholeFile, log: Interactions, chunk_rows: int = CHUNK_ROWS) -> None:
    """Write a whole log as an atomic file, ``chunk_rows`` rows at a time. Memory: one chunk of texts."""
    writer = AtomicWriter(file, [*log.columns, "time"])
    for start in range(0, len(log), chunk_rows):
        rows = slice(start, start + chunk_rows)
        columns: dict[str, Any] = {role: column_texts(column, rows) for role, column in log.columns.items()}
        writer.write({**columns, "time": log.time[rows]})


def column_texts(column: Coded, rows: slice) -> pa.Array:
    """Return the texts of some rows of a coded column."""
    return column.texts.take(pa.array(column.codes[rows]))


def _as_array(values: Any) -> Any:
    return pa.array(values) if isinstance(values, np.ndarray) else values
