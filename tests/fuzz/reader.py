"""One reader of what others wrote."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutants import damaged


@dataclass
class Reader:
    """``good``: inputs; ``read(path)`` reads a file made of one; ``same`` says whether what was read is the input's.

    ``same`` is only given where nothing but the written content may be believed.
    """

    name: str
    good: list[Any]
    read: Callable[[Path], Any]
    write: Callable[[Any, Path], None] = lambda content, path: path.write_bytes(content)
    change: Callable[[Any, random.Random], Any] = damaged
    same: Callable[[Any, Any], bool] | None = None
    weight: int = 10
    suffixes: list[str] = field(default_factory=lambda: ["input"])
