"""Settings as the user writes them: safe parsing, packaged file names, and the check for unknown keys.

Values are YAML scalars and lists; nothing is ever evaluated as Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from recbole_scale.errors import UserError, nearest


class SettingsLoader(yaml.SafeLoader):
    """YAML's safe loader, reading ``1e-3`` as a number as RecBole does (YAML 1.1 would call it a string)."""


SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Read one value as YAML; what is no YAML, or a date, stays a string. ``None`` means empty, as in RecBole."""
    if text.strip() == "None":
        return None
    try:
        value = yaml.load(text, Loader=SettingsLoader)
    except yaml.YAMLError:
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
            raise UserError(f"the argument '{argument}' is not of the form --key=value")
        if not equals:
            if not left or left[0].startswith("--"):
                raise UserError(f"--{key} has no value; write --{key}=value")
            text = left.pop(0)
        key, value = key.replace("-", "_"), parse_value(text)
        if key in settings and settings[key] != value:
            raise UserError(f"--{key} is given twice, as {settings[key]!r} and {value!r}")
        settings[key] = value
    return settings


def load_settings_file(path: str) -> dict[str, Any]:
    """Read one config file.

    Raises:
        UserError: not YAML, or not a mapping of keys to values; the line is named.
    """
    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.load(file, Loader=SettingsLoader)
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(
            f"{path}{where}: not YAML ({getattr(failure, 'problem', None) or 'cannot be read'})"
        ) from failure
    except UnicodeDecodeError as failure:
        raise UserError(f"{path}: not UTF-8 text") from failure
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"{path}: not a list of 'key: value' lines")
    return settings


def properties_folder() -> Path:
    """Where the packaged config files lie: inside an installed package, at the top of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"


def find_settings_file(name: str) -> str:
    """Path of a config file: as given if it is a file, else among the packaged ones.

    ``properties/large.yaml`` and ``large.yaml`` both find the packaged file from any folder.

    Raises:
        UserError: neither is there.
    """
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


@cache
def known_keys() -> frozenset[str]:
    """Every key that RecBole's files or code, or ours, ever read.

    RecBole documents its keys in YAML files and reads more in code (``config["encoding"]``), so both are searched.
    """
    keys: set[str] = set()
    for package, root in (("recbole", _folder("recbole")), ("recbole_scale", _folder("recbole_scale"))):
        for path in (root if package == "recbole" else properties_folder()).rglob("*.yaml"):
            if path.name == "url.yaml" or "/log/" in str(path):
                continue
            keys.update(_yaml_keys(path))
        pattern = re.compile(r"""config\s*(?:\[|\.get\()\s*["']([A-Za-z_]\w*)["']""")
        for path in root.rglob("*.py"):
            keys.update(pattern.findall(path.read_text("utf-8", errors="replace")))
        if package == "recbole":
            from recbole.utils import argument_list

            for name in ("general", "training", "evaluation", "dataset"):
                keys.update(getattr(argument_list, f"{name}_arguments"))
    keys |= {"model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "group_offset", "offset"}
    return frozenset(keys)


def _yaml_keys(path: Path) -> Iterable[str]:
    return re.findall(r"^([A-Za-z_]\w*)\s*:", path.read_text("utf-8", errors="replace"), flags=re.MULTILINE)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def check_keys(settings: dict[str, Any], where: str) -> None:
    """Refuse a key that nothing reads.

    Raises:
        UserError: naming the key, ``where`` it stands and the nearest known key.
    """
    for key in settings:
        if key not in known_keys():
            raise UserError(f"unknown key '{key}' {where}{nearest(key, known_keys())}")


# settings that do not change a run's numbers
_ENVIRONMENT = {
    "gpu_id", "use_gpu", "state", "show_progress", "checkpoint_dir", "log_wandb", "wandb_project", "worker",
    "data_path", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "device",
    "data_cache", "rows_on_demand", "per_user_file", "local_rank", "single_spec", "config_files", "results_file",
    "save_step", "resume", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "nproc", "ip", "port", "offset",
    "group_offset", "world_size", "dry_run", "parallel",
    # names of columns that RecBole's transforms (BERT4Rec's masks and others) add to the settings as the data is loaded
    "MASK_INDEX", "MASK_ITEM_SEQ", "POS_ITEMS", "NEG_ITEMS", "INVERSE_ITEM_SEQ", "CROP_ITEM_SEQ", "CROP_ITEM_SEQ_LEN",
    "REORDER_ITEM_SEQ",
}  # fmt: skip


def run_id(config: Any) -> str:
    """Ten hex digits that name a run: the hash of every resolved setting that can change its numbers."""
    settings = {k: v for k, v in config.final_config_dict.items() if k not in _ENVIRONMENT}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
