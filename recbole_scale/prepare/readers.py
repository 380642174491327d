"""One reader a published format, each from raw files to a checked :class:`Interactions`; nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_scale.errors import UserError, nearest
from recbole_scale.prepare.columns import WHERE, Interactions, LogBuilder, Problems
from recbole_scale.prepare.delimited import Layout, read_delimited
from recbole_scale.prepare.json_lines import read_json_lines
from recbole_scale.prepare.sequences import read_sequences
from recbole_scale.prepare.sources import check_raw_paths, text_blocks

GROUPLENS_RESEARCH = "research use; no redistribution and no commercial use without permission (GroupLens README)"
GROUPLENS_SHARE = (
    "research use; redistribution under the same conditions; no commercial use without permission (GroupLens README)"
)
AMAZON_TERMS = "no formal licence stated by the publisher; citation is asked for"
ORDER = "order"  # --time order: no time but the order of the rows
OWN_LOG = "the user's own log"


@dataclass(frozen=True)
class Options:
    """What the user says about their own files: role -> column (user, item, time, rating, domain), and how to split.

    ``bad_rows``: "error" stops at the first bad row, "drop" leaves bad rows out and counts them.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    header: bool = True
    user_column: bool = True
    time_unit: str = "auto"
    bad_rows: str = "error"
    quote: bool = True
    encoding: str | None = None
    time_format: str | None = None
    id_quotes: str = "refuse"
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def read(self) -> dict[str, str]:
        """Every column that is read, by role: those of the log, and those that only choose rows."""
        chosen = {WHERE + name: name for name in self.where}
        return {**{role: name for role, name in self.columns.items() if (role, name) != ("time", ORDER)}, **chosen}


@dataclass(frozen=True)
class FileRead:
    """What one raw file gave: its path as the user wrote it, the rows in it, and its domain ('' when it has none)."""

    path: str
    rows: int
    domain: str = ""


@dataclass(frozen=True)
class Raw:
    """A read log with its account: interactions, files, and the dropped rows by reason."""

    log: Interactions
    files: list[FileRead]
    dropped: dict[str, int]
    replaced: int = 0  # ids whose double quotes became INSTEAD_OF_QUOTE


Reader = Callable[[Path, LogBuilder, Options], None]


@dataclass(frozen=True)
class Format:
    """A published format: its reader, the roles it fills, where it comes from and on what terms."""

    name: str
    read: Reader
    roles: tuple[str, ...] = ("user", "item", "time", "rating")
    publisher: str = ""
    licence: str = OWN_LOG
    domains: bool = False  # one file a domain, told by the file's name
    own_columns: bool = False  # do --user, --item, --time ... apply?


INTER_FIELDS = {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating", "domain": "domain"}


def _movielens(names: Sequence[str], layout: Layout) -> Reader:
    def read(path: Path, builder: LogBuilder, options: Options) -> None:
        read_delimited(path, names, layout, builder)

    return read


CSV_RATINGS = Layout(",", names={"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"})
DOUBLE_COLON = Layout("::", order=("user", "item", "rating", "time"))
TABS = Layout("\t", order=("user", "item", "rating", "time"))
AMAZON_FIELDS = {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}
AMAZON_2023 = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}


def _amazon(csv_layout: Layout, fields: Mapping[str, str]) -> Reader:
    def read(path: Path, builder: LogBuilder, options: Options) -> None:
        first = next(text_blocks(path), None)
        is_json = first is not None and first.data.lstrip().startswith(b"{")
        if is_json or ".json" in path.name:
            read_json_lines(path, fields, builder)
        else:
            read_delimited(path, (), csv_layout, builder)

    return read


def _read_csv(path: Path, builder: LogBuilder, options: Options) -> None:
    layout = Layout(
        options.delimiter, names=options.read, header=options.header, quoted=options.quote, encoding=options.encoding
    )
    read_delimited(path, (), layout, builder)


def _read_jsonl(path: Path, builder: LogBuilder, options: Options) -> None:
    read_json_lines(path, options.read, builder, options.encoding)


def _read_inter(path: Path, builder: LogBuilder, options: Options) -> None:
    """An atomic file: tab-separated, header ``field:type``; no quoting, as RecBole's own files have none."""
    names = {**INTER_FIELDS, **options.columns}
    chosen = {role: name for role, name in options.read.items() if role.startswith(WHERE)}
    layout = Layout(
        "\t", names={**{role: names[role] for role in builder.roles}, **chosen}, typed=True, encoding=options.encoding
    )
    read_delimited(path, (), layout, builder)


def _read_parquet(path: Path, builder: LogBuilder, options: Options) -> None:
    """Columns by name; ids may be texts or integers; time integers, floats, texts or timestamps."""
    try:
        with pq.ParquetFile(path) as file:
            have = [name for name in file.schema_arrow.names if isinstance(name, str)]
            for role, name in options.read.items():
                if have.count(name) != 1:
                    why = "twice" if have.count(name) else "no"
                    raise UserError(f"'{path}' has {why} column '{name}' for --{role}{nearest(name, have)}")
            done = 0
            for batch in file.iter_batches(batch_size=1 << 20, columns=list(dict.fromkeys(options.read.values()))):
                columns = {role: _as_text(batch.column(name), path, name, role) for role, name in options.read.items()}
                builder.add(str(path), columns, partial(_nth_row, done), options.read)
                done += len(batch)
            if done != file.metadata.num_rows:
                raise UserError(f"'{path}' promises {file.metadata.num_rows} rows and holds {done}: it is damaged")
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, OverflowError) as fault:
        first = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise UserError(f"'{path}' cannot be read as parquet: {first}") from fault


def _nth_row(done: int, row: int) -> str:
    return f"row {done + row + 1}"


