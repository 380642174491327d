"""The benchmark scripts run, and their rows hold what the tables need."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import os
import subprocess
import sys
import zipfile
from collections import Counter
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
    assert all(row["tokens_per_second"] > 0 and row["mfu"] > 0 and row["steps"] == 2 for row in speeds)
    assert all(row["train_nll"] == pytest.approx(math.log(50), rel=0.1) for row in speeds)  # of 50 random items
    assert done.stdout.count("| xlarge | precision=bf16 |") == 2 and "| tiny | precision=float32 |" in done.stdout
    curves = {row["precision"]: row for row in found if row["part"] == "curve"}
    assert set(curves) == {"bf16", "float32"}
    bf16, float32 = (curves[name]["curve"][0]["train_nll"] for name in ("bf16", "float32"))
    assert bf16 != float32 and bf16 == pytest.approx(float32, rel=0.02)
    assert [row["size"] for row in found if row["part"] == "one step"] == ["xlarge"]
    peers = [row for row in found if row["part"] == "peer"]
    assert [(row["system"], row["size"]) for row in peers] == [
        (name, size) for name in ("bare", "recbole") for size in ("tiny", "base")
    ]
    assert all(row["tokens_per_second"] > 0 for row in peers) and "| base | recbole |" in done.stdout
    (study,) = [row for row in found if row["part"] == "study"]
    assert study["data"]["interactions"] == 1500 and any("1x32" in line for line in study["said"])


def test_a_machine_without_recbole_is_told_in_one_sentence_what_is_missing(tmp_path):
    blocked = {"recbole", "recbole_scale", "ray", "thop", "colorlog", "texttable"}
    there = tmp_path / "packages"  # all that is installed but those, as links; -S hides the installed ones themselves
    there.mkdir()
    for folder in sys.path:
        for path in Path(folder).glob("*") if folder.endswith("site-packages") else ():
            if path.name.partition(".")[0].partition("-")[0] not in blocked and not (there / path.name).exists():
                (there / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-S", BENCHMARKS / "gpu.py", "--smoke", "--out", tmp_path / "gpu.jsonl"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "PYTHONPATH": str(there), "WHEELS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: recbole, colorlog, texttable cannot be imported; ")
    assert "gpu.sh --wheels" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "gpu.jsonl").exists()


def test_wheels_that_were_carried_along_are_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "WHEELS", tmp_path)
    monkeypatch.setattr(gpu, "NEEDED", ("json", "carried_along"))
    monkeypatch.setenv("PYTHONPATH", "before")
    with zipfile.ZipFile(tmp_path / "carried_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_along/__init__.py", "")
    assert gpu.absent() == ["carried_along"]
    gpu.use_wheels(tmp_path / "unpacked")
    assert gpu.absent() == []
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["before", str(tmp_path / "unpacked")]  # for the parts


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


def test_no_benchmark_takes_a_part_of_an_options_name():
    for path in BENCHMARKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "ArgumentParser":
                assert any(word.arg == "allow_abbrev" for word in node.keywords), path.name


CHANGED = """
@cache(maxsize=3)
def f(a: int, b: bool = True) -> float | None:
    if not a < 1 and b:
        return g(a, b, scale=2) + 0.5
    a += 3
    return None
"""


def mutants():
    """The benchmark, and not tests/fuzz/mutants.py, which another test of this process may have imported."""
    spec = importlib.util.spec_from_file_location("benchmark_of_mutants", BENCHMARKS / "mutants.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_mutant_is_one_change_and_every_kind_is_drawn():
    mutated, places = mutants().mutated, mutants().places
    tree = ast.parse(CHANGED)
    made = [mutated(CHANGED, place) for place in range(len(list(places(tree))))]
    kinds = [found["kind"] for _, found, _ in made]
    assert Counter(kinds) == {
        "comparison": 1, "boolean": 2, "arithmetic": 2, "return": 1, "argument": 2, "constant": 5
    }  # fmt: skip
    texts = [text for text, _, _ in made]
    assert len({*texts, ast.unparse(tree)}) == 14  # all differ, and none is the source
    for text in texts:  # in one line each; decorator and annotations stay
        pairs = list(zip(text.splitlines(), ast.unparse(tree).splitlines(), strict=True))
        assert (
            sum(one != other for one, other in pairs) == 1
            and pairs[0][0] == pairs[0][1]
            and "float | None" in pairs[1][0]
        )
    lines = {found["was"]: list(lines) for _, found, lines in made}
    assert lines["a < 1"] == [4] and lines["return g(a, b, scale=2) + 0.5"] == [5] and lines["True"] == [3]
    assert {found["was"]: found["now"] for _, found, _ in made}["g(a, b, scale=2)"] in ("g(b, a, scale=2)", "g(a, b)")


def test_what_mutants_say_is_counted():
    row = {"module": "laws/fit", "line": 3, "was": "1", "now": "2"}
    rows = [{**row, "outcome": name} for name in ("killed", "timed out", "survived", "survived", "survived")]
    rows[-1]["judged"], rows[-2]["added"] = "a size of blocks", "tests/test_laws.py::test_one"
    assert mutants().table(rows).splitlines() == [
        "5 changes: 1 killed, 1 timed out, 2 survived, 1 that alter no result (read by hand); 50 % noticed, "
        "75 % with the tests added since",
        "laws/fit:3 1  ->  2",
    ]
