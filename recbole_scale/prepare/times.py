"""Times as exact integers: epoch seconds to nanoseconds, decimals and ISO text, never through a float."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_scale.data.time_units import UNITS, mixed_units, unit_of
from recbole_scale.errors import UserError

MICRO = 10**6
LARGEST = np.iinfo(np.int64).max
INTEGER = r"^\d{1,18}$"
DECIMAL = r"^\d{1,12}\.\d{1,6}$"
# forms of times that are proposed where a time has one of them
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%d.%m.%Y", "%d.%m.%y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M")
_MAILS = ("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S %Z")
FORMS = [*(day + clock for day in (*_DAYS, "%d %b %Y", "%b %d, %Y") for clock in _CLOCKS), *_MAILS]
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
NUMBER_PATTERN = re.compile(NUMBER + r"\Z", re.ASCII)
ZONE = r"\s?(Z|UTC|[+-]\d{2}:?\d{2})$"
ISO = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?" + ZONE.replace("$", "?$")


def parse_numbers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (float64 values, mask of texts that are no finite number); bad entries are 0."""
    fits = pc.fill_null(pc.match_substring_regex(texts, NUMBER), False).to_numpy(zero_copy_only=False)
    unsigned = pc.replace_substring_regex(texts, r"^\+", "")  # pyarrow reads no plus sign
    values = pc.if_else(pa.array(fits), unsigned, "0").cast(pa.float64()).to_numpy(zero_copy_only=False)
    bad = ~(fits & np.isfinite(values))
    return np.where(bad, 0.0, values), bad


def _fits(text: str, form: str) -> bool:
    try:
        return bool(datetime.strptime(text, form))
    except ValueError:
        return False


