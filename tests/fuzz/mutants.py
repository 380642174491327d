"""Damaged and odd copies of inputs, a function of the random generator alone."""

from __future__ import annotations

import json
import random
from typing import Any

ODD_BYTES = [
    b"\xff", b"\0", b"\xed\xa0\x80", b"\r\n", b"\n\n", b"\t\t", b'"', b"'", b"\\", b"\xef\xbb\xbf", b"nan", b"inf",
    b"-1", b"1e999", b"9" * 400, b"0x_", b"!!int foo", b"&x [*x]", b"[" * 3000, b"{" * 3000, b"2001-13-45",
    b"x" * 140_000, b"::", b",,,", b"9007199254740993", b"-9223372036854775809", b"1_000", "é±𝄞".encode(), b"null",
    b"true",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, -1e308, 2**63, 10**400, "", "x", "\ud800", "x" * 5000, [], [1], {}, {"a": [1]},
    float("nan"), float("inf"), "1", "nan", [[[]]], {"": None}, 1e-320,
]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of bytes: flipped bits, cuts, bytes out, doubled or exchanged, and odd words put in."""
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(copy) + 1), rng.randrange(8)
        if kind <= 1 and at < len(copy):
            copy[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del copy[at:]
        elif kind == 3:
            del copy[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            copy[at:at] = copy[at : at + rng.randrange(1, 200)]
        elif kind == 5:
            copy[at : at + rng.randrange(1, 12)] = rng.randbytes(rng.randrange(1, 12))
        else:
            copy[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(ODD_BYTES)
    return bytes(copy)


def odd_value(value: Any, rng: random.Random) -> Any:
    """A copy of a nest of dicts and lists with one value exchanged, taken out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.15:
            return {key: part for key, part in value.items() if key != name}
        if kind < 0.2:
            return {**value, rng.choice(("odd", "", "x" * 300)): rng.choice(ODD_VALUES)}
        return {**value, name: odd_value(value[name], rng)}
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return [*value[:at], *value[at + 1 :]]
        return [*value[:at], odd_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD_VALUES)


def odd_line(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines with an odd value in one of them."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(odd_value(json.loads(lines[at]), rng)).encode() + b"\n"
    return b"".join(lines)
