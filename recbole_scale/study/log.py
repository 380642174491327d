"""The log of a study: a data set that is there, or a file made into one."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.prepare.card import read_card
from recbole_scale.prepare.command import prepare, reading
from recbole_scale.prepare.options import READING
from recbole_scale.prepare.sources import sha256_of
from recbole_scale.settings.checks import check_dataset_name
from recbole_scale.study.options import parser


def prepared_log(options: argparse.Namespace, data_path: str) -> str:
    """Name of the data set; a file is prepared into ``data_path/NAME``, unless that was made of the same file before.

    Raises:
        UserError: no source or several, a column missing, or what ``recbole-scale prepare`` refuses.
    """
    kinds = [kind for kind in ("csv", "parquet") if getattr(options, kind)]
    if len(kinds) > 1 or not (kinds or options.dataset):
        raise UserError("a study needs one log: --csv FILE, --parquet FILE, or --dataset NAME")
    columns = {role: getattr(options, role) for role in ("user", "item", "time") if getattr(options, role)}
    if not kinds:
        if columns:
            raise UserError(f"--{next(iter(columns))} names a column of a file; a prepared data set has its own")
        for name in READING:
            if getattr(options, name) != parser().get_default(name):
                raise UserError(f"--{name} tells how a file is read, and --dataset {options.dataset} is prepared")
        return str(options.dataset)
    kind = kinds[0]
    missing = [f"--{role}" for role in ("user", "item", "time") if role not in columns]
    if missing:
        raise UserError(f"--{kind} needs {', '.join(missing)}: the columns of your file by name")
    path = Path(getattr(options, kind))
    kind = "parquet" if _is_parquet(path) else kind
    name = options.dataset or re.sub(r"[^\w.-]+", "-", path.name.split(".")[0]).strip("-.") or "log"
    target = Path(data_path) / check_dataset_name(name)
    read, card = reading(options, kind), read_card(target / f"{name}.json")
    if not _made_of(card, path):
        prepare(kind, [path], target, read)
    elif card.get("options", asdict(read)) != asdict(read):
        raise UserError(
            f"{target} was made of {path} with other options; --dataset {name} alone studies it as it is, and "
            f"--{kind} {path} --dataset NAME makes another"
        )
    return str(name)


def _is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, whatever option and name it came with: by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _made_of(card: dict[str, Any], raw: Path) -> bool:
    """Whether a data set with this card was prepared from exactly this file."""
    made_of = (card.get("files") or [{}])[0].get("sha256")
    return bool(made_of) and raw.is_file() and made_of == sha256_of(raw)
