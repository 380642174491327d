"""What the terminal shows, seen through a real pty of 80 and of 160 columns, and what a file gets."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pyte
import pytest

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


@pytest.mark.parametrize("model, columns", [("ScaledSASRec", 80), ("GRU4Rec", 80), ("GRU4Rec", 160)])
def test_bars_are_as_wide_as_the_terminal_and_leave_one_line_an_epoch(walk, model, columns):
    command = [sys.executable, "-m", "recbole_scale", f"--model={model}", "--dataset=walk", "--epochs=3", *OWN[model]]
    lines, seen = on_terminal(command, columns)
    assert b"it/s" in seen  # there were bars
    assert not [line for line in lines if "it/s" in line or "|" in line], "\n".join(lines)  # and none is left
    epochs = [line for line in lines if "epoch   " in line]
    assert len(epochs) == 3 and all("targets/s" in line or columns == 80 for line in epochs)
    assert all(line.index("INFO") < 20 for line in epochs)  # nothing is glued in front of them


def test_a_file_gets_lines_and_no_bars(walk):
    for model, own in OWN.items():
        command = [sys.executable, "-m", "recbole_scale", f"--model={model}", "--dataset=walk", "--epochs=3", *own]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        text = done.stdout + done.stderr
        assert "\r" not in text and "\x1b" not in text and "it/s" not in text
        assert sum("epoch   " in line for line in text.splitlines()) == 3, text


def test_a_sweeps_lines_stand_alone(walk):
    verb = [sys.executable, "-c", "from recbole_scale.cli import recbole_scale_command as c; c()", "sweep"]
    command = [*verb, "--dataset", "walk", "--shapes", "1x8", "1x16", "--epochs", "2", *SHAPE[3:]]
    lines, seen = on_terminal(command, 160)
    assert b"0/2 runs, 1x8 seed 1: epoch 1 of 2" in seen and b"2/2 runs, nothing left" in seen  # it moves inside a run
    results = [line for line in lines if "test NLL" in line]
    assert len(results) == 2 and all(line.startswith("[") for line in results), "\n".join(lines)
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
