"""Checked columns of an interaction log: ids as small integer codes over a table of texts, times as exact integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_scale.data.coded import Coded
from recbole_scale.errors import UserError
from recbole_scale.prepare.options import INSTEAD_OF_QUOTE
from recbole_scale.prepare.times import TimeColumn, parse_numbers

WHERE = "where "  # before the name of a column that only chooses rows
FAULT = "fault "  # before the name of an id's role: a column of what is wrong with its values, null where nothing is
Locate = Callable[[int], str]  # row of the batch -> "line 7" (or "row 7" where a format has no lines)

# what pandas, and so RecBole, reads back as "missing", and the name RecBole keeps for padding
RESERVED_IDS = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]"),
)
# control characters (tab, line ends) and the byte order mark break the atomic file
UNSAFE_ID = "[\\x00-\\x1f\\x7f\\x{feff}\\x{85}\\x{2028}\\x{2029}]|^[\\s\\p{Z}]|[\\s\\p{Z}]$"


@dataclass(frozen=True)
class Interactions:
    """A log: ``time`` [rows] int64 in ``unit`` (s, ms, us, ns), and coded columns user, item, maybe rating, domain."""

    time: np.ndarray
    unit: str
    columns: dict[str, Coded]

    def __len__(self) -> int:
        return len(self.time)

    @property
    def user(self) -> np.ndarray:
        """User codes, [rows] int32."""
        return self.columns["user"].codes

    @property
    def item(self) -> np.ndarray:
        """Item codes, [rows] int32."""
        return self.columns["item"].codes

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the log at ``rows`` (indices or a mask)."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Interactions(self.time[rows], self.unit, columns)


@dataclass
class Problems:
    """What is done with a bad row: ``drop=False`` stops at the first; ``drop=True`` leaves it out and counts why."""

    drop: bool = False
    dropped: Counter[str] = field(default_factory=Counter)

    def meet(self, reason: str, rows: int, place: Callable[[], str]) -> None:
        """Count ``rows`` dropped rows, or raise UserError with the place of the first and the reason."""
        if not self.drop:
            raise UserError(f"{place()}: {reason} (--bad_rows drop leaves such rows out and counts them)")
        self.dropped[reason] += rows


class Coder:
    """Turns batches of texts into one :class:`Coded` column; memory is O(rows x 4 bytes + distinct texts)."""

    def __init__(self) -> None:
        self._known = pa.array([], pa.string())
        self._pending: list[pa.DictionaryArray] = []
        self._codes: list[np.ndarray] = []

    def append(self, batch: pa.DictionaryArray) -> None:
        """Add one batch; its dictionary is merged once the waiting ones outweigh what is known."""
        self._pending.append(batch)
        if sum(len(part.dictionary) for part in self._pending) > max(len(self._known), 1 << 20):
            self._merge()

    def _merge(self) -> None:
        empty = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._known)
        # the known texts come first, so that codes given out earlier stay true
        merged = pa.chunked_array([empty, *self._pending]).unify_dictionaries()
        self._codes += [chunk.indices.to_numpy(zero_copy_only=False) for chunk in merged.chunks[1:]]
        self._known = merged.chunk(0).dictionary
        self._pending = []

    def finish(self) -> Coded:
        """Return the whole column."""
        self._merge()
        codes = np.concatenate([np.empty(0, np.int32), *self._codes])
        return Coded(codes.astype(np.int32, copy=False), self._known)


class LogBuilder:
    """Collects batches of raw text columns into :class:`Interactions`, checking every id, time and rating.

    ``roles``: the columns of the log, of user, item, time, rating, domain. Bad rows go to ``problems``.
    """

    def __init__(
        self,
        roles: list[str],
        problems: Problems,
        time_unit: str = "auto",
        time_format: str | None = None,
        where: Mapping[str, Sequence[str]] | None = None,
        replace_quotes: bool = False,
    ) -> None:
        self.problems = problems
        self.roles = tuple(roles)
        self.rows_read = 0
        self.domain = ""  # when set: the domain of every row added from here on
        self.replaced = 0  # ids in which a double quote became INSTEAD_OF_QUOTE, known at the end
        self._quotes: dict[str, set[str]] = {}
        self._where, self._replace_quotes = where or {}, replace_quotes
        self._coders = {role: Coder() for role in roles if role != "time"}
        self._time = TimeColumn(time_unit, time_format)

    def add(
        self, source: str, batch: Mapping[str, Any], locate: Locate, names: Mapping[str, str], header: bool = True
    ) -> None:
        """Add one batch: role -> array of texts (pyarrow), or of int64 for time; all of one length.

        ``locate`` tells where a row is, ``names`` what the file calls a column, in its ``header`` or by number. Raises
        UserError for a bad row unless bad rows are dropped.
        """
        batch, locate = self._chosen(batch, locate)
        rows = len(batch["user"])
        if "time" not in batch:  # the order of the rows
            batch = {**batch, "time": pa.array(np.arange(self.rows_read + 1, self.rows_read + rows + 1))}
        if self.domain:
            zeros = pa.array(np.zeros(rows, dtype=np.int32))
            batch = {**batch, "domain": pa.DictionaryArray.from_arrays(zeros, pa.array([self.domain]))}
        coded = {role: self._without_quotes(role, _as_dictionary(batch[role])) for role in self._coders}
        self.rows_read += rows
        keep = np.ones(rows, dtype=bool)

        def check(role: str, bad: np.ndarray, reason: str, texts: Any = None) -> None:
            bad = bad & keep
            if not bad.any():
                return
            first = int(bad.argmax())
            if texts is not None and not self.problems.drop:  # dropped rows are counted under the bare reason
                reason = f"{str(texts[first].as_py())[:40]!r} {reason}"
            where = f"{source} {{}}, column '{names.get(role, role)}'"
            self.problems.meet(reason, int(bad.sum()), lambda: where.format(locate(first)))
            keep[bad] = False

        repeated = _repeats_header(coded, names) if header else None
        if repeated is not None:
            check("user", repeated, "the header line is repeated; take it out")
        for role, column in coded.items():
            for reason, bad in _told(batch.get(FAULT + role)):
                check(role, bad, reason, column)
            for reason, bad in _bad_ratings(column) if role == "rating" else _bad_ids(column):
                check(role, bad, reason, column)
        values, bad_times = self._time.parse(batch["time"], keep)
        for reason, bad in self._time.reasons(batch["time"], bad_times & keep):
            check("time", bad, reason, batch["time"])
        for role, column in coded.items():
            self._coders[role].append(column if keep.all() else column.filter(pa.array(keep)))
        self._time.append(values if keep.all() else values[keep], source)

    def _chosen(self, batch: Mapping[str, Any], locate: Locate) -> tuple[Mapping[str, Any], Locate]:
        """The rows that ``where`` keeps, without the columns that are only asked for it."""
        for column, values in self._where.items():
            texts = batch[WHERE + column]
            texts = texts.cast(pa.string()) if not pa.types.is_string(texts.type) else texts
            keep = pc.fill_null(pc.is_in(texts, value_set=pa.array(list(values))), False)
            rows = np.flatnonzero(keep.to_numpy(zero_copy_only=False))
            left = len(texts) - len(rows)
            if left:
                self.rows_read += left
                self.problems.dropped[f"{column} is not {' or '.join(values)}"] += left
                batch = {role: array.take(pa.array(rows)) for role, array in batch.items()}
                locate = partial(_at, locate, rows)
        return {role: array for role, array in batch.items() if not role.startswith(WHERE)}, locate

    def _without_quotes(self, role: str, column: pa.DictionaryArray) -> pa.DictionaryArray:
        """A double quote in an id, which RecBole's own reader takes for one around a value, becomes another sign."""
        if role == "rating" or not self._replace_quotes:
            return column
        seen = self._quotes.setdefault(role, set())
        seen |= {
            sign for sign in ('"', INSTEAD_OF_QUOTE) if pc.any(pc.match_substring(column.dictionary, sign)).as_py()
        }
        if len(seen) == 2:
            raise UserError(
                f"ids of {role} hold both double quotes and {INSTEAD_OF_QUOTE}, which stands for them in an atomic "
                "file; replace one of the two"
            )
        if '"' not in seen:
            return column
        texts = pc.replace_substring(column.dictionary, '"', INSTEAD_OF_QUOTE)
        return pa.DictionaryArray.from_arrays(column.indices, texts)

    def finish(self) -> Interactions:
        """Return the log; raises UserError when files disagree about the unit of time."""
        time, unit = self._time.finish()
        columns = {role: coder.finish() for role, coder in self._coders.items()}
        for role in (role for role, seen in self._quotes.items() if '"' in seen):
            self.replaced += int(pc.sum(pc.match_substring(columns[role].texts, INSTEAD_OF_QUOTE)).as_py() or 0)
        return Interactions(time, unit if "time" in self.roles else "order", columns)


