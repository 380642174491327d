"""Feed every reader damaged and odd inputs: ``python tests/fuzz/run.py --inputs 20000 --out results/fuzz.jsonl``.

Right is: read, or refused in one sentence. Wrong is a traceback, more than ``--seconds`` for one input, a sentence
nobody can read, or, where a checksum guards the content, another content than was written.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "helpers")]

from reader import Reader  # noqa: E402
from readers import all_readers  # noqa: E402

import recbole_scale  # noqa: E402, F401 (registers the plugin before RecBole is imported)
from recbole_scale.errors import UserError  # noqa: E402

OUTCOMES = ("read", "refused", "traceback", "hang", "wrong")


class Hang(BaseException):
    """An input took too long."""


def _alarm(signum: int, frame: Any) -> None:
    raise Hang


def outcome_of(reader: Reader, content: Any, path: Path, seconds: float) -> tuple[str, str]:
    """One of :data:`OUTCOMES`, and what was said."""
    reader.write(content, path)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = reader.read(path)
    except UserError as mistake:
        told = str(mistake)
        fine = told.strip() and len(told.splitlines()) == 1
        return ("refused", told) if fine else ("wrong", f"not one sentence: {told[:300]!r}")
    except Hang:
        return "hang", ""
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        right = reader.same is None or reader.same(found, content)
    except Exception:
        return "wrong", f"what another reading refuses was believed: {traceback.format_exc()}"
    return ("read", "") if right else ("wrong", f"other content than was written was believed: {content!r:.3000}")


def fuzz(inputs: int, seed: int, folder: Path, seconds: float = 20.0, only: str = "") -> list[dict[str, Any]]:
    """A row of counts for each reader; ``told`` has the faults, each once."""
    signal.signal(signal.SIGALRM, _alarm)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    readers = [reader for reader in all_readers(folder) if only in reader.name]
    total = sum(reader.weight for reader in readers)
    rows = []
    for reader in readers:
        rng = random.Random(f"{seed} {reader.name}")
        counts, told, began = dict.fromkeys(OUTCOMES, 0), {}, time.process_time()
        path = folder / "inputs" / reader.name.replace(" ", "-").replace("=", "") / reader.suffixes[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        for good in reader.good:
            assert outcome_of(reader, good, path, 60)[0] == "read", (reader.name, outcome_of(reader, good, path, 60))
        count = round(inputs * reader.weight / total)
        for _ in range(count):
            content = reader.change(rng.choice(reader.good), rng)
            outcome, why = outcome_of(reader, content, path, seconds)
            counts[outcome] += 1
            if outcome in ("traceback", "hang", "wrong"):
                key = "\n".join(why.strip().splitlines()[-3:])
                told.setdefault(key, why)
        spent = round(time.process_time() - began, 1)
        rows.append(
            {"reader": reader.name, "inputs": count, **counts, "cpu_seconds": spent, "told": list(told.values())}
        )
    logging.disable(logging.NOTSET)
    return rows


def main() -> int:
    """The command; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="longest time of one input")
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--out", type=Path, help="file of rows to add the counts to")
    options = parser.parse_args()
    out = options.out.resolve() if options.out else None
    with tempfile.TemporaryDirectory() as folder:
        rows = fuzz(options.inputs, options.seed, Path(folder), options.seconds, options.only)
        os.chdir(HERE)
    print(f"{'reader':<26}" + "".join(f"{name:>10}" for name in ("inputs", *OUTCOMES, "CPU s")))
    for row in rows:
        print(f"{row['reader']:<26}" + "".join(f"{row[name]:>10}" for name in ("inputs", *OUTCOMES, "cpu_seconds")))
    faults = [why for row in rows for why in row["told"]]
    for why in faults:
        print("\n" + why[-2500:])
    if out:
        from recbole_scale.runs.records import commit
        from recbole_scale.runs.row_file import append_lines

        kept = [
            {**{k: v for k, v in row.items() if k != "told"}, "seed": options.seed, "commit": commit()} for row in rows
        ]
        append_lines(out, kept, list(kept[0]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
