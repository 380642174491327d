"""Every bad input ends in one sentence with its place and exit code 2, or in a right read; no row goes unseen."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import OWN, ROWS, lines_of, options_for, rows_of, write_raw, write_zip

from recbole_scale.data.time_units import PER_SECOND
from recbole_scale.errors import UserError, exit_code
from recbole_scale.prepare import command as prepare_module
from recbole_scale.prepare import sources
from recbole_scale.prepare.command import main
from recbole_scale.prepare.readers import FORMATS, Options, Raw, read_raw

SCRIPT = Path(__file__).resolve().parents[1] / "run_scripts" / "prepare_data.py"
COLUMNS = ["--user", "who", "--item", "what", "--time", "when"]
CSV = "who,what,when\na,x,10\nb,y,20\n"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process; return (exit code, output, error)."""
    code = exit_code(lambda: main([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refuse(capsys, tmp_path: Path, *arguments: object) -> str:
    """Run the command, check that it refuses as promised, and return its sentence."""
    code, _, error = run(capsys, *arguments, "--out", tmp_path / "made")
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert not (tmp_path / "made" / "made.inter").exists()
    assert not list(tmp_path.glob("made/.*tmp")), "a temporary file was left"
    return error


def csv_file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BAD_CSV = [
    ("wrong delimiter", CSV, ["--delimiter", ";"], ["line 1", "'who'", "split at ';'", "split at ','"]),
    ("missing column", "who,whet,when\na,x,1\n", [], ["line 1", "'what'", "did you mean 'whet'"]),
    ("NaN time", CSV + "c,z,NaN\n", [], ["line 4", "column 'when'", "'NaN' is not a time"]),
    ("infinite time", CSV + "c,z,inf\n", [], ["line 4", "column 'when'", "not a time"]),
    ("negative time", CSV + "c,z,-5\n", [], ["line 4", "column 'when'", "'-5'", "negative"]),
    ("negative decimal time", CSV + "c,z,-5.5\n", [], ["line 4", "column 'when'", "negative"]),
    ("time as hexadecimal", CSV + "c,z,0x10\n", [], ["line 4", "column 'when'", "'0x10'"]),
    ("time in full-width digits", CSV + "c,z,\uff11\uff12\n", [], ["line 4", "column 'when'"]),
    ("time as words", CSV + "c,z,today\n", [], ["line 4", "column 'when'", "'today'", "ISO"]),
    ("time too large", CSV + "c,z,99999999999999999999\n", [], ["line 4", "column 'when'"]),
    ("time too fine", CSV + "c,z,1.0000000000001\n", [], ["line 4", "column 'when'"]),
    ("a day that is not", "who,what,when\na,x,2020-01-01\nb,y,2020-02-31\n", [], ["line 3", "'2020-02-31'"]),
    ("empty time", CSV + "c,z,\n", [], ["line 4", "column 'when'", "empty"]),
    ("empty user", CSV + ",z,5\n", [], ["line 4", "column 'who'", "empty"]),
    ("empty item", CSV + "\n\nc,,5\n", [], ["line 6", "column 'what'", "empty"]),
    ("id with a tab", CSV + "c,z\tz,5\n", ["--delimiter", ","], ["line 4", "column 'what'", "tab"]),
    ("id with a quote", CSV + 'c,"z""z",5\n', [], ["line 4", "column 'what'", "double quote"]),
    ("id with a line end", CSV + 'c,"z\nz",5\n', [], ["line 4", "column 'what'", "line end"]),
    ("id with a space at its edge", CSV + "c, z,5\n", [], ["line 4", "column 'what'", "space"]),
    ("id that reads as missing", CSV + "null,z,5\n", [], ["line 4", "column 'who'", "missing"]),
    ("open quote", CSV + 'c,"z,5\nd,z,6\n', [], ["line 4", "never closed"]),
    ("repeated header", CSV + "who,what,when\n", [], ["line 4", "header"]),
    ("column twice in the header", "who,what,who,when\na,x,b,5\n", [], ["line 1", "'who'", "two columns"]),
    ("too few columns", CSV + "c,z\n", [], ["line 4", "column 2", "3 columns"]),
    ("too many columns", CSV + "c,z,5,6\n", [], ["line 4", "column 4", "3 columns"]),
    ("cut in its last line", CSV + "c", [], ["line 4", "3 columns"]),
    ("no rows", "who,what,when\n", [], ["holds no rows"]),
    ("nothing", "", [], ["holds no rows"]),
    ("blank lines only", "\n\n\r\n", [], ["holds no rows"]),
    ("not UTF-8", CSV.encode() + b"caf\xe9,z,5\n", [], ["line 4", "byte 4", "UTF-8"]),
    ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + CSV.encode(), [], ["line 1", "'who'"]),
    ("byte order mark inside", CSV.encode() + b"\xef\xbb\xbfc,z,5\n", [], ["line 4", "column 'who'"]),
    ("UTF-16", CSV.encode("utf-16"), [], ["line 1", "UTF-16"]),
]


@pytest.mark.parametrize(("text", "more", "told"), [case[1:] for case in BAD_CSV], ids=[case[0] for case in BAD_CSV])
def test_a_bad_csv_is_refused_with_its_place(text, more, told, tmp_path, capsys):
    path = csv_file(tmp_path, text)
    error = refuse(capsys, tmp_path, "csv", "--raw", path, *COLUMNS, *more)
    assert [part for part in [str(path), *told] if part not in error] == [], error


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("name", ["ml-1m", "ml-20m", "ml-100k", "amazon-2014", "csv", "inter"])
def test_byte_order_marks_and_line_ends_change_nothing(name, end, start, tmp_path):
    path = tmp_path / "file.txt"
    if name.startswith("ml"):
        path = write_raw(name, tmp_path)
    path.write_bytes(start + (end.join(lines_of(name, ROWS)) + end).encode())
    expected = [(user, item, float(rating), time) for user, item, rating, time in ROWS]
    assert rows_of(read_raw(name, [path], options_for(name)).log) == expected


def test_line_numbers_hold_behind_many_blocks_and_quoted_line_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 64)
    rows = "".join(f'a{at},"two\nlines",i,{at}\n\n' for at in range(50))
    path = csv_file(tmp_path, "who,note,what,when\n" + rows + "b,,i,never\n")
    assert "line 152, column 'when'" in refuse(capsys, tmp_path, "csv", "--raw", path, *COLUMNS)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_truncated_gzip(keep, tmp_path, capsys):
    path = tmp_path / "Books.csv.gz"
    lines = [
        "user_id,parent_asin,rating,timestamp",
        *(f"u{at % 97},i{at % 89},5.0,{10**12 + at}" for at in range(5000)),
    ]
    data = gzip.compress("\n".join(lines).encode())
    path.write_bytes(data[: int(keep * len(data))])
    error = refuse(capsys, tmp_path, "amazon-2023", "--raw", path)
    assert str(path) in error
    assert ("truncated" in error and "after line" in error) or keep == 0.0


def test_gzip_in_name_only(tmp_path, capsys):
    path = tmp_path / "Books.csv.gz"
    path.write_text("user_id,parent_asin,rating,timestamp\nu,i,5.0,1000\n")
    assert "is no gzip file" in refuse(capsys, tmp_path, "amazon-2023", "--raw", path)


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_a_small_file_that_unpacks_without_end_is_refused(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(sources, "SMALL_BYTES", 1 << 20)
    data = "\n".join(["7::30::4::1588615855"] * 200_000).encode()  # 4 MB, packed 400 times smaller
    path = tmp_path / f"ratings.dat.{kind}"
    if kind == "zip":
        write_zip(path, "ml-1m/ratings.dat", data)
    else:
        path.write_bytes(gzip.compress(data))
    told = refuse(capsys, tmp_path, "ml-1m", "--raw", path)
    assert "unpacks to more than 100 times its 0.0 MB" in told and "unpack it and name the unpacked file" in told
    monkeypatch.setattr(sources, "MOST_TIMES", 1000)
    assert sum(block.data.count(b"7::30") for block in sources.text_blocks(path, ["ratings.dat"])) == 200_000


def test_damaged_zip(tmp_path, capsys):
    data = "\n".join(lines_of("ml-20m", ROWS * 50)).encode()
    path = write_zip(tmp_path / "ml.zip", "ml-20m/ratings.csv", data)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "no whole zip" in refuse(capsys, tmp_path, "ml-20m", "--raw", path)
    at = whole.index(b"ratings.csv") + 30
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    assert "damaged" in refuse(capsys, tmp_path, "ml-20m", "--raw", path)
    write_zip(path, "ml-20m/other.csv", data)
    assert "does not hold ratings.csv" in refuse(capsys, tmp_path, "ml-20m", "--raw", path)


def test_python_literals_are_never_evaluated(tmp_path, capsys):
    """amazon-2014 publishes loose json in places; the line below would make a file if it were evaluated."""
    path, trap = tmp_path / "reviews_Books.json", tmp_path / "trap"
    path.write_text(
        json.dumps({"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 9})
        + f"\n{{'reviewerID': open({str(trap)!r}, 'w').name, 'asin': 'i', 'overall': 5.0, 'unixReviewTime': 9}}\n"
    )
    error = refuse(capsys, tmp_path, "amazon-2014", "--raw", path)
    assert "line 2" in error and "never evaluated" in error
    assert not trap.exists()


JSON_ROW = {"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 9}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{}", ["column 'reviewerID'", "empty or absent"]),
        (json.dumps({**JSON_ROW, "asin": None}), ["column 'asin'", "empty or absent"]),
        (json.dumps({**JSON_ROW, "asin": "a\tb"}), ["column 'asin'", "tab"]),
        (json.dumps({**JSON_ROW, "asin": "\ud800"}), ["column 'asin'"]),
        (json.dumps({**JSON_ROW, "unixReviewTime": -3}), ["column 'unixReviewTime'", "negative"]),
        (json.dumps({**JSON_ROW, "unixReviewTime": float("nan")}), ["column 'unixReviewTime'", "not a time"]),
        (json.dumps({**JSON_ROW, "unixReviewTime": 10**30}), ["column 'unixReviewTime'"]),
        (json.dumps({**JSON_ROW, "overall": "good"}), ["column 'overall'"]),
        (json.dumps(JSON_ROW)[:-4], ["not JSON"]),
        (json.dumps(JSON_ROW) * 2, ["not JSON"]),
        ("[1]", ["not a JSON object"]),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_a_bad_json_line_is_refused_with_its_place(line, told, tmp_path, capsys):
    path = tmp_path / "Books_5.json"
    path.write_text(json.dumps(JSON_ROW) + "\n\n" + line + "\n")
    error = refuse(capsys, tmp_path, "amazon-2018", "--raw", path)
    assert [part for part in [str(path), "line 3", *told] if part not in error] == [], error


@pytest.mark.parametrize("line", [json.dumps(JSON_ROW) * 2, "null", json.dumps(JSON_ROW) + " null"])
def test_json_lines_that_pyarrow_would_take_or_die_of_are_refused(line, tmp_path, capsys):
    """Two objects on a line are two rows to pyarrow 26, and a bare null ends its process."""
    path = tmp_path / "Books_5.json"
    path.write_text(json.dumps(JSON_ROW) + "\n" + line + "\n")
    assert "line 2" in refuse(capsys, tmp_path, "amazon-2018", "--raw", path)


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("ml-1m", "1::2::3", ["line 8", "4 columns", "'::'"]),
        ("ml-1m", "1:a:2::3::4", ["line 8", "'::'"]),
        ("ml-100k", "1 2 3 4", ["line 8", "4 columns", "a tab"]),
        ("ml-20m", "1,2,three,4", ["line 9", "column 'rating'", "'three'"]),
        ("amazon-2014", "u,i,5", ["line 8", "4 columns"]),
        ("amazon-2023", "u,i,5.0,soon", ["line 9", "column 'timestamp'", "'soon'"]),
        ("inter", "u\ti\t5\tNaN", ["line 9", "column 'timestamp'"]),
    ],
)
def test_a_bad_line_in_each_published_text_is_refused_with_its_place(name, line, told, tmp_path, capsys):
    path = write_raw(name, tmp_path)
    text = "\n".join([*lines_of(name, ROWS), line, ""]).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    error = refuse(capsys, tmp_path, name, "--raw", path)
    assert [part for part in [str(path), *told] if part not in error] == [], error


def test_a_wrong_format_is_told_by_its_first_line(tmp_path, capsys):
    path = write_raw("ml-1m", tmp_path)
    error = refuse(capsys, tmp_path, "ml-100k", "--raw", path)
    assert "line 1" in error and "split at '::' it would have 4" in error
    untyped = csv_file(tmp_path, "user_id\titem_id\ttimestamp\na\tb\t1\n")
    assert "reads 'name:type'" in refuse(capsys, tmp_path, "inter", "--raw", untyped)


def test_a_domain_file_twice(tmp_path, capsys):
    books, copy = tmp_path / "ratings_Books.csv", tmp_path / "ratings_Toys.csv"
    books.write_text("u,i,5,9\n")
    copy.write_text("u,i,5,9\n")
    assert "same content" in refuse(capsys, tmp_path, "amazon-2014", "--raw", books, copy)
    assert "same content" in refuse(capsys, tmp_path, "amazon-2014", "--raw", books, books)
    other = tmp_path / "Books_5.csv"
    other.write_text("u,j,5,9\n")
    assert "domain 'Books'" in refuse(capsys, tmp_path, "amazon-2014", "--raw", books, other)


def test_files_that_disagree_on_the_unit_of_time(tmp_path, capsys):
    one, two = csv_file(tmp_path, CSV), tmp_path / "two.csv"
    two.write_text("who,what,when\na,x,1588615855070\n")
    error = refuse(capsys, tmp_path, "csv", "--raw", one, two, *COLUMNS)
    assert str(one) in error and str(two) in error and "ms" in error


def test_a_user_with_one_interaction_is_kept_and_told(tmp_path, capsys):
    path = csv_file(tmp_path, CSV + "a,y,30\na,z,40\n")
    code, out, _ = run(capsys, "csv", "--raw", path, *COLUMNS, "--out", tmp_path / "made")
    assert code == 0
    assert "1 user with fewer than 3 interactions, 1 of them with a single one" in out
    assert "--user_core 3" in out
    code, out, _ = run(capsys, "csv", "--raw", path, *COLUMNS, "--out", tmp_path / "made", "--user_core", "3")
    assert code == 0 and "fewer than 3" not in out
    assert "dropped             1 row" in out
    error = refuse(capsys, tmp_path / "x", "csv", "--raw", path, *COLUMNS, "--user_core", "9")
    assert "the filters leave no interaction" in error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("u1 a b\nu1 c\n", ["line 2", "'u1'", "line 1"]),
        ("u1 a\nu2\n", ["line 2", "no items"]),
        ("u1 nan\n", ["line 1"]),
    ],
)
def test_bad_sequences(text, told, tmp_path, capsys):
    path = csv_file(tmp_path, text)
    error = refuse(capsys, tmp_path, "sequences", "--raw", path)
    assert [part for part in told if part not in error] == [], error


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"who": ["a", None], "what": ["x", "y"], "when": [1, 2]}, ["row 2", "column 'who'", "empty"]),
        ({"who": ["a", "b"], "what": ["x", "y"], "when": [1.0, float("nan")]}, ["row 2", "column 'when'"]),
        ({"who": ["a", "b"], "what": ["x", "y"], "when": [1, None]}, ["row 2", "column 'when'", "empty"]),
        ({"who": ["a"], "what": [1.5], "when": [1]}, ["column 'what'", "double"]),
        ({"who": ["a"], "what": [["x"]], "when": [1]}, ["column 'what'", "list"]),
        ({"who": ["a"], "whit": ["x"], "when": [1]}, ["no column 'what'", "did you mean 'whit'"]),
        ({"who": [], "what": [], "when": []}, []),
    ],
)
def test_bad_parquet(table, told, tmp_path, capsys):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(table), path)
    error = refuse(capsys, tmp_path, "parquet", "--raw", path, *COLUMNS)
    assert [part for part in [str(path), *told] if part not in error] == [], error
    path.write_bytes(path.read_bytes()[:-5])
    assert "cannot be read as parquet" in refuse(capsys, tmp_path, "parquet", "--raw", path, *COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ml20m", "--raw", "x"], ["did you mean 'ml-20m'"]),
        (["csv", "--raw", "LOG", "--user", "who", "--item", "what"], ["--time"]),
        (["ml-1m", "--raw", "LOG", "--user", "who"], ["--user is for csv"]),
        (["ml-1m", "--raw", "LOG", "--delimiter", ";"], ["--delimiter is for csv"]),
        (["csv", "--raw", "LOGS", *COLUMNS], ["there is no file", "did you mean 'log.csv'"]),
        (["csv", "--raw", "LOG", *COLUMNS, "--filter", "paper"], ["no filters for csv", "ml-20m"]),
        (["csv", "--raw", "LOG", *COLUMNS, "--expect", "paper"], ["no counts", "csv"]),
        (["csv", "--raw", "LOG", *COLUMNS, "--user_core", "-1"], ["user_core cannot be negative"]),
        (["csv", "--raw", "LOG", *COLUMNS, "--user_core", "few"], ["--user_core", "few"]),
        (["csv", "--raw", "LOG", *COLUMNS, "--delimiter", ",,"], ["one character"]),
        (["csv", "--raw", "LOG", *COLUMNS[:-1], "9", "--no_header"], ["no column number"]),
    ],
)
def test_mistakes_on_the_command_line(arguments, told, tmp_path, capsys):
    path = csv_file(tmp_path, CSV)
    named = [
        str(path) if word == "LOG" else str(path.with_name("log.cvs")) if word == "LOGS" else word for word in arguments
    ]
    error = refuse(capsys, tmp_path, *named)
    assert [part for part in told if part not in error] == [], error


