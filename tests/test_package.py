"""What gets installed: the settings files ship inside the wheel, and the console commands are declared."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from recbole_scale.model.sizes import SIZE_NAMES

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_the_properties_and_the_commands(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        entry_points = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    for name in (*SIZE_NAMES, "model/ScaledSASRec"):
        assert f"recbole_scale/properties/{name}.yaml" in names
    assert "run_recbole = " in entry_points and "run_hyper = " in entry_points
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
