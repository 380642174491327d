"""What the terminal shows, seen through a real pty of 80 and of 160 columns, and what a file gets."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pyte
import pytest

import recbole_scale
from recbole_scale.bars import fitting
from recbole_scale.terminal import folded
from recbole_scale.text import text_table
from recbole_scale.training.epoch_log import epoch_line

SHAPE = ["--n_layers=1", "--hidden_size=16", "--inner_size=32", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=64",
         "--topk=[5,10]"]  # fmt: skip
OWN = {"ScaledSASRec": SHAPE, "GRU4Rec": SHAPE[3:]}


def on_terminal(command, columns, **more):
    """Run a command on a terminal of so many columns; returns all its lines, as they stood when it ended."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, close_fds=True, **more)
    os.close(other)
    seen = bytearray()
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0, seen[-3000:].decode()
    screen = pyte.HistoryScreen(columns, 200, history=5000)
    pyte.ByteStream(screen).feed(bytes(seen))
    return [line.rstrip() for line in screen.display if line.strip()], bytes(seen)


@pytest.mark.parametrize(
    "model, columns", [("ScaledSASRec", 80), ("ScaledSASRec", 160), ("GRU4Rec", 80), ("GRU4Rec", 160)]
)
def test_bars_are_as_wide_as_the_terminal_and_leave_one_line_an_epoch(walk, model, columns):
    command = [sys.executable, "-m", "recbole_scale", f"--model={model}", "--dataset=walk", "--epochs=3", *OWN[model]]
    lines, seen = on_terminal(command, columns)
    assert b"it/s" in seen  # there were bars
    assert not [line for line in lines if "it/s" in line or "|" in line], "\n".join(lines)  # and none is left
    epochs = [line for line in lines if "  epoch " in line]
    form = r"epoch \d  train \d\.\d+  NDCG@10 \d\.\d+\*?  NLL \d\.\d+\*?  \d\.\ds"
    form = form if columns == 80 else r"epoch   \d  train .*  valid NDCG@10 .*  valid NLL .*s \+ .*K targets/s"
    assert len(epochs) == 3 and all(re.search(rf"INFO  {form}$", line) for line in epochs), "\n".join(epochs)
    assert all(line.index("INFO") < 20 for line in epochs)  # nothing is glued in front of them
    after = lines.index(epochs[0])
    assert lines[after : after + 3] == epochs  # none runs into a second line
    log = next((walk / "log" / model).glob("*.log")).read_text()
    assert (
        len(re.findall(r"epoch   \d  train (?:NLL|loss) .* valid NLL .* targets/s\n", log)) == 3
    )  # the file has it all


def test_a_line_is_as_long_as_its_terminal_takes(monkeypatch):
    lines = epoch_line(
        7, "NLL 6.2015", ["NDCG@10 0.0410*", "NLL 6.3270"], ["no gain: 3", "adam lr 1e-3"], [61.2, 3.1], 2e4
    )
    assert lines[0] == (
        "epoch   7  train NLL 6.2015  valid NDCG@10 0.0410*  valid NLL 6.3270  no gain: 3  adam lr 1e-3  "
        "61.2s + 3.1s  20.0K targets/s"
    )
    assert list(map(len, lines)) == sorted(map(len, lines), reverse=True)
    assert lines[-2] == "epoch 7  train 6.2015  NDCG@10 0.0410*  NLL 6.3270  64s"
    assert epoch_line(0, "", [], ["", ""], [1.0], 10.0)[-1] == "epoch 0  1.0s"
    with open(os.devnull) as file:
        assert fitting(lines, file) == lines[0] == fitting(lines, io.StringIO())
    for columns in (30, 60, 80, 100, 160):
        monkeypatch.setattr(os, "get_terminal_size", lambda fd, columns=columns: os.terminal_size((columns, 24)))
        shown = fitting(lines, sys.__stdout__)
        assert len(shown) <= columns or shown == lines[-1]


def test_a_file_gets_lines_and_no_bars(walk):
    for model, own in OWN.items():
        command = [sys.executable, "-m", "recbole_scale", f"--model={model}", "--dataset=walk", "--epochs=3", *own]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        text = done.stdout + done.stderr
        assert "\r" not in text and "\x1b" not in text and "it/s" not in text
        assert sum("epoch   " in line for line in text.splitlines()) == 3, text


