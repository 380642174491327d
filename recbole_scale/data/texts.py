"""Many texts as plain arrays: numpy's own kind makes every text as wide as the longest, a table of ids 1,000 times."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import pyarrow as pa


class Numbers(UserDict[str, int]):
    """The number of each text, as RecBole's dicts have it; made when it is asked for, which few runs do."""

    def __init__(self, texts: np.ndarray) -> None:
        self._texts = texts

    @cached_property
    def data(self) -> dict[str, int]:  # type: ignore[override]
        """Text to number."""
        return {text: number for number, text in enumerate(self._texts.tolist())}


def joined(texts: pa.Array | Iterable[object]) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of all texts, uint8, and where each text ends in them, int64 [n]."""
    column = texts if isinstance(texts, pa.Array) else pa.array([str(text) for text in texts], pa.large_string())
    column = column.cast(pa.large_string())
    _, places, text = column.buffers()
    if text is None or not len(column):
        return np.zeros(0, np.uint8), np.zeros(len(column), np.int64)
    ends = np.frombuffer(places, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(text, np.uint8)[ends[0] : ends[-1]], ends[1:] - ends[0]


def separated(text: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The texts that :func:`joined` joined, objects [n]; ValueError where the arrays contradict each other."""
    whole = text.tobytes()
    if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if len(ends) else 0) != len(whole):
        raise ValueError("the table of texts is damaged")
    starts = np.r_[np.zeros(1, np.int64), ends[:-1]]
    return as_objects(whole[a:b].decode() for a, b in zip(starts, ends, strict=False))


def as_objects(texts: Iterable[str]) -> np.ndarray:
    """Texts as objects [n], each as long as it is."""
    return np.array(list(texts), dtype=object)
