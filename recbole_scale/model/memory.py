"""Memory of one training step on one device, before it is taken, and which switch to turn when it does not fit.

Arithmetic only. Bytes kept for the backward pass follow from what autograd saves in each block (a test counts them);
what the allocator and torch itself add was calibrated with ``benchmarks/memory.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil

from recbole_scale.model.sizes import Shape, parameter_groups, total_parameters

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
CPU_LOGITS = 8 * MIB  # a chunk's logits stay in the cache
GPU_LOGITS = (64 * MIB, 2048 * MIB)  # least and most
# Measured (benchmarks/memory.py; Linux, glibc, torch 2.13, CPU): code and buffers that torch brings in with a process's
# first step; and holes, what the allocator loses between tensors, as a share of what all blocks keep in a step. It is
# the same with activation checkpointing, since the blocks' tensors come and go all the same. GPU values are guesses; a
# GPU's context lies outside torch's own allocator.
FRAMEWORK = {"cpu": 20 * MIB, "cuda": 600 * MIB}
HOLES = {"cpu": 0.38, "cuda": 0.1}


def memory_of_a_process(device: torch.device, processes: int) -> int:
    """Bytes in all: the GPU's memory, or the machine's shared by ``processes``; the same number in each of them."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total) // processes


def available_memory(device: torch.device, already: int = 0, processes: int = 1) -> int:
    """Bytes one of ``processes`` can have now: as above, of a CPU what is free and what it has ``already``."""
    if device.type == "cuda":
        return memory_of_a_process(device, processes)
    return min(int(psutil.virtual_memory().available) // processes + already, memory_of_a_process(device, processes))


def softmax_chunk(candidates: int, device: torch.device) -> int:
    """Positions whose logits over ``candidates`` items exist at once; at least 64.

    Their float32 logits take 8 MiB on a CPU (its cache), a 64th of the free memory (64 MiB to 2 GiB) on a GPU.
    """
    size = CPU_LOGITS
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        size = min(max(free // 64, GPU_LOGITS[0]), GPU_LOGITS[1])
    return max(64, size // (4 * candidates))


@dataclass(frozen=True)
class Setup:
    """How a model is trained, as far as memory goes.

    Attributes:
        tokens: positions per optimizer step, of all devices and accumulation steps together.
        candidates: items in a target's softmax: all, or the sampled ones.
        chunk: positions whose logits exist at once.
        dropout: whether residual branches are dropped somewhere.
        attn_dropout: whether attention weights are.
        precision: ``float32``, ``bf16`` or ``bf16_weights``.
        activation_checkpointing: whether blocks are computed again backward.
        accumulation_steps: parts of a batch, one after the other.
        optimizer_states: tensors as large as the weights that the optimizer keeps: 2 Adam, 1 SGD with momentum.
        parallel: ``none``, ``ddp`` (a whole copy on every device), ``fsdp`` (cut over devices) or ``hsdp`` (over some).
        devices: processes that train together.
        shards: of these, the ones over which ``hsdp`` cuts a copy.
        cut_items: whether, under ``fsdp``, the item embedding is never gathered.
        device: ``cpu`` or ``cuda``.
    """

    tokens: int
    candidates: int
    chunk: int
    dropout: bool = True
    attn_dropout: bool = True
    precision: str = "float32"
    activation_checkpointing: bool = False
    accumulation_steps: int = 1
    optimizer_states: int = 2
    parallel: str = "none"
    devices: int = 1
    shards: int = 1
    cut_items: bool = False
    device: str = "cpu"

    @property
    def pieces(self) -> int:
        """Devices over which a copy of the model is cut, 1 where each has a whole one."""
        return {"fsdp": self.devices, "hsdp": self.shards}.get(self.parallel, 1)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device, by group. Gradients and activations are not whole at the same time: see :attr:`peak`.

    Attributes:
        weights: parameters, and under FSDP2 the parts of others while they are gathered.
        gradients: of all parameters, at the end of a step.
        optimizer: its states.
        activations: kept for the backward pass, the working set of one block, and the allocator's holes.
        logits: of one chunk, with the gradient of the item embedding that the loss makes.
        framework: torch itself: code and buffers of the first step, the GPU's context.
        gradients_stay: whether gradients are there while activations are (accumulation; buckets of DDP).
        gathered: under FSDP2, what a process holds of the model while it ranks, beyond ``weights``.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    framework: int
    gradients_stay: bool = False
    gathered: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the peak of a step: between forward and backward, or when the optimizer acts."""
        backward = self.activations + self.logits + (self.gradients if self.gradients_stay else 0)
        return self.framework + self.weights + self.optimizer + max(backward, self.gradients)

    @property
    def groups(self) -> dict[str, int]:
        """Bytes by group, the largest things a user can act on first."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "framework")
        return {name: getattr(self, name) for name in names}


def memory_plan(shape: Shape, setup: Setup) -> MemoryPlan:
    """Estimated bytes of a training step on each device."""
    numbers = 2 if setup.precision == "bf16_weights" else 4  # bytes of a weight
    n_weights = total_parameters(shape)
    weights, gradients = numbers * n_weights, numbers * n_weights
    optimizer, gathered = setup.optimizer_states * weights, 0
    if setup.pieces > 1:
        groups = parameter_groups(shape)
        embeddings = numbers * (groups["n_positions"] + (0 if setup.cut_items else groups["n_item_embedding"]))
        block = groups["n_blocks_exact"] // shape.n_layers * (2 if setup.precision == "bf16" else numbers)
        # the block at work and the next one are whole, and so are the embeddings from forward to backward
        working = embeddings + 2 * block
        gathered = weights - working  # each process ranks with the whole model, beside its part
        weights, optimizer = weights // setup.pieces + working, optimizer // setup.pieces
        gradients = gradients // setup.pieces + embeddings + block
    return MemoryPlan(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=int(_activations(shape, setup)),
        logits=int(_logits(shape, setup, numbers)),
        framework=FRAMEWORK[setup.device],
        gradients_stay=setup.accumulation_steps > 1 or setup.parallel == "ddp",
        gathered=gathered,
    )


def saved_by_block(shape: Shape, setup: Setup) -> float:
    """Bytes that autograd keeps for one position in one block.

    Two LayerNorm inputs (the residual stream, float32 under autocast) and their statistics; in the format of the
    products: two LayerNorm outputs, queries, keys, values, attention output, feed-forward before and after the
    activation, and two dropout masks of a byte. Attention keeps one number a head, or, where a CPU drops
    its weights, three T x T matrices.
    """
    d, inner = shape.d_model, shape.inner_size
    low = 4 if setup.precision == "float32" else 2
    stream = 2 if setup.precision == "bf16_weights" else 4
    kept = stream * 2 * d + 16 + low * (6 * d + 2 * inner) + (2 * d if setup.dropout else 0)
    if setup.attn_dropout and setup.device == "cpu":
        scores = 5 + low  # bytes a pair of positions: float32 softmax, mask, what is left of it
        return kept + scores * shape.n_heads * shape.max_length
    return kept + 4 * shape.n_heads


def _activations(shape: Shape, setup: Setup) -> float:
    tokens = setup.tokens / setup.devices / setup.accumulation_steps
    d, block = shape.d_model, saved_by_block(shape, setup)
    outside = 5 * d + 8  # mask of the embedding, input of the final LayerNorm
    working = 4 * (shape.inner_size + 4 * d)  # gradients inside the block at work
    if setup.activation_checkpointing:
        stream = 2 if setup.precision == "bf16_weights" else 4
        per_token = shape.n_layers * stream * d + block  # each block's input, and one block as it is computed again
    else:
        per_token = shape.n_layers * block
    casts = 2 * parameter_groups(shape)["n_blocks"] if setup.precision == "bf16" and setup.pieces == 1 else 0
    holes = HOLES[setup.device] * shape.n_layers * block
    return tokens * (per_token + outside + working + holes) + casts


def _logits(shape: Shape, setup: Setup, numbers: int) -> float:
    tokens = setup.tokens / setup.devices / setup.accumulation_steps
    embedding = shape.n_items * shape.d_model
    tiles = 1 if (setup.device, setup.precision) == ("cpu", "float32") else 2  # as the products give them, in float32
    chunk = 4 * tiles * min(setup.chunk, tokens) * setup.candidates
    low = setup.device == "cuda" and setup.precision != "float32"  # items once more in bfloat16, and their gradient
    other_format = 4 if low or numbers == 2 else 0
    if setup.cut_items:  # of all processes' positions against this one's items
        tokens, chunk, embedding = tokens * setup.devices, chunk / setup.devices, embedding // setup.devices
    return chunk + 3 * 4 * tokens * shape.d_model + (2 * 4 + other_format) * embedding


def evaluation_peak(shape: Shape, rows: int, plan: MemoryPlan) -> int:
    """Bytes while ``rows`` users are ranked: weights (whole ones), optimizer, and three matrices of rows x items."""
    return plan.framework + plan.weights + plan.gathered + plan.optimizer + 3 * 4 * rows * (shape.n_items + 1)


def ways_to_fit(shape: Shape, setup: Setup, available: int) -> list[tuple[str, int]]:
    """Switches to turn, one after the other in order of what they cost, until the estimate fits.

    Returns:
        (setting, estimated peak with it and all before it); empty when it fits as it is. The last one's estimate may
        still be above ``available``.
    """
    turned: list[tuple[str, int]] = []
    peak = memory_plan(shape, setup).peak
    for options in _switches(shape, setup):
        if peak <= available:
            break
        tried = [(text, replace(setup, **changes)) for text, changes in options]
        peaks = [memory_plan(shape, changed).peak for _, changed in tried]
        best = next((at for at, found in enumerate(peaks) if found <= available), len(peaks) - 1)
        if peaks[best] < 0.98 * peak:  # a switch that hardly helps is not worth its cost
            (text, setup), peak = tried[best], peaks[best]
            turned.append((text, peak))
    return turned


def _switches(shape: Shape, setup: Setup) -> list[list[tuple[str, dict[str, Any]]]]:
    """Switches in order of cost; of each, the settings to try, from the mildest."""
    parts = [k for k in (2, 4, 8, 16, 32) if k > setup.accumulation_steps and setup.tokens // k >= shape.max_length]
    found: list[list[tuple[str, dict[str, Any]]]] = []
    if setup.precision == "float32":
        found.append([("precision: bf16", {"precision": "bf16"})])
    if parts:
        found.append([(f"accumulation_steps: {k}", {"accumulation_steps": k}) for k in parts])
    if not setup.activation_checkpointing:
        found.append([("activation_checkpointing: True", {"activation_checkpointing": True})])
    if setup.device == "cuda":
        counts = [n for n in (2, 4, 8, 16, 32, 64) if n > setup.devices or setup.parallel != "fsdp"]
        sharded = [(f"parallel: fsdp with {n} devices", {"parallel": "fsdp", "devices": n}) for n in counts]
        found.append(sharded)
    else:
        found.append([("precision: bf16_weights", {"precision": "bf16_weights"})])
    return found
