"""The log of a study: a data set that is there, or a file made into one."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from recbole_scale.errors import UserError
from recbole_scale.prepare.card import read_card
from recbole_scale.prepare.command import prepare
from recbole_scale.prepare.readers import Options
from recbole_scale.prepare.sources import sha256_of


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
        return str(options.dataset)
    kind = kinds[0]
    missing = [f"--{role}" for role in ("user", "item", "time") if role not in columns]
    if missing:
        raise UserError(f"--{kind} needs {', '.join(missing)}: the columns of your file by name")
    path = Path(getattr(options, kind))
    kind = "parquet" if _is_parquet(path) else kind
    name = options.dataset or re.sub(r"[^\w.-]+", "-", path.name.split(".")[0]).strip("-.") or "log"
    target = Path(data_path) / name
    if not _made_of(target / f"{name}.json", path):
        prepare(kind, [path], target, Options(columns=columns))
    return str(name)


def _is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, whatever option and name it came with: by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _made_of(card_file: Path, raw: Path) -> bool:
    """Whether a data set was prepared from exactly this file."""
    files = read_card(card_file).get("files") or [{}]
    return bool(raw.is_file() and files[0].get("sha256") and files[0]["sha256"] == sha256_of(raw))
