"""What the plugin replaces in RecBole is listed with its reason, and RecBole still has all of it."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from importlib import import_module
from pathlib import Path

from recbole_scale.plugin.replaced import BESIDE, REPLACED
from recbole_scale.settings.reading import folder_of


def is_ours(value) -> bool:
    homes = (getattr(value, "__module__", None), type(value).__module__)
    return any(str(home).startswith("recbole_scale") for home in homes)


def replaced_now() -> set[str]:
    """Names in RecBole's loaded modules and classes that hold something of ours."""
    for name in ("data", "model.abstract_recommender", "quick_start", "trainer"):
        import_module(f"recbole.{name}")
    found = set()
    for name, module in list(sys.modules.items()):
        if name != "recbole" and not name.startswith("recbole."):
            continue
        for word, value in list(vars(module).items()):
            if word.startswith("__"):
                continue
            if is_ours(value):
                found.add(word)
            elif inspect.isclass(value) and value.__module__.startswith("recbole."):
                methods = {m: getattr(f, "__func__", f) for m, f in vars(value).items()}
                found |= {f"{value.__name__}.{method}" for method, f in methods.items() if is_ours(f)}
    return found


def test_everything_that_is_replaced_is_listed_with_its_reason():
    assert replaced_now() == set(REPLACED)
    assert all(len(reason) > 20 for reason in REPLACED.values())


def test_everything_that_the_plugin_assigns_to_is_listed():
    found = set()
    for path in Path(folder_of("recbole_scale"), "plugin").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        others = {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom)
                  and not (node.module or "").startswith("recbole_scale") for alias in node.names}  # fmt: skip
        targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Attribute) and ast.unparse(one.value).split(".")[0] in others:
                    of = ast.unparse(one.value).split(".")[-1]  # a class, or a module whose name is bound anew
                    found.add(f"{of}.{one.attr}" if of[0].isupper() or of == "dok_matrix" else one.attr)
    assert len(found) > 20 and found <= {*REPLACED, *BESIDE}
    assert all(len(reason) > 20 for reason in BESIDE.values())


def test_recbole_still_has_what_is_replaced():
    has = set(dir(builtins)) | {"Config.__new__"}  # a class has one from its birth
    for path in Path(folder_of("recbole")).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                has.add(node.name)
            if isinstance(node, ast.ClassDef):
                has |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
            if isinstance(node, ast.Import | ast.ImportFrom):
                has |= {alias.asname or alias.name.split(".")[-1] for alias in node.names}
    assert set(REPLACED) - has == set()
