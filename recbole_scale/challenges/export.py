"""The same cases as RecBole benchmark files: any RecBole, with or without this package, evaluates on them.

``benchmark_filename: [ids, valid, <set>]`` evaluates a trained model: the part ``ids`` lists users and items in the
order of their ids, so that RecBole numbers them as the model's training did. ``[train, valid, <set>]`` trains one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_scale.bars import bar
from recbole_scale.challenges.cases import Cases
from recbole_scale.challenges.measuring import groups_of
from recbole_scale.data.histories import Histories
from recbole_scale.data.splits import Split
from recbole_scale.errors import UserError
from recbole_scale.files import WholeFile, whole_files
from recbole_scale.settings import settings_text

CHUNK = 1 << 15


@dataclass(frozen=True)
class Rows:
    """What is written: user and target ids [n], and a function from (index, width) to histories and lengths."""

    user: np.ndarray
    target: np.ndarray
    padded: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def export(
    folder: Path,
    name: str,
    sets: Iterable[Cases],
    histories: Histories,
    split: Split,
    tokens: tuple[np.ndarray, np.ndarray],
    fields: tuple[str, str] = ("user_id", "item_id"),
    history_length: int = 50,
) -> list[str]:
    """Write ``folder/name/name.<part>.inter`` for the parts ids, train, valid and every set, and ``name.yaml``.

    A set's group has a part of its own (``long_tail-equal_interactions-G4``). A window gives one part per step, with
    the truth as history.

    Args:
        folder: of data sets; RecBole's ``data_path``.
        name: of the data set that is written.
        sets: cases of all challenges.
        histories: of the data set.
        split: its training and valid part.
        tokens: tokens of user ids [U + 1] and item ids [V + 1].
        fields: names of the user and item columns.
        history_length: items of a history that are written, the last ones.

    Returns:
        names of the parts.

    Raises:
        UserError: an item's token holds a space, RecBole's separator inside a sequence, or the disk is full.
    """
    check_tokens(tokens[1])
    place = folder / name
    parts = ["ids", "train", "valid"]
    own = _ids(tokens), _own(histories, split, "train"), _own(histories, split, "valid")
    with whole_files(*(place / f"{name}.{part}.inter" for part in parts)) as files:
        for file, rows in zip(files, own, strict=True):
            _write(file, rows, tokens, fields, history_length)
    for part, cases in bar(_parts(sets), unit="part", desc="export"):
        with whole_files(place / f"{name}.{part}.inter") as (file,):
            _write(file, _of_cases(cases), tokens, fields, history_length)
        parts.append(part)
    settings = {
        "benchmark_filename": ["ids", "valid", parts[3] if len(parts) > 3 else "valid"],
        "load_col": {"inter": [*fields, f"{fields[1]}_list"]},
        "alias_of_item_id": [f"{fields[1]}_list"],
        "USER_ID_FIELD": fields[0],
        "ITEM_ID_FIELD": fields[1],
        "MAX_ITEM_LIST_LENGTH": history_length,
        "train_neg_sample_args": None,
    }
    with whole_files(place / f"{name}.yaml") as (file,):
        file.write(settings_text(settings).encode())
    return parts


def check_tokens(items: np.ndarray) -> None:
    """Refuse item tokens [V + 1] that a sequence of RecBole's cannot hold.

    Raises:
        UserError: naming the first.
    """
    if spaced := next((token for token in items.tolist()[1:] if " " in token), None):
        raise UserError(f"--export: item '{spaced}' holds a space, which separates items in RecBole's benchmark files")


def part_name(cases: Cases) -> str:
    """Name of a set's file: challenge, setting, level, seed."""
    level = [] if cases.level is None else [f"{cases.level:g}"]
    seed = [] if cases.seed is None else [f"seed{cases.seed}"]
    return "-".join([cases.challenge, cases.setting, *level, *seed]).replace(".", "_").replace(" ", "_")


def _parts(sets: Iterable[Cases]) -> Iterator[tuple[str, Cases]]:
    """Every set, step and group with the name of its file."""
    for whole in sets:
        for cases in _steps(whole):
            for group, index in groups_of(cases):
                ending = "" if group == "all" else "-" + group.replace(" ", "_").replace("/", "_")
                yield part_name(cases) + ending, cases.take(index)


def _steps(cases: Cases) -> Iterator[Cases]:
    """A set of single targets as it is; a set of windows [n, W] as W sets, each with the truth before it."""
    n, window = cases.target.shape
    if window == 1:
        yield cases
        return
    for step in range(window):
        rows = [np.r_[cases.history(i), cases.target[i, :step]] for i in range(n)]
        yield Cases(
            cases.challenge,
            "truth",
            step + 1,
            cases.case,
            cases.user,
            np.concatenate(rows).astype(np.int32),
            np.r_[0, np.cumsum([len(row) for row in rows])],
            cases.target[:, step : step + 1],
        )


def _ids(tokens: tuple[np.ndarray, np.ndarray]) -> Rows:
    """Rows that name every user and item once or more, both in the order of their ids, each item after itself."""
    users, items = (len(names) - 1 for names in tokens)
    number = np.arange(1, max(users, items) + 1)
    item = np.minimum(number, items)
    return Rows(np.minimum(number, users), item, lambda index, width: (item[index, None], np.ones(len(index), int)))


def _own(histories: Histories, split: Split, phase: str) -> Rows:
    """Training or valid rows as RecBole augments them, every target with what came before it, looked up as written."""
    positions = split.targets(histories, phase)
    user = histories.users[histories.owner(positions)]
    return Rows(user, histories.items[positions], lambda index, width: histories.inputs_before(positions[index], width))


def _of_cases(cases: Cases) -> Rows:
    return Rows(cases.user, cases.target[:, 0], cases.padded)


def _write(
    file: WholeFile, rows: Rows, tokens: tuple[np.ndarray, np.ndarray], fields: tuple[str, str], width: int
) -> None:
    """Write user, history and target of each row, as tokens."""
    users, items = (np.asarray(names, dtype=object) for names in tokens)
    file.write(f"{fields[0]}:token\t{fields[1]}_list:token_seq\t{fields[1]}:token\n".encode())
    for start in range(0, len(rows.user), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(rows.user)))
        padded, length = rows.padded(index, width)
        lists = items[padded]
        lines = [
            f"{user}\t{' '.join(row[:count])}\t{item}\n"
            for user, row, count, item in zip(
                users[rows.user[index]], lists.tolist(), length.tolist(), items[rows.target[index]], strict=True
            )
        ]
        file.write("".join(lines).encode())