def test_somebody_elses_file_is_not_replaced(tmp_path, capsys):
    path, target = csv_file(tmp_path, CSV), tmp_path / "made" / "made.inter"
    target.parent.mkdir()
    target.write_text("mine")
    code, _, error = run(capsys, "csv", "--raw", path, *COLUMNS, "--out", target.parent)
    assert code == 2 and "--overwrite" in error and target.read_text() == "mine"
    code, _, _ = run(capsys, "csv", "--raw", path, *COLUMNS, "--out", target.parent, "--overwrite")
    assert code == 0 and target.read_text() != "mine"
    code, _, error = run(capsys, "inter", "--raw", target, "--out", target.parent)
    assert code == 2 and "replace the raw file" in error


def test_dropped_bad_rows_are_counted_by_reason(tmp_path, capsys):
    path = csv_file(tmp_path, CSV + "c,z\nnull,z,5\n,z,5\nc,z,never\nd,z,-1\nwho,what,when\ne,z,50\n")
    code, out, _ = run(capsys, "csv", "--raw", path, *COLUMNS, "--bad_rows", "drop", "--out", tmp_path / "made")
    assert code == 0
    told = json.loads((tmp_path / "made" / "made.json").read_text())
    assert told["rows_read"] == 9
    assert sum(told["dropped"].values()) == 6 and len(told["dropped"]) == 6
    assert told["statistics"]["interactions"] == 3
    assert sum(line.startswith("dropped ") for line in out.splitlines()) == 6


