"""The ladder of sizes, shapes of one's own and of equal N, and what they cost: parameters by group and FLOPs.

Arithmetic only, no tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_scale.errors import UserError, check_choice
from recbole_scale.interfaces import ByKey
from recbole_scale.settings import BY_DATA, properties_folder
from recbole_scale.text import parse_count

SIZE_NAMES = ("tiny", "small", "base", "medium", "large", "xlarge")
DEEPEST, WIDEST = 10_000, 1_000_000  # layers and d_model of settings
EQUAL_N = 0.02  # shapes count as of equal size within this share of N
# what the sizes' files say, as they are shipped, of the keys that the data may decide: another value was edited
SHIPPED = {
    size: dict(zip(BY_DATA, values, strict=True))
    for size, values in {
        "tiny": (0.1, 0.1, 30, 1024), "small": (0.2, 0.1, 30, 1024), "base": (0.2, 0.1, 30, 1024),
        "medium": (0.2, 0.1, 27, 2048), "large": (0.3, 0.1, 12, 8192), "xlarge": (0.3, 0.1, 12, 16384),
    }.items()
}  # fmt: skip
SHAPE_KEYS = ("n_layers", "hidden_size", "n_heads", "inner_size")


@cache
def load_size(name: str) -> dict[str, Any]:
    """Settings of one rung of the ladder, from ``properties/<name>.yaml``.

    Raises:
        UserError: there is no such size.
    """
    check_choice("size", name, SIZE_NAMES)
    text = (properties_folder() / f"{name}.yaml").read_text("utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return {key: float(value) if key == "learning_rate" else value for key, value in settings.items()}


def size_of_file(path: str) -> str | None:
    """The size whose file ``path`` is by its name, ``properties/<size>.yaml``: the packaged one or a copy of it."""
    return next((size for size in SIZE_NAMES if Path(path).absolute().match(f"properties/{size}.yaml")), None)


def edited_defaults(size: str) -> dict[str, Any]:
    """What somebody has edited in a size's packaged file, and so is no default but a word of the user's.

    Shape and rate are not among them, as the data does not decide them.
    """
    others = {"size", "learning_rate", "attn_dropout_prob", *SHAPE_KEYS}
    return {key: v for key, v in load_size(size).items() if key not in others and v != SHIPPED[size].get(key)}


@dataclass(frozen=True)
class Shape:
    """What determines the cost of a model.

    Attributes:
        n_layers: decoder blocks.
        d_model: width.
        n_heads: attention heads.
        inner_size: width of the feed-forward part.
        n_items: V, real items without padding.
        max_length: T, longest history.
    """

    n_layers: int
    d_model: int
    n_heads: int
    inner_size: int
    n_items: int
    max_length: int

    @classmethod
    def from_config(cls, config: ByKey, n_items: int) -> Shape:
        """Read a shape from anything with ``[]`` access to RecBole's key names; ``n_items`` counts real items."""
        n_layers, d_model, n_heads, inner_size = (config[key] for key in SHAPE_KEYS)
        return cls(n_layers, d_model, n_heads, inner_size, n_items, config["MAX_ITEM_LIST_LENGTH"])


def matrices_of(n_layers: int, d_model: int, inner_size: int) -> int:
    """N, the paper's count of a model: the weights of its blocks' matrices, ``n_layers (4 d^2 + 2 d inner_size)``.

    12 * layers * d_model^2 when ``inner_size`` is 4 * d_model (arXiv 2311.11351), as in all its sizes. Nothing else in
    this package counts N.
    """
    return n_layers * (4 * d_model**2 + 2 * d_model * inner_size)


def parameter_groups(shape: Shape) -> dict[str, int]:
    """Four counts, always reported apart; the last three sum to the whole model.

    ``n_blocks`` is N (:func:`matrices_of`). ``n_blocks_exact`` adds biases and LayerNorms, the final one included.
    """
    d, inner = shape.d_model, shape.inner_size
    n_blocks = matrices_of(shape.n_layers, d, inner)
    vectors = 4 * d + inner + d + 4 * d  # biases of qkv, out, up, down; two LayerNorms
    return {
        "n_blocks": n_blocks,
        "n_blocks_exact": n_blocks + shape.n_layers * vectors + 2 * d,
        "n_item_embedding": (shape.n_items + 1) * d,
        "n_positions": shape.max_length * d,
    }


