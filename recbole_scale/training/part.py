"""What a run's state is made of: parts that each hand out, and take back, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Part(Protocol):
    """A part of a run that a ``last`` checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors from which :meth:`load_state_dict` goes on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; KeyError or TypeError when it is none of this part's."""


def load_fields(part: Any, state: Mapping[str, Any], names: list[str]) -> None:
    """Set attributes from ``state``.

    Raises:
        KeyError: one is missing.
        TypeError: one is of another kind than the attribute's present value.
    """
    for name in names:
        now, value = getattr(part, name), state[name]
        kinds = (int, float) if isinstance(now, float) else (type(now), type(None))
        endless = isinstance(value, int) and abs(value) >= 2**63
        if endless or (now is not None and not isinstance(value, kinds)):
            raise TypeError(f"'{name}' is {value!r}")
        setattr(part, name, value)
