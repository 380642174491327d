"""The README says what is true: its commands parse and plan, its columns and sizes are those of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import walk_rows, write_inter

from recbole_scale.model.sizes import SIZE_NAMES, load_size
from recbole_scale.runs.records import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[str]:
    """Every line of the README's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(("run_recbole", "run_hyper"))])
def test_every_run_of_the_readme_plans(folder, command):
    for name in ("my-log", "ml-1m"):
        write_inter(folder / "dataset" / name / f"{name}.inter", walk_rows(n_items=120))
    tool, *arguments = command.split()
    if "--dry_run" not in arguments:
        arguments.append("--dry_run")
    code = f"from recbole_scale.cli import {tool}_command; {tool}_command()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Models of ``my-log`` by size, trained for one epoch, in the place of the README's checkpoints."""
    found = {}
    for size in ("tiny", "small"):
        folder = tmp_path_factory.mktemp(size)
        write_inter(folder / "dataset" / "my-log" / "my-log.inter", walk_rows(n_items=120))
        command = [sys.executable, "-m", "recbole_scale", "--dataset=my-log", "--epochs=1", f"--size={size}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        found[size] = next((folder / "saved").glob("*.best.pth"))
    return found


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python run_scripts/")])
def test_every_script_of_the_readme_runs(folder, checkpoints, command):
    words = command.split()[1:]
    if "size_sweep" in words[0]:
        words.append("--dry_run")
    (folder / "log.csv").write_text(
        "uid,iid,ts\n" + "".join(f"u{i % 7},i{i % 11},{1_700_000_000 + i}\n" for i in range(200))
    )
    if "prepare_data" not in words[0]:  # it makes this data set
        write_inter(folder / "dataset" / "my-log" / "my-log.inter", walk_rows(n_items=120))
    shutil.copytree(ROOT / "results", folder / "results")
    (folder / "saved").mkdir()
    for name in {word for word in words if word.startswith("saved/")}:
        shutil.copy(checkpoints[Path(name).name.split(".")[0]], folder / name)
    done = subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in commands() if c.startswith("make ")]
    assert set(targets) >= {"quickstart", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_command_of_the_readme_is_run_somewhere():
    known = ("make ", "run_recbole", "run_hyper", "python run_scripts/", "python benchmarks/")
    assert [c for c in commands() if not c.startswith(known)] == []
    for command in commands():
        if command.startswith("python benchmarks/"):
            script = ROOT / command.split()[1]
            assert subprocess.run([sys.executable, str(script), "--help"], capture_output=True).returncode == 0


def test_columns_are_documented_as_in_code():
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in README


def test_sizes_table_is_that_of_the_settings():
    for name in SIZE_NAMES:
        size = load_size(name)
        row = next(line for line in README.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert [int(cell) for cell in cells[2:6]] == [size[k] for k in ("n_layers", "hidden_size", "n_heads", "epochs")]
        rates = [float(rate) for rate in cells[6].split(" to ")]
        assert (rates[0], rates[-1]) == (size["dropout_bottom"], size["dropout_top"])


def test_links_and_files_of_the_readme_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    tour = README.split("## File tour")[1].split("```")[1]
    for name in re.findall(r"[\w./]+\.py", tour):
        assert list(ROOT.rglob(Path(name).name)), name
