"""Kill commands at random times until they end: ``python tests/fuzz/kills.py --kills 20 --out results/kills.jsonl``.

Right is: the numbers of a run that was never killed, each row once, and nothing left behind but what such a run leaves.
Kinds that begin with ``two`` start the same command twice in one folder and kill one of them: they share the work, or
the later one is refused. Each command is forked from this process, which has its imports: they would take most of
the seconds, and most kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import hyperopt  # noqa: E402, F401 (with the next four, what a run, a group of processes and a search import)
import torch  # noqa: E402
import torch.distributed.checkpoint  # noqa: E402
import torch.distributed.fsdp  # noqa: E402
from conftest import walk_rows, write_inter  # noqa: E402

import recbole_scale.runs.run  # noqa: E402, F401
from recbole_scale import signals  # noqa: E402
from recbole_scale.cli import run_hyper_command  # noqa: E402
from recbole_scale.runs.records import commit  # noqa: E402
from recbole_scale.runs.row_file import append_lines  # noqa: E402

SHAPE = ["--hidden_size=16", "--inner_size=64", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=64", "--topk=[5,10]",
         "--show_progress=False", "--save_step=5"]  # fmt: skip
RUN = ["--model=ScaledSASRec", "--dataset=walk", "--n_layers=1", "--epochs=6", "--resume", "auto", *SHAPE]
TWO = [*RUN, "--nproc=2"]
HYPER = ["run_hyper", "--model=ScaledSASRec",
         "--dataset=walk", "--params_file=rates.hyper", "--num_samples=2", "--epochs=4", "--n_layers=1",
         *SHAPE]  # fmt: skip
KINDS = {
    "run": ["run_recbole", *RUN, "--optimizer_switch=True", "--switch_at_epoch=3", "--sgd_epochs=2"],
    "ddp": ["run_recbole", *TWO, "--parallel=ddp"],
    "fsdp": ["run_recbole", *TWO, "--parallel=fsdp"],
    "sweep": [str(HERE.parents[1] / "run_scripts" / "size_sweep.py"), "--dataset", "walk", "--shapes", "1x8", "1x16",
              "--seeds", "1", "2", "--epochs", "3", "--rows", "results/runs.jsonl", *SHAPE[2:]],
    "search": [*HYPER, "--tool=Hyperopt"],
    "ray search": [*HYPER, "--no_halving"],
}  # fmt: skip
KINDS.update({f"two {kind}es" if kind == "search" else f"two {kind}s": KINDS[kind] for kind in ("sweep", "search")})
NUMBERS = ("run_id", "test_metrics", "best_valid_metrics", "best_epoch", "interactions_seen", "epochs")


class Command:
    """The command of a kind, in a process and a session of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.words = [*KINDS[kind]]
        if "--nproc=2" in self.words:
            self.words.append(f"--port={random.randrange(20000, 40000)}")
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os._exit(self._carry_out(folder))

    def _carry_out(self, folder: Path) -> int:
        os.setsid()
        os.chdir(folder)
        log = os.open("output.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = self.words
        torch.multiprocessing.spawn = partial(_fork, torch.multiprocessing.start_processes)
        try:
            if self.words[0] == "run_hyper":
                run_hyper_command()
            elif self.words[0] == "run_recbole":
                runpy.run_module("recbole_scale", run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(self.words[0], run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
        return 1

    def wait(self, options: int = 0) -> int | None:
        """The exit code; with ``os.WNOHANG`` None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code


def _fork(start_processes: Any, work: Any, args: Any, nprocs: int, join: bool) -> Any:
    return start_processes(_member, (work, *args), nprocs, join, start_method="fork")


def _member(local_rank: int, work: Any, *args: Any) -> None:
    """A process of a group as a spawned one is: it has not heard of its parent's signals."""
    signals._State.held, signals._State.watching = 0, False
    for number in signals.SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    work(local_rank, *args)


def outcome(kind: str, folder: Path) -> Any:
    """What must be the same: numbers of the rows, and names of what is left."""
    if "search" in kind:
        ends = [json.loads(path.read_text()) for path in sorted(folder.glob("search/*/trials/*/result.json"))]
        rows = [end["row"] for end in ends]
    else:
        rows = [json.loads(line) for line in (folder / "results" / "runs.jsonl").read_text().splitlines()]
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".") or ".tmp" in p.name)
    shards = [len(list(path.glob("shards-*"))) for path in sorted(folder.glob("saved/*.dcp"))]
    files = sorted(path.name for path in [*folder.glob("saved/*"), *folder.glob("search/*/trials/*/*.pth")])
    return sorted(json.dumps([row[name] for name in NUMBERS]) for row in rows), left, files, shards


def torture(kind: str, kills: int, seed: int, seconds: float) -> dict[str, Any]:
    """Kill a kind ``kills`` times or for ``seconds``; counts."""
    rng, began = random.Random(f"{seed} {kind}"), time.time()
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        for folder in (whole, killed):
            write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows(n_users=60, n_items=30))
            (folder / "rates.hyper").write_text("learning_rate choice [0.01,0.003]\n")
        clock = time.time()
        code = Command(kind, whole).wait()
        took, expected = time.time() - clock, outcome(kind, whole)
        assert code == 0, (whole / "output.txt").read_text()[-3000:]
        done = ended = wrong = 0
        told: list[str] = []
        while not ended or (done < kills and time.time() - began < seconds):
            processes = [Command(kind, killed) for _ in range(2 if kind.startswith("two ") else 1)]
            deadline = time.time() + rng.uniform(0.2, 1.0) * took
            more = done < kills and time.time() - began < seconds
            while more and time.time() < deadline and any(process.wait(os.WNOHANG) is None for process in processes):
                time.sleep(0.01)
            alive = [process for process in processes if process.wait(os.WNOHANG) is None]
            if more and alive:
                _kill(rng.choice(alive), killed, rng)
                done += 1
            codes = [process.wait() for process in processes]
            for process in processes:
                _wait_for_session(process.pid, killed)
            if set(codes) - {0, -signal.SIGKILL, *([2] if len(codes) == 2 else [])} or 0 in codes:
                ended += 1
                wrong += _judge(kind, codes, killed, expected, told)
    row = {"kind": kind, "kills": done, "ended": ended, "wrong": wrong, "seconds": round(time.time() - began)}
    return {**row, "told": told}


