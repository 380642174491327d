"""Top-k lists for many users from a checkpoint, with raw ids, written as they are made, in bounded memory.

A user's list follows the whole history, held-out items included: it is what to show next, not an evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform

from recbole_scale.bars import bar
from recbole_scale.data.histories import gather_padded
from recbole_scale.errors import UserError, nearest
from recbole_scale.files import whole_files
from recbole_scale.serving.trained import Trained, load_trained
from recbole_scale.serving.users import (
    Chunk,
    Summary,
    all_users,
    chunks_of,
    file_users,
    frame_users,
    numbers_of,
    with_items,
)

FORMATS = (".parquet", ".csv")


@torch.inference_mode()
def rank(
    trained: Trained, chunk: Chunk, topk: int, mask_history: bool, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scores of the best items of each history, best first, each [n, topk]; -inf where none is left.

    Equal scores are in the order of raw ids as texts. ``allowed``: mask [V + 1] of the items to choose from.
    """
    config, dataset = trained.config, trained.dataset
    counts = np.diff(chunk.offsets)
    width = int(config["MAX_ITEM_LIST_LENGTH"])
    length = np.minimum(counts, width)
    rows = gather_padded(chunk.items, chunk.offsets[1:] - length, length, width)  # [n, T]
    interaction = Interaction(
        {
            dataset.uid_field: torch.from_numpy(chunk.number),
            dataset.iid_field + config["LIST_SUFFIX"]: torch.from_numpy(rows),
            dataset.item_list_length_field: torch.from_numpy(length),
        }
    )
    if config["transform"] == "inverse_itemseq":
        interaction = construct_transform(config)(dataset, interaction)
    try:
        scores = trained.network.full_sort_predict(interaction.to(config["device"])).view(len(length), -1)
    except NotImplementedError as failure:
        raise UserError(f"{config['model']} cannot score all items at once") from failure
    scores[:, 0] = -torch.inf
    if mask_history:
        owner = np.repeat(np.arange(len(counts)), counts)
        scores[torch.from_numpy(owner), torch.from_numpy(chunk.items.astype(np.int64))] = -torch.inf
    if allowed is not None:
        scores[:, torch.from_numpy(~allowed).to(scores.device)] = -torch.inf
    return best_first(scores.float(), topk, trained.place)


