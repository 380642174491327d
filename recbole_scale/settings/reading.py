"""Settings as the user writes them: safe parsing of YAML and ``--key=value``, and config files found by name.

Values are YAML scalars, lists and mappings; nothing is ever evaluated as Python.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from recbole_scale.errors import UserError, nearest, shown

LONGEST_FILE, LONGEST_VALUE = 1_000_000, 100_000  # letters
MOST_BRACKETS = 2000  # YAML's scanner takes time with the square of those that are open
MOST_NODES = 100_000  # of a document whose aliases are written out


class SettingsLoader(yaml.SafeLoader):
    """YAML's safe loader as settings need it.

    * ``1e-3`` is a number, as RecBole reads it (YAML 1.1 would call it a string), and a date is text.
    * One key twice in a mapping is an error, and so is a value that its tag or form does not allow (``!!int foo``).
    * Aliases may not lead back to themselves, nor unfold to more than :data:`MOST_NODES` values.
    """

    def get_single_data(self) -> Any:
        """The document; every fault is a ``YAMLError``."""
        try:
            node = self.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return self.construct_document(node)
        except RecursionError:
            raise ConstructorError(None, None, "nested too deep", None) from None

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """As YAML's, with every fault of a value a ``YAMLError`` that names its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            what = shown(node.value) if isinstance(node, ScalarNode) else "this"
            tag = str(node.tag).rpartition(":")[2][:50]
            raise ConstructorError(None, None, f"{what} is no value of type {tag}", node.start_mark) from None

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
        """As YAML's, but a key stands once."""
        seen: set[tuple[str, str]] = set()
        for name, _ in node.value:
            if not isinstance(name, ScalarNode) or name.tag.endswith(":merge"):
                continue
            if (name.tag, name.value) in seen:
                raise ConstructorError(None, None, f"the key {shown(name.value)} stands there twice", name.start_mark)
            seen.add((name.tag, name.value))
        return super().construct_mapping(node, deep)


def _count(node: Node, known: dict[int, int | None]) -> int:
    """Values of a node with its aliases written out."""
    if isinstance(node, ScalarNode):
        return 1
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ConstructorError(None, None, "an alias leads back to itself", node.start_mark)
        return count
    known[id(node)] = None
    parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
    count = 1 + sum(_count(part, known) for part in parts)
    if count > MOST_NODES:
        raise ConstructorError(None, None, f"more than {MOST_NODES:,} values", node.start_mark)
    known[id(node)] = count
    return count


SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# RecBole's users write None, inside a list or a mapping too
SettingsLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])
SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class _Writer(yaml.SafeDumper):
    """YAML that :class:`SettingsLoader` reads back: what that takes for a number or None is quoted where it is text."""

    yaml_implicit_resolvers = SettingsLoader.yaml_implicit_resolvers


def settings_text(settings: Mapping[str, Any]) -> str:
    """A config file that :func:`load_settings_file` reads as ``settings``."""
    return yaml.dump(dict(settings), Dumper=_Writer, sort_keys=False, allow_unicode=True)


def value_text(value: Any) -> str:
    """What :func:`parse_value` reads as ``value``: plain where that is so, else as JSON."""
    if isinstance(value, str) and parse_value(value) == value:
        return value
    letters = json.dumps(value, ensure_ascii=False)  # YAML knows no pairs of \\u for one letter
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in letters)


def load_yaml(text: str) -> Any:
    """One YAML document; every fault is a ``yaml.YAMLError``, with the problem and where it is known the place."""
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ConstructorError(None, None, "too many brackets", None)
    return yaml.load(text, Loader=SettingsLoader)  # a safe loader: it makes plain data only


def parse_value(text: str) -> Any:
    """Read one value as YAML; what is no YAML stays a string. ``None`` means empty, as in RecBole; blanks stay.

    A value is one line of a file, less its key: there are no comments in it (``runs/#1``, ``my #1 log``), and mappings
    and lists stand in brackets, so that ``Sales: May`` is a text.
    """
    if text.strip() == "None":
        return None
    plain = text.strip()[:1] not in set("[{\"'&!*")
    if len(text) > LONGEST_VALUE or (text and not text.strip()) or (plain and re.search(r"(^|\s)#", text)):
        return text
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        return text
    if plain and isinstance(value, list | dict):
        return text
    if isinstance(value, str | int | float | bool | list | dict) or value is None:
        return value
    return text


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Turn ``--key=value`` and ``--key value`` arguments into settings; ``-`` in a key is read as ``_``.

    Raises:
        UserError: an argument of another form, or one key with two values.
    """
    settings: dict[str, Any] = {}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise UserError(f"the argument '{argument[:100]}' is not of the form --key=value")
        if not equals:
            if not left or left[0].startswith("--"):
                raise UserError(f"--{key[:100]} has no value; write --{key[:100]}=value")
            text = left.pop(0)
        key, value = key.replace("-", "_"), parse_value(text)
        if key in settings and settings[key] != value:
            raise UserError(f"--{key[:100]} is given twice, as {shown(settings[key])} and {shown(value)}")
        settings[key] = value
    return settings


def load_settings_file(path: str) -> dict[str, Any]:
    """Read one config file.

    Raises:
        UserError: not YAML, or not a mapping of keys to values; the line is named.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LONGEST_FILE + 1)
    except UnicodeDecodeError as failure:
        raise UserError(f"{path}: not UTF-8 text") from failure
    except OSError as failure:
        raise UserError(f"{path}: cannot be read ({(failure.strerror or str(failure)).lower()})") from failure
    if len(text) > LONGEST_FILE:
        raise UserError(f"{path}: longer than the {LONGEST_FILE:,} letters of a config file")
    try:
        settings = load_yaml(text)
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(failure, "problem", None) or "cannot be read")
        raise UserError(f"{path}{where}: not YAML ({problem[:200]})") from failure
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"{path}: not a list of 'key: value' lines")
    return settings


def properties_folder() -> Path:
    """Where the packaged config files lie: inside an installed package, at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"


def find_settings_file(name: str) -> str:
    """Path of a config file: as given if it is a file, else among the packaged ones.

    ``properties/large.yaml`` and ``large.yaml`` both find the packaged file from any folder.

    Raises:
        UserError: neither is there.
    """
    if "\0" in name or len(name) > 4000:
        raise UserError(f"there is no config file {shown(name)}")
    if os.path.isfile(name):
        return name
    packaged = properties_folder()
    relative = Path(name)
    if relative.parts[:1] == ("properties",):
        relative = Path(*relative.parts[1:])
    candidate = packaged / relative
    if not relative.is_absolute() and ".." not in relative.parts and candidate.is_file():
        return str(candidate)
    known = [f"properties/{path.relative_to(packaged)}" for path in sorted(packaged.rglob("*.yaml"))]
    here = [str(path) for path in Path(".").glob("*.yaml")]
    raise UserError(f"there is no config file {name}{nearest(name, known + here)}")


def folder_of(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