class TimeColumn:
    """Collects times batch by batch. ``unit``: auto, s, ms, us or ns, for numbers; ISO text (UTC unless it says
    otherwise) needs none. A column is all numbers or all ISO text, with a zone or without: what comes first decides."""

    def __init__(self, unit: str = "auto", form: str | None = None) -> None:
        self.unit, self.form = unit, form
        self.kind: str | None = None  # "number" or "iso"
        self._zoned: bool | None = None  # does ISO text name its time zone?
        self._parts: list[np.ndarray] = []
        self._micro: list[bool] = []  # is the part in millionths of the file's unit?
        self._largest: dict[str, int] = {}  # source -> its largest time, in the file's own unit
        self._last_micro = False

    def parse(self, array: Any, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (int64 values, mask of bad rows) for one batch of texts or integers; rows not ``wanted`` are 0."""
        self._last_micro = False
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if self.form is not None:
            return self._parse_form(array, self.form, wanted)
        if not pa.types.is_string(array.type):
            self.kind = self.kind or "number"
            values = pc.fill_null(array.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
            return values, (values < 0) & wanted
        plain = False
        if self.kind != "iso":
            with suppress(pa.ArrowInvalid):
                values = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
                # pyarrow reads '0x10' as sixteen; a time is never written so
                plain = not array.null_count and not pc.any(pc.match_substring(array, "x", ignore_case=True)).as_py()
        if plain:
            self.kind = "number"
            return values, (values < 0) & wanted
        array = pc.if_else(pa.array(wanted), pc.utf8_trim_whitespace(pc.fill_null(array, "")), "0")
        if self.kind is None:
            is_iso = pc.sum(pc.match_substring_regex(array, ISO)).as_py() or 0
            is_number = pc.sum(pc.match_substring_regex(pc.filter(array, pa.array(wanted)), NUMBER)).as_py() or 0
            self.kind = "iso" if is_iso > is_number else "number"
        values, bad = self._parse_iso(array) if self.kind == "iso" else self._parse_decimals(array)
        return np.where(wanted, values, 0), bad & wanted

    def reasons(self, array: Any, bad: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Split a mask of bad rows by reason; the first reason is that of the first bad row."""
        found: dict[str, list[int]] = {}
        for row in np.flatnonzero(bad):
            found.setdefault(self._why_bad(array[int(row)].as_py()), []).append(int(row))
        return [(reason, np.bincount(rows, minlength=len(bad)) > 0) for reason, rows in found.items()]

    def _parse_form(self, array: Any, form: str, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epoch microseconds of texts written as ``form`` says (Python's ``strftime``), UTC where it has no zone."""
        self.kind, self._last_micro = "iso", True
        column = array.cast(pa.string()).dictionary_encode()
        try:
            texts = pd.Series(column.dictionary.to_pylist(), dtype=object).str.strip()
            stamps = pd.to_datetime(texts, format=form, utc=True, errors="coerce")
        except (ValueError, re.error) as fault:
            raise UserError(f"--time_format '{form}' is no format of times: {fault}") from fault
        known = stamps.dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)
        bad = stamps.isna().to_numpy() | (known < 0)
        codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
        values, faults = np.append(np.where(bad, 0, known), 0)[codes], np.append(bad, True)[codes]
        return np.where(wanted, values, 0), faults & wanted

    def _why_bad(self, value: Any) -> str:
        text = str(value).strip()
        if value is None or not text:
            return "is empty where a time is needed"
        if self.form is not None and not text.startswith("-"):
            return f"is not a time of --time_format '{self.form}'"
        if text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
            return "is not a time (it is no finite number)"
        if text.startswith("-"):
            return "is a negative time; times count from 1970 and up"
        if self.kind == "iso" and re.match(ISO, text):
            return (
                "names a time zone, as the first time does not"
                if re.search(ZONE, text)
                else ("names no time zone, as the first time does")
            )
        if self.kind == "iso":
            return "is not a time like the others, which are ISO text (2020-01-31T12:00:00)"
        forms = [form for form in FORMS if _fits(text, form)]
        form = f" {' or '.join(map(repr, forms))}" if forms else ""
        return f"is not a time: give epoch seconds, milliseconds or ISO text, or say --time_format{form}"

    def append(self, values: np.ndarray, source: str) -> None:
        """Add one parsed batch of ``source`` (values as :meth:`parse` returned them, bad rows taken out)."""
        self._parts.append(values)
        self._micro.append(self._last_micro)
        if len(values) and self.kind == "number":
            largest = int(values.max()) // (MICRO if self._last_micro else 1)
            self._largest[source] = max(self._largest.get(source, 0), largest)

    def finish(self) -> tuple[np.ndarray, str]:
        """Return (times [rows] int64, unit): the file's own unit, or the coarsest that holds every fraction exactly."""
        micro = any(self._micro)
        unit = "s" if self.kind == "iso" else self._number_unit()
        if micro and unit in ("us", "ns"):
            raise UserError(f"times in {unit} have fractions: that is finer than a nanosecond; give whole numbers")
        for index, part in enumerate(self._parts):
            if micro and not self._micro[index]:
                if len(part) and int(part.max()) > LARGEST // MICRO:
                    raise UserError("times with fractions stand beside times too large to share their unit")
                self._parts[index] = part * MICRO
        time = np.concatenate([np.empty(0, np.int64), *self._parts])
        if self.kind == "number" and self.unit == "auto" and (mixed := mixed_units(time / MICRO if micro else time)):
            one, first, other, second = mixed
            raise UserError(
                f"times are in two units, {first:.0f} looks like {one} and {second:.0f} like {other}; convert one, "
                "or say --time_unit if both are of one unit"
            )
        if micro:
            unit = UNITS[UNITS.index(unit) + 2]
            while unit != "s" and not (time % 1000).any():
                time, unit = time // 1000, UNITS[UNITS.index(unit) - 1]
        return time, unit

    def _number_unit(self) -> str:
        if self.unit != "auto":
            return self.unit
        guesses = {source: unit_of(largest) for source, largest in self._largest.items()}
        by_unit = {unit: source for source, unit in guesses.items()}
        if len(by_unit) > 1:
            (one, first), (other, second) = sorted(by_unit.items())[:2]
            raise UserError(
                f"times in '{first}' look like {one} and those in '{second}' like {other}; "
                "convert one, or say --time_unit if the guess is wrong"
            )
        return next(iter(by_unit), "s")

    def _parse_iso(self, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Epoch microseconds; what pandas cannot read, or lies before 1970, is bad."""
        self._last_micro = True
        fits = pc.match_substring_regex(array, ISO).to_numpy(zero_copy_only=False)
        zoned = pc.match_substring_regex(array, ZONE).to_numpy(zero_copy_only=False)
        if self._zoned is None and fits.any():
            self._zoned = bool(zoned[fits.argmax()])
        fits = fits & (zoned == self._zoned)
        array = pc.replace_substring_regex(array, r"\s?UTC$", "Z")
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):  # no text, or each text, names its zone
            with suppress(pa.ArrowInvalid):
                values = array.cast(kind).cast(pa.int64()).to_numpy(zero_copy_only=False)
                bad = ~fits | (values < 0)
                return np.where(bad, 0, values), bad
        # a fault: one at a time
        stamps = pd.to_datetime(array.to_pandas().where(fits), format="ISO8601", utc=True, errors="coerce")
        values = stamps.dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)
        bad = stamps.isna().to_numpy() | (values < 0)
        return np.where(bad, 0, values), bad

    def _parse_decimals(self, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Millionths of the file's unit: integers and short decimals in C++, the rest one distinct text at a time."""
        self._last_micro = True
        integer = pc.match_substring_regex(array, INTEGER).to_numpy(zero_copy_only=False)
        decimal = pc.match_substring_regex(array, DECIMAL).to_numpy(zero_copy_only=False)
        whole = pc.if_else(pa.array(integer), array, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
        large = integer & (whole > LARGEST // MICRO)
        values = np.where(large, 0, whole) * MICRO
        if decimal.any():
            parts = pc.if_else(pa.array(decimal), array, "0.0").cast(pa.decimal128(18, 6))
            scaled = pc.multiply(parts, pa.scalar(Decimal(MICRO), pa.decimal128(7, 0)))
            values += pc.cast(scaled, pa.int64()).to_numpy(zero_copy_only=False)
        bad = ~(integer | decimal) | large
        rest = array.filter(pa.array(bad)).dictionary_encode()
        if len(rest):
            exact = [_exact_millionths(text) for text in rest.dictionary.to_pylist()]
            found = np.array([-1 if value is None else value for value in exact], dtype=np.int64)
            values[bad] = found[rest.indices.to_numpy(zero_copy_only=False)]
            bad[bad] = values[bad] < 0
        return np.where(bad, 0, values), bad


def _exact_millionths(text: str) -> int | None:
    """Return a number's millionths as an integer, or None when it is negative, too large, too fine or no number."""
    if not NUMBER_PATTERN.match(text):
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:  # an exponent that no number has
        return None
    exponent = value.as_tuple().exponent
    # the bounds keep Fraction small: '1e999999999' would fill the memory
    if value < 0 or value.adjusted() > 14 or not isinstance(exponent, int) or exponent < -60:
        return None
    scaled = Fraction(text) * MICRO
    return int(scaled) if scaled.denominator == 1 and scaled <= LARGEST else None
