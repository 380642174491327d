"""Raw files as blocks of whole lines: plain, gzip, or inside a published zip or folder; every fault is one sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from recbole_scale.errors import UserError, nearest

BLOCK_BYTES = 16 << 20
QUOTE_REACH = (
    1 << 20
)  # a quoted value may run over line ends for this many bytes; longer means a quote was never closed
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
# zipfile and zlib answer damaged bytes with any of these
DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Block:
    """Whole lines of one file: ``data`` ends at a line end (or at the file's end); ``first_line`` counts from 1."""

    source: str
    data: bytes
    first_line: int

    def line_of(self, row: int, quoted: bool) -> int:
        """Return the line number of the ``row``-th (from 0) row that is not blank; quoted line ends are followed."""
        seen, inside, start = -1, False, 0
        for number, line in enumerate(io.BytesIO(self.data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))):
            if not inside and line.strip(b"\r\n"):
                seen, start = seen + 1, number
            if quoted and line.count(b'"') % 2:
                inside = not inside
            if seen == row:
                break
        return self.first_line + start


def check_raw_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Return ``paths`` when each exists and none is given twice, by name or by content; raise UserError otherwise."""
    if not paths:
        raise UserError("no raw file was given; name at least one with --raw PATH")
    found = [Path(path) for path in paths]
    for path in found:
        if not path.exists():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"there is no file '{path}'{nearest(path.name, siblings)}")
    seen: dict[tuple[int, str], Path] = {}
    for path in found:
        same_size = sum(other.stat().st_size == path.stat().st_size for other in found) > 1
        key = (path.stat().st_size, sha256_of(path) if same_size and path.is_file() else str(path.resolve()))
        if key in seen:
            raise UserError(f"'{path}' has the same content as '{seen[key]}': give each domain file once")
        seen[key] = path
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def find_file(path: Path, names: Sequence[str]) -> tuple[Path, str | None]:
    """Return ``(file, member of the zip or None)`` for a file, a folder or a zip that holds one of ``names``."""
    if path.is_dir():
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
        for name in names:
            for entry in inside:
                if entry.name in (name, name + ".gz"):
                    return entry, None
        what = " or ".join(names) or "a file: give the files themselves"
        raise UserError(f"the folder '{path}' does not hold {what}")
    if not zipfile.is_zipfile(path):
        if path.suffix == ".zip":
            raise UserError(f"'{path}' is named .zip but is no whole zip archive; download it again")
        return path, None
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.namelist())
    except DAMAGE as fault:
        raise UserError(f"the zip '{path}' is damaged ({fault}); download it again") from fault
    for name in names:
        for member in members:
            if member.rsplit("/", 1)[-1] == name:
                return path, member
    raise UserError(f"the zip '{path}' does not hold {' or '.join(names) or 'one readable file: unpack it first'}")


@contextmanager
def open_bytes(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """Open a plain file, a gzip file or a zip member for reading bytes; the magic bytes decide, not the name."""
    if member is not None:
        with zipfile.ZipFile(path) as archive, archive.open(member) as handle:
            yield handle
        return
    with open(path, "rb") as handle:
        magic = handle.read(2)
    if magic == GZIP_MAGIC:
        with gzip.open(path, "rb") as packed:
            yield cast(IO[bytes], packed)
        return
    if path.suffix == ".gz":
        raise UserError(f"'{path}' is named .gz but is no gzip file; download it again or take '.gz' off its name")
    with open(path, "rb") as handle:
        yield handle


def text_blocks(
    path: Path, names: Sequence[str] = (), quoted: bool = False, block_bytes: int | None = None
) -> Iterator[Block]:
    """Yield the file's text as blocks of whole lines, each checked to be UTF-8; a byte order mark is taken off.

    ``quoted`` keeps lines together while a double quote is open. Memory: about two blocks.
    Raises UserError for damage, truncation, another encoding, or a quote that is never closed.
    """
    real, member = find_file(path, names)
    source = f"{real}:{member}" if member else str(real)
    line = 1
    try:
        with open_bytes(real, member) as handle:
            for data in _whole_lines(handle, source, quoted, block_bytes or BLOCK_BYTES):
                if line == 1:
                    data = _without_mark(data, source)
                if data:
                    block = Block(source, data, line)
                    _check_utf8(block)
                    yield block
                line += data.count(b"\n")
    except UserError:
        raise
    except EOFError as fault:
        raise UserError(
            f"{source} ends too early after line {line}: the compressed file is truncated; download it again"
        ) from fault
    except DAMAGE as fault:
        if isinstance(fault, OSError) and fault.errno:  # the disk, not the archive: a permission, a bad device
            raise UserError(f"cannot read '{source}': {fault.strerror}") from fault
        raise UserError(f"{source} is damaged near line {line} ({fault}); download it again") from fault


def _whole_lines(handle: IO[bytes], source: str, quoted: bool, block_bytes: int) -> Iterator[bytes]:
    rest, line = b"", 1
    while piece := handle.read(block_bytes):
        piece = rest + piece
        end = piece.rfind(b"\n") + 1
        if end == 0 and len(piece) > 4 * block_bytes:
            raise UserError(f"{source} line {line} is longer than {len(piece) >> 20} MiB: this is no text table")
        if quoted:
            end = _before_open_quote(piece, end, source, line)
        rest = piece[end:]
        if end:
            yield piece[:end]
            line += piece.count(b"\n", 0, end)
    if quoted and rest.count(b'"') % 2:
        raise _unclosed(source, line, rest, rest.rfind(b'"'))
    if rest:
        yield rest


def _before_open_quote(piece: bytes, end: int, source: str, line: int) -> int:
    """Move ``end`` back to a line start that is outside every quoted value (an even number of quotes before it)."""
    whole = end
    while piece.count(b'"', 0, end) % 2:
        opened = piece.rfind(b'"', 0, end)
        if whole - opened > QUOTE_REACH:
            raise _unclosed(source, line, piece, opened)
        end = piece.rfind(b"\n", 0, opened) + 1
    return end


def _unclosed(source: str, line: int, data: bytes, at: int) -> UserError:
    number = line + data.count(b"\n", 0, at)
    return UserError(f"{source} line {number}: a double quote is opened and never closed; close it or double it")


def _without_mark(data: bytes, source: str) -> bytes:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{source} line 1 starts with a UTF-16 byte order mark: save the file as UTF-8")
    return data.removeprefix(BYTE_ORDER_MARK)


def _check_utf8(block: Block) -> None:
    try:
        block.data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = block.first_line + block.data.count(b"\n", 0, fault.start)
        place = fault.start - block.data.rfind(b"\n", 0, fault.start)
        raise UserError(
            f"{block.source} line {line}, byte {place} of the line: not UTF-8 text; save the file as UTF-8"
        ) from None
