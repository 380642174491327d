"""SIGTERM and SIGINT: the step ends, a checkpoint is written, one sentence says how to go on, and all processes go."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from conftest import QUICK, walk_rows, write_inter
from test_resume import numbers

import recbole_scale
from recbole_scale import signals
from recbole_scale.errors import LONGEST, UserError, exit_code
from recbole_scale.training import group
from recbole_scale.training.trainer import ScaledSASRecTrainer

SETTINGS = {**QUICK, "epochs": 3, "train_batch_size": 64, "save_step": 0}


def row(folder):
    return json.loads((folder / "results" / "runs.jsonl").read_text().splitlines()[-1])


def start(folder, *more):
    command = [sys.executable, "-m", "recbole_scale", "--model=ScaledSASRec", "--dataset=walk", "--n_layers=1",
               "--hidden_size=16", "--inner_size=64", "--MAX_ITEM_LIST_LENGTH=10", "--show_progress=False",
               "--topk=[5,10]", *more]  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(pattern, folder, process, seconds=240):
    deadline = time.time() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None and time.time() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.1)


def session(process):
    """Processes of a started one's session that are still there."""
    found = subprocess.run(["ps", "-o", "pid=", "-o", "stat=", "-s", str(process.pid)], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if " Z" not in line]


@pytest.fixture
def folder_of_400(tmp_path):
    write_inter(tmp_path / "dataset" / "walk" / "walk.inter", walk_rows(n_users=400, n_items=50))
    return tmp_path


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["step", "evaluation", "save"])
def test_wherever_a_signal_comes_the_run_ends_with_the_numbers_of_one_that_was_never_stopped(
    walk, monkeypatch, capsys, place, signum, code
):
    expected = recbole_scale.run("ScaledSASRec", "walk", config_dict=SETTINGS)
    whole = row(walk)
    for path in [*walk.glob("saved/*"), walk / "results" / "runs.jsonl"]:
        path.unlink()
    name = {"step": "_train_step", "evaluation": "evaluate", "save": "_save_last"}[place]
    original, calls = getattr(ScaledSASRecTrainer, name), []

    def signalled(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signum)
        return original(self, *arguments, **named)

    monkeypatch.setattr(ScaledSASRecTrainer, name, signalled)
    assert exit_code(lambda: recbole_scale.run("ScaledSASRec", "walk", config_dict=SETTINGS) and 0) == code
    monkeypatch.setattr(ScaledSASRecTrainer, name, original)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("interrupted;" if signum == signal.SIGINT else "ended by SIGTERM;")
    assert "--resume auto goes on" in told and "Traceback" not in told
    assert not (walk / "results" / "runs.jsonl").exists()
    assert not [path.name for path in walk.glob("saved/.*")]  # neither lock nor temporary file
    trained = []
    monkeypatch.setattr(ScaledSASRecTrainer, "_train_epoch", _counted(trained))
    resumed = recbole_scale.run("ScaledSASRec", "walk", config_dict=SETTINGS, resume="auto")
    assert resumed["test_result"] == expected["test_result"]
    assert numbers(row(walk)) == numbers(whole)
    if place != "step":
        assert trained[0] == 1  # what was saved is not trained again


def _counted(trained):
    original = ScaledSASRecTrainer._train_epoch

    def count(self, data, epoch, *arguments, **named):
        trained.append(epoch)
        return original(self, data, epoch, *arguments, **named)

    return count


def test_a_signal_before_and_after_training_ends_a_command_in_one_sentence(capsys):
    def ended():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    def own(signum, frame):
        pytest.fail("a command has a handler of its own")

    before = signal.signal(signal.SIGTERM, own)
    try:
        assert exit_code(ended) == 143
        assert capsys.readouterr().err == "ended by SIGTERM\n"
        assert signal.getsignal(signal.SIGTERM) is own  # as it was
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@pytest.mark.parametrize(("terminal", "code"), [(True, 0), (False, 130)])
def test_what_a_shell_has_its_background_jobs_ignore_is_ignored_where_a_terminal_could_send_it(
    monkeypatch, capsys, terminal, code
):
    monkeypatch.setattr(signals, "_has_terminal", lambda: terminal)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert exit_code(lambda: os.kill(os.getpid(), signal.SIGINT)) == code
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ("" if terminal else "interrupted\n")


def test_a_terminal_is_seen_from_a_session_of_its_own_only():
    code = "import os, sys; from recbole_scale.signals import _has_terminal; print(_has_terminal())"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True)
    assert alone.stdout == "False\n", alone.stderr
    pid, terminal = pty.fork()  # in the child a session with a terminal
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    with suppress(OSError):
        while part := os.read(terminal, 1000):
            said += part
    os.waitpid(pid, 0)
    assert said.strip() == b"True", said


