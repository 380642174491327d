"""Top-k lists for many users from a checkpoint, with raw ids, written as they are made, in bounded memory.

A user's list follows the whole history, held-out items included: it is what to show next, not an evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import ModelType

from recbole_scale.bars import bar
from recbole_scale.data.atomic import read_coded
from recbole_scale.data.histories import Histories, data_fingerprint, gather_padded, ragged_ranges, time_order
from recbole_scale.errors import UserError
from recbole_scale.files import whole_files
from recbole_scale.plugin.config import checkpoint_config, recboles_refusal
from recbole_scale.plugin.register import find_model
from recbole_scale.prepare.sequences import first_words, items_in_order, split_words
from recbole_scale.prepare.sources import text_blocks
from recbole_scale.runs.run import histories_of
from recbole_scale.training.checkpoint import load_checkpoint

FORMATS = (".parquet", ".csv")


@dataclass
class Trained:
    """A model ready to rank, and the data set whose ids it knows."""

    config: Any
    dataset: Any
    network: Any
    histories: Histories

    @property
    def users(self) -> np.ndarray:
        """Raw user ids by number; 0 is padding."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.uid_field]
        return tokens

    @property
    def items(self) -> np.ndarray:
        """Raw item ids by number; 0 is padding."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.iid_field]
        return tokens


@dataclass
class Chunk:
    """Some users' histories: raw ids ``user`` [n], numbers ``number`` [n] (0: not in training), flat items, offsets."""

    user: Any
    number: np.ndarray
    items: np.ndarray
    offsets: np.ndarray


@dataclass
class Summary:
    """What was written and what was left out."""

    users: int = 0
    rows: int = 0
    users_without_items: int = 0
    unknown_users: int = 0
    unknown_items: int = 0

    def __str__(self) -> str:
        text = f"{self.users:,} users, {self.rows:,} rows"
        for count, what in (
            (self.unknown_items, "interactions with items the model does not know, left out"),
            (self.users_without_items, "users without a known item, left out"),
            (self.unknown_users, "users who were not in training"),
        ):
            text += f"; {count:,} {what}" if count else ""
        return text


def load_trained(checkpoint: str, data_path: str | None = None) -> Trained:
    """Model and data set of a checkpoint of any sequential model.

    Raises:
        UserError: no such checkpoint, another kind of model, or a data set that has changed since training.
    """
    state = load_checkpoint(checkpoint)
    config = checkpoint_config(state["config"], **({"data_path": data_path} if data_path else {}))
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"{config['model']} is no sequential model; histories are all that recommend.py has")
    dataset = recboles_refusal(lambda: create_dataset(config))
    histories = getattr(dataset, "histories", None) or histories_of(dataset)
    built = recboles_refusal(dataset.build)[0]
    if histories is None:
        histories = built.histories
    changed = f"data set '{config['dataset']}' is not the one that {checkpoint} was trained on"
    if state.get("data"):
        built.histories = histories
        if data_fingerprint(built) != state["data"]:
            raise UserError(f"{changed}: its users, items or interactions have changed")
    network = recboles_refusal(lambda: find_model(config["model"])(config, built).to(config["device"]))
    try:
        network.load_state_dict(state["state_dict"])
    except RuntimeError as failure:
        raise UserError(f"{changed}: the model's tables have another number of rows") from failure
    network.load_other_parameter(state.get("other_parameter"))
    return Trained(config, built, network.eval(), histories)


# Histories ----------------------------------------------------------------------------------------------------------


def all_users(trained: Trained, size: int) -> Iterator[Chunk]:
    """Every user of the data set."""
    histories = trained.histories
    for start in range(0, len(histories.users), size):
        number = histories.users[start : start + size].astype(np.int64)
        offsets = histories.offsets[start : start + len(number) + 1]
        yield Chunk(
            pa.array(trained.users[number].astype(str)),
            number,
            histories.items[offsets[0] : offsets[-1]],
            offsets - offsets[0],
        )


