"""Number formats of training, and whether ``torch.compile`` can work on this machine. Plain torch."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from recbole_scale.errors import UserError

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # from torch 2.9 on, and before


def resolve_precision(setting: Any, device: torch.device, enable_amp: bool = False) -> str:
    """``float32``, ``bf16`` or ``bf16_weights`` for a setting of key ``precision``.

    * ``float32``: everything in float32.
    * ``bf16``: products in bfloat16 (autocast); weights, gradients, optimizer, norms and the loss stay float32.
    * ``bf16_weights``: weights, gradients and optimizer in bfloat16 too, half the memory of
      ``bf16`` for all four; small updates are rounded away, so it is for trying a model that fits in no other way.
    * ``auto``: ``bf16`` on a GPU that computes in it and where RecBole's ``enable_amp`` asks for it, else ``float32``.
      On a CPU it stays float32, so that a run's numbers do not hang on the CPU's instructions, although one with
      bfloat16 instructions trains the wider sizes faster with ``bf16`` (``benchmarks/switches.py``).
    """
    if setting != "auto":
        return str(setting)
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native or enable_amp else "float32"


def prepare_gpu(tf32: bool) -> None:
    """Before the first tensor on a GPU: float32 products as ``tf32`` says, whatever was set before; an allocator whose
    segments grow, so that batches of many widths leave no holes. A user's own setting of the allocator stays.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ.update(dict.fromkeys(ALLOCATOR, "expandable_segments:True"))


def triton_is_there() -> bool:
    """Whether Triton is installed and knows this machine's GPU."""
    from torch.utils._triton import has_triton

    return bool(has_triton())


def check_compiler(device: torch.device) -> None:
    """Whether ``torch.compile`` finds what it needs.

    Raises:
        UserError: no C++ compiler for a CPU, or no Triton for a GPU.
    """
    if device.type == "cuda":
        if not triton_is_there():
            raise UserError("compile needs Triton on a GPU, and it is not installed; leave compile out")
        return
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in names):
        raise UserError(
            f"compile needs a C++ compiler on a CPU, and none of {', '.join(names)} is found; "
            "install one or leave compile out"
        )
