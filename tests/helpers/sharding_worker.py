"""What each process of tests/test_sharding.py runs: ``python sharding_worker.py TASK FOLDER [MODE]``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from recbole_scale.data.windows import deal
from recbole_scale.model.layers import DecoderBlock, init_weights
from recbole_scale.training import group, parallel
from recbole_scale.training.background import Background
from recbole_scale.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_scale.training.optimizers import build_optimizer
from recbole_scale.training.sharded_checkpoint import save_sharded
from recbole_scale.training.shards import whole

N_ITEMS, D, LENGTH = 31, 32, 7


class Tied(nn.Module):
    """The decoder without RecBole: item embedding used in the input and in the softmax."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(N_ITEMS + 1, D, padding_idx=0)
        self.position_embedding = nn.Embedding(LENGTH, D)
        self.blocks = nn.ModuleList(DecoderBlock(D, 2, 4 * D) for _ in range(3))
        self.final_norm = nn.LayerNorm(D)
        torch.manual_seed(seed)
        init_weights(self, list(self.blocks), 0.2)

    def scores(self, item_seq: torch.Tensor) -> torch.Tensor:
        x = self.item_embedding(item_seq) + self.position_embedding.weight
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def calculate_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        counted = batch["target"] != 0
        hidden = self.scores(batch["input"])[counted]
        if not isinstance(self.item_embedding, nn.Embedding):
            return self.item_embedding.item_cross_entropy(hidden, batch["target"][counted], 5)
        return F.cross_entropy(hidden @ self.item_embedding.weight[1:].T, batch["target"][counted] - 1)


class Batch(dict):
    """As RecBole's Interaction: a key gives a column, a slice gives rows."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return Batch({name: value[key] for name, value in self.items()})

    def __len__(self) -> int:
        return len(self["input"])


def batch_of(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    rows = 1 if step == 2 else 9 + step  # a step with fewer rows than processes, odd and even numbers of rows
    items = torch.randint(1, N_ITEMS + 1, (rows, LENGTH + 1), generator=generator)
    target = items[:, 1:].clone()
    target[:, : int(step)] = 0
    return Batch(input=items[:, :-1], target=target)


def dealt(batch: Batch) -> tuple[Batch, float]:
    """This process's rows, and their weight."""
    counts, world = (batch["target"] != 0).sum(1).numpy(), group.world_size()
    mine = deal(counts, group.rank(), world)
    if not len(mine):
        return batch[:1], 0.0
    return batch[torch.from_numpy(mine)], counts[mine].sum() * world / counts.sum()


class Run:
    """Model, loss and optimizer of one process."""

    def __init__(self, mode: str, bf16: bool = False, shards: int | None = None) -> None:
        self.model = Tied(seed=1 + group.rank())  # other first weights in each process: the first one's count
        self.bf16 = bf16
        cut = mode == "cut"
        self.loss = parallel.data_parallel(self.model, "fsdp" if cut else mode, bf16, (shards, None), cut)
        self.optimizer = build_optimizer(self.model, "adamw", 1e-2, 0.1)

    def step(self, number: int) -> dict[str, Any]:
        """One step; returns loss, norm and whole gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        mine, weight = dealt(batch_of(number))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss(mine) * weight
        loss.backward()
        gradients = {name: whole(p.grad).clone() for name, p in self.model.named_parameters()}
        norm = whole(clip_grad_norm_(self.model.parameters(), 0.5))
        self.optimizer.step()
        mean = group.total(loss.detach().clone()) / group.world_size()
        return {"loss": mean, "norm": norm, "gradients": gradients}

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in whole(self.model.state_dict()).items()}

    def state(self) -> dict[str, Any]:
        return {"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "note": [1, "a"]}

    def load(self, path: Path) -> None:
        state = load_checkpoint(path, mesh=parallel.mesh_of(self.loss))
        assert state["note"] == [1, "a"]
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])


def gradients(folder: Path, mode: str) -> None:
    run = Run("fsdp" if mode == "bf16" else mode, bf16=mode == "bf16")
    found = [run.step(number) for number in range(5)]
    keep(folder / "found.pt", {"steps": found, "weights": run.weights(), "mode": parallel.mode_of(run.loss)})


def write(folder: Path, mode: str) -> None:
    """Two steps, a checkpoint, three more steps."""
    run = Run(mode)
    for number in range(2):
        run.step(number)
    if parallel.mode_of(run.loss) == "fsdp":
        save_sharded(run.state(), folder / "last")
    elif group.rank() == 0:
        save_checkpoint(run.state(), folder / "last")
    for number in range(2, 5):
        run.step(number)
    keep(folder / "found.pt", {"weights": run.weights()})


def resume(folder: Path, mode: str) -> None:
    """The three steps after the checkpoint of ``write``."""
    run = Run(mode)
    run.load(folder / "last")
    loaded = whole(run.state()["optimizer"])
    for number in range(2, 5):
        run.step(number)
    keep(folder / "resumed.pt", {"weights": run.weights(), "optimizer": loaded})


def two_by_two(folder: Path, mode: str) -> None:
    """Five steps of two copies cut in two each, a checkpoint written meanwhile, and what goes on from it."""
    run, background, channel = Run("hsdp", shards=2), Background(on=True), dist.new_group(backend="gloo")
    steps = []
    for number in range(5):
        if number == 2:
            save = partial(save_sharded, process_group=channel)
            background.do(save, background.copied(run.state()), folder / "last")
            one = background.copied(whole(run.state()))
        steps.append(run.step(number))
    background.join()
    if group.rank() == 0:
        save_checkpoint(one, folder / "one.pth")
    dist.barrier()
    resumed = []
    for name in ("last", "one.pth"):
        again = Run("hsdp", shards=2)
        again.load(folder / name)
        for number in range(2, 5):
            again.step(number)
        resumed.append(again.weights())
    found = {"steps": steps, "weights": run.weights(), "resumed": resumed, "mode": parallel.mode_of(run.loss)}
    part: Any = run.model.item_embedding.weight
    keep(folder / "found.pt", {**found, "rows": len(part.to_local())})


def evaluation(folder: Path, mode: str) -> None:
    """Scores of the whole model, between two training steps, on as many batches as the process's rank."""
    run = Run(mode)
    run.step(0)
    with torch.no_grad(), parallel.whole_model(run.loss) as model:
        for number in range(group.rank() + 1):
            scores = model.scores(batch_of(number)["input"])
        first = model.scores(batch_of(0)["input"])
    weights = run.weights()
    run.step(1)
    keep(folder / "found.pt", {"scores": first, "last": scores, "weights": weights})


def full_disk(folder: Path, mode: str) -> None:
    """A second save that does not fit must leave the first as it was."""
    import resource
    import signal

    run = Run(mode)
    save_sharded(run.state(), folder / "last")
    run.step(0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    from recbole_scale.errors import exit_code

    code = exit_code(lambda: save_sharded(run.state(), folder / "last"))
    group.leave()
    sys.exit(code)


def keep(path: Path, found: Any) -> None:
    if group.rank() == 0:
        torch.save(found, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if settings := group.torchrun_settings():
        group.join(settings, use_gpu=False)
    task, target, *more = sys.argv[1:]
    globals()[task](Path(target), *(more or ["fsdp"]))
    group.leave()
