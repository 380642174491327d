"""Where quoted values begin and end, as pyarrow's parser has it: a quote opens only where a value begins.

A quote inside a value (``12" Mix``) is an ordinary character. Of runs of quotes an even one changes nothing; an odd one
closes an open value, opens one at a value's start, and is ordinary elsewhere. So whether text is inside a value is the
parity of the openable runs since the last that is none: no character needs a step of Python.
"""

from __future__ import annotations

import numpy as np

QUOTE = ord('"')


def open_at_end(data: bytes, delimiter: str, inside: bool = False) -> int | None:
    """Offset of the quote that opens the value in which ``data`` ends; None where it ends outside of values.

    Args:
        data: text that begins at the start of a line, or inside a value.
        delimiter: between values, one character.
        inside: whether it begins inside a value; -1 is returned where that one is still open.
    """
    at = np.flatnonzero(np.frombuffer(data, np.uint8) == QUOTE)
    if not len(at):
        return -1 if inside else None
    first = np.flatnonzero(np.diff(at, prepend=at[0] - 2) > 1)  # of each run
    length = np.diff(np.append(first, len(at)))
    start = at[first][length % 2 == 1]
    if not len(start):
        return -1 if inside else None
    before = np.frombuffer(b"\n" + data, np.uint8)[start]
    opens = np.isin(before, np.frombuffer(b"\n\r" + delimiter.encode()[-1:], np.uint8))
    resets = np.flatnonzero(~opens)
    since = int(resets[-1]) + 1 if len(resets) else 0
    swaps = len(start) - since
    if (swaps + (inside and not len(resets))) % 2 == 0:
        return None
    return int(start[-1]) if swaps else -1


def lines_of_rows(data: bytes, delimiter: str) -> list[int]:
    """Line (from 0) at which each row begins that is not blank; quoted line ends do not end a row."""
    starts, inside = [], False
    for number, line in enumerate(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")):
        if not inside and line:
            starts.append(number)
        if delimiter:
            inside = open_at_end(line, delimiter, inside) is not None
    return starts
