"""Peak memory of a training step against the plan's estimate, each in a process of its own.

    python benchmarks/memory.py --sizes tiny small base medium --out results/memory.jsonl
    python benchmarks/memory.py --xlarge_step --out results/memory.jsonl

On a CPU the peak is the largest resident set during `--steps` steps minus the resident set before the model is built;
on a GPU it is torch's largest allocation, to which the estimate without its `framework` part is compared. Batches are
random items, windows of 50, and 3,706 items as in ML-1M unless `--items` says otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "checkpointing": {"activation_checkpointing": True},
    "batch x 4": {"batch": 4},
    "batch / 4": {"batch": 0.25},
    "no attention dropout": {"attn_dropout_prob": 0.0},
    "bf16": {"precision": "bf16"},
}
XLARGE = {"precision": "bf16_weights", "attn_dropout_prob": 0.0, "activation_checkpointing": True}


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS now, VmHWM at its highest since the last reset."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def settings_of(size: str, changes: dict[str, Any]) -> dict[str, Any]:
    """All settings that the model reads, as a run of this size has them."""

    from recbole_scale.model.sizes import load_size
    from recbole_scale.settings import load_settings_file, properties_folder

    defaults = load_settings_file(str(properties_folder() / "model" / "ScaledSASRec.yaml"))
    names = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_"}
    fixed = {"ITEM_LIST_LENGTH_FIELD": "item_length", "enable_amp": False}
    return {**defaults, **load_size(size), **names, **fixed, **changes}


class Steps:
    """A model, its optimizer and random batches: training steps without a data set."""

    def __init__(self, size: str, items: int, device: str = "cpu", **changes: Any) -> None:
        import torch

        from recbole_scale.model.scaled_sasrec import ScaledSASRec
        from recbole_scale.training.optimizers import build_optimizer

        batch = changes.pop("batch", 1)
        self.config = settings_of(size, {"device": torch.device(device), "nproc": None, **changes})
        self.items, self.device = items, torch.device(device)
        self.rows = max(1, int(self.config["train_batch_size"] * batch) // self.config["MAX_ITEM_LIST_LENGTH"])
        self.tokens = self.rows * self.config["MAX_ITEM_LIST_LENGTH"]
        self.model = ScaledSASRec(self.config, SimpleNamespace(num=lambda field: items + 1)).to(device).train()
        self.optimizer = build_optimizer(self.model, self.config["learner"], float(self.config["learning_rate"]), 0.01)

    def step(self) -> float:
        """One optimizer step on a random batch; its loss."""
        import torch
        from recbole.data.interaction import Interaction

        from recbole_scale.data.windows import TARGET_LIST
        from recbole_scale.training.optimizers import clipped_norm

        shape = (self.rows, self.config["MAX_ITEM_LIST_LENGTH"] + 1)
        items = torch.randint(1, self.items + 1, shape).to(self.device)
        batch = Interaction({"item_list": items[:, :-1].contiguous(), TARGET_LIST: items[:, 1:].contiguous()})
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model.calculate_loss(batch)
        loss.backward()
        clipped_norm(self.model.parameters(), {"max_norm": 1.0})
        self.optimizer.step()
        return loss.item()


def measure(size: str, items: int, steps: int, device: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Take steps in this process; the row."""
    if device == "cpu":  # torch for CPUs brings no Triton; where the tests have put one, it would count 70 MiB
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
    import torch

    import recbole_scale.training.trainer  # noqa: F401 (all code is loaded before the memory is first looked at)
    from recbole_scale.model.memory import memory_plan
    from recbole_scale.runs.plan import training_setup
    from recbole_scale.runs.records import commit, versions

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    run = Steps(size, items, device, **changes)
    clock = time.perf_counter()
    losses = [run.step() for _ in range(steps)]
    plan = memory_plan(run.model.shape, training_setup(run.config, run.model, run.tokens))
    on_gpu = device == "cuda"
    measured = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM") - before
    estimate = plan.peak - (plan.framework if on_gpu else 0)
    return {
        "size": size,
        "items": items,
        "tokens": run.tokens,
        **changes,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "steps": steps,
        "losses": losses,
        "seconds": round(time.perf_counter() - clock, 2),
        "estimate_mib": round(estimate / 2**20, 1),
        "measured_mib": round(measured / 2**20, 1),
        "error": round(estimate / measured - 1, 4),
        "groups_mib": {name: round(size / 2**20, 1) for name, size in plan.groups.items()},
        "process_peak_mib": round(resident("VmHWM") / 2**20, 1),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }


def in_a_process(size: str, items: int, steps: int, device: str, changes: dict[str, Any]) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    call = json.dumps({"size": size, "items": items, "steps": steps, "device": device, "changes": changes})
    done = subprocess.run([sys.executable, __file__, "--one", call], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{size} {changes} failed:\n{done.stderr[-3000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def line(variant: str, row: dict[str, Any]) -> str:
    """A row of the printed table."""
    cells = (row["size"], variant, f"{row['tokens']:,}", f"{row['estimate_mib']:,.0f}", f"{row['measured_mib']:,.0f}")
    return f"| {' | '.join(cells)} | {100 * row['error']:+.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "base", "medium"])
    parser.add_argument("--variants", nargs="+", default=["default"], choices=list(VARIANTS))
    parser.add_argument("--items", type=int, default=3706)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--xlarge_step", action="store_true", help="one step of xlarge, 26,427 items, bf16 weights")
    parser.add_argument("--out", type=Path, help="append the rows to this JSON-lines file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(**json.loads(given.one))))
        return
    cases = [(size, variant, VARIANTS[variant], given.items) for size in given.sizes for variant in given.variants]
    if given.xlarge_step:
        cases = [("xlarge", "one step", {**XLARGE, "train_batch_size": 250}, 26_427)]
    print("| size | variant | tokens a step | estimate MiB | measured MiB | error |\n|---|---|---|---|---|---|")
    for size, variant, changes, items in cases:
        row = in_a_process(size, items, 1 if given.xlarge_step else given.steps, given.device, changes)
        print(line(variant, row), flush=True)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a") as file:
                file.write(json.dumps({"variant": variant, **row}) + "\n")


if __name__ == "__main__":
    main()
