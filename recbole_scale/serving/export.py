"""A trained model for serving, by ``torch.export``: items of a history in, scores of all items out, without RecBole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_scale.errors import UserError
from recbole_scale.files import check_writable
from recbole_scale.serving.trained import Trained

IDS = "items.json"  # in the exported file: raw ids by number


class Scores(nn.Module):
    """``(items [B, T], lengths [B]) -> scores [B, V + 1]`` of a sequential model; items padded with 0 on the right."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        dataset = trained.dataset
        self.network = trained.network
        self._names = (
            dataset.uid_field,
            dataset.iid_field + trained.config["LIST_SUFFIX"],
            dataset.item_list_length_field,
        )

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores of every item; column 0 is padding and -inf."""
        user, item_list, length = self._names
        batch = Interaction({user: torch.zeros_like(lengths), item_list: items, length: lengths})
        scores = self.network.full_sort_predict(batch).view(lengths.shape[0], -1).float()
        return torch.cat([torch.full_like(scores[:, :1], -torch.inf), scores[:, 1:]], dim=1)


def export_model(trained: Trained, path: str | os.PathLike[str]) -> str:
    """Write the model of ``trained`` to ``path`` (``.pt2``), its item ids within; says what was written.

    ``torch.export.load(path, extra_files={"items.json": ""})`` gives both back. Batches of any size are taken;
    histories are of the model's length, padded with 0 on the right.

    Raises:
        UserError: another ending, a file that cannot be written, or a model that cannot be exported.
    """
    if Path(path).suffix != ".pt2":
        raise UserError(f"--export {path}: the name must end in .pt2")
    check_writable("--export", path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    length = int(trained.config["MAX_ITEM_LIST_LENGTH"])
    example = torch.ones(2, length, dtype=torch.int64), torch.full((2,), length, dtype=torch.int64)
    batch = torch.export.Dim("batch", min=1)
    module = Scores(trained).cpu().eval()
    shapes: Any = {"items": {0: batch}, "lengths": {0: batch}}
    try:
        with torch.no_grad():
            program = torch.export.export(module, example, dynamic_shapes=shapes)
    except Exception as failure:  # torch.export raises what the model's code raises under tracing
        first = str(failure).strip().splitlines() or [type(failure).__name__]
        raise UserError(f"{trained.config['model']} cannot be exported by torch.export ({first[0][:200]})") from failure
    torch.export.save(program, path, extra_files={IDS: json.dumps(trained.items.tolist())})
    count = len(trained.items) - 1
    return f"{path}: {trained.config['model']} over {count:,} items, histories of {length}"
