"""What gets installed, by wheel, sdist and git: settings, templates, types, commands; and what it depends on."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import recbole_scale
from recbole_scale.model.sizes import SIZE_NAMES

ROOT = Path(__file__).resolve().parents[1]
NEEDED = [
    *(f"properties/{name}.yaml" for name in SIZE_NAMES), "properties/model/ScaledSASRec.yaml", "py.typed",
    "properties/hyper/SASRec.hyper", "cli.py",
]  # fmt: skip


def build(kind: str, out: Path, source: Path = ROOT) -> Path:
    """The wheel or sdist of a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        entry_points = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
        metadata = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    here = [str(file.relative_to(ROOT)) for file in (ROOT / "recbole_scale").rglob("*") if file.is_file()]
    here = [name for name in here if "__pycache__" not in name and ".cache" not in name]
    assert set(here) | {f"recbole_scale/{name}" for name in NEEDED} <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/", "properties/", "docs/")) for name in names)
    for command in ("recbole-scale", "run_recbole", "run_hyper"):
        assert f"{command} = recbole_scale.cli:" in entry_points
    assert "Requires-Dist: recbole" not in metadata  # its cap on Ray would come with it


def test_the_wheel_holds_everything_and_the_commands(tmp_path):
    check_wheel(build("wheel", tmp_path))


def test_a_wheel_of_the_sdist_is_the_same(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        sdist.extractall(tmp_path, filter="data")
    check_wheel(build("wheel", tmp_path / "wheels", next(p for p in tmp_path.iterdir() if p.is_dir())))


@pytest.mark.slow
def test_an_install_from_git_is_the_same(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
               str(tmp_path), f"git+file://{ROOT}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    check_wheel(next(tmp_path.glob("*.whl")))


def test_version():
    assert recbole_scale.__version__ == version("recbole-scale")


def test_dependencies_hold_what_recbole_needs_and_no_extra_can_take_ray_back(tmp_path):
    """An extra that named RecBole, or a Ray of its own, would have pip downgrade it in a working environment."""
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    lines = re.findall(r"^Requires-Dist: (.+)$", metadata, flags=re.MULTILINE)
    needed = {re.split(r"[^\w-]", line)[0].lower(): line for line in lines if "extra ==" not in line}
    recboles = [
        "colorama",
        "colorlog",
        "plotly",
        "psutil",
        "scikit-learn",
        "tabulate",
        "tensorboard",
        "texttable",
        "thop",
    ]
    assert {*recboles, "ray", "matplotlib", "torch", "jinja2", "filelock"} <= set(needed)
    assert "recbole" not in needed and ">=2.50" in needed["ray"]
    extras = [line for line in lines if "extra ==" in line]
    assert extras and not [line for line in extras if re.match(r"(recbole|ray)\b", line)]


def test_no_file_of_the_project_names_a_machine():
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text().split()
