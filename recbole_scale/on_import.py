"""Runs the plugin's registration the moment RecBole is imported, and not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _ThenRegister(Loader):
    """Loads RecBole's top package as usual, then has the plugin mend and extend it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()


class _Finder(MetaPathFinder):
    """Finds the module ``recbole`` where it is, with a loader that registers the plugin afterwards."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "recbole":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


def when_recbole_is_imported() -> None:
    """Register the plugin now if RecBole is loaded, else as soon as it is; calling it again changes nothing."""
    if "recbole" in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    import_module("recbole_scale.plugin.compat").apply()  # before anything else of RecBole
    import_module("recbole_scale.plugin.register").register()
