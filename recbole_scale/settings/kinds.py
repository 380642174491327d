"""What a value of a setting must be. Each kind reads a value into its own type or refuses it in one sentence."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_scale.errors import UserError, nearest, shown
from recbole_scale.settings.reading import parse_value

MOST = 10**12  # no setting that counts something needs more
LARGEST = 2.0**63  # no number of a setting is further from 0
DEEPEST, MOST_VALUES = 8, 10_000  # of lists and mappings in a setting without a kind of its own


class Refused(ValueError):
    """A value is not of a kind; the message, often empty, is what to try instead."""


@dataclass(frozen=True)
class Kind:
    """One kind of values.

    Attributes:
        must_be: ends the sentence "KEY is VALUE, but must be ...".
        type: RecBole's word for it, as its YAML comments write it: int, float, bool, str, list, dict.
        read: gives the value in its own type, or raises :class:`Refused`.
    """

    must_be: str
    type: str
    read: Callable[[Any], Any]

    def check(self, key: str, value: Any) -> Any:
        """``value`` of setting ``key``, in its own type.

        Raises:
            UserError: it is not of this kind.
        """
        try:
            return self.read(value)
        except Refused as hint:
            raise UserError(f"{key} is {shown(value)}, but must be {self.must_be}{hint}") from None


def _real(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise Refused  # NaN too
    return value


def whole(low: int = 1, high: int = MOST) -> Kind:
    """A whole number from ``low`` to ``high``; 1e3 is one."""

    def read(value: Any) -> int:
        number = _real(value)
        if int(number) != number or not low <= number <= high:
            raise Refused
        return int(number)

    return Kind(f"a whole number from {low}" + (f" to {high:,}" if high != MOST else ""), "int", read)


def number(low: float = -math.inf, high: float = math.inf, low_too: bool = True, high_too: bool = True) -> Kind:
    """A finite number from ``low`` to ``high``, each of them allowed itself or not."""

    def read(value: Any) -> float:
        found = float(_real(value))
        if not low <= found <= high or (found == low and not low_too) or (found == high and not high_too):
            raise Refused
        return found

    if math.isinf(low) and math.isinf(high):
        where = "a number"
    elif math.isinf(high):
        where = f"a number from {low:g}" if low_too else f"a number above {low:g}"
    else:
        left_out = [f"{edge:g}" for edge, too in ((low, low_too), (high, high_too)) if not too]
        where = f"a number from {low:g} to {high:g}" + (f" ({' and '.join(left_out)} excluded)" if left_out else "")
    return Kind(where, "float", read)


RATE = number(0, 1, high_too=False)  # a share that is dropped
POSITIVE = number(0, low_too=False)
NOT_NEGATIVE = number(0)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused
    return value


FLAG = Kind("True or False", "bool", _flag)


def choice(*names: str, any_case: bool = False) -> Kind:
    """One of some words; ``any_case``: letters of either case, read as lower ones."""

    def read(value: Any) -> str:
        word = value.lower() if any_case and isinstance(value, str) else value
        if not isinstance(word, str) or word not in names:
            raise Refused(nearest(value, names) if isinstance(value, str) else "")
        return word

    return Kind(f"one of {', '.join(names)}", "str", read)


def word(longest: int = 200, least: int = 1) -> Kind:
    """Text on one line; numbers are taken as they are written."""

    def read(value: Any) -> str:
        text = str(_real(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not least <= len(text) <= longest or not all(c.isprintable() for c in text):
            raise Refused
        return text

    return Kind(f"text of {least} to {longest} letters", "str", read)


def _path(value: Any) -> str:
    if not isinstance(value, str) and value is not None:
        raise Refused("; a name that reads as something else is written with its folder, as ./1")
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value.encode("utf-8", "replace")) > 4000:
        raise Refused
    return value


PATH = Kind("the path of a file or folder", "str", _path)


def _column(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable() or ":" in value:
        raise Refused
    return value


def matching(pattern: str, must_be: str) -> Kind:
    """Text of a form."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise Refused
        return value

    return Kind(must_be, "str", read)


def _encoding(value: Any) -> str:
    try:
        found = codecs.lookup(value)
        "".encode(found.name)  # not hex and other codecs that are of no text
        return found.name
    except (LookupError, TypeError, ValueError):
        raise Refused from None


