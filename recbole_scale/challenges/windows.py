"""A data set whose users' last interactions are held out: an atomic file cut before the windows, and the windows.

A model of any kind is trained on the cut file by ``run_recbole`` and never sees a held-out item; its leave-one-out
valid and test items are the last two before the window.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from recbole_scale.challenges.cases import Cases, ends_of
from recbole_scale.challenges.options import WINDOW
from recbole_scale.data.atomic import read_coded
from recbole_scale.data.coded import Coded
from recbole_scale.data.histories import Histories, ragged_ranges, time_order
from recbole_scale.errors import UserError
from recbole_scale.files import WholeFile, whole_files

AT_LEAST = 5  # interactions left before a window: a first item, two to train on, one valid, one test
SUFFIX = ".windows"


def write_window_data(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    window: int = WINDOW,
    fields: tuple[str, str, str] = ("user_id", "item_id", "timestamp"),
    separator: str = "\t",
) -> tuple[Path, int, int]:
    """Cut the last ``window`` interactions off every user who keeps at least ``AT_LEAST``.

    Others stay whole and have no window. Rows of the cut file keep their order. Equal times keep the file's order, as
    in training.

    Args:
        source: the ``.inter`` file.
        out: folder of data sets; ``<name>-cut<window>/`` is written there.
        window: W.
        fields: names of the user, item and time columns.
        separator: one character between the source's columns.

    Returns:
        the folder written, and how many users have a window and how many have not.

    Raises:
        UserError: the file is malformed, no user is long enough, or the disk is full.
    """
    columns = read_coded(source, list(fields), separator, fields)
    user, item, time = (columns[name] for name in fields)
    assert isinstance(user, Coded) and isinstance(item, Coded) and isinstance(time, np.ndarray)
    if window < 1:
        raise UserError(f"the window is {window}, but must be at least 1")
    order = time_order(user.codes, time)
    lengths = np.bincount(user.codes)
    long = lengths >= window + AT_LEAST
    if not long.any():
        raise UserError(
            f"{source}: no user has {window + AT_LEAST} interactions, {window} for the window and {AT_LEAST} before; "
            f"the most one has is {int(lengths.max())}"
        )
    cut = order[ragged_ranges(np.cumsum(lengths)[long] - window, np.full(long.sum(), window))]  # rows, by user
    kept = np.ones(len(time), dtype=bool)
    kept[cut] = False
    name = f"{Path(source).stem}-cut{window}"
    folder = Path(out, name)
    texts = [column.texts.take(pa.array(column.codes)) for column in (user, item)]
    data: list[pa.Array] = [*texts, pa.array(time.astype(np.int64) if (time == np.floor(time)).all() else time)]
    header = [f"{fields[0]}:token", f"{fields[1]}:token", f"{fields[2]}:float"]
    steps = np.tile(np.arange(1, window + 1), int(long.sum()))
    before = (lengths - window)[user.codes[cut]]
    with whole_files(folder / f"{name}.inter", folder / f"{name}{SUFFIX}") as (inter, held_out):
        _write(inter, header, [column.filter(pa.array(kept)) for column in data])
        _write(
            held_out,
            [*header, "step:float", "before:float"],
            [*(column.take(pa.array(cut)) for column in data), pa.array(steps), pa.array(before)],
        )
    return folder, int(long.sum()), int((~long).sum())


def _write(file: WholeFile, header: list[str], columns: list[pa.Array]) -> None:
    file.write(("\t".join(header) + "\n").encode())
    sink = pa.BufferOutputStream()
    options = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pacsv.write_csv(pa.table(columns, names=header), sink, options)
    file.write(sink.getvalue())


def make_cases(
    path: str | os.PathLike[str],
    histories: Histories,
    user_tokens: np.ndarray,
    item_tokens: np.ndarray,
    fields: tuple[str, str, str] = ("user_id", "item_id", "timestamp"),
) -> list[Cases]:
    """One set: the whole history before each window, and the window's items as targets [n, W].

    Windows with an item that no history has are dropped and counted, and so are users the data set does not have.

    Args:
        path: the ``.windows`` file.
        histories: of the data set a model was trained on.
        user_tokens: token of each user id, [U + 1].
        item_tokens: token of each item id, [V + 1].
        fields: names of the user, item and time columns.

    Raises:
        UserError: the file is not there or malformed, a history does not end right before its window (so that training
            may have seen it), or no window is left.
    """
    users, target, before = _read_windows(path, user_tokens, item_tokens, fields)
    place = np.full(len(user_tokens), -1)
    place[histories.users] = np.arange(len(histories.users))
    known, here = users > 0, place[users]
    _check_before(path, user_tokens[users[known]], before[known], histories.lengths[here[known]])
    whole = known & (target > 0).all(axis=1)
    if not whole.any():
        raise UserError(f"{path}: no window has a known user and known items only")
    here, count = here[whole], histories.lengths[here[whole]]
    cases = Cases(
        challenge="trajectory",
        setting="window",
        level=None,
        case=np.flatnonzero(whole),
        user=users[whole],
        items=histories.items[ragged_ranges(histories.offsets[:-1][here], count)],
        offsets=ends_of(count),
        target=target[whole],
    )
    dropped = {
        "user not in the data": int((~known).sum()),
        "item of the window in no history": int((known & ~whole).sum()),
    }
    return [replace(cases, dropped={reason: n for reason, n in dropped.items() if n})]


def _check_before(path: str | os.PathLike[str], tokens: np.ndarray, before: np.ndarray, read: np.ndarray) -> None:
    """Refuse users [n] whose histories as trained on (``read`` items) are not those before their windows."""
    wrong = np.flatnonzero(read != before)
    if not len(wrong):
        return
    first = wrong[0]
    why = (
        "which may hold the window; train on the data set that was written with the windows"
        if read[first] > before[first]
        else "so that some were filtered out; filter it first, with recbole-scale prepare, then --make_trajectory_data"
    )
    raise UserError(
        f"{path}: user '{tokens[first]}' has {before[first]} interactions before the window, but {read[first]} in the "
        f"data the model was trained on, {why}"
    )


def _read_windows(
    path: str | os.PathLike[str], user_tokens: np.ndarray, item_tokens: np.ndarray, fields: tuple[str, str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User's id [n] and targets' ids [n, W] of each window (0: not in the data), and the interactions before it [n]."""
    if not os.path.isfile(path):
        raise UserError(
            f"trajectory needs a data set with held-out windows, and there is no {path}; --make_trajectory_data writes "
            "one, on which models are then trained"
        )
    names = (*fields[:2], "step", "before")
    columns: dict[str, Any] = read_coded(path, list(names), required=names)
    user, item, step, before = (columns[name] for name in names)
    window = max(int(step.max()), 1)
    if not np.array_equal(step, np.resize(np.arange(1, window + 1), len(step))) or len(step) % window:
        raise UserError(f"{path}: the rows are not whole windows with the steps 1 to {window}; was the file changed?")
    users = _ids(user.texts, user_tokens)[user.codes].reshape(-1, window)
    target = _ids(item.texts, item_tokens)[item.codes].reshape(-1, window)
    return users[:, 0], target, before.reshape(-1, window)[:, 0].astype(np.int64)


def _ids(texts: pa.Array, tokens: np.ndarray) -> np.ndarray:
    """Id of each text, 0 for one that is no token, int64."""
    number = {token: i for i, token in enumerate(tokens.tolist()) if i}
    return np.array([number.get(text, 0) for text in texts.to_pylist()], dtype=np.int64)
