"""Many texts as plain arrays: numpy's own kind makes every text as wide as the longest, a table of ids 1,000 times."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa


class Names:
    """Names of ids 0, 1, ..., as RecBole's array of objects has them; objects are made of those asked for.

    An object a name takes 65 bytes, of five million users more than their log's items. What only the array has (its
    shape, comparisons) makes it whole.
    """

    def __init__(self, padding: str, texts: pa.Array) -> None:
        texts = texts.cast(pa.large_string())
        self._texts = pa.concat_arrays([pa.array([padding], pa.large_string()), texts])

    @cached_property
    def _whole(self) -> np.ndarray:
        return self._objects(self._texts)

    @staticmethod
    def _objects(texts: pa.Array) -> np.ndarray:
        found: np.ndarray = texts.to_numpy(zero_copy_only=False)
        return found

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        """By an int, a slice or an array of numbers without the array; in numpy's other ways of it."""
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            return self._objects(self._texts[start : max(start, stop)])
        numbers = np.asarray(index)
        if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
            return self._whole[index]
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        return self._objects(self._texts.take(pa.array(numbers))) if numbers.ndim else self._texts[int(numbers)].as_py()

    def __iter__(self) -> Iterator[str]:
        return (text.as_py() for text in self._texts)

    def __eq__(self, other: object) -> Any:
        return self._whole == other

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._whole, dtype, copy=copy)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._whole, name)


class Numbers(UserDict[str, int]):
    """The number of each text, as RecBole's dicts have it; made when it is asked for, which few runs do."""

    def __init__(self, texts: np.ndarray | Names) -> None:
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