def _kill(process: Command, folder: Path, rng: random.Random) -> None:
    """Everything at once, the first process alone, or a Ray worker alone, which the first process lives on without."""
    workers = _workers(folder)
    if workers and rng.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
    elif rng.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)


def _workers(folder: Path) -> list[int]:
    """Ray's processes that train trials now."""
    noted = {int(path.read_text() or 0) for path in folder.glob("search/*/trials/*/pid")}
    return [pid for pid in noted if b"ray::" in _words(pid)]


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait_for_session(session: int, folder: Path) -> None:
    """Until the others of a killed first process have seen it, at most a minute; the lock is theirs so long."""
    for _ in range(600):
        there = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True).stdout
        ours = [
            line for line in there.splitlines() if not line.startswith("Z") and "ray" not in line
        ]  # Ray ends its own
        if not ours and not _workers(folder):
            break
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def _judge(kind: str, codes: list[int], folder: Path, expected: Any, told: list[str]) -> int:
    """Compare what has ended, and make its folder new for the next one."""
    output = (folder / "output.txt").read_text(errors="replace")
    found = outcome(kind, folder) if 0 in codes else None
    if found != expected:
        told.append(f"{kind}: exit {codes}\n{found}\n{expected}\n{output[-1500:]}")
    for path in [*folder.glob("saved/*"), *folder.glob("results/*"), folder / "output.txt"]:
        subprocess.run(["rm", "-rf", str(path)], check=True)
    subprocess.run(["rm", "-rf", str(folder / "search")], check=True)
    return int(found != expected)


def main() -> int:
    """The command; 1 when anything was lost, doubled, other or left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="of each kind at most")
    parser.add_argument("--out", type=Path, help="file of rows to add the counts to")
    options = parser.parse_args()
    wrong = 0
    for kind in options.kinds:
        row = torture(kind, options.kills, options.seed, options.seconds)
        told = row.pop("told")
        print(row, *told, sep="\n", flush=True)
        wrong += row["wrong"]
        if options.out:
            kept = {**row, "seed": options.seed, "commit": commit()}
            append_lines(options.out, [kept], list(kept))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
