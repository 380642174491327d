"""On each Python from 3.10 to 3.13 that is found: install as a user does, plan, train, read the README, test.

``make test-pythons`` (``PYTHONS="3.12 3.13"`` for some); one row a Python in results/pythons.jsonl, in the place of its
older one. Needs nothing but Python, make and the package index; environments are new and removed afterwards, or kept in
the folder ``KEEP``.
Seconds are those of whatever network and machine this is; a step that fails is named, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIRST = ["torch", "ray", "recbole", "numpy", "pandas", "scipy", "pyarrow"]  # whose versions are told
VERSIONS = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {FIRST}}}))"


class Failed(Exception):
    """A step that did not end well."""


def find_python(version: str) -> str | None:
    """The command of a version on the path, or pyenv's; None where there is none that starts."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for command in (shutil.which(f"python{version}"), *map(str, sorted(kept.glob(f"{version}.*/bin/python")))):
        if command and subprocess.run([command, "-c", ""], capture_output=True).returncode == 0:
            return command
    return None


def called(words: list[str], log: Path, folder: Path | None = None) -> tuple[str, float]:
    """What a command printed, which ``log`` keeps too, and the seconds it took.

    Raises:
        Failed: it ended with another code than 0, or pip printed an error.
    """
    started = time.monotonic()
    with log.open("w") as out:
        code = subprocess.run(words, cwd=folder or ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    text = log.read_text(errors="replace")
    if code.returncode or re.search(r"^ERROR: ", text, flags=re.MULTILINE):
        raise Failed(f"{' '.join(words)} ended with {code.returncode}:\n{text[-3000:]}")
    return text, time.monotonic() - started


def tried(python: str, work: Path, venv: Path, whole: bool) -> dict[str, Any]:
    """One Python's row; an environment that is there already is taken as it is, and has no seconds of installing."""
    folder, there = work / "run", venv.exists()
    folder.mkdir()
    make = ["make", "--no-print-directory", f"PYTHON={python}", f"VENV={venv}"]
    full = called([python, "-c", "import platform; print(platform.python_version())"], work / "version.log")[0]
    row: dict[str, Any] = {"python": full.strip()}
    _, seconds = called([*make, "setup"], work / "install.log")
    row["install_seconds"] = None if there else seconds
    size = sum(path.lstat().st_size for path in venv.rglob("*"))
    row["install_mb"] = round(size / 1e6)
    before = json.loads(called([str(venv / "bin/python"), "-c", VERSIONS], work / "versions.log")[0])
    run = [
        str(venv / "bin/run_recbole"),
        "--model=ScaledSASRec",
        "--dataset=ml-100k",
        "--config_files=properties/tiny.yaml",
    ]
    plan, row["plan_seconds"] = called([*run, "--dry_run"], work / "plan.log", folder)
    if "  time " not in plan:
        raise Failed(f"a plan without its time:\n{plan[-3000:]}")
    epoch, row["epoch_seconds"] = called([*run, "--epochs=1"], work / "epoch.log", folder)
    found = re.findall(r"^(NLL|NDCG@10) .*$", epoch, flags=re.MULTILINE)
    lines = {name: next(line for line in epoch.splitlines() if line.startswith(f"{name} ")) for name in found}
    row["valid_and_test"] = {name: [float(value) for value in line.split()[1:3]] for name, line in lines.items()}
    document = [str(venv / "bin/python"), "tests/helpers/document_commands.py", "README.md"]
    row["readme_commands"] = len(re.findall(r"^\$ ", called(document, work / "readme.log")[0], flags=re.MULTILINE))
    called([*make, "setup-test"], work / "extras.log")  # every extra, into an environment that works
    after = json.loads(called([str(venv / "bin/python"), "-c", VERSIONS], work / "after.log")[0])
    if before != after:
        raise Failed(f"an extra changed what was installed: {before}, now {after}")
    tests, row["test_seconds"] = called([*make, "test" if whole else "test-fast"], work / "tests.log")
    row["tests"] = "make test" if whole else "make test-fast"
    row["passed"] = sum(int(count) for count in re.findall(r"(\d+) passed", tests))
    return row | {"versions": before}


def written(path: Path, row: dict[str, Any]) -> None:
    """Put a row into the place of the same version's."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = {json.loads(line)["python"]: line for line in lines} | {row["python"]: json.dumps(row)}
    order = sorted(kept, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    path.write_text("".join(kept[name] + "\n" for name in order))


def main() -> int:
    """Try each Python; write its row or print what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pythons", nargs="+", default=["3.10", "3.11", "3.12", "3.13"])
    parser.add_argument("--keep", type=Path, help="folder of environments to keep, and to use again, by version")
    parser.add_argument("--whole", action="store_true", help="make test in the place of make test-fast")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "pythons.jsonl")
    options = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    bad, found = 0, {version: find_python(version) for version in options.pythons}
    for version, python in found.items():
        if python is None:
            print(f"Python {version}: none found, so not tried", flush=True)
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"python-{version}-") as work:
            try:
                row = tried(python, Path(work), (options.keep or Path(work)).resolve() / version, options.whole)
            except Failed as failure:
                bad += 1
                print(f"Python {version}: {failure}", flush=True)
                continue
        row = {name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()}
        row |= {"minutes": round((time.monotonic() - started) / 60, 1), "cores": os.cpu_count()}
        row |= {"load": round(os.getloadavg()[2], 1), "commit": commit.stdout.strip(), "date": str(date.today())}
        written(options.out, row)
        print(json.dumps(row), flush=True)
    return 1 if bad or not any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