# no space left --------------------------------------------------------------------------------------------------


def many_rows(tmp_path: Path) -> Path:
    return csv_file(tmp_path, "who,what,when\n" + "".join(f"user{at},item{at},{10**9 + at}\n" for at in range(20_000)))


LIMITED = """
import resource, signal, sys
from recbole_scale.prepare.command import main
from recbole_scale.errors import exit_code
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
sys.exit(exit_code(lambda: main(sys.argv[1:])))
"""


def check_no_space(code: int, error: str, folder: Path, before: dict[str, bytes]) -> None:
    assert code == 2, error
    assert error.count("\n") == 1 and "no space left on the disk" in error and "Traceback" not in error
    after = {path.name: path.read_bytes() for path in folder.glob("*")}
    assert after == before, "the old files are as they were and no temporary file is left"


def test_no_space_by_a_limit_on_file_size_leaves_the_old_file_whole(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    before = {"made.inter": b"old", "made.json": b"{}"}
    for name, data in before.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", LIMITED, "csv", "--raw", str(many_rows(tmp_path)), *COLUMNS, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    check_no_space(done.returncode, done.stderr, folder, before)


def test_no_space_on_a_small_disk(tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root); the limit on file size stands in for it")
    try:
        code, _, error = run(capsys, "csv", "--raw", many_rows(tmp_path), *COLUMNS, "--out", disk / "made")
        check_no_space(code, error, disk / "made", {})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "write_interactions", fail)
    with pytest.raises(KeyboardInterrupt):
        main(["csv", "--raw", str(csv_file(tmp_path, CSV)), *COLUMNS, "--out", str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_the_script_ends_with_one_sentence_and_code_two(tmp_path):
    path = csv_file(tmp_path, CSV + "c,z,never\n")
    command = [sys.executable, str(SCRIPT), "csv", "--raw", str(path), *COLUMNS, "--out", str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "line 4, column 'when'" in done.stderr and "Traceback" not in done.stderr
    shown = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and "recbole-scale prepare ml-20m --raw ml-20m.zip" in shown.stdout


# mutated files --------------------------------------------------------------------------------------------------

TextRow = tuple[str, str, str]
PIECES = [b'"', b"\t", b"\n", b"\r", b"\r\n", b"::", b":", b",", b" ", b"", b"nan", b"-", b"0x", b"1e5", b".5", b"+"]
PIECES += [
    b"\xff",
    b"\x00",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"null",
    b'"asin": 3, ',
    b"\\",
    b"'",
    b"9999999999999",
    b"\xc2\xa0",
]
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)


def mutate(data: bytes, edits: list[tuple[int, int, bytes]], cut: int | None) -> bytes:
    """Replace ``length`` bytes at each place by a piece; perhaps cut the end off."""
    for place, length, piece in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + length :]
    return data if cut is None else data[: cut % (len(data) + 1)]


def plain_lines(data: bytes) -> list[str]:
    text = data.decode("utf-8").removeprefix("\ufeff")
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]


