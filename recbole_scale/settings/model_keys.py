"""The keys of RecBole's models, each model's own, with the kinds that their comments and defaults tell."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_scale.settings.kinds import (
    FLAG,
    PLAIN,
    RATE,
    Kind,
    choice,
    listing,
    mapping,
    number,
    optional,
    whole,
    word,
)
from recbole_scale.settings.reading import SettingsLoader, folder_of
from recbole_scale.settings.typed import Documented

_LINE = re.compile(r"^(\w+)\s*:[^#\n]*#\s*\(([^)]*)\)\s*(.*)$", flags=re.MULTILINE)
_SIZE = re.compile(r"(size|layers?|heads?|num_heads|dim|dimension)$")
_SHARE = re.compile(r"(drop(out)?(_prob|_rate|_ratio|_ex|_im)?|mask_ratio|corruption_ratio|ft_ratio)$")


@cache
def model_keys(model: str) -> dict[str, Documented]:
    """The keys of a RecBole model's own YAML, with the kinds that their comments and defaults tell."""
    path = Path(folder_of("recbole"), "properties", "model", f"{model}.yaml")
    if not path.is_file():
        return {}
    text = path.read_text("utf-8")
    if model == "SINE":  # its code takes one more than its file tells
        text = text.replace("Range in ['BPR', 'CE']", "Range in ['BPR', 'CE', 'NLL']")
    told = {name: (kind, doc.strip()) for name, kind, doc in _LINE.findall(text)}
    values: dict[str, Any] = yaml.load(text, Loader=SettingsLoader) or {}
    return {
        name: Documented(name, _kind_of(name, *told.get(name, ("", "")), value), value, told.get(name, ("", ""))[1])
        for name, value in values.items()
    }


def _kind_of(name: str, told: str, doc: str, default: Any) -> Kind:
    """The kind of a model's key, by the word in its comment, by its default, and by what its name counts."""
    kind: Kind = PLAIN
    if isinstance(default, bool):
        kind = FLAG
    elif isinstance(default, str):
        kind = _words(doc, default)
    elif "str" in told:  # SASRecCPR's sizes, "500,100,20" or one number
        kind = PLAIN
    elif isinstance(default, int | float) and _SHARE.search(name):
        kind = number(0, 1)
    elif "int" in told and "list" not in told and isinstance(default, int):
        least = 1 if default > 0 and _SIZE.search(name) else 0 if default >= 0 else -1_000_000
        kind = whole(least, 1_000_000_000)
    elif isinstance(default, int):  # no word says that it is one, but models take it for one
        kind = Kind("a number", "int", lambda value: value if type(value) is int else number().read(value))
    elif isinstance(default, float):
        kind = number()
    elif isinstance(default, list):
        kind = listing(_of_list(name, told, default), least=0)
    elif isinstance(default, dict):
        kind = mapping(PLAIN)
    return optional(kind) if default is None or "None" in told else kind


def _of_list(name: str, told: str, default: list[Any]) -> Kind:
    if default and all(isinstance(one, int) and not isinstance(one, bool) for one in default) and "float" not in told:
        return whole(1 if _SIZE.search(name) and min(default) > 0 else -1_000_000, 1_000_000_000)
    if default and all(isinstance(one, int | float) and not isinstance(one, bool) for one in default):
        return RATE if _SHARE.search(name) else number()
    return word(1000) if default and all(isinstance(one, str) for one in default) else PLAIN


def _words(doc: str, default: str) -> Kind:
    """One of the words that the comment lists, where it lists them and the default is one of them."""
    found = re.search(r"[Rr]ang(?:e|ing) in\s*`*\[([^\]]*)\]", doc)
    names = [name.strip(" '\"") for name in found[1].split(",")] if found else []
    return choice(*names) if default in names else word(1000, least=0 if not default else 1)
