"""The rules of the house: an import never runs up, none is circular, and what needs no torch does not load it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "recbole_scale"
# rooms from the ground up; a room imports from lower floors and itself only
FLOORS = [
    {"bars", "errors", "interfaces", "signals", "terminal", "text"},
    {"files", "settings", "laws"},
    {"arguments", "drawing"},
    {"data", "model"},
    {"training"},
    {"plugin"},
    {"runs"},
    {"prepare", "fit"},
    {"sweep", "search", "compare", "serving", "challenges"},
    {"report"},
    {"study"},
    {"on_import"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
LATE = ("__init__", "on_import")  # they name modules in strings, to import them when they are asked for
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Our modules that a file imports, wherever in it, for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "recbole_scale." in node.value:
            names = [node.value] if node.value.replace(".", "").replace("_", "").isalnum() else []
        for name in names:
            if name.split(".")[0] != "recbole_scale":
                continue
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in known and ".".join([*parts, "__init__"]) not in known:
                parts = parts[:-1]
            inner = ".".join(parts)
            found.add(inner if inner in known else ".".join([*parts, "__init__"]))
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def test_no_import_runs_up():
    known = modules()
    assert {room(module) for module in known} == set(FLOOR)
    wrong = []
    for module, path in known.items():
        for other in imports_of(path, known) if module not in LATE else ():
            ok = FLOOR[room(other)] < FLOOR[room(module)] or room(other) == room(module)
            if not ok and not (
                FLOOR[room(other)] == FLOOR[room(module)] and _one_way(known, room(module), room(other))
            ):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def _one_way(known: dict[str, Path], here: str, there: str) -> bool:
    """Rooms of one floor may import each other in one direction."""
    back = {other for module in known if room(module) == there for other in imports_of(known[module], known)}
    return here not in {room(other) for other in back}


def test_no_import_is_circular():
    known = modules()
    graph = {module: imports_of(path, known) for module, path in known.items()}
    for name in LATE:
        graph[name] = {other for other in graph[name] if room(other) in ("errors", "on_import")}
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others if room(other) != room(module))
    for what in (graph, rooms):
        try:
            list(TopologicalSorter(what).static_order())
        except CycleError as failure:
            raise AssertionError(" -> ".join(failure.args[1])) from failure


FIRST = """
import importlib, os, sys
import pandas, scipy.optimize, torch  # once for all: the forks below differ in what they import of ours and of RecBole
for line in sys.stdin:
    if not (child := os.fork()):
        try:
            for name in line.split():
                importlib.import_module(name)
        except BaseException as failure:
            print(f"{line.split()[0]}: {failure!r}", flush=True)
        os._exit(0)
    print(line.split()[0], os.waitpid(child, 0)[1], flush=True)
"""


def test_every_room_can_be_imported_first():
    """RecBole calls the plugin as it is imported, so a module of ours may be half loaded then."""
    known = [
        name for name in modules() if not name.endswith("__init__") and name != "__main__" and "ray_worker" not in name
    ]
    rooms = [[name for name in known if room(name) == first] for first in sorted(FLOOR)]
    alone = [["data.rows"], ["data.dataset"], ["model.scaled_sasrec"], ["plugin.reading"], ["plugin.config"]]
    given = [[f"recbole_scale.{name}" for name in names] for names in (*rooms, *alone) if names]
    lines = "".join(" ".join(names) + "\n" for names in given)
    done = subprocess.run([sys.executable, "-c", FIRST], input=lines, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{names[0]} 0" for names in given], done.stderr[-2000:]


def test_the_page_of_the_house_names_what_is_there():
    """Every path on it, and every room, in the order of the floors."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    for name in re.findall(r"`([a-z_]+/[a-z_./]*|[a-z_]+\.py)`", page):
        places = [PACKAGE.parent / name, PACKAGE / name, PACKAGE / "data" / name, PACKAGE / "model" / name]
        assert any(place.exists() for place in places) or name in ("command.py", "options.py"), name
    rows = page.partition("| room | holds | may import |")[2].partition("\n\n")[0].splitlines()[2:]
    rooms = [name.rstrip("/") for row in rows for name in re.findall(r"`([a-z_]+)/?`", row.split("|")[1])]
    assert sorted(rooms) == sorted(set(FLOOR) - {"__main__"})
    assert [FLOOR[name] for name in rooms[:-3]] == sorted(FLOOR[name] for name in rooms[:-3])


@pytest.mark.parametrize(
    "code",
    [
        "import recbole_scale",
        "from recbole_scale import fit_power_law",
        "import recbole_scale.prepare.command, recbole_scale.prepare.synthetic",
        "import recbole_scale.fit.command",
    ],
)
def test_laws_and_the_preparation_of_data_need_neither_torch_nor_recbole(code: str):
    look = "import sys; print(sorted({'torch', 'recbole', 'ray', 'matplotlib', 'scipy.stats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{look}"], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr[-2000:]


def test_stock_recbole_is_extended_when_it_is_imported():
    code = (
        "import recbole_scale, sys\nassert 'recbole' not in sys.modules\n"
        "from recbole.quick_start import run_recbole\nfrom recbole.evaluator import metric_types\n"
        "from recbole.utils import get_model\nprint('nll' in metric_types, get_model('ScaledSASRec').__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True ScaledSASRec\n", done.stderr[-2000:]


def test_a_run_leaves_torchs_compiler_alone(walk):
    """Importing it takes two seconds of CPU at every start."""
    settings = {"n_layers": 1, "hidden_size": 8, "n_heads": 1, "inner_size": 32, "epochs": 1, "topk": [5]}
    more = {"optimizer_switch": True, "sgd_epochs": 1, "show_progress": False}
    code = f"import sys, recbole_scale; recbole_scale.run('ScaledSASRec', 'walk', config_dict={settings | more})\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch._dynamo' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.endswith("False\n"), done.stdout[-500:] + done.stderr[-2000:]
