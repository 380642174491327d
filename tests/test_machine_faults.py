"""A full disk, a folder not to be written, a terminal that fails: one sentence, nothing half written, no work lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from study_rows_made import SHAPES, made_row

from recbole_scale import files
from recbole_scale.cli import run_verb
from recbole_scale.compare.command import write_tables
from recbole_scale.data.texts import joined
from recbole_scale.drawing import write_figure
from recbole_scale.errors import UserError, exit_code
from recbole_scale.files import drop_stale, whole_files, write_text
from recbole_scale.fit.law_output import write_json as write_law
from recbole_scale.runs.log import NoMoreLog
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.search.folder import Trial, write_json
from recbole_scale.training.checkpoint import copy_checkpoint, save_checkpoint


def figure(folder: Path) -> None:
    drawn = Figure()
    drawn.subplots().plot([1, 2])
    write_figure(drawn, folder, "figure")


WRITERS = {
    "law": lambda folder: write_law({"E": 1.0}, folder / "law.json"),
    "figure": figure,
    "tables": lambda folder: write_tables(folder, "title", ["model", "seeds", "nll"], [["a", "1", "2.0"]]),
    "search": lambda folder: write_json(folder / "search.json", {"a": 1}),
    "trial": lambda folder: Trial(folder, 1).begin({"n_layers": 1}),
    "text": lambda folder: write_text(folder / "best.yaml", "a: 1\n", "the best trial"),
    "checkpoint": lambda folder: save_checkpoint({"state_dict": {}}, folder / "a.last.pth"),
    "copy": lambda folder: copy_checkpoint(__file__, str(folder / "copy.pth")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_every_whole_file_is_one_sentence_and_nothing_is_left(tmp_path, monkeypatch, name, fault):
    def fails(descriptor: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(UserError, match=os.strerror(fault).lower()) as told:
        WRITERS[name](tmp_path)
    assert str(tmp_path) in str(told.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.undo()
    WRITERS[name](tmp_path)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_folder_made_for_a_file_that_could_not_be_written_goes_with_it(tmp_path, monkeypatch):
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "there").mkdir()
    monkeypatch.setattr(files.os, "fsync", fails)
    for folder in ("new/deep", "there", "there/new"):
        with pytest.raises(UserError, match="full"):
            write_text(tmp_path / folder / "a.txt", "text", "the text")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    monkeypatch.undo()
    write_text(tmp_path / "new/deep/a.txt", "text", "the text")
    assert (tmp_path / "new/deep/a.txt").read_text() == "text"


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_a_file_is_one_sentence(tmp_path, name):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match=r"not a directory|file exists"):
        WRITERS[name](tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_only_what_dead_writers_left_is_removed(tmp_path):
    for name in (".a.txt.123.tmp", ".a.txt.123-1.tmp", ".a.txt.tmp", ".b.txt.123.tmp", "a.txt.123.tmp"):
        (tmp_path / name).write_text("")
    with whole_files(tmp_path / "a.txt") as (file,):
        file.write(b"new")
        drop_stale(tmp_path, "a.txt")  # another writer comes
        assert file.temporary.exists()
    assert sorted(os.listdir(tmp_path)) == [".a.txt.tmp", ".b.txt.123.tmp", "a.txt", "a.txt.123.tmp"]
    with whole_files(tmp_path / ("x" * 250)) as (file,):  # a name as long as the file system takes
        file.write(b"")


PRINTS = """
import sys
from recbole_scale.errors import exit_code
def main():
    for line in range(20000):
        print("a line of output", line, "\\u00b1")
        print("and of errors", file=sys.stderr)
    open(sys.argv[1], "w").write("the work is done")
