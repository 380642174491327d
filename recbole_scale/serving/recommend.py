"""Top-k lists for many users from a checkpoint, with raw ids, written as they are made, in bounded memory.

A user's list follows the whole history, held-out items included: it is what to show next, not an evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from recbole_scale.data.atomic import read_coded, read_header, with_kinds
from recbole_scale.data.histories import Histories, data_fingerprint, gather_padded, ragged_ranges, time_order
from recbole_scale.data.id_tables import IdTables
from recbole_scale.errors import UserError, nearest
from recbole_scale.files import whole_files
from recbole_scale.plugin.config import begin, checkpoint_config, recboles_refusal
from recbole_scale.plugin.register import find_model
from recbole_scale.prepare.sequences import first_words, items_in_order, split_words
from recbole_scale.prepare.sources import text_blocks
from recbole_scale.runs.run import histories_of
from recbole_scale.training.checkpoint import load_checkpoint

FORMATS = (".parquet", ".csv")


@dataclass
class Trained:
    """A model ready to rank, the ids it knows, and the data's histories where the data is at hand."""

    config: Any
    dataset: Any
    network: Any
    histories: Histories | None = None

    @property
    def users(self) -> np.ndarray:
        """Raw user ids by number; 0 is padding. Only the padding where the model has no table of users."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.uid_field]
        return tokens

    @property
    def items(self) -> np.ndarray:
        """Raw item ids by number; 0 is padding."""
        tokens: np.ndarray = self.dataset.field2id_token[self.dataset.iid_field]
        return tokens

    @cached_property
    def item_texts(self) -> pa.Array:
        """Raw item ids by number."""
        return pa.array(self.items.tolist(), pa.string())

    @cached_property
    def user_texts(self) -> pa.Array:
        """Raw user ids by number."""
        return pa.array(self.users.tolist(), pa.string())

    @cached_property
    def place(self) -> np.ndarray:
        """Place of each item in the order of raw ids as texts, which breaks ties of scores, [V + 1]."""
        places = np.empty(len(self.items), dtype=np.int64)
        places[np.argsort(self.items, kind="stable")] = np.arange(len(self.items))
        return places


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
    unknown_in_catalogue: int = 0

    def __str__(self) -> str:
        text = f"{self.users:,} users, {self.rows:,} rows"
        for count, what in (
            (self.unknown_items, "interactions with items the model does not know, left out"),
            (self.users_without_items, "users without a known item, left out"),
            (self.unknown_users, "users who were not in training"),
            (self.unknown_in_catalogue, "items to choose from that the model does not know"),
        ):
            text += f"; {count:,} {what}" if count else ""
        return text


def load_trained(checkpoint: str, data_path: str | None = None, with_data: bool = True) -> Trained:
    """Model and ids of a checkpoint of any sequential model.

    Args:
        checkpoint: its file.
        data_path: folder of the data sets, where it is not the one of the training.
        with_data: read the data set as well, for its users' histories. Without, the checkpoint's own table of ids is
            taken; the data is read where it has none, or where the model is built from more.

    Raises:
        UserError: no such checkpoint, another kind of model, or a data set that has changed since training.
    """
    state = load_checkpoint(checkpoint)
    config = checkpoint_config(state["config"], **({"data_path": data_path} if data_path else {}))
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"{config['model']} is no sequential model; histories are all that recommend.py has")
    trained = None if with_data or not state.get("ids") else _from_ids(config, state, checkpoint)
    return trained or _from_data(config, state, checkpoint)


def _from_ids(config: Any, state: dict[str, Any], checkpoint: str) -> Trained | None:
    """The model by its checkpoint alone; None where its constructor asks for more of the data."""
    begin(config)
    try:
        tables = IdTables(config, state["ids"])
    except (ValueError, KeyError) as failure:
        raise UserError(f"the checkpoint {checkpoint} is damaged (its table of ids)") from failure
    try:
        network = find_model(config["model"])(config, tables)
    except (AttributeError, KeyError, TypeError):
        return None
    return Trained(config, tables, _with_weights(network.to(config["device"]), state, checkpoint))


def _from_data(config: Any, state: dict[str, Any], checkpoint: str) -> Trained:
    dataset = recboles_refusal(lambda: create_dataset(config))
    histories = getattr(dataset, "histories", None) or histories_of(dataset)
    built = recboles_refusal(dataset.build)[0]
    histories = histories or getattr(built, "histories", None)
    if state.get("data") and histories is not None:
        built.histories = histories
        if data_fingerprint(built) != state["data"]:
            raise UserError(f"{_changed(config, checkpoint)}: its users, items or interactions have changed")
    if config["benchmark_filename"]:
        histories = None  # ready-made rows are none
    network = recboles_refusal(lambda: find_model(config["model"])(config, built).to(config["device"]))
    return Trained(config, built, _with_weights(network, state, checkpoint), histories)


def _with_weights(network: Any, state: dict[str, Any], checkpoint: str) -> Any:
    try:
        network.load_state_dict(state["state_dict"])
    except RuntimeError as failure:
        changed = _changed(network.config if hasattr(network, "config") else state["config"], checkpoint)
        raise UserError(f"{changed}: the model's tables have another number of rows") from failure
    network.load_other_parameter(state.get("other_parameter"))
    return network.eval()


def _changed(config: Any, checkpoint: str) -> str:
    return f"data set '{config['dataset']}' is not the one that {checkpoint} was trained on"


# Histories ----------------------------------------------------------------------------------------------------------


def all_users(trained: Trained, size: int) -> Iterator[Chunk]:
    """Every user of the data set."""
    histories = trained.histories
    if histories is None:
        raise UserError(
            f"the data of '{trained.config['dataset']}' holds no histories of its users; --users takes a file of them"
        )
    for start in range(0, len(histories.users), size):
        number = histories.users[start : start + size].astype(np.int64)
        offsets = histories.offsets[start : start + len(number) + 1]
        yield Chunk(
            trained.user_texts.take(pa.array(number)),
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
        first = file.readline().decode("utf-8-sig", errors="replace").strip()
    if ":token" in first:
        parts = _atomic_users(trained, path)
    elif "," in first and not first.replace(", ", ",").count(" "):
        parts = iter([_csv_users(trained, path, first.split(","))])
    else:
        parts = _line_users(trained, path)
    for user, item, counts in parts:
        yield from _chunks(trained, user, item, counts, size, summary)


def _chunks(
    trained: Trained, user: Any, item: np.ndarray, counts: np.ndarray, size: int, summary: Summary
) -> Iterator[Chunk]:
    """Users ``user`` [n] with ``counts`` [n] items each, of which those that the model does not know (0) go."""
    number = pc.fill_null(pc.index_in(user, value_set=trained.user_texts), 0).to_numpy(zero_copy_only=False)
    number = number.astype(np.int64)
    keep = item > 0
    summary.unknown_items += int((~keep).sum())
    owner = np.repeat(np.arange(len(counts)), counts)[keep]
    offsets = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(counts)))]
    items = item[keep]
    for start in range(0, len(counts), size):
        end = min(start + size, len(counts))
        part = offsets[start : end + 1]
        yield Chunk(user[start:end], number[start:end], items[part[0] : part[-1]], part - part[0])


def _csv_users(trained: Trained, path: Path, columns: list[str]) -> tuple[Any, np.ndarray, np.ndarray]:
    """A file with commas, read where its header names the data set's columns.

    Raises:
        UserError: it does not, or a value is missing.
    """
    names = [name.strip() for name in columns]
    dataset = trained.dataset
    for name in (dataset.uid_field, dataset.iid_field):
        if name not in names:
            raise UserError(
                f"{path}, line 1: columns seem to be separated by commas, and none is '{name}'; name user and item "
                f"{dataset.uid_field} and {dataset.iid_field}, or give one user a line: user item item"
            )
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    frame.columns = pd.Index(names)
    return _frame_users(trained, frame)


def _frame_users(trained: Trained, frame: pd.DataFrame) -> tuple[Any, np.ndarray, np.ndarray]:
    """Users, item numbers and counts of rows of interactions, by time where there is one, else as they stand."""
    dataset = trained.dataset
    user, names = pd.factorize(frame[dataset.uid_field].astype(str))
    if dataset.time_field in frame:
        time = pd.to_numeric(frame[dataset.time_field], errors="coerce").to_numpy(float)
        if not np.isfinite(time).all():
            row = int(np.flatnonzero(~np.isfinite(time))[0])
            value = frame[dataset.time_field].iloc[row]
            raise UserError(f"row {row + 1} of the users' interactions: the time {value!r} is not a number")
    else:
        time = np.zeros(len(frame))
    order = time_order(user, time)
    items = pa.array(frame[dataset.iid_field].astype(str).tolist(), pa.string())
    counts = np.bincount(user, minlength=len(names))
    return pa.array(list(names), pa.string()), _numbers(trained, items)[order], counts


def _numbers(trained: Trained, texts: Any) -> np.ndarray:
    """Numbers of raw item ids, 0 for those the model does not know, int64 [n]."""
    found = pc.index_in(texts.cast(pa.string()), value_set=trained.item_texts)
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
    separator = config["field_separator"]
    fields = read_header(path, separator)
    names = [dataset.uid_field, dataset.iid_field, *([dataset.time_field] if dataset.time_field in fields else [])]
    fields = with_kinds(path, fields, names[:2], dataset.time_field)
    user, item, *time = read_coded(path, names, separator, tuple(names), fields).values()
    order = time_order(user.codes, time[0] if time else np.zeros(len(user.codes)))  # type: ignore[union-attr, arg-type]
    counts = np.bincount(user.codes, minlength=len(user.texts))  # type: ignore[union-attr]
    numbers = _numbers(trained, item.texts)[item.codes[order]]  # type: ignore[union-attr]
    yield user.texts, numbers, counts  # type: ignore[union-attr]


# Ranking ------------------------------------------------------------------------------------------------------------


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
        UserError: a bad file, or a ``topk`` beyond the number of items.
    """
    summary = Summary()
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
    return summary


