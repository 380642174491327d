"""The width rule: initial values and learning rates by width, so that what suits a narrow model suits a wide one.

After maximal update parametrisation for Adam (arXiv 2203.03466, table 8), with r = width / base width:

==================================  ==================  =======================
parameters                          initial deviation   learning rate
==================================  ==================  =======================
matrices of the blocks              std / sqrt(r)       rate / r
embeddings of items and positions   std                 rate
last LayerNorm (weight 1 / r)                           rate / r
biases, LayerNorms of the blocks                        rate
==================================  ==================  =======================

The last LayerNorm stands for the multiplier 1 / r of the logits: the item embedding is input and output at once, and
its products with the hidden state would grow with the width. Heads are taken to keep their dimensions, as in the ladder
up to medium. The rule is Adam's and AdamW's; after a switch, SGD has one rate for all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_scale.interfaces import ByKey


def width_ratio(config: ByKey) -> float:
    """Width over base width where ``lr_rule`` is width, else 1, which changes nothing."""
    return config["hidden_size"] / config["lr_base_width"] if config["lr_rule"] == "width" else 1.0


@torch.no_grad()
def scale_initial(model: nn.Module, ratio: float) -> None:
    """Scale the initial values of a model with ``blocks`` and ``final_norm``, as drawn for ``ratio`` 1."""
    for matrix in block_matrices(model):
        matrix.mul_(ratio**-0.5)
    model.get_parameter("final_norm.weight").div_(ratio)


def rate_scales(model: nn.Module, ratio: float) -> dict[int, float]:
    """Learning rate over the run's, by ``id`` of the parameter; 1 where there is none."""
    narrow = [*block_matrices(model), *model.get_submodule("final_norm").parameters()] if ratio != 1 else []
    return {id(parameter): 1 / ratio for parameter in narrow}


def block_matrices(model: nn.Module) -> list[Tensor]:
    """Weight matrices of the linear layers in the blocks."""
    return [module.weight for module in model.get_submodule("blocks").modules() if isinstance(module, nn.Linear)]
