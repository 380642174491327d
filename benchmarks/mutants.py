"""How strong the tests are: small changes to the code, each run against the tests that pass through its line.

``make coverage`` notes which test runs which line. ``make mutants`` then changes one place at a time in a copy of the
checkout: comparisons, arithmetic, numbers, and/or, not, True/False, what is returned, arguments dropped or exchanged;
decorators, annotations and texts are left alone. Tests with few lines come first; each change has ``--seconds`` of
CPU. Rows go to ``--out``: killed (and by which test), timed out (the change hangs), survived. ``--again`` tries those
that survived in ``--out`` once more, after tests were ``added``; ``--table`` prints the figures of ``--out`` alone. A
row with ``judged`` was read by hand: the reason why the change alters no result.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.util import cache_from_source
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import pytest
from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recbole_scale"
CORE = ["model", "training", "laws", "data", "settings", "files"]
HEAVY = [
    "torch",
    "pandas",
    "scipy.optimize",
    "scipy.stats",
    "scipy.special",
    "pyarrow.parquet",
    "hypothesis",
    "sklearn",
]
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int]]:
    """Nodes that can be changed, with the kind of change and which operator or argument of the node."""
    skipped: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            skipped += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            skipped.append(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign):
            skipped.append(node.annotation)
    left = {inner for node in skipped if node is not None for inner in ast.walk(node)}
    for node in (node for node in ast.walk(tree) if node not in left):
        if isinstance(node, ast.Compare):
            yield from ((node, "comparison", at) for at, op in enumerate(node.ops) if type(op) in SWAPS)
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield node, "arithmetic", 0
        elif isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
            yield node, "boolean", 0
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, "constant", 0
        elif isinstance(node, ast.Return) and not (node.value is None or isinstance(node.value, ast.Constant)):
            yield node, "return", 0
        elif isinstance(node, ast.Call):
            yield from ((node, "argument", at) for at, word in enumerate(node.keywords) if word.arg)
            if len(node.args) > 1 and not any(isinstance(part, ast.Starred) for part in node.args[:2]):
                yield node, "argument", -1


def change(node: ast.AST, at: int) -> None:
    """Carry out one change in place."""
    if isinstance(node, ast.Compare):
        node.ops[at] = SWAPS[type(node.ops[at])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Call) and at < 0:
        node.args[:2] = node.args[1::-1]
    elif isinstance(node, ast.Call):
        del node.keywords[at]


def mutated(source: str, place: int) -> tuple[str, dict[str, Any], range]:
    """The source with the change at ``place``, what describes it, and the lines of its statement."""
    tree = ast.parse(source)
    node, kind, at = list(places(tree))[place]
    around = [
        one for one in ast.walk(tree) if isinstance(one, ast.stmt) and any(part is node for part in ast.walk(one))
    ]
    statement = min(around, key=lambda one: (one.end_lineno or 0) - one.lineno)
    first, last = getattr(node, "lineno", statement.lineno), getattr(node, "end_lineno", None)
    was = ast.unparse(node)
    change(node, at)
    found = {"line": first, "kind": kind, "was": was, "now": ast.unparse(node)}
    return ast.unparse(ast.fix_missing_locations(tree)), found, range(min(first, statement.lineno), (last or first) + 1)


class Reached:
    """Which tests run which line, from the data file of a coverage run with contexts."""

    def __init__(self, files: list[str]) -> None:
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.size: Counter[str] = Counter()
        for name in files:
            data = CoverageData(name)
            data.read()
            for path in data.measured_files():
                module = path.rpartition("/recbole_scale/")[2].removesuffix(".py")
                for line, contexts in data.contexts_by_lineno(path).items():
                    tests = {context.rpartition("|")[0] for context in contexts} - {""}
                    self.lines[module][line] |= tests
                    self.size.update(tests)

    def tests(self, module: str, lines: range) -> list[str]:
        """Those that pass through any of the lines, or through the module for what runs as it is imported."""
        of = self.lines.get(module, {})
        found = {test for line in lines for test in of.get(line, ())} or {
            test for tests in of.values() for test in tests
        }
        return sorted(found, key=lambda test: (self.size[test], test))


class Watch:
    """Stops between tests once the time is spent, and remembers the test that failed."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.failed, self.ran = seconds, "", 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of a test."""
        if report.failed:
            self.failed = self.failed or report.nodeid
        self.ran += report.when == "call"

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Called by pytest before each test."""
        if process_time() > self.seconds:
            item.session.shouldstop = "the time is spent"


def tried(copy: Path, tests: list[str], seconds: float) -> dict[str, Any]:
    """Run tests on the copy in a fork of this process, which has made the heavy imports: outcome, test, seconds."""
    reader, writer = os.pipe()
    begun, child = monotonic(), os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        spent = process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds + 10), int(spent + seconds + 12)))
        sys.path.insert(0, str(copy))
        os.environ.update(PYTHONPATH=str(copy), CI="true")
        watch = Watch(spent + seconds)
        code = int(pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests], plugins=[watch]))
        os.write(writer, json.dumps([code, watch.failed, watch.ran, process_time() - spent]).encode())
        os._exit(0)
    os.close(writer)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.alarm(int(40 * seconds + 600))  # what waits without computing, on a machine that may be busy
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    signal.alarm(0)
    os.waitpid(child, 0)
    if not said:
        return {"outcome": "timed out", "by": "", "tests": 0, "seconds": round(monotonic() - begun, 1)}
    code, failed, ran, spent = json.loads(said)
    if code not in (0, 1, 2, 5) and not failed:
        raise RuntimeError(f"pytest ended with {code} on {tests[:3]} ...")
    killed = bool(failed) or (code in (1, 2) and spent < seconds)
    return {"outcome": "killed" if killed else "survived", "by": failed, "tests": ran, "seconds": round(spent, 1)}


def try_change(copy: Path, module: str, place: int, reached: Reached, seconds: float) -> dict[str, Any]:
    """Change one place of a module in the copy, run its tests, put it back; the row without seed and commit."""
    path = copy / "recbole_scale" / f"{module}.py"
    source = path.read_text("utf-8")
    changed, found, lines = mutated(source, place)
    tests = reached.tests(module, lines)
    compiled = Path(cache_from_source(str(path)))  # known by second and size alone: not to be taken for another's
    compiled.unlink(missing_ok=True)
    path.write_text(changed, "utf-8")
    try:
        outcome = tried(copy, tests, seconds) if tests else {"outcome": "survived", "by": "", "tests": 0, "seconds": 0}
    finally:
        path.write_text(source, "utf-8")
        compiled.unlink(missing_ok=True)
    return {"module": module, "place": place, **found, **outcome, "source": digest(source)}


def digest(source: str) -> str:
    """Twelve letters that tell one state of a file from another."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def drawn(count: int, seed: int, modules: list[str], reached: Reached) -> Iterator[tuple[str, int]]:
    """Places drawn without repetition: a module that some test reaches, by its number of places."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = str(path.relative_to(PACKAGE).with_suffix(""))
        if any(module == name or module.startswith(f"{name}/") for name in modules) and module in reached.lines:
            found += [(module, at) for at in range(len(list(places(ast.parse(path.read_text("utf-8"))))))]
    random.Random(seed).shuffle(found)
    yield from found[:count]


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of earlier trials."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """The figures of a trial, then what no test notices."""
    count = Counter("equal" if row.get("judged") else row["outcome"] for row in rows)
    seen, added = count["killed"] + count["timed out"], sum("added" in row for row in rows)
    told = ", ".join(f"{count[name]} {name}" for name in ("killed", "timed out", "survived"))
    alter = max(seen + count["survived"], 1)
    said = [
        f"{len(rows)} changes: {told}, {count['equal']} that alter no result (read by hand); "
        f"{100 * seen / alter:.0f} % noticed, {100 * (seen + added) / alter:.0f} % with the tests added since"
    ]
    left = [row for row in rows if row["outcome"] == "survived" and not (row.get("judged") or row.get("added"))]
    return "\n".join([*said, *(f"{row['module']}:{row['line']} {row['was']}  ->  {row['now']}" for row in left)])


def main() -> None:
    """Try ``--count`` changes and print how many were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--count", type=int, default=100, help="changes to try")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--modules", nargs="*", default=CORE, help="folders or modules, such as data/windows")
    parser.add_argument("--reached", nargs="*", default=[".coverage"], help="data files of coverage with contexts")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutants.jsonl", help="rows, one a change")
    parser.add_argument("--seconds", type=float, default=20, help="of CPU that a change's tests may take")
    parser.add_argument("--commit", default="", help="named in the rows")
    parser.add_argument("--again", action="store_true", help="try what survived in --out once more")
    parser.add_argument("--table", action="store_true", help="print the figures of --out and stop")
    arguments = parser.parse_args()
    rows = read(arguments.out)
    if arguments.table:
        print(table(rows))
        return
    reached = Reached(arguments.reached)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "saved", "log"))
        if arguments.again:
            for row in rows:
                if row["outcome"] == "survived" and not (row.get("judged") or row.get("added")):
                    source = (copy / "recbole_scale" / f"{row['module']}.py").read_text("utf-8")
                    if digest(source) != row["source"]:
                        print(f"{row['module']} has changed since; its row is left as it was")
                        continue
                    found = try_change(copy, row["module"], row["place"], reached, arguments.seconds)
                    if found["outcome"] != "survived":
                        row |= {"added": found["by"] or found["outcome"], "again": arguments.commit}
        done = {(row["module"], row["place"], row["source"]) for row in rows}
        for module, place in (
            [] if arguments.again else drawn(arguments.count, arguments.seed, arguments.modules, reached)
        ):
            if (module, place, digest((PACKAGE / f"{module}.py").read_text("utf-8"))) in done:
                continue
            row = try_change(copy, module, place, reached, arguments.seconds)
            rows.append({**row, "seed": arguments.seed, "commit": arguments.commit})
            arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        killers = sorted({row["by"] for row in rows if row["by"]})
        if killers and (wrong := tried(copy, killers, 100 * arguments.seconds))["by"]:
            print(f"{wrong['by']} fails on unchanged code: its kills are none")
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
