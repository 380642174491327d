"""The benchmark scripts run, and their rows hold what the tables need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import walk_rows, write_inter

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def call(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=folder, env=environment, timeout=900
    )


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "dataset" / "walk" / "walk.inter"
    write_inter(path, walk_rows())
    return path


def test_the_gpu_script_runs_whole_on_a_cpu(tmp_path, log):
    out = tmp_path / "gpu.jsonl"
    done = call("bash", BENCHMARKS / "gpu.sh", "--smoke", "--out", out, "--data", log, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(out)
    assert not [row for row in found if "error" in row]
    speeds = [row for row in found if row["part"] == "speed"]
    assert {row["size"] for row in speeds} == {"tiny", "small", "base", "medium", "large", "xlarge"}
    assert all(row["tokens_per_second"] > 0 and row["mfu"] > 0 and len(row["losses"]) == 3 for row in speeds)
    curves = {row["precision"]: row for row in found if row["part"] == "curve"}
    assert set(curves) == {"bf16", "float32"}
    bf16, float32 = (curves[name]["curve"][0]["train_nll"] for name in ("bf16", "float32"))
    assert bf16 != float32 and bf16 == pytest.approx(float32, rel=0.02)
    assert [row["size"] for row in found if row["part"] == "one step"] == ["xlarge", "xlarge"]


def test_memory_is_measured_and_estimated(tmp_path):
    out = tmp_path / "memory.jsonl"
    done = call(
        sys.executable, BENCHMARKS / "memory.py", "--sizes", "tiny", "--steps", 2, "--out", out, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    row = rows(out)[0]
    assert row["variant"] == "default" and row["measured_mib"] > 20
    assert row["error"] == pytest.approx(row["estimate_mib"] / row["measured_mib"] - 1, abs=0.01)
    assert abs(row["error"]) < 0.35  # the 20 % of the table is for a quiet machine with the versions named there


def test_throughput_names_its_share_of_a_matrix_product(tmp_path, log):
    out = tmp_path / "throughput.jsonl"
    done = call(
        sys.executable, BENCHMARKS / "throughput.py", "--data", log, "--seconds", 0.2, "--out", out,
        "--set", "n_layers=1", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = rows(out)[0]
    assert row["matmul_gflops_per_second"] > 0 and 0 < row["share_of_matmul"] < 1.5
    assert "share of matmul" in done.stdout


def test_recommend_is_timed_whole_for_users_and_for_files_of_histories(tmp_path, log):
    trained = call(
        sys.executable, "-m", "recbole_scale", "--model=ScaledSASRec", "--dataset=walk", "--n_layers=1",
        "--hidden_size=8", "--epochs=1", "--topk=[5]", f"--data_path={log.parents[1]}", "--checkpoint_dir=saved",
        folder=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    (checkpoint,) = (tmp_path / "saved").glob("*.best.pth")
    out = tmp_path / "recommend.jsonl"
    done = call(
        sys.executable, BENCHMARKS / "recommend.py", "--checkpoint", checkpoint, "--histories", 100, "--topk", 3,
        "--out", out, folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    every, file = rows(out)
    assert every["what"] == "every user" and file["what"] == "100 histories in a file"
    assert "100 users, 300 rows" in done.stdout
    assert all(row["seconds"] > 0 and row["peak_memory_mb"] > 50 and row["file_mb"] >= 0 for row in (every, file))
