"""Rows of runs.jsonl: no half rows, no lost rows, with many writers and under kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from recbole_scale.errors import UserError
from recbole_scale.runs import records
from recbole_scale.runs.records import COLUMNS, append_row, read_rows

WRITER = """
import sys
from recbole_scale.runs.records import append_row
path, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
for i in range(n):
    append_row(path, {"run_id": f"{name}-{i}", "status": "ok", "error": "x" * 3000})
    print(i, flush=True)
"""


def writer(path, name, n):
    command = [sys.executable, "-c", WRITER, str(path), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "results" / "runs.jsonl"
    writers = [writer(path, f"w{i}", 40) for i in range(4)]
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    rows = read_rows(path)
    assert sorted(rows["run_id"]) == sorted(f"w{i}-{n}" for i in range(4) for n in range(40))
    assert pd.read_json(path, lines=True)["run_id"].nunique() == 160


def test_killed_writers_leave_whole_rows_only(tmp_path):
    path = tmp_path / "runs.jsonl"
    acknowledged = []
    for attempt in range(3):
        process = writer(path, f"k{attempt}", 100_000)
        process.stdout.readline()
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [f"k{attempt}-{line.strip()}" for line in ["0", *process.stdout.read().split()]]
    append_row(path, {"run_id": "after", "status": "ok"})
    found = set(read_rows(path)["run_id"])
    assert set(acknowledged) <= found  # what was reported written is there
    assert "after" in found


def test_a_torn_line_is_cut_off_and_never_joined(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_row(path, {"run_id": "whole"})
    with open(path, "a") as file:
        file.write('{"run_id": "torn')
    assert read_rows(path)["run_id"].tolist() == ["whole"]
    append_row(path, {"run_id": "next"})
    assert read_rows(path)["run_id"].tolist() == ["whole", "next"]


def test_not_a_number_is_null_and_unknown_columns_are_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_row(path, {"run_id": "a", "test_nll": float("nan"), "test_metrics": {"nll": float("inf")}})
    row = json.loads(path.read_text())
    assert list(row) == list(COLUMNS)
    assert row["test_nll"] is None and row["test_metrics"] == {"nll": None}
    with pytest.raises(UserError, match="no column 'test_nil'"):
        append_row(path, {"test_nil": 1.0})


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"run_id": "a"}\nnonsense\n{"run_id": "b"}\n')
    with pytest.raises(UserError, match="line 2"):
        read_rows(path)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_row(path, {"run_id": "a"})
    before = path.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from recbole_scale.runs.records import append_row\n"
        "from recbole_scale.errors import exit_code\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)} + 100, {len(before)} + 100))\n"
        "sys.exit(exit_code(lambda: append_row(sys.argv[1], {'run_id': 'b', 'error': 'x' * 1000})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 2 and "could not be added" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == before


def test_a_commit_is_dirty_by_the_packages_files_alone(tmp_path, monkeypatch):
    package = tmp_path / "package" / "scaling"
    package.mkdir(parents=True)
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    assert records.commit() is None
    for path in (package / "records.py", tmp_path / "rows.jsonl"):
        path.write_text("one\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "m"]):
        subprocess.run([*git, *words], check=True)
    clean = records.commit()
    assert clean and len(clean) == 12
    (tmp_path / "rows.jsonl").write_text("one\ntwo\n")  # what a sweep does to a file of rows
    assert records.commit() == clean
    (package / "records.py").write_text("two\n")
    assert records.commit() == clean + "-dirty"
