"""Settings that would have RecBole run code out of a file or out of the setting itself. They are never passed on.

RecBole 1.2.1 unpickles saved data sets and loaders, evaluates the name of KD_DAGFM's teacher, and lets numpy unpickle
LDiffRec's item embedding. Its ``torch.load`` calls read tensors and plain data only, as torch 2.6 made the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_scale.errors import UserError, shown
from recbole_scale.settings.kinds import Kind, choice

PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")
EVALUATED: dict[str, Kind] = {"teacher": choice("CrossNet", "CIN")}  # KD_DAGFM: the networks it knows


def refuse_unsafe(settings: Mapping[str, Any]) -> None:
    """Refuse a setting by which RecBole would unpickle or evaluate something.

    Raises:
        UserError: naming the key, and what does the same safely.
    """
    for key in PICKLES:
        if settings.get(key):
            raise UserError(
                f"{key} is {shown(settings[key])}, but RecBole's saved data is a pickle, which runs code as it is "
                "opened; data_cache: True keeps what was read in a safe form beside the data"
            )
    for key, kind in EVALUATED.items():
        if key in settings:
            kind.check(key, settings[key])


def without_unsafe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings less those that :func:`refuse_unsafe` would refuse: whoever wrote it, it is only read."""
    return {key: value for key, value in settings.items() if key not in (*PICKLES, *EVALUATED)}
