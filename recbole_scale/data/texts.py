"""Many texts as plain arrays: numpy's own kind makes every text as wide as the longest, a table of ids 1,000 times."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def joined(texts: Iterable[object]) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of all texts, uint8, and where each text ends in them, int64 [n]."""
    pieces = [str(text).encode() for text in texts]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    return np.frombuffer(b"".join(pieces), np.uint8), ends


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