def by_position(delimiter: str, order: tuple[int, int, int], width: int) -> Callable[[bytes], list[TextRow]]:
    def parse(data: bytes) -> list[TextRow]:
        split = [line.split(delimiter) for line in plain_lines(data)]
        assert all(len(fields) == width for fields in split)
        return [tuple(fields[at] for at in order) for fields in split]  # type: ignore[misc]

    return parse


def by_header(delimiter: str, names: tuple[str, str, str], quoted: bool = False) -> Callable[[bytes], list[TextRow]]:
    def parse(data: bytes) -> list[TextRow]:
        if quoted:
            text = data.decode("utf-8").removeprefix("\ufeff")
            head, *split = [fields for fields in csv.reader(io.StringIO(text, newline="")) if fields]
        else:
            head, *split = [line.split(delimiter) for line in plain_lines(data)]
        assert all(len(fields) == len(head) for fields in split)
        head = [name.split(":")[0] if delimiter == "\t" else name for name in head]
        stripped = [name.strip() for name in head]  # "user, item, time" names the columns as well
        places = [(head if name in head else stripped).index(name) for name in names]
        return [tuple(fields[at] for at in places) for fields in split]  # type: ignore[misc]

    return parse


def by_json(data: bytes) -> list[TextRow]:
    rows = [json.loads(line) for line in data.decode("utf-8").removeprefix("\ufeff").split("\n") if line.strip()]
    return [(str(row["reviewerID"]), str(row["asin"]), str(row["unixReviewTime"])) for row in rows]


