"""The one place where settings are checked: each value by its kind, then what several keys must be together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from recbole_scale.errors import UserError, shown
from recbole_scale.settings.keys import ScaledSASRecSettings
from recbole_scale.settings.kinds import DEVICE, ENCODING, HOST, PLAIN, Kind, Refused, optional, whole
from recbole_scale.settings.model_keys import model_keys
from recbole_scale.settings.package_keys import FMLPRecSettings, PackageSettings
from recbole_scale.settings.recbole_keys import RecBoleDataSettings, RecBoleSettings
from recbole_scale.settings.typed import Documented, Settings

OWN: dict[str, type[Settings]] = {"ScaledSASRec": ScaledSASRecSettings, "FMLPRec": FMLPRecSettings}
# what no file documents: how processes find one another (the command line and torchrun set these), and two more
UNDOCUMENTED = {
    "nproc": whole(1, 100_000), "world_size": whole(-1, 100_000), "local_rank": whole(0, 100_000),
    "offset": whole(0, 100_000), "group_offset": whole(0, 100_000), "ip": HOST,
    "port": whole(0, 65535), "device": optional(DEVICE), "encoding": optional(ENCODING),
}  # fmt: skip
# what RecBole sets itself, from what
WORKED_OUT = {
    "MODEL_TYPE": "the model", "MODEL_INPUT_TYPE": "the model", "eval_type": "metrics", "single_spec": "nproc",
    "valid_neg_sample_args": "eval_args.mode", "test_neg_sample_args": "eval_args.mode",
}  # fmt: skip


@cache
def documented(model: str) -> dict[str, Documented]:
    """Every key that a run of ``model`` reads and that is documented: RecBole's, this package's, the model's own."""
    found: dict[str, Documented] = {}
    for part in (RecBoleSettings, RecBoleDataSettings, PackageSettings):
        found |= {one.name: one for one in part.documented()}
    if model in OWN:
        return found | {one.name: one for one in OWN[model].documented()}
    return {**model_keys(model), **found}


def check_settings(model: str, settings: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """All settings of a run in their own types.

    Args:
        model: name of the model.
        settings: every setting, defaults included; what has no kind is taken as it is.
        given: keys that the user set; those without a kind must at least be plain values.

    Raises:
        UserError: a value that is not what its key must be, or several that do not go together.
    """
    known = documented(model)
    checked = dict(settings)
    for key in WORKED_OUT.keys() & set(given):
        raise UserError(f"{key} follows from {WORKED_OUT[key]} and cannot be set")
    for key, value in settings.items():
        kind: Kind | None = known[key].kind if key in known else UNDOCUMENTED.get(key)
        if kind is None and key in given:
            kind = optional(PLAIN)
        if kind is not None:
            checked[key] = kind.check(key, value)
    if "dataset" in settings:
        check_dataset_name(settings["dataset"])
    for check in (
        _check_places,
        _check_surroundings,
        *((_check_own, _check_split) if model == "ScaledSASRec" else ()),
    ):
        check(checked)
    return checked


def _name(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and value.strip(". ") == value.strip()
    if not plain or not value.strip(". ") or set(value) & set("/\\\0") or len(value.encode()) > 150:
        raise Refused
    return str(value)


DATASET = Kind("the name of a folder in data_path, at most 150 letters and none of them / or \\", "str", _name)


def check_dataset_name(name: Any) -> str:
    """``name`` as a name, which files are called by too.

    Raises:
        UserError: it is a path, too long, or no text.
    """
    return str(DATASET.check("dataset", name))


def check_columns(settings: Mapping[str, Any]) -> None:
    """Users and items must be among the columns that are read.

    Raises:
        UserError: ``load_col`` or ``unload_col`` leave one of them out.
    """
    wanted = settings["load_col"]
    loaded = "*" if wanted is None else wanted.get("inter", [])
    left_out = (settings["unload_col"] or {}).get("inter", [])
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        name = settings[key]
        if (loaded != "*" and name not in loaded) or name in left_out:
            raise UserError(f"load_col and unload_col leave out '{name}', the {key} that every run needs in inter")


def _check_places(settings: Mapping[str, Any]) -> None:
    """Files that will be written must not stand where folders are, and the other way round."""
    for key, folder in (("checkpoint_dir", True), ("results_file", False), ("per_user_file", False)):
        path = settings.get(key)
        if path is None:
            continue
        if os.path.isdir(path) if not folder else os.path.isfile(path):
            raise UserError(f"{key} is {shown(path)}, which is a {'file' if folder else 'folder'}")
        above = os.path.abspath(path)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if above != os.path.abspath(path) and not os.path.isdir(above):
            raise UserError(f"{key} is {shown(path)}, but {above} is no folder")


def _check_surroundings(settings: Mapping[str, Any]) -> None:
    if settings.get("train_budget_seconds") is not None and settings.get("world_size", 1) > 1:
        raise UserError("train_budget_seconds is for one process; several are limited by epochs")
    if "local_rank" in settings and not settings.keys() >= {"offset", "world_size", "nproc", "ip", "port"}:
        raise UserError(
            f"local_rank is {settings['local_rank']}, but needs offset, world_size, nproc, ip and port beside it; "
            "run_recbole --nproc=N sets them all"
        )
    if settings.get("log_wandb") and find_spec("wandb") is None:
        raise UserError("log_wandb: True needs wandb; pip install wandb installs it")


def _check_own(settings: Mapping[str, Any]) -> None:
    """What ScaledSASRec's keys must be together, and with RecBole's."""
    ScaledSASRecSettings.read(settings)


def _check_split(settings: Mapping[str, Any]) -> None:
    how = settings["eval_args"]
    if how.get("order", "TO") != "TO":
        raise UserError(f"eval_args.order is {how['order']}, but a sequential model needs TO (time order)")
    negatives = settings["train_neg_sample_args"]
    if negatives is not None and negatives.get("distribution", "none") not in (None, "none"):
        raise UserError("train_neg_sample_args is for sampled losses; ScaledSASRec takes the softmax over all items")