def _at(locate: Locate, rows: np.ndarray, row: int) -> str:
    return locate(int(rows[row]))


def _as_dictionary(array: Any) -> pa.DictionaryArray:
    """Dictionary-encode a pyarrow array; a null becomes the empty text, which the checks refuse."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    if array.null_count:
        array = pc.fill_null(array.cast(pa.string()), "").dictionary_encode()
    return array


def _rows_with(column: pa.DictionaryArray, bad_texts: pa.Array) -> np.ndarray | None:
    bad = np.asarray(bad_texts.to_numpy(zero_copy_only=False), dtype=bool)
    return bad[column.indices.to_numpy(zero_copy_only=False)] if bad.any() else None


def _bad_ids(column: pa.DictionaryArray) -> list[tuple[str, np.ndarray]]:
    """Return (reason, rows) for ids that cannot stand in an atomic file; looks at distinct texts only."""
    texts = column.dictionary
    checks = [
        ("is empty or absent", pc.equal(texts, "")),
        ("reads back as missing in RecBole; rename it", pc.is_in(texts, value_set=pa.array(RESERVED_IDS))),
        (
            "holds a tab, a line end or a space at its edge, which break an atomic file",
            pc.match_substring_regex(texts, UNSAFE_ID),
        ),
        (
            f"holds a double quote, which breaks an atomic file; --id_quotes replace writes {INSTEAD_OF_QUOTE} for it",
            pc.match_substring(texts, '"'),
        ),
    ]
    found = [(reason, _rows_with(column, bad)) for reason, bad in checks]
    return [(reason, rows) for reason, rows in found if rows is not None]


def _told(faults: Any) -> list[tuple[str, np.ndarray]]:
    """Return (reason, rows) of the faults that a reader has found."""
    if faults is None or faults.null_count == len(faults):
        return []
    column = faults.dictionary_encode()
    codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
    return [(reason, codes == number) for number, reason in enumerate(column.dictionary.to_pylist())]


def _bad_ratings(column: pa.DictionaryArray) -> list[tuple[str, np.ndarray]]:
    _, bad = parse_numbers(column.dictionary)
    rows = _rows_with(column, pa.array(bad))
    return [] if rows is None else [("is not a number", rows)]


def _repeats_header(coded: Mapping[str, pa.DictionaryArray], names: Mapping[str, str]) -> np.ndarray | None:
    """Return the rows in which user and item are the columns' own names, or None when there are none."""
    masks = [
        _rows_with(coded[role], pc.equal(coded[role].dictionary, names.get(role, role))) for role in ("user", "item")
    ]
    return None if masks[0] is None or masks[1] is None else masks[0] & masks[1]