def _ranked(
    trained: Trained, chunk: Chunk, topk: int, mask_history: bool, allowed: np.ndarray | None, summary: Summary
) -> list[pa.Array] | None:
    """Columns user, item, rank, score of a chunk; None where none of its users has a known item."""
    chunk = _with_items(chunk, summary)
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
        numbers = _numbers(trained, pa.array([str(item) for item in items], pa.string()))
        summary.unknown_in_catalogue = int((numbers == 0).sum())
        allowed = np.zeros(len(trained.items), dtype=bool)
        allowed[numbers] = True
        allowed[0] = False
        if not allowed.any():
            raise UserError("the model knows none of the items to choose from; are they raw ids as in training?")
    if not 1 <= topk < len(trained.items):
        raise UserError(f"--topk is {topk}, but the data set has {len(trained.items) - 1} items")
    return allowed


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
    trained = checkpoint if isinstance(checkpoint, Trained) else load_trained(str(checkpoint), with_data=False)
    dataset, summary = trained.dataset, Summary()
    if isinstance(histories, pd.DataFrame):
        for name in (dataset.uid_field, dataset.iid_field):
            if name not in histories:
                raise UserError(f"the histories have no column '{name}'{nearest(name, map(str, histories))}")
        users = _frame_users(trained, histories)
    else:
        texts = pa.array([str(item) for history in histories.values() for item in history], pa.string())
        counts = np.array([len(history) for history in histories.values()], dtype=np.int64)
        users = pa.array([str(user) for user in histories], pa.string()), _numbers(trained, texts), counts
    allowed = _allowed(trained, None if items is None else list(map(str, items)), k, summary)
    names = [dataset.uid_field, dataset.iid_field, "rank", "score"]
    chunks = _chunks(trained, *users, batch_size, summary) if len(users[2]) else iter(())
    parts = [_ranked(trained, chunk, k, mask_history, allowed, summary) for chunk in chunks]
    tables = [pa.table(part, names=names).to_pandas() for part in parts if part is not None]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)


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