@pytest.mark.parametrize("columns", [80, 160])
def test_a_sweeps_lines_stand_alone(walk, columns):
    verb = [sys.executable, "-c", "from recbole_scale.cli import recbole_scale_command as c; c()", "sweep"]
    command = [*verb, "--dataset", "walk", "--shapes", "1x8", "1x16", "--epochs", "2", *SHAPE[3:]]
    lines, seen = on_terminal(command, columns)
    assert columns == 80 or (
        b"0/2 runs, 1x8 seed 1: epoch 1 of 2" in seen and b"2/2 runs, nothing left" in seen
    )  # it moves inside a run
    results = [line for line in lines if "test NLL" in line]
    assert len(results) == 2 and all(line.startswith("[") for line in results), "\n".join(lines)
    ends = r"best epoch \d of 2  .*s$" if columns == 160 else r"  NDCG@10 0\.\d+  [\d.]+ s$"
    assert all(re.search(ends, line) for line in results)
    assert b"sweep" in seen and not [line for line in lines if "%|" in line]


def test_many_runs_wrap_the_streams_once():
    from recbole.utils import logger

    code = (
        "import sys, recbole_scale\nfrom recbole.utils import logger\n"
        "for _ in range(3000): logger.init(autoreset=True)\nprint('out'); print('err', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert callable(logger.init)


def verb(*words):
    return [sys.executable, "-c", "from recbole_scale.cli import recbole_scale_command as c; c()", *words]


SEARCH = [sys.executable, "-c", "from recbole_scale.cli import run_hyper_command as c; c()"]
COMMANDS = {  # the command, and a line that it has to print whole
    "compare": (
        verb("compare", "--dataset", "walk", "--models", "ScaledSASRec:tiny", "GRU4Rec", "--epochs", "1", *SHAPE),
        r"^GRU4Rec +1 +[\d,]+ ",
    ),
    "recommend": (
        verb("recommend", "--runs", "results/runs.jsonl", "--topk", "5", "--users", "all", "--out", "recs.csv"),
        r"^recs.csv: 60 users, 300 rows; .* of them loading$",
    ),
    "challenges": (
        verb(
            "challenges",
            "--checkpoints",
            "saved/*.best.pth",
            "--challenges",
            "long_tail",
            "--out",
            "hard",
            "--seeds",
            "1",
        ),
        r"^  all +60  0\.\d{4} +0\.\d{4} \([+-]\d+%\)$",
    ),
    "search": (
        [*SEARCH, "--dataset=walk", "--epochs=1", "--num_samples=2", "--folder=found", *SHAPE],
        r"^trial +\d finished after 1 epoch  best NDCG@10 0\.\d{4} ",
    ),
}
QUICK = {("compare", 80), ("recommend", 80), ("challenges", 80)}
EVERY = [(name, columns) for name in COMMANDS for columns in (80, 160, None)]


@pytest.mark.parametrize(
    "name, columns", [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in EVERY]
)
def test_what_a_command_leaves_is_whole_lines_and_no_bar(walk, name, columns):
    """On terminals of 80 and 160 columns no word is cut at the edge; in a file nothing is drawn and nothing folded."""
    own = dict(word.lstrip("-").split("=") for word in SHAPE) | {"topk": [5, 10], "epochs": 1, "state": "error"}
    for width in (16, 24) if name in ("recommend", "challenges") else ():
        recbole_scale.run("ScaledSASRec", "walk", config_dict={**own, "hidden_size": width, "show_progress": False})
    command, shows = COMMANDS[name]
    if columns is None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        text = done.stdout + done.stderr
        assert "\r" not in text and "\x1b" not in text and "%|" not in text, text
        lines = text.splitlines()
    else:
        lines, _ = on_terminal(command, columns)
        # a word that goes on in the next line would fill its own to the edge
        assert not [line for line in lines if len(line) == columns or "%|" in line], "\n".join(lines)
    assert [line for line in lines if re.search(shows, line)], "\n".join(lines)


def test_long_lines_break_between_words_and_commands_do_not():
    text = "checked: a line of words that goes on for long\n  indented words that go on\nshort"
    assert folded(text, 24) == (
        "checked: a line of words\n  that goes on for long\n  indented words that go\n    on\nshort"
    )
    command = "  recbole-scale fit --rows a-rather-long-name.jsonl"
    assert folded(command, 24) == command and folded(text, float("inf")) == text


def test_a_table_too_wide_becomes_several_with_the_same_first_columns():
    rows = [["model", "n", "HR@10", "NDCG@10", "NLL"], ["SASRec", "1", "0.1", "0.05", "6.25"]]
    assert text_table(rows, left=range(5), width=24, heads=2) == (
        "model   n  HR@10\nSASRec  1  0.1\n\nmodel   n  NDCG@10  NLL\nSASRec  1  0.05     6.25"
    )
    whole = text_table(rows, left=range(5))
    assert whole == text_table(rows, left=range(5), width=34) and whole.count("\n") == 1
    assert text_table([["a", "bcd"]], width=2) == "a  bcd"  # one column beside the first, however narrow