METRIC = matching(r"[A-Za-z]\w{0,50}(@\d{1,9})?", "the name of a metric")
DEVICE = matching("cpu|cuda", "cpu or cuda (gpu_id says which)")
HOST = matching(r"[\w.:%\[\]-]{1,253}", "the name or address of a machine")
ENCODING = Kind("the name of an encoding, such as utf-8", "str", _encoding)
COLUMN = Kind("the name of a column", "str", _column)
COLUMN_PART = Kind("a part of a column's name, such as _list", "str", _column)


def separator(longest: int) -> Kind:
    """What stands between two values of a line."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= longest:
            raise Refused
        if set(value) & set("\n\r\0"):
            raise Refused
        return value

    return Kind("one character" if longest == 1 else f"one to {longest} characters on one line", "str", read)


def listed(value: Any) -> Any:
    """``5,10`` as the list that it is; anything else, such as the interval ``(,5]``, as it is."""
    if isinstance(value, str) and "," in value and not set("[](){}") & set(value):
        return [parse_value(one.strip()) for one in value.split(",")]
    return value


def listing(of: Kind, least: int = 1, most: int = 1000, lone: bool = False) -> Kind:
    """A list of values of one kind, in brackets or as ``5,10``; ``lone``: one value alone is taken for a list of it."""

    def read(value: Any) -> list[Any]:
        value = listed(value)
        values = list(value) if isinstance(value, list | tuple) else [value] if lone else None
        if values is None or not least <= len(values) <= most:
            raise Refused
        return [of.read(one) for one in values]

    return Kind(f"a list, each entry {of.must_be}", "list", read)


def mapping(values: Kind, keys: Kind | None = None, known: tuple[str, ...] = (), form: str = "") -> Kind:
    """Named values of one kind; ``known``: the only names there are; ``form``: an example for the sentence."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or len(value) > 1000:
            raise Refused
        for name in value:
            if not isinstance(name, str) or (known and name not in known):
                raise Refused(nearest(str(name)[:100], known) if known else "")
            if keys is not None:
                keys.read(name)
        return {name: values.read(one) for name, one in value.items()}

    names = f" of {', '.join(known)}" if known else ""
    must_be = f"a mapping{names}" + (f" such as {form}" if form else f", each value {values.must_be}")
    return Kind(must_be, "dict", read)


def fields(form: str, needs: tuple[str, ...] = (), **kinds: Kind) -> Kind:
    """A mapping in which every name has a kind of its own; ``form`` is an example for the sentence."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or any(name not in value for name in needs):
            raise Refused
        found = {}
        for name, one in value.items():
            if name not in kinds:
                raise Refused(nearest(str(name)[:100], kinds))
            try:
                found[name] = kinds[name].read(one)
            except Refused as hint:
                raise Refused(f": {name} must be {kinds[name].must_be}{hint}") from None
        return found

    return Kind(f"a mapping such as {form}", "dict", read)


def either(*kinds: Kind) -> Kind:
    """A value of the first of some kinds that takes it."""

    def read(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.read(value)
            except Refused:
                continue
        raise Refused

    return Kind(" or ".join(kind.must_be for kind in kinds), " or ".join(kind.type for kind in kinds), read)


def only(value: Any) -> Kind:
    """One value and no other."""

    def read(given: Any) -> Any:
        if type(given) is not type(value) or given != value:
            raise Refused
        return given

    return Kind(str(value), str(value), read)


NOTHING = Kind("empty", "None", lambda value: _nothing(value))


def _nothing(value: Any) -> None:
    if value is not None:
        raise Refused


def optional(kind: Kind) -> Kind:
    """``kind``, or empty."""
    read = either(NOTHING, kind).read
    return Kind(f"{kind.must_be}, or empty", kind.type, read)


def _plain(value: Any) -> Any:
    left = MOST_VALUES

    def look(one: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise Refused
        if isinstance(one, Mapping):
            for name, inner in one.items():
                look(name, depth + 1)
                look(inner, depth + 1)
        elif isinstance(one, list | tuple):
            for inner in one:
                look(inner, depth + 1)
        elif isinstance(one, int | float) and not isinstance(one, bool):
            _real(one)
        elif not (one is None or isinstance(one, bool | str)):
            raise Refused

    look(value, 0)
    return value


PLAIN = Kind(f"plain values, at most {DEEPEST} deep", "any", _plain)