def file_users(trained: Trained, path: Path, size: int, summary: Summary) -> Iterator[Chunk]:
    """Users of a file: an atomic file (it has a ``name:type`` header; read whole), or one user a line (read in blocks).

    Raises:
        UserError: the file is missing or a line is bad.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; --users takes 'all' or a file")
    with open(path, "rb") as file:
        atomic = b":token" in file.readline()
    parts = _atomic_users(trained, path) if atomic else _line_users(trained, path)
    known_users = pa.array(trained.users.astype(str))
    for user, item, counts in parts:
        number = pc.fill_null(pc.index_in(user, value_set=known_users), 0).to_numpy().astype(np.int64)
        keep = item > 0
        summary.unknown_items += int((~keep).sum())
        owner = np.repeat(np.arange(len(counts)), counts)[keep]
        left = np.bincount(owner, minlength=len(counts))
        offsets = np.r_[0, np.cumsum(left)]
        items = item[keep]
        for start in range(0, len(counts), size):
            end = min(start + size, len(counts))
            part = offsets[start : end + 1]
            yield Chunk(user[start:end], number[start:end], items[part[0] : part[-1]], part - part[0])


def _numbers(trained: Trained, texts: Any) -> np.ndarray:
    """Numbers of raw item ids, 0 for those the model does not know, int64 [n]."""
    found = pc.index_in(texts, value_set=pa.array(trained.items.astype(str)))
    return np.asarray(pc.fill_null(found, 0).to_numpy(zero_copy_only=False)).astype(np.int64)


def _line_users(trained: Trained, path: Path) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """``user item item ...`` a line, items in order."""
    for block in text_blocks(path):
        lines = pa.array(block.data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        lines = lines.filter(pc.not_equal(pc.utf8_trim_whitespace(lines), ""))
        if not len(lines):
            continue
        words = split_words(lines, None)
        items, row_of, _ = items_in_order(words, skip=1)
        yield first_words(words), _numbers(trained, items), np.bincount(row_of, minlength=len(lines))


def _atomic_users(trained: Trained, path: Path) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    dataset, config = trained.dataset, trained.config
    names = [dataset.uid_field, dataset.iid_field, dataset.time_field]
    user, item, time = read_coded(path, names, config["field_separator"], required=tuple(names)).values()
    order = time_order(user.codes, time)  # type: ignore[union-attr, arg-type]
    counts = np.bincount(user.codes, minlength=len(user.texts))  # type: ignore[union-attr]
    numbers = _numbers(trained, item.texts)[item.codes[order]]  # type: ignore[union-attr]
    yield user.texts, numbers, counts  # type: ignore[union-attr]


# Ranking ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def rank(trained: Trained, chunk: Chunk, topk: int, mask_history: bool) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scores of the best items of each history, best first, each [n, topk]; -inf where none is left."""
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
    best, index = torch.topk(scores.float(), topk, dim=1)
    return index.cpu().numpy(), best.cpu().numpy()


def recommend(
    trained: Trained,
    users: str,
    out: str | os.PathLike[str],
    topk: int = 50,
    mask_history: bool = False,
    batch_size: int = 512,
    progress: bool = False,
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

    Raises:
        UserError: a bad file, or a ``topk`` beyond the number of items.
    """
    if not 1 <= topk < len(trained.items):
        raise UserError(f"--topk is {topk}, but the data set has {len(trained.items) - 1} items")
    summary = Summary()
    every = users == "all"
    chunks = all_users(trained, batch_size) if every else file_users(trained, Path(users), batch_size, summary)
    total = len(trained.histories.users) if every else None
    items = pa.array(trained.items.astype(str))
    names = (trained.dataset.uid_field, trained.dataset.iid_field)
    with writer(Path(out), names) as write, bar(total=total, unit="user", disable=not progress) as shown:
        for chunk in chunks:
            shown.update(len(chunk.number))
            chunk = _with_items(chunk, summary)
            if not len(chunk.number):
                continue
            index, score = rank(trained, chunk, topk, mask_history)
            kept = np.isfinite(score).ravel()
            row = np.repeat(np.arange(len(index)), topk)[kept]
            place = np.tile(np.arange(1, topk + 1, dtype=np.int32), len(index))[kept]
            write([chunk.user.take(pa.array(row)), items.take(pa.array(index.ravel()[kept])), pa.array(place),
                   pa.array(score.ravel()[kept])])  # fmt: skip
            summary.users += len(index)
            summary.rows += len(row)
            summary.unknown_users += int((chunk.number == 0).sum())
    return summary


def _with_items(chunk: Chunk, summary: Summary) -> Chunk:
    """The users of a chunk who have items left."""
    counts = np.diff(chunk.offsets)
    kept = np.flatnonzero(counts)
    if len(kept) == len(counts):
        return chunk
    summary.users_without_items += len(counts) - len(kept)
    items = chunk.items[ragged_ranges(chunk.offsets[kept], counts[kept])]
    return Chunk(chunk.user.take(pa.array(kept)), chunk.number[kept], items, np.r_[0, np.cumsum(counts[kept])])


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
