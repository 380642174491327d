"""What a size costs, estimated from the runs: hours to train it, memory of a step, milliseconds to serve a user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_scale.fit.rows import Row
from recbole_scale.fit.study import estimate_flops
from recbole_scale.fit.tables import number
from recbole_scale.model.memory import Setup, memory_plan
from recbole_scale.model.sizes import Shape, heads_of, load_size, scaled_shape

_TOKENS = 1024  # positions of an optimizer step where the rows do not tell
_CHUNK = 256
_LENGTH = 50  # the packaged MAX_ITEM_LIST_LENGTH


@dataclass(frozen=True)
class Cost:
    """What one run of a size takes; None where the rows do not tell.

    Attributes:
        hours: to train it, at the speed of the largest run.
        memory_mb: at the peak of a training step on one device.
        serving_ms: to rank all items for one user, several users at a time.
    """

    hours: float | None
    memory_mb: float | None
    serving_ms: float | None


class Costs:
    """Costs of any size N on the machine that ran ``rows`` (finished, of one model and data set)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = [row for row in rows if number(row, "n_blocks")]
        timed = [row for row in self._rows if number(row, "flops_total") and row.get("seconds_train")]
        self._largest = max(timed, key=lambda row: float(row["flops_total"]), default=None)

    @property
    def speed(self) -> float | None:
        """Training FLOP/s of the largest run: small ones spend much of their time on other things."""
        run = self._largest
        return None if run is None else float(run["flops_total"]) / float(run["seconds_train"])

    def of(self, n: float) -> Cost:
        """What size ``n`` takes."""
        flops, speed, shape = estimate_flops(self._rows, "n_blocks", n), self.speed, self.shape(n)
        return Cost(
            hours=None if flops is None or speed is None else flops / speed / 3600,
            memory_mb=None if shape is None else memory_plan(shape, self._setup(shape)).peak / 1e6,
            serving_ms=None if shape is None else self._serving_ms(shape),
        )

    def shape(self, n: float) -> Shape | None:
        """The shape of the runs at ``n``, else one of the largest run's proportions."""
        shaped = [row for row in self._rows if all(number(row, name) for name in ("n_layers", "d_model", "n_items"))]
        if not shaped:
            return None
        near = min(shaped, key=lambda row: abs(math.log(float(row["n_blocks"]) / n)))
        length = int((near.get("settings") or {}).get("MAX_ITEM_LIST_LENGTH") or _LENGTH)
        layers, width = int(near["n_layers"]), int(near["d_model"])
        if abs(float(near["n_blocks"]) / n - 1) > 0.02:
            largest = max(shaped, key=lambda row: float(row["n_blocks"]))
            layers, width = scaled_shape(n, int(largest["n_layers"]), int(largest["d_model"]))
        return Shape(layers, width, heads_of(width), 4 * width, int(near["n_items"]), length)

    def _setup(self, shape: Shape) -> Setup:
        run = self._largest or self._rows[-1]
        settings = run.get("settings") or {}
        device = "cpu" if str(run.get("device") or "cpu") == "cpu" else "cuda"
        tokens = settings.get("train_batch_size") or _packaged(run, "train_batch_size") or _TOKENS
        return Setup(tokens=int(tokens), candidates=shape.n_items, chunk=_CHUNK, attn_dropout=False, device=device)

    def _serving_ms(self, shape: Shape) -> float | None:
        """From the time that ranking the test users took at the size nearest in cost, else from the training speed."""
        work = forward_flops(shape)
        timed = [row for row in self._rows if number(row, "seconds_evaluate") and row.get("n_users")]
        if timed:
            costs = [(forward_flops(known), row) for row in timed if (known := self.shape(float(row["n_blocks"])))]
            near, row = min(costs, key=lambda pair: abs(math.log(pair[0] / work)))
            return 1000.0 * float(row["seconds_evaluate"]) / float(row["n_users"]) * max(work / near, 1e-3)
        return None if self.speed is None else 1000.0 * work / self.speed


def forward_flops(shape: Shape) -> float:
    """FLOPs of one user's history through the model and the scores of all items at its end."""
    blocks = 2.0 * shape.n_layers * (4 * shape.d_model**2 + 2 * shape.d_model * shape.inner_size)
    attention = 4.0 * shape.n_layers * shape.max_length * shape.d_model
    return shape.max_length * (blocks + attention) + 2.0 * shape.d_model * shape.n_items


def _packaged(row: Row, key: str) -> Any:
    size = row.get("size") or (row.get("settings") or {}).get("size")
    try:
        return load_size(str(size)).get(key)
    except Exception:
        return None
