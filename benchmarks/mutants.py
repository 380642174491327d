"""How strong the tests are: small changes to the code, each run against its module's tests; how many are noticed.

``python benchmarks/mutants.py --count 40 --seed 1 [--modules data/windows model/sizes]`` changes one place at a time
in a copy of the checkout (comparisons, off-by-one constants, arithmetic, booleans, dropped keyword arguments), runs
what is not slow in the test files that import the module, and adds a row a change to ``--out``. What no test notices
is printed as its line.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int]]:
    """Nodes that can be changed, with the kind of change and which operator of a chain."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from ((node, "compare", at) for at, op in enumerate(node.ops) if type(op) in SWAPS)
        elif (isinstance(node, ast.BinOp) and type(node.op) in SWAPS) or isinstance(node, ast.BoolOp):
            yield node, "operator", 0
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node, "constant", 0
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "boolean", 0
        elif isinstance(node, ast.Call):
            yield from ((node, "argument", at) for at, word in enumerate(node.keywords) if word.arg)


def change(node: ast.AST, kind: str, at: int) -> None:
    """Carry out one change in place."""
    if isinstance(node, ast.Compare):
        node.ops[at] = SWAPS[type(node.ops[at])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if kind == "boolean" else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Call):
        del node.keywords[at]


def mutate(source: str, choose: random.Random) -> tuple[str, int, str] | None:
    """The source with one change drawn by ``choose``: new source, line and kind; None where there is nothing to change.

    Text in annotations, docstrings and messages is left alone, since constants there are strings.
    """
    tree = ast.parse(source)
    found = list(places(tree))
    if not found:
        return None
    node, kind, at = found[choose.randrange(len(found))]
    change(node, kind, at)
    return ast.unparse(tree), node.lineno, kind  # type: ignore[attr-defined]


def tests_of(module: str) -> list[str]:
    """Test files that import a module, by the names in their import statements."""
    dotted = "recbole_scale." + module.replace("/", ".")
    parent, _, leaf = dotted.rpartition(".")
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            whole = isinstance(node, ast.ImportFrom) and node.module == dotted
            part = isinstance(node, ast.ImportFrom) and node.module == parent and leaf in [a.name for a in node.names]
            if whole or part or (isinstance(node, ast.Import) and dotted in [a.name for a in node.names]):
                found.append(str(path.relative_to(ROOT)))
                break
    return found


def noticed(copy: Path, tests: list[str], seconds: float) -> bool:
    """Whether the tests fail in the changed copy; one that runs much longer than the unchanged code is noticed too."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(call, cwd=copy, env=environment, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> None:
    """Try ``--count`` changes and print how many were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--count", type=int, default=40, help="changes to try")
    parser.add_argument("--seed", type=int, default=1, help="of the draw of modules and places")
    parser.add_argument(
        "--modules", nargs="*", default=[], help="such as data/windows; all that a test imports if empty"
    )
    parser.add_argument("--out", default="results/mutants.jsonl", help="rows, one a change")
    parser.add_argument("--longest", type=float, default=60, help="seconds that a module's tests may take unchanged")
    parser.add_argument("--minutes", type=float, default=600, help="after which no other change is tried")
    arguments = parser.parse_args()
    begun = perf_counter()
    choose = random.Random(arguments.seed)
    package = ROOT / "recbole_scale"
    names = arguments.modules or [str(p.relative_to(package).with_suffix("")) for p in sorted(package.rglob("*.py"))]
    names = [name for name in names if not name.endswith("__init__") and tests_of(name)]
    seconds: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        skipped = shutil.ignore_patterns(".git", ".venv", "saved", "log*", "*.cache", "results")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
        while len(rows) < arguments.count and names and perf_counter() - begun < 60 * arguments.minutes:
            module = choose.choice(names)
            tests, path = tests_of(module), copy / "recbole_scale" / f"{module}.py"
            if module not in seconds:
                started = perf_counter()
                if noticed(copy, tests, arguments.longest):
                    print(f"{module}: its tests fail unchanged or take over {arguments.longest:.0f} s; left out")
                    names.remove(module)
                    continue
                seconds[module] = perf_counter() - started
            source = path.read_text("utf-8")
            changed = mutate(source, choose)
            if changed is None:
                names.remove(module)
                continue
            path.write_text(changed[0], "utf-8")
            try:
                caught = noticed(copy, tests, 10 * seconds[module] + 30)
            finally:
                path.write_text(source, "utf-8")
            row = {"module": module, "line": changed[1], "kind": changed[2], "noticed": caught, "seed": arguments.seed}
            rows.append(row)
            if not caught:
                print(f"lives: {module}:{changed[1]} ({changed[2]}) {source.splitlines()[changed[1] - 1].strip()[:90]}")
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    found = sum(bool(row["noticed"]) for row in rows)
    print(f"{found} of {len(rows)} changes noticed ({100 * found / max(len(rows), 1):.0f} %)")


if __name__ == "__main__":
    main()
