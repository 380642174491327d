"""RecBole's atomic files, written in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_scale.data.coded import Coded
from recbole_scale.errors import UserError
from recbole_scale.files import WholeFile
from recbole_scale.prepare.columns import Interactions
from recbole_scale.settings.checks import check_dataset_name

CHUNK_ROWS = 1 << 20
FIELDS = {
    "user": "user_id:token",
    "item": "item_id:token",
    "rating": "rating:float",
    "time": "timestamp:float",
    "domain": "domain:token",
}


def target_in(folder: Path) -> Path:
    """``NAME.inter`` in ``--out``, a folder called NAME.

    Raises:
        UserError: NAME is none that a data set can have.
    """
    if not folder.name:
        raise UserError(f"--out '{folder}' has no name; give the data set's folder, such as dataset/mine")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file, but must be the data set's folder")
    return folder / f"{check_dataset_name(folder.name)}.inter"


class AtomicWriter:
    """Writes an atomic file's header, then rows in chunks, into a :class:`WholeFile`. ``roles``: its columns."""

    def __init__(self, file: WholeFile, roles: list[str]) -> None:
        self._file = file
        self.roles = [role for role in FIELDS if role in roles]
        self.rows = 0
        file.write(("\t".join(FIELDS[role] for role in self.roles) + "\n").encode())

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append rows: role -> pyarrow array or numpy array of integers, all of one length."""
        table = pa.table({role: _as_array(columns[role]) for role in self.roles})
        sink = pa.BufferOutputStream()
        options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        pa.csv.write_csv(table, sink, options)
        self._file.write(sink.getvalue())
        self.rows += table.num_rows


def write_interactions(file: WholeFile, log: Interactions, chunk_rows: int = CHUNK_ROWS) -> None:
    """Write a whole log as an atomic file, ``chunk_rows`` rows at a time. Memory: one chunk of texts."""
    writer = AtomicWriter(file, [*log.columns, "time"])
    for start in range(0, len(log), chunk_rows):
        rows = slice(start, start + chunk_rows)
        columns: dict[str, Any] = {role: column_texts(column, rows) for role, column in log.columns.items()}
        writer.write({**columns, "time": log.time[rows]})


def column_texts(column: Coded, rows: slice) -> pa.Array:
    """Return the texts of some rows of a coded column."""
    return column.texts.take(pa.array(column.codes[rows]))


def _as_array(values: Any) -> Any:
    return pa.array(values) if isinstance(values, np.ndarray) else values