ORACLES: dict[str, Callable[[bytes], list[TextRow]]] = {
    "ml-100k": by_position("\t", (0, 1, 3), 4),
    "ml-1m": by_position("::", (0, 1, 3), 4),
    "ml-20m": by_header(",", ("userId", "movieId", "timestamp")),
    "amazon-2014": by_position(",", (0, 1, 3), 4),
    "amazon-2018": by_json,
    "amazon-2023": by_header(",", ("user_id", "parent_asin", "timestamp")),
    "csv": by_header(",", ("who", "what", "when"), quoted=True),
    "inter": by_header("\t", ("user_id", "item_id", "timestamp")),
}
NUMBERS = Options(columns={role: OWN.columns[role] for role in ("user", "item", "time")})


def text_of(name: str) -> bytes:
    lines = lines_of(name, ROWS)
    if name == "csv":  # epoch seconds, so that the oracle needs no calendar
        lines = ["stars,note,who,what,when", *(f'{rating},"a, b",{u},{i},{time}' for u, i, rating, time in ROWS)]
    return ("\n".join(lines) + "\n").encode()


def check_read(raw: Raw, expected: list[TextRow]) -> None:
    """What was read is what the slow parser of this file reads: same ids, same exact times, no row more or less."""
    scale = PER_SECOND[raw.log.unit]
    got = [(user, item, Fraction(time, scale)) for user, item, _, time in rows_of(raw.log)]
    units = {
        tuple(got) == tuple((user, item, Fraction(time.strip()) / per) for user, item, time in expected)
        for per in PER_SECOND.values()
    }
    assert True in units, (got, expected)


