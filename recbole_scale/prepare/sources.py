"""Raw files as blocks of whole lines: plain, gzip, or inside a published zip or folder; every fault is one sentence."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from recbole_scale.errors import UserError, nearest
from recbole_scale.prepare.quotes import lines_of_rows, open_at_end

BLOCK_BYTES = 16 << 20
QUOTE_REACH = (
    1 << 20
)  # a quoted value may run over line ends for this many bytes; longer means a quote was never closed
MOST_TIMES = 100  # that a packed log grows; published ones grow 3 to 10 times
SMALL_BYTES = 64 << 20  # that every packed file may grow to
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

    def line_of(self, row: int, quoted: str) -> int:
        """Line of the ``row``-th (from 0) row that is not blank; ``quoted``: the delimiter of quoted values, or ''."""
        starts = lines_of_rows(self.data, quoted)
        return self.first_line + (starts[min(row, len(starts) - 1)] if starts else 0)


def check_raw_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Return ``paths`` when each exists and none is given twice, by name or by content; raise UserError otherwise."""
    if not paths:
        raise UserError("no raw file was given; name at least one with --raw PATH")
    found = [Path(path) for path in paths]
    for path in found:
        if not path.exists():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"there is no file '{path}'{nearest(path.name, siblings)}")
        if not path.is_file() and not path.is_dir():
            raise UserError(f"'{path}' is a pipe or a device, which cannot be read twice; save it to a file first")
    seen: dict[tuple[int, str], Path] = {}
    for path in found:
        same_size = sum(other.stat().st_size == path.stat().st_size for other in found) > 1
        key = (path.stat().st_size, sha256_of(path) if same_size and path.is_file() else str(path.resolve()))
        if key in seen:
            raise UserError(f"'{path}' has the same content as '{seen[key]}': give each file once")
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
    """Return ``(file, member of the zip or None)`` for a file, a folder or a zip that holds one of ``names``.

    Without ``names``: the file itself, or the only one of a zip.
    """
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
    files = [name for name in members if not re.search(r"/$|^__MACOSX/|(^|/)\.", name)]  # what a Mac packs beside them
    if not names and len(files) == 1:
        return path, files[0]
    raise UserError(
        f"the zip '{path}' does not hold {' or '.join(names) or f'one file but {len(files)}: unpack it first'}"
    )