def best_first(scores: torch.Tensor, topk: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the ``topk`` largest of each row, largest first; equal ones by ``place`` [columns]."""
    best, index = torch.topk(scores, topk, dim=1)
    last = best[:, -1:]
    tied = ((scores == last).sum(1) > (best == last).sum(1)).cpu().numpy()  # some of equals were left out
    values, columns = best.cpu().numpy(), index.cpu().numpy()
    for row in np.flatnonzero(tied):
        whole = scores[row].cpu().numpy()
        columns[row] = np.lexsort((place, -whole))[:topk]
        values[row] = whole[columns[row]]
    order = np.lexsort((place[columns], -values), axis=1)
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)


def recommend(
    trained: Trained,
    users: str,
    out: str | os.PathLike[str],
    topk: int = 50,
    mask_history: bool = False,
    batch_size: int = 512,
    progress: bool = False,
    items: Sequence[str] | None = None,
) -> Summary:
    """Write the best ``topk`` items of each user: columns user, item (raw ids, as named in the data), rank, score.

    Args:
        trained: from :func:`load_trained`.
        users: ``all`` for every user of the data set, or a file of histories (see :func:`file_users`).
        out: ``.parquet`` or ``.csv``; written under another name and renamed when it is whole.
        topk: items a user; fewer where masking leaves fewer.
        mask_history: leave the user's own items out.
        batch_size: users ranked at once.
        progress: show a bar.
        items: raw ids to choose from, the catalogue of today; histories may hold others. None: all of training.

    Raises:
        UserError: a bad file, a ``topk`` beyond the number of items, or a ``batch_size`` below 1.
    """
    summary = Summary()
    _check_batch_size(batch_size)
    allowed = _allowed(trained, items, topk, summary)
    every = users == "all"
    chunks = all_users(trained, batch_size) if every else file_users(trained, Path(users), batch_size, summary)
    total = len(trained.histories.users) if every and trained.histories is not None else None
    names = (trained.dataset.uid_field, trained.dataset.iid_field)
    with writer(Path(out), names) as write, bar(total=total, unit="user", disable=not progress) as shown:
        for chunk in chunks:
            shown.update(len(chunk.number))
            columns = _ranked(trained, chunk, topk, mask_history, allowed, summary)
            if columns is not None:
                write(columns)
        if not summary.users:  # what is there already is worth more than an empty file
            raise UserError(f"nobody got a list, and {out} was not written: {summary}")
    return summary


def _ranked(
    trained: Trained, chunk: Chunk, topk: int, mask_history: bool, allowed: np.ndarray | None, summary: Summary
) -> list[pa.Array] | None:
    """Columns user, item, rank, score of a chunk; None where none of its users has a known item."""
    chunk = with_items(chunk, summary)
    if not len(chunk.number):
        return None
    index, score = rank(trained, chunk, topk, mask_history, allowed)
    kept = np.isfinite(score).ravel()
    row = np.repeat(np.arange(len(index)), topk)[kept]
    place = np.tile(np.arange(1, topk + 1, dtype=np.int32), len(index))[kept]
    summary.users += len(index)
    summary.rows += len(row)
    summary.unknown_users += int((chunk.number == 0).sum()) if len(trained.users) > 1 else 0
    names = trained.item_texts.take(pa.array(index.ravel()[kept]))
    return [chunk.user.take(pa.array(row)), names, pa.array(place), pa.array(score.ravel()[kept])]


def _allowed(trained: Trained, items: Sequence[str] | None, topk: int, summary: Summary) -> np.ndarray | None:
    """Mask [V + 1] of ``items``; None for all. Items that the model does not know are counted."""
    allowed = None
    if items is not None:
        numbers = numbers_of(trained, pa.array([str(item) for item in items], pa.string()))
        summary.unknown_in_catalogue = int((numbers == 0).sum())
        allowed = np.zeros(len(trained.items), dtype=bool)
        allowed[numbers] = True
        allowed[0] = False
        if not allowed.any():
            raise UserError("the model knows none of the items to choose from; are they raw ids as in training?")
    if not 1 <= topk < len(trained.items):
        raise UserError(f"--topk is {topk}, but must be from 1 to {len(trained.items) - 1}, the items of the data set")
    return allowed


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, but must be at least 1")


def recommend_frame(
    checkpoint: str | os.PathLike[str] | Trained,
    histories: Mapping[Any, Sequence[Any]] | pd.DataFrame,
    k: int = 10,
    items: Sequence[Any] | None = None,
    mask_history: bool = False,
    batch_size: int = 512,
) -> pd.DataFrame:
    """The best ``k`` items of users given by their histories, new users among them; no training data is read.

    Args:
        checkpoint: a file, or what :func:`load_trained` gave (which saves loading it again).
        histories: raw item ids by user, oldest first; or rows with the columns of the training's user, item and, if
            there is one, time.
        k: items a user.
        items: raw ids to choose from; None: all of training.
        mask_history: leave the user's own items out.
        batch_size: users ranked at once.

    Returns:
        columns user, item, rank (from 1) and score, named as in the data; a user without a known item has no row.

    Raises:
        UserError: a checkpoint that cannot be used, a column that is missing, or a ``k`` beyond the number of items.
    """
    _check_batch_size(batch_size)
    trained = checkpoint if isinstance(checkpoint, Trained) else load_trained(str(checkpoint), with_data=False)
    dataset, summary = trained.dataset, Summary()
    if isinstance(histories, pd.DataFrame):
        for name in (dataset.uid_field, dataset.iid_field):
            if name not in histories:
                raise UserError(f"the histories have no column '{name}'{nearest(name, map(str, histories))}")
        users = frame_users(trained, histories)
    else:
        texts = pa.array([str(item) for history in histories.values() for item in history], pa.string())
        counts = np.array([len(history) for history in histories.values()], dtype=np.int64)
        users = pa.array([str(user) for user in histories], pa.string()), numbers_of(trained, texts), counts
    allowed = _allowed(trained, None if items is None else list(map(str, items)), k, summary)
    names = [dataset.uid_field, dataset.iid_field, "rank", "score"]
    chunks = chunks_of(trained, *users, batch_size, summary) if len(users[2]) else iter(())
    parts = [_ranked(trained, chunk, k, mask_history, allowed, summary) for chunk in chunks]
    tables = [pa.table(part, names=names).to_pandas() for part in parts if part is not None]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)


@contextmanager
def writer(path: Path, names: tuple[str, str]) -> Iterator[Any]:
    """A function that writes columns (user, item, rank, score); the file appears whole at the end, or not at all.

    Raises:
        UserError: another format, or the disk is full or not to be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--out {path}: the name must end in {' or '.join(FORMATS)}")
    kinds = (pa.string(), pa.string(), pa.int32(), pa.float32())
    schema = pa.schema(list(zip((*names, "rank", "score"), kinds, strict=True)))
    kind = pq.ParquetWriter if path.suffix == ".parquet" else pacsv.CSVWriter
    with whole_files(path, what="--out") as (whole,), kind(whole.handle, schema) as file:
        yield lambda columns: file.write_table(pa.Table.from_arrays(columns, schema=schema))
