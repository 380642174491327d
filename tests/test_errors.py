"""How a command ends: the user's mistakes, full memory, and bugs, which keep their traceback."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_scale import cli
from recbole_scale.errors import UserError, exit_code, out_of_memory
from recbole_scale.plugin.config import recboles_refusal
from recbole_scale.runs import run as runs


def ended(capsys, failure):
    """Exit code and the lines on standard error of a command that fails so."""

    def main():
        raise failure

    code = exit_code(main)
    return code, capsys.readouterr().err.splitlines()


BUGS = [
    AttributeError("'NoneType' object has no attribute 'x'"),
    AssertionError(),
    KeyError("nll"),
    TypeError("unsupported"),
    ValueError("odd"),
    RuntimeError("shape '[2]' is invalid"),
    OSError(errno.EBADF, "bad"),
    ZeroDivisionError("division by zero"),
    RecursionError("maximum"),
    ModuleNotFoundError("m", name="m"),
]


@pytest.mark.parametrize("failure", BUGS, ids=lambda failure: type(failure).__name__)
def test_a_bug_is_one_line_that_says_where_its_traceback_lies(folder, monkeypatch, capsys, failure):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    code, lines = ended(capsys, failure)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("error: this is a bug of recbole-scale (")
    place = lines[0].split("traceback is in ")[1].split(",")[0]
    assert "Traceback" in Path(place).read_text() and type(failure).__name__ in Path(place).read_text()


def test_a_bug_inside_a_run_is_in_the_runs_own_log(walk, monkeypatch, capsys):
    def broken(*_):
        return {}["no such thing"]

    monkeypatch.setattr(runs, "build_model", broken)
    monkeypatch.setattr(sys, "argv", ["run_recbole", "--dataset=walk", "--topk=[5]", "--epochs=1"])
    assert exit_code(cli._run_recbole) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    place = last.split("traceback is in ")[1].split(",")[0]
    assert "log/ScaledSASRec" in place and "in broken" in Path(place).read_text() and "Traceback" not in last


def test_where_no_log_can_be_written_the_traceback_is_shown(folder, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    Path("log").write_text("a file where the folder should be")
    code, lines = ended(capsys, KeyError("nll"))
    assert code == 1 and lines[0].startswith("Traceback") and "traceback above" in lines[-1]


def memory_full():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    return failure.value


def test_full_memory_says_what_to_turn(folder, capsys):
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**58)
    for failure in (memory_full(), of_numpy.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        code, lines = ended(capsys, failure)
        assert code == 2 and len(lines) == 1 and "activation_checkpointing" in lines[0] and out_of_memory(failure)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_variable_shows_every_traceback(folder, monkeypatch, capsys):
    code, lines = ended(capsys, UserError("no such thing"))
    assert (code, lines) == (2, ["error: no such thing"])
    monkeypatch.setenv("RECBOLE_SCALE_TRACEBACK", "1")
    code, lines = ended(capsys, UserError("no such thing"))
    assert code == 2 and lines[0].startswith("Traceback") and lines[-1] == "error: no such thing"


@pytest.mark.parametrize("failure", [AttributeError, AssertionError, KeyError, IndexError, ValueError, TypeError])
def test_our_own_failures_are_never_told_as_recboles_refusal(failure):
    def ours():
        raise failure("ours")

    with pytest.raises(failure):
        recboles_refusal(ours)
    with pytest.raises(ValueError, match="could not convert"):  # nor what RecBole only stumbles over
        recboles_refusal(lambda: float("x"))


def test_what_recbole_refuses_itself_is_a_sentence(walk):
    from recbole.data.interaction import Interaction

    with pytest.raises(UserError, match="RecBole refuses this: The type of"):
        recboles_refusal(lambda: Interaction({"a": object()}))
