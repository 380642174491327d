"""A real search on ml-100k, its time and what ASHA saved: ``python benchmarks/search.py [--kill]``.

Eight trials of ScaledSASRec (tiny, up to 12 epochs, ASHA's rungs after 2 and 6) with the packaged search space. With
``--kill``, a worker is ended by ``kill -9`` at its first evaluation and the driver after the second trial; the same
command then finishes the search. Appends one row to ``results/search.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recbole_scale.runs.records import commit, versions
from recbole_scale.search.folder import Trial, trials
from recbole_scale.search.outcome import best_of, outcomes
from recbole_scale.search.plan import SearchPlan

FOLDER = "search/ScaledSASRec-ml-100k"


def command(options: argparse.Namespace) -> list[str]:
    """The command a user would type."""
    script = "from recbole_scale.cli import run_hyper_command; run_hyper_command()"
    return [
        sys.executable, "-c", script, "--model=ScaledSASRec", "--dataset=ml-100k", f"--num_samples={options.trials}",
        f"--epochs={options.epochs}", f"--grace_period={options.grace_period}", f"--reduction_factor={options.factor}",
    ]  # fmt: skip


class CpuTime:
    """CPU seconds of every process that trained a trial, as last seen in ``/proc``: a busy machine does not add any."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    def look(self, folder: Path) -> None:
        """Read the times of the processes that train now."""
        for path in folder.glob("trials/*/pid"):
            try:
                pid = int(path.read_text())
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            self.seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def total(self) -> float:
        """All of them together, s."""
        return sum(self.seconds.values())


def carry_out(line: list[str], here: Path, cpu: CpuTime, until: Callable[[], bool] | None = None) -> int | None:
    """Run the command to its end, or until ``until`` holds and then end it by ``kill -9``; its exit code or None."""
    driver = subprocess.Popen(line, cwd=here)
    while driver.poll() is None:
        cpu.look(here / FOLDER)
        if until and until():
            driver.kill()
            driver.wait()
            return None
        time.sleep(0.2)
    return driver.returncode


def kill_a_worker_once(folder: Path) -> Callable[[], bool]:
    """A condition for :func:`carry_out`: ends a worker at its first evaluation; holds when two trials have ended."""
    killed: list[int] = []

    def condition() -> bool:
        begun = [trial for trial in trials(folder) if trial.evaluations() and (trial.folder / "pid").exists()]
        if begun and not killed:
            killed.append(int((begun[0].folder / "pid").read_text()))
            os.kill(killed[0], signal.SIGKILL)
            print(f"kill -9 of the worker of trial {begun[0].number}", flush=True)
        return sum(trial.result() is not None for trial in begun) >= 2

    return condition


def measure(options: argparse.Namespace, here: Path) -> dict[str, Any]:
    """Carry out the search in an empty folder; returns the row."""
    line, cpu, started = command(options), CpuTime(), time.perf_counter()
    load = os.getloadavg()[0]
    if options.kill:
        assert carry_out(line, here, cpu, kill_a_worker_once(here / FOLDER)) is None, "the search ended too early"
        print("kill -9 of the driver", flush=True)
    assert carry_out(line, here, cpu) == 0, "the search failed"
    seconds = time.perf_counter() - started
    plan = SearchPlan.load(str(here / FOLDER))
    assert plan is not None
    found = outcomes(plan)
    best = best_of(found)
    assert best is not None and len(found) == options.trials and all(one.status != "unfinished" for one in found)
    epochs = sum(len(Trial(plan.folder, one.number).evaluations()) for one in found)
    return {
        "what": "search of ScaledSASRec tiny on ml-100k" + (", worker and driver killed" if options.kill else ""),
        "trials": len(found),
        "stopped_early": sum(one.status == "stopped" for one in found),
        "epochs": epochs,
        "epochs_without_halving": options.trials * options.epochs,
        "seconds": round(seconds, 1),
        "cpu_seconds_of_trials": round(cpu.total(), 1),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "best_valid_nll": best.score,
        "best_values": best.values,
        "test_nll": best.result["row"]["test_nll"],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
    }


def main() -> None:
    """Measure once and append the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--grace_period", type=int, default=2)
    parser.add_argument("--factor", type=float, default=3)
    parser.add_argument("--kill", action="store_true", help="kill -9 a worker and the driver on the way")
    parser.add_argument("--out", default="results/search.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="search-") as here:
        row = measure(options, Path(here))
    print(json.dumps(row, indent=1))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