def never_a_surprise(name: str, path: Path, oracle: Callable[[], list[TextRow]] | None) -> None:
    """A clean error or a right read; with bad rows dropped, every row is accounted for."""
    options = NUMBERS if name == "csv" else options_for(name)
    try:
        raw = read_raw(name, [path], options)
    except UserError as mistake:
        assert "\n" not in str(mistake).strip()
    else:
        assert raw.dropped == {}
        assert raw.files[0].rows == len(raw.log)
        if oracle is not None:
            check_read(raw, oracle())
    dropping = Options(columns=options.columns if options else {}, bad_rows="drop")
    try:
        raw = read_raw(name, [path], dropping)
    except UserError:
        return
    assert raw.files[0].rows == len(raw.log) + sum(raw.dropped.values())


FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", list(ORACLES))
@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 10**6), small=st.booleans())
def test_mutated_text_is_refused_or_read_right(name, tmp_path, edits, cut, small):
    data = mutate(text_of(name), edits, cut)
    path = tmp_path / ("Books.json" if name == "amazon-2018" else write_raw(name, tmp_path).name.removesuffix(".gz"))
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", 300 if small else 1 << 20)
        never_a_surprise(name, path, lambda: ORACLES[name](data))


@pytest.mark.parametrize("name", list(ORACLES))
@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 10**6))
def test_mutated_gzip_is_refused_or_read_right(name, tmp_path, edits, cut):
    """The check sum covers the data, so what is accepted must be the original's rows."""
    path = tmp_path / ("Books.json.gz" if name == "amazon-2018" else "file.gz")
    path.write_bytes(mutate(gzip.compress(text_of(name), mtime=0), edits, cut))
    never_a_surprise(name, path, lambda: ORACLES[name](gzip.decompress(path.read_bytes())))


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 10**6))
def test_mutated_zip_is_refused_or_read_right(tmp_path, edits, cut):
    path = write_zip(tmp_path / "ml.zip", "ml-20m/ratings.csv", text_of("ml-20m"))
    path.write_bytes(mutate(path.read_bytes(), edits, cut))

    def oracle() -> list[TextRow]:
        with zipfile.ZipFile(path) as archive:
            return ORACLES["ml-20m"](archive.read("ml-20m/ratings.csv"))

    never_a_surprise("ml-20m", path, oracle)


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 10**6))
def test_mutated_sequences_are_refused_or_read_right(tmp_path, edits, cut):
    data = mutate(b"7 4 30 9\n12 4 30 9\n3 4\n", edits, cut)
    path = tmp_path / "log.txt"
    path.write_bytes(data)

    def oracle() -> list[TextRow]:
        split = [words for line in plain_lines(data) if (words := re.findall(r"[^ \t\v\f]+", line))]
        return [(words[0], item, str(at)) for words in split for at, item in enumerate(words[1:], 1)]

    never_a_surprise("sequences", path, oracle)


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 10**6))
def test_mutated_parquet_is_refused_or_read_as_pyarrow_reads_it(tmp_path, edits, cut):
    path = write_raw("parquet", tmp_path)
    path.write_bytes(mutate(path.read_bytes(), edits, cut))

    def oracle() -> list[TextRow]:
        rows = pq.read_table(path, columns=["who", "what", "when"]).to_pylist()
        return [(row["who"], str(row["what"]), str(row["when"].timestamp())) for row in rows]

    os.environ["TZ"] = "UTC"
    never_a_surprise("parquet", path, oracle)


