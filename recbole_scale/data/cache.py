"""One binary file of arrays beside its source, trusted only when it is whole and of that very source and settings.

Layout: magic, length of the header, header (JSON: version, key, dtype and place of each array), the arrays, and the
SHA-256 of all that. Nothing in it is code. A cache that is cut, flipped, of another version, source or setting is as
good as none: it is made again.

A source is known by its size and the SHA-256 of *all* its bytes. Its time stamp is not asked: an edit within one tick
of the clock, or one that puts the old time back, would be missed, and sampling bytes would miss small edits. Hashing
half a gigabyte takes 0.4 s on two cores, a tenth of a start. (blake2b is slower wherever the CPU has SHA instructions.)
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recbole_scale.files import whole_files

CACHE_VERSION = 1  # raise it whenever reading, filtering or the layout changes
MAGIC = b"RBSCACHE"
ALIGNMENT = 64
CHUNK_BYTES = 8 << 20
DIGEST_BYTES = hashlib.sha256().digest_size
LONGEST_HEADER = 1 << 20


def content_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hexadecimal) over the SHA-256 of each 8 MiB of a file: chunks are hashed on several cores."""
    with open(path, "rb") as file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        handle = file.fileno()
        starts = range(0, os.fstat(handle).st_size, CHUNK_BYTES)
        parts = pool.map(lambda start: hashlib.sha256(os.pread(handle, CHUNK_BYTES, start)).digest(), starts)
        return hashlib.sha256(b"".join(parts)).hexdigest()


def files_digest(paths: Iterable[str | os.PathLike[str]]) -> str | None:
    """Sixteen hexadecimal digits that name the bytes of all files; None when one is not there."""
    try:
        return named(*map(content_digest, paths))
    except OSError:
        return None


def named(*digests: str) -> str:
    """Sixteen hexadecimal digits for the digests of files."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def cache_path(source: Path, settings: Mapping[str, Any]) -> Path:
    """Where the cache of ``source`` read with ``settings`` lies: one file for each set of settings."""
    text = json.dumps(settings, sort_keys=True)
    return source.with_name(f"{source.name}.{hashlib.sha256(text.encode()).hexdigest()[:8]}.cache")


def write_cache(path: Path, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one-dimensional arrays under ``key`` (plain JSON): the file appears whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with whole_files(path) as (file,):
        for piece in _pieces(key, arrays):
            file.write(piece)
        file.write(bytes.fromhex(file.sha256()))


def _pieces(key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = {"dtype": array.dtype.str, "length": len(array), "at": at}
        at += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps({"version": CACHE_VERSION, "key": key, "arrays": places}).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % ALIGNMENT)
    yield MAGIC + struct.pack("<Q", len(header)) + header
    for array in arrays.values():
        data = np.ascontiguousarray(array).view(np.uint8)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES].tobytes()
        yield bytes(-len(data) % ALIGNMENT)


def read_cache(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Key and arrays of a cache, or None when there is none that can be trusted.

    Every byte is hashed before any is believed. Arrays are mapped, not copied: processes share them, and what is never
    looked at takes no memory.

    Args:
        path: the cache.
        dtypes: names and types that the arrays must have, in this order.
    """
    try:
        with open(path, "rb") as file:
            header, begin, size = _header(file)
            if header is None or not _whole(file, size):
                return None
            arrays, at = {}, begin
            for name, dtype in dtypes.items():
                place = header["arrays"][name]
                if place != {"dtype": dtype.str, "length": place["length"], "at": at - begin} or place["length"] < 1:
                    return None
                arrays[name] = np.asarray(np.memmap(file, dtype, "r", at, (place["length"],)))
                at += -(-arrays[name].nbytes // ALIGNMENT) * ALIGNMENT
            same = list(header["arrays"]) == list(dtypes) and at == size - DIGEST_BYTES
            return (header["key"], arrays) if same else None
    except (OSError, ValueError, KeyError, TypeError, struct.error):  # what a damaged header can lead to
        return None


def _header(file: BinaryIO) -> tuple[dict[str, Any] | None, int, int]:
    """Header (None: not ours, or of another version), where the arrays begin, and the size of the file."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(MAGIC) + 8)
    if start[: len(MAGIC)] != MAGIC:
        return None, 0, size
    (length,) = struct.unpack("<Q", start[len(MAGIC) :])
    if length > min(size, LONGEST_HEADER):
        return None, 0, size
    header = json.loads(file.read(length))
    if not isinstance(header, dict) or header.get("version") != CACHE_VERSION:
        return None, 0, size
    return header, len(start) + length, size


def _whole(file: BinaryIO, size: int) -> bool:
    digest, left = hashlib.sha256(), size - DIGEST_BYTES
    file.seek(0)
    while left > 0:
        data = file.read(min(CHUNK_BYTES, left))
        if not data:
            return False
        digest.update(data)
        left -= len(data)
    return left == 0 and file.read() == digest.digest()
