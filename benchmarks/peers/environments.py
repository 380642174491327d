"""Make the virtual environments in which the peers of the throughput table run.

    python benchmarks/peers/environments.py replay recbole

creates ``benchmarks/.envs/<name>`` from ``requirements-<name>.txt``, one environment a peer because their pins
exclude each other, and prints the path of each Python on stdout. An environment that is complete is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

PEERS_FOLDER = Path(__file__).resolve().parent
ENVIRONMENTS_FOLDER = PEERS_FOLDER.parent / ".envs"

# Packages that go in after the requirements and without their own: see the head of each requirements file.
WITHOUT_DEPENDENCIES: dict[str, list[str]] = {
    "recbole": ["recbole==1.2.1"],
    "recbole-stock": ["recbole==1.2.1"],
    "replay": [],
}

STAMP_NAME = "requirements.sha256"  # written last, so a broken installation is never taken for a complete one


def ensure_environment(name: str) -> Path:
    """Return the Python of the peer `name`, after creating or completing its environment where needed.

    pip's own output goes to stderr. Raises ValueError for an unknown peer and CalledProcessError when pip fails.
    """
    if name not in WITHOUT_DEPENDENCIES:
        raise ValueError(f"unknown peer {name!r}: choose from {', '.join(sorted(WITHOUT_DEPENDENCIES))}")
    requirements = PEERS_FOLDER / f"requirements-{name}.txt"
    folder = ENVIRONMENTS_FOLDER / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / STAMP_NAME
    wanted = _fingerprint(requirements, WITHOUT_DEPENDENCIES[name])
    if python.exists() and stamp.exists() and stamp.read_text().strip() == wanted:
        return python

    venv.create(folder, with_pip=True, clear=True)
    _pip_install(python, "--requirement", str(requirements))
    if WITHOUT_DEPENDENCIES[name]:
        _pip_install(python, "--no-deps", *WITHOUT_DEPENDENCIES[name])
    stamp.write_text(wanted + "\n")
    return python


def _fingerprint(requirements: Path, extra_packages: list[str]) -> str:
    """Digest of all that decides what an environment holds: its requirements and the Python that made it."""
    parts = [requirements.read_text(), *extra_packages, sys.version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pip_install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Create the peers' environments and print the Python of each.", allow_abbrev=False
    )
    parser.add_argument("names", nargs="+", choices=sorted(WITHOUT_DEPENDENCIES), metavar="NAME")
    for name in parser.parse_args().names:
        print(ensure_environment(name), flush=True)


if __name__ == "__main__":
    main()
