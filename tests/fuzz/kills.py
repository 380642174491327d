"""Kill commands at random times until they end: ``python tests/fuzz/kills.py --kills 20 --out results/kills.jsonl``.

Right is: the numbers of a run that was never killed, each row once, and nothing left behind but what such a run leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from conftest import walk_rows, write_inter  # noqa: E402

SHAPE = ["--hidden_size=16", "--inner_size=64", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=64", "--topk=[5,10]",
         "--show_progress=False", "--save_step=5"]  # fmt: skip
RUN = ["--model=ScaledSASRec", "--dataset=walk", "--n_layers=1", "--epochs=6", "--resume", "auto", *SHAPE]
TWO = [*RUN, "--nproc=2"]
KINDS = {
    "run": ["-m", "recbole_scale", *RUN, "--optimizer_switch=True", "--switch_at_epoch=3", "--sgd_epochs=2"],
    "ddp": ["-m", "recbole_scale", *TWO, "--parallel=ddp"],
    "fsdp": ["-m", "recbole_scale", *TWO, "--parallel=fsdp"],
    "sweep": [str(HERE.parents[1] / "run_scripts" / "size_sweep.py"), "--dataset", "walk", "--shapes", "1x8", "1x16",
              "--seeds", "1", "2", "--epochs", "3", "--rows", "results/runs.jsonl", *SHAPE[2:]],
    "search": ["-c", "from recbole_scale.cli import run_hyper_command; run_hyper_command()", "--tool=Hyperopt",
               "--model=ScaledSASRec", "--dataset=walk", "--num_samples=3", "--epochs=2", "--n_layers=1", *SHAPE],
}  # fmt: skip
NUMBERS = ("run_id", "test_metrics", "best_valid_metrics", "best_epoch", "interactions_seen", "epochs")


def start(kind: str, folder: Path) -> subprocess.Popen[bytes]:
    """The command of a kind, in a session of its own."""
    command = [sys.executable, *KINDS[kind]]
    if "--nproc=2" in command:
        command.append(f"--port={random.randrange(20000, 40000)}")
    log = open(folder / "output.txt", "ab")  # noqa: SIM115 (the process keeps it)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
    )


def outcome(kind: str, folder: Path) -> Any:
    """What must be the same: numbers of the rows, and names of what is left."""
    if kind == "search":
        ends = [json.loads(path.read_text()) for path in sorted(folder.glob("search/*/trials/*/result.json"))]
        rows = [end["row"] for end in ends]
    else:
        rows = [json.loads(line) for line in (folder / "results" / "runs.jsonl").read_text().splitlines()]
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".") or ".tmp" in p.name)
    shards = [len(list(path.glob("shards-*"))) for path in sorted(folder.glob("saved/*.dcp"))]
    files = sorted(path.name for path in folder.glob("saved/*"))
    return sorted(json.dumps([row[name] for name in NUMBERS]) for row in rows), left, files, shards


def torture(kind: str, kills: int, seed: int, seconds: float) -> dict[str, Any]:
    """Kill a kind ``kills`` times or for ``seconds``; counts."""
    rng, began = random.Random(f"{seed} {kind}"), time.time()
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        for folder in (whole, killed):
            write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows(n_users=200, n_items=50))
        clock = time.time()
        code = start(kind, whole).wait()
        took, expected = time.time() - clock, outcome(kind, whole)
        assert code == 0, (whole / "output.txt").read_text()[-3000:]
        done = ended = wrong = 0
        told = []
        while done < kills and time.time() - began < seconds:
            process = start(kind, killed)
            deadline = time.time() + rng.uniform(0.2, 1.0) * took
            while time.time() < deadline and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is None:
                if rng.random() < 0.5:  # everything at once, or the first process alone
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                _wait_for_session(process.pid)
                continue
            ended += 1
            wrong += _judge(kind, process.returncode, killed, expected, told)
        while not ended:
            process = start(kind, killed)
            ended += 1
            wrong += _judge(kind, process.wait(), killed, expected, told)
    return {
        "kind": kind,
        "kills": done,
        "ended": ended,
        "wrong": wrong,
        "seconds": round(time.time() - began),
        "told": told,
    }


def _wait_for_session(session: int) -> None:
    """Until the others of a killed first process have seen it, at most half a minute; the lock is theirs so long."""
    for _ in range(300):
        found = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout.split()
        if all(state.startswith("Z") for state in found):
            return
        time.sleep(0.1)
    os.killpg(session, signal.SIGKILL)


def _judge(kind: str, code: int, folder: Path, expected: Any, told: list[str]) -> int:
    """Compare a command that has ended, and make its folder new for the next one."""
    output = (folder / "output.txt").read_text(errors="replace")
    found = outcome(kind, folder) if code == 0 else None
    if found != expected:
        told.append(f"{kind}: exit {code}\n{found}\n{expected}\n{output[-1500:]}")
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
    rows = []
    for kind in options.kinds:
        row = torture(kind, options.kills, options.seed, options.seconds)
        print({name: value for name, value in row.items() if name != "told"}, *row["told"], sep="\n", flush=True)
        rows.append(row)
    if options.out:
        from recbole_scale.runs.records import commit
        from recbole_scale.runs.row_file import append_lines

        about = {"seed": options.seed, "commit": commit()}
        kept = [{**{k: v for k, v in row.items() if k != "told"}, **about} for row in rows]
        append_lines(options.out, kept, list(kept[0]))
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
