"""Which keys there are at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError, nearest
from recbole_scale.settings.keys import ScaledSASRecSettings
from recbole_scale.settings.package_keys import FMLPRecSettings, PackageSettings
from recbole_scale.settings.reading import folder_of, properties_folder
from recbole_scale.settings.recbole_keys import RecBoleDataSettings, RecBoleSettings
from recbole_scale.settings.typed import defaults


@cache
def known_keys() -> frozenset[str]:
    """Every key that RecBole's files or code, or ours, ever read.

    RecBole documents its keys in YAML files and reads more in code (``config["encoding"]``), so both are searched.
    """
    keys: set[str] = set()
    for package, root in (("recbole", folder_of("recbole")), ("recbole_scale", folder_of("recbole_scale"))):
        for path in (root if package == "recbole" else properties_folder()).rglob("*.yaml"):
            if path.name == "url.yaml" or "/log/" in str(path):
                continue
            keys.update(_yaml_keys(path))
        pattern = re.compile(r"""config\s*(?:\[|\.get\()\s*["']([A-Za-z_]\w*)["']""")
        for path in root.rglob("*.py"):
            keys.update(pattern.findall(path.read_text("utf-8", errors="replace")))
    keys |= {"model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "group_offset", "offset"}
    keys |= defaults(
        RecBoleSettings, RecBoleDataSettings, PackageSettings, ScaledSASRecSettings, FMLPRecSettings
    ).keys()
    return frozenset(keys)


def _yaml_keys(path: Path) -> Iterable[str]:
    return re.findall(r"^([A-Za-z_]\w*)\s*:", path.read_text("utf-8", errors="replace"), flags=re.MULTILINE)


def check_keys(settings: dict[str, Any], where: str) -> None:
    """Refuse a key that nothing reads.

    Raises:
        UserError: naming the key, ``where`` it stands and the nearest known key.
    """
    for key in settings:
        if key not in known_keys():
            raise UserError(f"unknown key '{key[:100]}' {where}{nearest(key, known_keys())}")