sys.exit(exit_code(main))
"""


def printed(tmp_path: Path, redirect: str, **environment: str) -> tuple[int, str, str]:
    """Exit code and output of a shell line around :data:`PRINTS`, and what its work left."""
    (tmp_path / "prints.py").write_text(PRINTS)
    line = f"{sys.executable} prints.py done.txt {redirect}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout + done.stderr, (tmp_path / "done.txt").read_text()


def test_a_reader_that_has_enough_loses_no_work(tmp_path):
    code, told, work = printed(tmp_path, "2>&1 | head -1; exit ${PIPESTATUS[0]}")
    assert (code, work) == (0, "the work is done")
    assert told.count("\n") == 1 and "Traceback" not in told and "Exception ignored" not in told


def test_a_full_disk_behind_the_output_is_told_after_the_work(tmp_path):
    code, told, work = printed(tmp_path, "> /dev/full")
    assert (code, work) == (2, "the work is done")
    assert told.splitlines()[-1] == "error: 'standard output' cannot be read or written (no space left on device)"
    assert printed(tmp_path, "> /dev/full 2>&1")[::2] == (2, "the work is done")


def test_a_terminal_that_knows_few_letters_shows_question_marks(tmp_path):
    code, told, work = printed(tmp_path, "", PYTHONIOENCODING="ascii")
    assert (code, work) == (0, "the work is done") and "a line of output 7 ?" in told


def test_what_the_machine_refuses_is_one_sentence_and_a_fault_of_ours_is_told_as_one(tmp_path, capsys):
    assert exit_code(lambda: os.mkdir(tmp_path / ("x" * 300))) == 2
    assert "cannot be read or written (file name too long)" in capsys.readouterr().err
    assert exit_code(lambda: os.mkdir(tmp_path / "none" / "x")) == 1  # ours to mend, and said to be
    assert "FileNotFoundError" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_told_once(capsys):
    handler = logging.StreamHandler(open("/dev/full", "w"))  # noqa: SIM115
    handler.handleError = NoMoreLog()
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "x" * 100_000}))
    err = capsys.readouterr().err
    assert err.count("the log cannot be written any more") == 1 and "Traceback" not in err


def test_per_user_files_are_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "u.npz"
    text, ends = joined("ab")
    good = {"user_text": text, "user_ends": ends, "rank": np.array([1, 0], np.int32), "nll": np.ones(2, np.float32)}
    assert read_per_user(path) is None
    for change in ({"rank": np.ones(3, np.int32)}, {"user_ends": ends[::-1]}, {"nll": np.array([[1.0, 2.0]])}):
        np.savez(path, **{**good, **change})
        assert read_per_user(path) is None
    np.savez(path, user_text=text, user_ends=ends, rank=good["rank"])
    assert read_per_user(path) is None
    np.savez(path, **{**good, "user_text": np.array([{}, 1], dtype=object)})  # a pickle, which is not opened
    assert read_per_user(path) is None
    np.savez(path, user=np.array(["a", "b"]), rank=good["rank"], nll=good["nll"])  # as they were once
    assert read_per_user(path)["user"].tolist() == ["a", "b"]
    np.savez(path, **good)
    assert np.array_equal(read_per_user(path)["rank"], good["rank"])


@pytest.fixture
def full_disk(tmp_path):
    """A disk of its own without a byte left; only who may mount has one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    (place / "other").write_bytes(b"x" * 65536)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_really_full_is_one_sentence_and_nothing_is_left(full_disk, name):
    with pytest.raises(UserError, match="no space left on device") as told:
        WRITERS[name](full_disk)
    assert str(full_disk) in str(told.value)
    assert [path.name for path in full_disk.rglob("*") if path.is_file()] == ["other"]


def test_a_report_for_a_full_disk_says_so_and_leaves_no_half_page(full_disk, tmp_path, capsys):
    rows = [made_row(shape, seed) for shape in SHAPES for seed in (1, 2)]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ["report", "--rows", str(tmp_path / "runs.jsonl"), "--resamples", "100"]
    out, figures = ["--out", str(full_disk / "page.html")], ["--figures", str(full_disk / "figures")]
    for more, what in (([*out], "--out"), (["--out", str(tmp_path / "page.html"), *figures], "the figure")):
        assert exit_code(lambda more=more: run_verb([*report, *more])) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert told.startswith(f"error: {what} {full_disk}") and "no space left on device" in told
        assert [path.name for path in full_disk.rglob("*") if path.is_file()] == ["other"]