def test_every_format_is_among_the_mutated():
    same_reader = {"ml-10m": "ml-1m", "ml-25m": "ml-20m", "ml-32m": "ml-20m"}
    assert {same_reader.get(name, name) for name in FORMATS} == {*ORACLES, "parquet", "sequences", "jsonl"}


def test_a_pipe_and_a_device_are_no_raw_files(capsys, tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert f"'{path}' is a pipe or a device" in refuse(capsys, tmp_path, "csv", "--raw", path, *COLUMNS)


def test_a_zip_of_one_file_is_that_file_and_of_two_is_refused(tmp_path, capsys):
    path = csv_file(tmp_path, CSV)
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        archive.write(path, "export/log.csv")
        archive.writestr("__MACOSX/export/._log.csv", b"\0")
    for raw, name in ((path, "plain"), (tmp_path / "log.zip", "zip")):
        assert run(capsys, "csv", "--raw", raw, *COLUMNS, "--out", tmp_path / name)[0] == 0
    assert (tmp_path / "zip" / "zip.inter").read_text() == (tmp_path / "plain" / "plain.inter").read_text()
    with zipfile.ZipFile(tmp_path / "log.zip", "a") as archive:
        archive.writestr("other.csv", CSV)
    assert "does not hold one file but 2" in refuse(capsys, tmp_path, "csv", "--raw", tmp_path / "log.zip", *COLUMNS)


def test_blanks_around_the_names_of_a_header_do_not_count(tmp_path, capsys):
    path = csv_file(tmp_path, "who, what , when\na,x,10\na,y,20\na,z,30\n")
    assert run(capsys, "csv", "--raw", path, *COLUMNS, "--out", tmp_path / "made")[0] == 0
    assert (tmp_path / "made" / "made.inter").read_text().splitlines()[1] == "a\tx\t10"


def test_one_column_is_not_two_things(tmp_path, capsys):
    words = ["csv", "--raw", csv_file(tmp_path, CSV), "--user", "who", "--item", "who", "--time", "when"]
    assert "--user and --item are the same column, 'who'; each needs its own" in refuse(capsys, tmp_path, *words)