def test_a_signal_ends_python_at_once_and_with_what_was_said():
    """No hooks at the end: they take a second. Everything else ends as Python ends."""
    code = (
        "import atexit, sys; from recbole_scale.signals import leave; atexit.register(print, 'hook'); print('said'); "
    )
    for number, hooks in ((130, ""), (143, ""), (2, "hook\n"), (0, "hook\n")):
        done = subprocess.run([sys.executable, "-c", f"{code}leave({number})"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (number, f"said\n{hooks}", "")


def test_a_process_that_a_signal_took_the_other_from_is_ended_by_it_too(monkeypatch):
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1")
    monkeypatch.setattr(signals._State, "asked", signal.SIGTERM)
    with pytest.raises(signals.Interrupted) as told, group.first_failure_speaks(seconds=60):
        raise lost
    assert told.value.exit_code == 143
    monkeypatch.setattr(signals._State, "asked", None)
    with pytest.raises(RuntimeError, match="closed by peer"), group.first_failure_speaks(seconds=0.01):
        raise lost


def test_a_handler_that_python_did_not_set_is_no_fault_at_the_end(monkeypatch):
    """A library in C may have set one; Python says None and takes no None."""
    monkeypatch.setattr(signals.signal, "getsignal", lambda number: None)
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in signals.SIGNALS}
    try:
        assert exit_code(lambda: 0) == 0
    finally:
        for number, handler in kept.items():
            assert signal.signal(number, handler or signal.SIG_DFL) == signal.SIG_DFL


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    monkeypatch.setattr(signals, "TWICE_SECONDS", -1.0)
    with signals.watched(), pytest.raises(signals.Interrupted), signals.held():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # waits for the block
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second did not raise")


def test_long_messages_are_cut(capsys):
    def refuse():
        raise UserError("begin " + "x" * 300_000 + " end")

    assert exit_code(refuse) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: begin x") and " ... " in told and told.endswith("x end\n")
    assert len(told) <= len("error: \n") + LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("to", ["parent", "group", "rank"])
def test_two_processes_end_together_within_seconds_and_go_on(folder_of_400, to, parallel):
    folder = folder_of_400
    more = ["--nproc=2", f"--port={20000 + os.getpid() % 10000}", f"--parallel={parallel}", "--stopping_step=1000"]
    process = start(folder, *more, "--epochs=500")
    wait_for("saved/*.best.pth", folder, process)
    signum = signal.SIGTERM if to == "rank" else signal.SIGINT
    if to == "group":
        os.killpg(process.pid, signum)
    elif to == "parent":
        os.kill(process.pid, signum)
    else:
        ranks = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        os.kill(int(ranks.stdout.split()[-1]), signum)
    began = time.time()
    told = process.communicate(timeout=60)[0]
    assert time.time() - began < 20  # 5 s on a machine that is not as busy as a test's
    assert process.returncode == (143 if to == "rank" else 130), told[-2000:]
    assert "Traceback" not in told and told.strip().splitlines()[-1].count("--resume auto goes on") == 1
    assert not session(process)
    assert not [path.name for path in folder.glob("saved/.*")]


def test_the_same_run_is_refused_while_another_process_trains_it(folder_of_400):
    folder = folder_of_400
    first = start(folder, "--epochs=500", "--stopping_step=1000")
    wait_for("saved/*.last.pth", folder, first)
    second = start(folder, "--epochs=500", "--stopping_step=1000")
    told = second.communicate(timeout=240)[0]
    assert second.returncode == 2 and "Traceback" not in told
    assert "another process trains this very run" in told.splitlines()[-1]
    first.kill()  # the lock goes with its process
    first.communicate()
    third = start(folder, "--epochs=500", "--stopping_step=1000", "--resume", "auto")
    time.sleep(0.5)
    stamp = max(path.stat().st_mtime_ns for path in folder.glob("saved/*.last.pth"))
    deadline = time.time() + 240
    while max(path.stat().st_mtime_ns for path in folder.glob("saved/*.last.pth")) == stamp:
        assert third.poll() is None and time.time() < deadline
        time.sleep(0.1)
    third.send_signal(signal.SIGTERM)
    told = third.communicate(timeout=60)[0]
    assert third.returncode == 143 and "--resume auto goes on" in told.splitlines()[-1]
    kept = sorted(path.name.split(".", 1)[1] for path in folder.glob("saved/*"))
    assert kept == ["best-nll.pth", "best.pth", "last.pth"]
