"""What gets installed, by wheel, sdist and git: settings, templates, types, commands; and what it depends on."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml

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


def test_no_file_of_the_project_names_a_machine_or_an_index_of_packages():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    named = re.compile(rb"https?://[\w.-]*(?:pypi|pythonhosted|download\.pytorch)|/root/|/home/\w")
    for path in (ROOT / name for name in listed.split("\0") if name and name != "tests/test_package.py"):
        found = named.search(path.read_bytes()) if path.is_file() else None
        assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}"
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text().split()


PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def test_every_place_that_says_which_pythons_says_the_same():
    pyproject, makefile = (ROOT / "pyproject.toml").read_text(), (ROOT / "Makefile").read_text()
    assert 'requires-python = ">=3.10"' in pyproject
    assert re.findall(r"Python :: (3\.\d+)", pyproject) == PYTHONS
    for said in re.findall(r"^PYTHONS := (.+)$|for version in (.+); do", makefile, flags=re.MULTILINE):
        assert "".join(said).split() == PYTHONS
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["checks"]
    assert workflow["strategy"]["matrix"]["python"] == PYTHONS
    assert workflow["steps"][-1] == {"run": ".ci/run"}
    assert "Python 3.10 to 3.13" in (ROOT / "README.md").read_text("utf-8")


def test_recboles_requirements_are_all_among_ours_but_its_caps():
    """What RecBole itself says it needs, since pip is told not to look (--no-deps)."""

    def names(lines):
        return {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in lines if "extra ==" not in line}

    assert names(requires("recbole") or []) <= names(requires("recbole-scale") or [])


def test_the_linters_before_a_commit_are_those_of_ci():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert lint is not None
    for command in lint[1].replace("\t$(BIN)/", "").replace(" .", "").splitlines():
        assert [hook for hook in hooks if hook["entry"].replace(" --force-exclude", "") == f".venv/bin/{command}"], (
            command
        )


def test_the_citation_is_of_this_version_and_of_the_readmes_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert cited["version"] == version("recbole-scale") and cited["license"] == "MIT"
    (paper,) = cited["references"]
    assert paper["title"] in readme and paper["doi"] in readme and paper["url"] in readme
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in readme


def test_the_changelog_is_dated_newest_first_and_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    heads = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    assert found and all(found), heads
    assert found[0][1] == version("recbole-scale")
    dates = [one[2] for one in found]
    assert dates == sorted(dates, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) <= kinds


def test_issue_templates_have_a_name_and_say_what_they_are_for():
    templates = list((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 2
    for path in templates:
        head = yaml.safe_load(path.read_text("utf-8").split("---\n")[1])
        assert head["name"] and head["about"], path