def _as_text(array: Any, path: Path, name: str, role: str) -> Any:
    """Texts and integers stay exact; a timestamp becomes its own text; anything else is refused.

    Whole numbers may be floats, as pandas writes them where one of a column is missing.
    """
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_floating(array.type) and role not in ("time", "rating"):
        with suppress(pa.ArrowInvalid):  # has fractions
            array = pc.if_else(pc.is_nan(array), None, array).cast(pa.int64())
    if role.startswith(WHERE) and (pa.types.is_boolean(array.type) or pa.types.is_floating(array.type)):
        return array.cast(pa.string())
    if role == "time" and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        array = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)))
    elif not (
        pa.types.is_integer(array.type)
        or pa.types.is_string(array.type)
        or pa.types.is_large_string(array.type)
        or (pa.types.is_floating(array.type) and role in ("time", "rating"))
    ):
        what = f"numbers with fractions ({array.type})" if pa.types.is_floating(array.type) else str(array.type)
        raise UserError(f"'{path}' column '{name}' is {what}, which cannot be a {role}: make it text or integer")
    return array.cast(pa.string())


def _read_sequences(path: Path, builder: LogBuilder, options: Options) -> None:
    read_sequences(path, options.delimiter, options.user_column, builder, options.encoding)


GROUPLENS = "https://grouplens.org/datasets/movielens/"
FORMATS = {
    entry.name: entry
    for entry in (
        Format("ml-100k", _movielens(("u.data",), TABS), publisher=GROUPLENS, licence=GROUPLENS_RESEARCH),
        Format("ml-1m", _movielens(("ratings.dat",), DOUBLE_COLON), publisher=GROUPLENS, licence=GROUPLENS_RESEARCH),
        Format("ml-10m", _movielens(("ratings.dat",), DOUBLE_COLON), publisher=GROUPLENS, licence=GROUPLENS_SHARE),
        *(
            Format(name, _movielens(("ratings.csv",), CSV_RATINGS), publisher=GROUPLENS, licence=GROUPLENS_SHARE)
            for name in ("ml-20m", "ml-25m", "ml-32m")
        ),
        Format(
            "amazon-2014",
            _amazon(Layout(",", order=("user", "item", "rating", "time")), AMAZON_FIELDS),
            publisher="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
            licence=AMAZON_TERMS,
            domains=True,
        ),
        Format(
            "amazon-2018",
            # the ratings-only files of 2018 name the item before the user
            _amazon(Layout(",", order=("item", "user", "rating", "time")), AMAZON_FIELDS),
            publisher="https://nijianmo.github.io/amazon/",
            licence=AMAZON_TERMS,
            domains=True,
        ),
        Format(
            "amazon-2023",
            _amazon(Layout(",", names=AMAZON_2023), AMAZON_2023),
            publisher="https://amazon-reviews-2023.github.io/",
            licence=AMAZON_TERMS,
            domains=True,
        ),
        Format("csv", _read_csv, own_columns=True),
        Format("jsonl", _read_jsonl, own_columns=True),
        Format("parquet", _read_parquet, own_columns=True),
        Format("inter", _read_inter, own_columns=True),
        Format("sequences", _read_sequences, roles=("user", "item", "time")),
    )
}


def _optional_fields(path: Path, options: Options) -> list[str]:
    """Return the roles rating and domain when an atomic file's header has them or the user asks for them."""
    first = next(text_blocks(path, encoding=options.encoding), None)
    header = first.data.splitlines()[0].decode("utf-8") if first else ""
    fields = [name.split(":")[0] for name in header.split("\t")]
    return [role for role in ("rating", "domain") if role in options.columns or INTER_FIELDS[role] in fields]


def domain_of(path: Path) -> str:
    """Return the domain an Amazon file's name tells: ``reviews_Books_5.json.gz`` is ``Books``."""
    name = re.sub(r"(\.(gz|zip|csv|json|jsonl))+$", "", path.name)
    return re.sub(r"^(reviews|ratings)_|_5$", "", name)


def read_raw(format_name: str, paths: Sequence[str | Path], options: Options | None = None) -> Raw:
    """Read raw files of one published format into one log, in the order given.

    Raises UserError: unknown format, missing or repeated file, two files of one domain, a file with no rows, and
    every fault inside a file with its line and column. Memory: about 26 bytes a row, and the distinct ids.
    """
    options = options or Options()
    if format_name not in FORMATS:
        raise UserError(
            f"there is no format '{format_name}'{nearest(format_name, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    entry = FORMATS[format_name]
    found = check_raw_paths(paths)
    roles = [r for r in options.columns if r in options.read] if entry.own_columns else list(entry.roles)
    if format_name == "inter":
        roles = list(dict.fromkeys(["user", "item", "time", *_optional_fields(found[0], options)]))
        roles = [role for role in roles if role != "time" or options.columns.get("time") != ORDER]
    builder = LogBuilder(
        [*roles, "domain"] if entry.domains else roles, Problems(options.bad_rows == "drop"), options.time_unit,
        options.time_format, options.where, options.id_quotes == "replace",
    )  # fmt: skip
    files: list[FileRead] = []
    for path in found:
        before = builder.rows_read
        builder.domain = domain_of(path) if entry.domains else ""
        twin = next((file.path for file in files if file.domain and file.domain == builder.domain), None)
        if twin:
            raise UserError(f"'{path}' and '{twin}' both name the domain '{builder.domain}': give each domain once")
        entry.read(path, builder, options)
        if builder.rows_read == before:
            raise UserError(f"'{path}' holds no rows of format {format_name}")
        files.append(FileRead(str(path), builder.rows_read - before, builder.domain))
    return Raw(builder.finish(), files, dict(builder.problems.dropped), builder.replaced)