def total_parameters(shape: Shape) -> int:
    """Parameters of the whole model."""
    groups = parameter_groups(shape)
    return groups["n_blocks_exact"] + groups["n_item_embedding"] + groups["n_positions"]


def flops_per_interaction(shape: Shape) -> int:
    """Training FLOPs (forward and backward) for one target: 6 N + 12 L T d + 6 d V.

    A matrix of n weights costs 2 n forward and 4 n backward. Attention scores and their use cost 4 T d forward per
    layer, counted over the full window as PaLM (arXiv 2204.02311, appendix B) does, not halved for the causal mask.
    The softmax over V items counts although its matrix is tied to the embedding: it is work all the same.
    """
    n_blocks = parameter_groups(shape)["n_blocks"]
    attention = 12 * shape.n_layers * shape.max_length * shape.d_model
    return 6 * n_blocks + attention + 6 * shape.d_model * shape.n_items


@dataclass(frozen=True)
class Rung:
    """One shape of a ladder: its name, its N, and the settings that make it."""

    name: str
    n_blocks: int
    settings: dict[str, Any]


def named(name: str) -> Rung:
    """A size of the paper: ``tiny`` to ``xlarge``."""
    size = load_size(name)
    return Rung(name, matrices_of(size["n_layers"], size["hidden_size"], size["inner_size"]), {"size": name})


def shaped(text: str) -> Rung:
    """A shape written ``LAYERSxD_MODEL`` or ``LAYERSxD_MODELxHEADS``; what it does not say is the nearest size's.

    Raises:
        UserError: another form, beyond :data:`DEEPEST` or :data:`WIDEST`, or heads that do not divide d_model.
    """
    found = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", text.strip().lower())
    if not found or not int(found[1]) or not int(found[2]):
        raise UserError(f"the shape '{text}' is not of the form LAYERSxD_MODEL or LAYERSxD_MODELxHEADS, as 2x64")
    layers, d_model = int(found[1]), int(found[2])
    if layers > DEEPEST or d_model > WIDEST:
        raise UserError(f"the shape '{text[:60]}' is beyond {DEEPEST:,} layers or {WIDEST:,} dimensions")
    heads = int(found[3]) if found[3] else heads_of(d_model)
    if not heads or d_model % heads:
        raise UserError(f"the shape '{text}' has {d_model} dimensions, which {heads} heads do not divide")
    n_blocks = matrices_of(layers, d_model, 4 * d_model)
    values = dict(zip(SHAPE_KEYS, (layers, d_model, heads, 4 * d_model), strict=True))
    name = f"{layers}x{d_model}" + (f"x{heads}" if found[3] else "")
    return Rung(name, n_blocks, {"size": nearest_size(n_blocks), **values})


def rung_of(text: str) -> Rung:
    """A rung by name (``tiny``), by shape (``2x64``) or by count (``98.3K``: a named size within 2 %, else its like).

    Raises:
        UserError: none of these.
    """
    count = parse_count(text)
    if count is not None:
        near = named(nearest_size(int(count)))
        if abs(near.n_blocks / count - 1) <= EQUAL_N:
            return near
        size = load_size(near.name)
        return shaped("{}x{}".format(*scaled_shape(count, size["n_layers"], size["hidden_size"])))
    return shaped(text) if text[:1].isdigit() else named(text)


def scaled_shape(n_blocks: float, layers: int, d_model: int) -> tuple[int, int]:
    """Layers and d_model of about ``n_blocks`` parameters, proportions of ``layers`` x ``d_model``; d_model by 8."""
    wanted = (n_blocks * d_model / layers / 12.0) ** (1 / 3)  # N = 12 L d^2 with d / L as it was
    depth = max(1, round(wanted * layers / d_model))
    return depth, max(8, 8 * round(math.sqrt(n_blocks / (12.0 * depth)) / 8))


def nearest_size(n_blocks: float) -> str:
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
        if d_model >= 8 and abs(matrices_of(count, d_model, 4 * d_model) / n_blocks - 1) <= EQUAL_N:
            found.append(shaped(f"{count}x{d_model}"))
    if len(found) < 2:
        raise UserError(f"fewer than two shapes have {n_blocks:,.0f} parameters within {EQUAL_N:.0%}; try another N")
    return found
