"""Ladders of shapes: the named sizes, shapes of one's own, and shapes of equal N. Arithmetic only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_scale.errors import UserError, check_choice
from recbole_scale.model.sizes import SIZE_NAMES, load_size

EQUAL_N = 0.02  # shapes count as of equal size within this share of N
SHAPE_KEYS = ("n_layers", "hidden_size", "n_heads", "inner_size")


@dataclass(frozen=True)
class Rung:
    """One shape of a ladder: its name, N = 12 * layers * d_model^2, and the settings that make it."""

    name: str
    n_blocks: int
    settings: dict[str, Any]


def named(name: str) -> Rung:
    """A size of the paper: ``tiny`` to ``xlarge``."""
    check_choice("size", name, SIZE_NAMES)
    size = load_size(name)
    return Rung(name, 12 * size["n_layers"] * size["hidden_size"] ** 2, {"size": name})


def shaped(text: str) -> Rung:
    """A shape written ``LAYERSxD_MODEL`` or ``LAYERSxD_MODELxHEADS``; what it does not say is the nearest size's.

    Raises:
        UserError: another form, or heads that do not divide d_model.
    """
    found = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", text.strip().lower())
    if not found or not int(found[1]) or not int(found[2]):
        raise UserError(f"the shape '{text}' is not of the form LAYERSxD_MODEL or LAYERSxD_MODELxHEADS, as 2x64")
    layers, d_model = int(found[1]), int(found[2])
    heads = int(found[3]) if found[3] else heads_of(d_model)
    if not heads or d_model % heads:
        raise UserError(f"the shape '{text}' has {d_model} dimensions, which {heads} heads do not divide")
    n_blocks = 12 * layers * d_model**2
    values = dict(zip(SHAPE_KEYS, (layers, d_model, heads, 4 * d_model), strict=True))
    name = f"{layers}x{d_model}" + (f"x{heads}" if found[3] else "")
    return Rung(name, n_blocks, {"size": nearest_size(n_blocks), **values})


def nearest_size(n_blocks: int) -> str:
    """The named size whose N is nearest on a log scale: its dropout, learning rate, batch and epochs are taken."""
    return min(SIZE_NAMES, key=lambda name: abs(math.log(named(name).n_blocks / n_blocks)))


def heads_of(d_model: int) -> int:
    """Heads of 32 dimensions as in the paper's small sizes; at least two where d_model is even."""
    wanted = max(2, round(d_model / 32))
    return next(heads for heads in range(min(wanted, d_model), 0, -1) if d_model % heads == 0)


def equal_shapes(n_blocks: float, layers: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16, 24)) -> list[Rung]:
    """Shapes of ``n_blocks`` parameters within 2 %, one per number of layers for which there is an even d_model >= 8.

    Raises:
        UserError: fewer than two such shapes.
    """
    found = []
    for count in layers:
        d_model = 2 * round(math.sqrt(n_blocks / (12 * count)) / 2)
        if d_model >= 8 and abs(12 * count * d_model**2 / n_blocks - 1) <= EQUAL_N:
            found.append(shaped(f"{count}x{d_model}"))
    if len(found) < 2:
        raise UserError(f"fewer than two shapes have {n_blocks:,.0f} parameters within {EQUAL_N:.0%}; try another N")
    return found
