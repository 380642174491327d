"""Units of epoch times (s, ms, us, ns): which one a number is of, mixtures of two, and dates as numbers."""

from __future__ import annotations

import re
from datetime import datetime, timezone

import numpy as np

from recbole_scale.errors import UserError

UNITS = ("s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# an epoch in seconds stays below 1e11 until the year 5138; one in milliseconds is above it since 1973
LIMITS = ((10**11, "s"), (10**14, "ms"), (10**17, "us"))
# seconds of 1980 and 2100: where the times of logs lie
EARLIEST, LATEST = 315_532_800, 4_102_444_800
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?(Z|[+-]\d{2}:\d{2})?")


def unit_of(largest: float) -> str:
    """Return the unit in which ``largest`` is an epoch of our days: s below 1e11, ms below 1e14, us below 1e17, ns."""
    return next((unit for limit, unit in LIMITS if largest < limit), "ns")


def mixed_units(times: np.ndarray) -> tuple[str, float, str, float] | None:
    """Two units whose epochs of 1980 to 2100 both occur among ``times`` [R], each with its smallest time.

    None where one unit explains every time; counts (1, 2, 3, ...) and times from 0 on are no mixture.
    """
    if not len(times):
        return None
    low, high = float(times.min()), float(times.max())
    if unit_of(high) == "s" or low >= EARLIEST * PER_SECOND[unit_of(high)]:
        return None
    found: list[tuple[str, float]] = []
    covered = 0
    for unit in UNITS:
        scale = PER_SECOND[unit]
        inside = (times >= EARLIEST * scale) & (times <= LATEST * scale)
        if inside.any():
            found.append((unit, float(times[inside].min())))
            covered += int(inside.sum())
    if len(found) < 2 or covered < int((times > 0).sum()):
        return None
    return (*found[0], *found[1])


def check_units(path: object, times: np.ndarray) -> None:
    """Refuse times of a file that are in two units: sorted as they are, one half would come before the other.

    Raises:
        UserError: naming both units and a time of each.
    """
    if mixed := mixed_units(times):
        one, first, other, second = mixed
        raise UserError(f"{path}: times are in two units, {first:.0f} looks like {one} and {second:.0f} like {other}")


def as_time(value: object, times: np.ndarray) -> float:
    """A time as a number in the unit of ``times`` [R]: a number as it is, a date (2014-01-31, UTC) converted.

    Raises:
        UserError: neither a number nor a date.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    try:
        if not ISO_DATE.fullmatch(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"'{text}' is no time: give a number in the unit of the data, or a date as 2014-01-31"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    unit = unit_of(float(times.max(initial=0)))
    return moment.timestamp() * PER_SECOND[unit]
