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
from recbole_scale.runs import records, row_file
from recbole_scale.runs.records import COLUMNS, KINDS_OF_COLUMNS, RunRow, append_row, read_rows
from recbole_scale.runs.row_file import KINDS

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


def test_columns_their_kinds_and_meanings_are_those_of_one_type():
    assert list(COLUMNS) == list(KINDS_OF_COLUMNS) == list(RunRow.__annotations__)
    assert set(KINDS_OF_COLUMNS.values()) <= set(KINDS)
    assert all(meaning and meaning not in KINDS for meaning in COLUMNS.values())


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


def test_a_last_row_without_a_newline_is_a_row(tmp_path):
    """An editor, ``"\\n".join`` and older pandas leave it out."""
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(json.dumps({"run_id": name, "status": "ok"}) for name in "ab"))
    assert read_rows(path)["run_id"].tolist() == ["a", "b"]
    append_row(path, {"run_id": "c", "status": "ok"})
    assert [json.loads(line)["run_id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    path.write_text(json.dumps({"run_id": "only"}))
    append_row(path, {"run_id": "c"})
    assert read_rows(path)["run_id"].tolist() == ["only", "c"]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_what_a_windows_editor_has_saved_are_rows(tmp_path, end):
    """A byte order mark before the first row, and line ends of two letters; a further row comes behind them."""
    path = tmp_path / "runs.jsonl"
    rows = (end or "\n").join(json.dumps({"run_id": name, "status": "ok"}) for name in "ab") + end
    path.write_bytes(rows.encode("utf-8-sig"))
    assert read_rows(path)["run_id"].tolist() == ["a", "b"]
    append_row(path, {"run_id": "c", "status": "ok"})
    assert read_rows(path)["run_id"].tolist() == ["a", "b", "c"]
    path.write_bytes(b"\xef\xbb\xbf")  # an empty file
    append_row(path, {"run_id": "c"})
    assert read_rows(path)["run_id"].tolist() == ["c"]


@pytest.mark.parametrize("content", [
    b"a thesis\n", b"without a newline", b"user_id:token\titem_id:token\n1\t2", b"{\n  \"run_id\": 1\n}\n",
    b"\x89PNG\r\n\x1a\n\x00",
    b'{"text": "of another kind"}\n', b'[1, 2]\n', b'{"run_id": "a"}\nnotes of mine', b'{"torn', b"\n\n\n",
])  # fmt: skip
def test_a_file_that_is_none_of_rows_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"nothing was added to it$"):
        append_row(path, {"run_id": "a", "status": "ok"})
    assert path.read_bytes() == content


def test_a_run_has_one_row(tmp_path):
    path = tmp_path / "runs.jsonl"
    row = {"run_id": "a", "status": "ok", "test_metrics": {"nll": 1.5}}
    assert append_row(path, row)
    assert not append_row(path, row | {"seconds_total": 9.0})  # trained again, to the same numbers
    assert not append_row(path, row | {"test_metrics": {"nll": 1.5000001}}, trained=False)  # tested elsewhere
    assert append_row(path, row | {"test_metrics": {"nll": 1.4}})  # other numbers, of another version
    assert append_row(path, row | {"run_id": "b", "status": "failed"})
    assert append_row(path, row | {"run_id": "b", "status": "failed"})  # failed twice is two events
    assert append_row(path, row | {"run_id": "b"})
    assert read_rows(path)["run_id"].tolist() == ["a", "a", "b", "b", "b"]


@pytest.mark.parametrize(("line", "says"), [
    (b"\xff", "not UTF-8"), (b"5", "no JSON object"), (b"[" * 100_000, "without end|Expecting|too"),
    (b'{"n_blocks": 1' + b"0" * 400 + b"}", "too large"), (b'{"test_nll": 1e999}', "too large"),
    (b'{"seed": [1]}', r"seed is \[1\], but must be a number"), (b'{"n_blocks": true}', "n_blocks is True"),
    (b'{"dataset": "\\ud800"}', "no Unicode"), (b'{"n_items": -1}', "whole number"),
    (b'{"test_metrics": {"nll": "x"}}', "numbers by name"), (b'{"evaluations": [1]}', "a list of objects"),
    (b'{"run_id": "' + b"x" * 300_000, "Unterminated"), (b'{"model": {"' + b"x" * 300_000 + b'": 1}}', "be a text"),
])  # fmt: skip
def test_a_line_that_is_no_row_is_named_by_its_number(tmp_path, line, says):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run_id": "a"}\n' + line + b'\n{"run_id": "b"}\n')
    with pytest.raises(UserError, match=rf"runs.jsonl, line 2: not a row \(.*({says})") as told:
        read_rows(path)
    assert len(str(told.value)) < 500


def test_rows_may_go_to_a_device(tmp_path):
    assert append_row("/dev/null", {"run_id": "a"})
    with pytest.raises(UserError, match=r"could not be added to /dev/full \(no space left on device\)"):
        append_row("/dev/full", {"run_id": "a"})


def test_a_file_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(row_file, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="/dev/zero is longer than the 1,000 bytes"):
        read_rows("/dev/zero")
    assert len(read_rows("/dev/null")) == 0