@contextmanager
def open_bytes(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """Open a plain file, a gzip file or a zip member for reading bytes; the magic bytes decide, not the name."""
    if member is not None:
        with zipfile.ZipFile(path) as archive, archive.open(member) as handle:
            inside = archive.getinfo(member)
            _check_unpacked(path, inside.file_size, inside.compress_size)
            yield handle
        return
    with open(path, "rb") as handle:
        magic = handle.read(2)
    if magic == GZIP_MAGIC:
        with gzip.open(path, "rb") as packed:
            yield cast(IO[bytes], _Unpacked(packed, path))
        return
    if path.suffix == ".gz":
        raise UserError(f"'{path}' is named .gz but is no gzip file; download it again or take '.gz' off its name")
    with open(path, "rb") as handle:
        yield handle


class _Unpacked:
    """Bytes of a packed file that does not say how long it is; refused once they are too many."""

    def __init__(self, handle: Any, path: Path) -> None:
        self._handle, self._path, self._packed, self._read = handle, path, path.stat().st_size, 0

    def read(self, size: int) -> bytes:
        """As a file's ``read``; raises UserError at the limit."""
        data: bytes = self._handle.read(size)
        self._read += len(data)
        _check_unpacked(self._path, self._read, self._packed)
        return data


def _check_unpacked(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > max(SMALL_BYTES, MOST_TIMES * packed):
        raise UserError(
            f"'{path}' unpacks to more than {MOST_TIMES} times its {packed / 1e6:.1f} MB, which no log does; where "
            "that is right, unpack it and name the unpacked file"
        )


def text_blocks(
    path: Path,
    names: Sequence[str] = (),
    quoted: str = "",
    block_bytes: int | None = None,
    encoding: str | None = None,
) -> Iterator[Block]:
    """Yield the file's text as blocks of whole lines, each checked to be UTF-8; a byte order mark is taken off.

    ``quoted``, the delimiter of a file with quoted values, keeps lines together while one is open. ``encoding``: of
    the file, where it is not UTF-8; the blocks are UTF-8. Memory: about two blocks.
    Raises UserError for damage, truncation, another encoding, or a quote that is never closed.
    """
    real, member = find_file(path, names)
    source = f"{real}:{member}" if member else str(real)
    line = 1
    try:
        with open_bytes(real, member) as handle:
            text = handle if encoding is None else Recoded(handle, encoding, source)
            for data in _whole_lines(text, source, quoted, block_bytes or BLOCK_BYTES):
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


class Recoded:
    """Bytes of a file in another encoding, read as UTF-8."""

    def __init__(self, handle: IO[bytes], encoding: str, source: str) -> None:
        try:
            self._decoder = codecs.getincrementaldecoder(encoding)()
        except LookupError:
            known = ("latin-1", "cp1252", "gb18030", "shift_jis", "utf-16", "utf-8")
            raise UserError(f"--encoding {encoding} is not known{nearest(encoding, known)}") from None
        self._handle, self._encoding, self._source, self._line = handle, encoding, source, 1

    def read(self, size: int) -> bytes:
        """As a file's ``read``; raises UserError where the bytes are not of the encoding."""
        while data := self._handle.read(size):
            try:
                text = self._decoder.decode(data)
            except UnicodeDecodeError as fault:
                line = self._line + data.count(b"\n", 0, fault.start)
                raise UserError(f"{self._source} line {line}: not {self._encoding} text") from None
            self._line += text.count("\n")
            if text:
                return text.encode()
        return b""


def _whole_lines(handle: Any, source: str, quoted: str, block_bytes: int) -> Iterator[bytes]:
    rest, line = b"", 1
    while piece := handle.read(block_bytes):
        piece = rest + piece
        end = piece.rfind(b"\n") + 1
        if end == 0 and len(piece) > 4 * block_bytes:
            raise UserError(f"{source} line {line} is longer than {len(piece) >> 20} MiB: this is no text table")
        if quoted:
            end = _before_open_quote(piece, end, source, line, quoted)
        rest = piece[end:]
        if end:
            yield piece[:end]
            line += piece.count(b"\n", 0, end)
    opened = open_at_end(rest, quoted) if quoted else None
    if opened is not None:
        raise _unclosed(source, line, rest, opened)
    if rest:
        yield rest


def _before_open_quote(piece: bytes, end: int, source: str, line: int, delimiter: str) -> int:
    """Move ``end`` back to a line start that is outside every quoted value."""
    whole = end
    while b'"' in piece and (opened := open_at_end(piece[:end], delimiter)) is not None:
        if whole - opened > QUOTE_REACH:
            raise _unclosed(source, line, piece, opened)
        end = piece.rfind(b"\n", 0, opened) + 1  # which may lie in a value that began earlier
    return end


def _unclosed(source: str, line: int, data: bytes, at: int) -> UserError:
    number = line + data.count(b"\n", 0, at)
    return UserError(
        f"{source} line {number}: a double quote is opened and never closed; close it, or say --quote none where "
        "quotes are ordinary characters"
    )


def _without_mark(data: bytes, source: str) -> bytes:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{source} line 1 starts with a UTF-16 byte order mark: say --encoding utf-16")
    return data.removeprefix(BYTE_ORDER_MARK)


def _check_utf8(block: Block) -> None:
    try:
        block.data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = block.first_line + block.data.count(b"\n", 0, fault.start)
        place = fault.start - block.data.rfind(b"\n", 0, fault.start)
        raise UserError(
            f"{block.source} line {line}, byte {place} of the line: not UTF-8 text; say --encoding, "
            "as latin-1, cp1252 or gb18030"
        ) from None
