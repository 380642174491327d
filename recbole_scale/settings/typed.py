"""What a typed setting is: a field with its kind, default and documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_scale.settings.kinds import Kind

Read = TypeVar("Read", bound="Settings")


def key(kind: Kind, default: Any, doc: str) -> Any:
    """A field of a :class:`Settings`; its name is the key's, its docstring ``doc``."""
    return dataclasses.field(default_factory=lambda: deepcopy(default), metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True)
class Documented:
    """What is known of one key."""

    name: str
    kind: Kind
    default: Any
    doc: str


@dataclass(frozen=True)
class Settings:
    """Settings that were checked; subclasses name the keys."""

    @classmethod
    def documented(cls) -> Iterator[Documented]:
        """Every key in the order of the YAML."""
        for one in dataclasses.fields(cls):
            default: Any = one.default_factory() if callable(one.default_factory) else one.default
            yield Documented(one.name, one.metadata["kind"], default, one.metadata["doc"])

    @classmethod
    def read(cls: type[Read], given: Any) -> Read:
        """The settings in ``given``, a mapping or RecBole's Config; what it does not hold has its default.

        Raises:
            UserError: a value is not what its key must be.
        """
        return cls(**cls.checked(given))

    @classmethod
    def checked(cls, given: Any) -> dict[str, Any]:
        """Values by key, each in its own type; see :meth:`read`."""
        return {
            one.name: one.kind.check(one.name, given[one.name]) if one.name in given else one.default
            for one in cls.documented()
        }


def defaults(*kinds: type[Settings]) -> Mapping[str, Any]:
    """Default of every key of some settings."""
    return {one.name: one.default for kind in kinds for one in kind.documented()}
