"""Choose the rows a law is fitted to: one data set, one model, one loss, and the other axis held fixed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recbole_scale.errors import UserError, nearest
from recbole_scale.fit.options import LOSSES, X_COLUMNS
from recbole_scale.fit.tries import best_settings, note_tuning, valid_loss
from recbole_scale.laws.observations import MIN_SIZES
from recbole_scale.text import counted, parse_count, show_count

Row = Mapping[str, Any]
_CLOSE = 0.01  # a count such as 75.5M names the size within 1 % of it
SAME_SIZE = 0.02  # shapes whose N differs by less are one size in another shape
VERSION = ("data_fingerprint", "split")  # rows that differ here were measured on other items or other held-out ones


@dataclass(frozen=True)
class Question:
    """What is asked of the rows; the options of ``recbole-scale fit`` by the same names."""

    dataset: str | None = None
    model: str | None = None
    x: str = "n_blocks"
    loss: str = "test_nll"
    holdout: tuple[str, ...] = ()
    predict: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0
    d_over_n: tuple[float, float] = (0.0, math.inf)  # interactions for each parameter that a joint law takes


@dataclass(frozen=True)
class Choice:
    """Rows chosen for a question: ``fitted`` and ``held_out``, and ``notes`` on what was decided in choosing."""

    dataset: str
    model: str
    fitted: list[Row]
    held_out: list[Row]
    notes: list[str]


def as_rows(frame: pd.DataFrame) -> list[Row]:
    """Rows of :func:`recbole_scale.runs.records.read_rows` as dicts, with None for what a row lacks.

    A run that ended well more than once (files put together, a command given twice) is one run: its newest row.
    """
    records = frame.astype(object).to_dict("records")
    rows = [{str(name): _as_written(value) for name, value in row.items()} for row in records]
    runs = [_run(row) for row in rows]
    newest = {run: at for at, run in enumerate(runs)}
    return [row for at, (row, run) in enumerate(zip(rows, runs, strict=True)) if run is None or newest[run] == at]


def _run(row: Row) -> str | None:
    """What tells a finished run from others."""
    if row.get("status") != "ok" or row.get("run_id") is None:
        return None
    return json.dumps([row.get(name) for name in ("run_id", "dataset", "model", "data_digest", *VERSION)], default=str)


def _as_written(value: Any) -> Any:
    """A value as the file had it: where a row lacks a count, pandas makes nan of it and floats of all the others."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def choose(rows: Sequence[Row], question: Question, *, fix_other_axis: bool = True) -> Choice:
    """Pick the rows that answer ``question``.

    Args:
        rows: runs with the columns of ``results/runs.jsonl``.
        question: what is asked.
        fix_other_axis: keep one data amount for a law in size and one size for a law in data; a joint law keeps all.

    Raises:
        UserError: no row is left, a choice is ambiguous, or a held-out name matches none.
    """
    if question.x not in X_COLUMNS:
        raise UserError(f"--x {question.x} is none of {', '.join(X_COLUMNS)}{nearest(question.x, X_COLUMNS)}")
    if question.loss not in LOSSES:
        raise UserError(f"--loss {question.loss} is none of {', '.join(LOSSES)}{nearest(question.loss, LOSSES)}")
    kept = [row for row in rows if row.get("status") == "ok"]
    if not kept:
        raise UserError(f"no finished run (status ok) among {counted(len(rows), 'row')}")
    dataset, kept = _only(kept, "dataset", question.dataset)
    model, kept = _only(kept, "model", question.model)
    kept = matching(kept, question.where)
    notes: list[str] = []
    kept = _one_version(kept, notes)
    if fix_other_axis:
        kept = _fix_other_axis(kept, question.x, notes)
    kept = _measured(kept, question, notes)
    kept = best_settings(kept, notes)
    shaped = question.x if question.x != "unique_interactions" else "n_blocks"
    if all(isinstance(row.get(shaped), int | float) for row in kept):
        kept = _one_shape(kept, shaped, notes)
    note_tuning(kept, notes)
    out = {id(row) for name in question.holdout for row in _named(kept, question.x, name)}
    fitted = [row for row in kept if id(row) not in out]
    if not fitted:
        raise UserError(f"--holdout {','.join(question.holdout)} leaves no run to fit a law to")
    return Choice(dataset, model, fitted, [row for row in kept if id(row) in out], notes)


def _only(rows: list[Row], column: str, wanted: str | None) -> tuple[str, list[Row]]:
    """Rows of the wanted data set or model, or of the only one there is."""
    present = sorted({str(row.get(column)) for row in rows})
    if wanted is None:
        if len(present) > 1:
            raise UserError(f"the rows hold several kinds of {column} ({', '.join(present)}); name one with --{column}")
        return present[0], rows
    if wanted not in present:
        raise UserError(f"no row has {column} '{wanted}', only {', '.join(present)}{nearest(wanted, present)}")
    return wanted, [row for row in rows if str(row.get(column)) == wanted]


def matching(rows: list[Row], where: Mapping[str, str]) -> list[Row]:
    """Rows that have the value of every column in ``where``."""
    for column, value in where.items():
        rows = _where(rows, column, value)
    return rows


def same_data(row: Row, other: Row) -> bool:
    """Whether two rows of a data set can be compared: the same data after filtering, and the same split.

    Of a row that does not say so, nothing is known against it.
    """
    return all(None in (row.get(name), other.get(name)) or row[name] == other[name] for name in VERSION)


def _one_version(rows: list[Row], notes: list[str]) -> list[Row]:
    """Rows of the version of the data that most rows have."""
    texts = [json.dumps([row.get(name) for name in VERSION], default=str) for row in rows]
    counts = Counter(texts)
    most = rows[max(range(len(rows)), key=lambda at: (counts[texts[at]], at))]  # of as many each, the newest
    kept = [row for row in rows if same_data(row, most)]
    if len(kept) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(kept), 'row')} of other data or another split (data_fingerprint, split) left out"
        )
    return kept


def _where(rows: list[Row], column: str, value: str) -> list[Row]:
    columns = sorted({name for row in rows for name in row})
    if column not in columns:
        raise UserError(f"--where names the column '{column}', which no row has{nearest(column, columns)}")
    kept = [row for row in rows if _same(row.get(column), value)]
    if not kept:
        present = sorted({str(row.get(column)) for row in rows})
        raise UserError(f"no row has {column} = {value}, only {', '.join(present[:10])}")
    return kept


def _same(present: Any, wanted: str) -> bool:
    if isinstance(present, int | float) and not isinstance(present, bool):
        return float(present) in (parse_count(wanted), _number(wanted))
    return str(present).lower() == wanted.lower()


def _number(text: str) -> float | None:
    """A number that is no count, such as 0."""
    try:
        return float(text)
    except ValueError:
        return None


def _fix_other_axis(rows: list[Row], x: str, notes: list[str]) -> list[Row]:
    """Keep the one value of the other axis that has most different x (the largest of several), and say so.

    A law in size is one of the whole data, as soon as enough sizes saw it.
    """
    other = "n_blocks" if x == "unique_interactions" else "unique_interactions"
    spread = Counter(
        {value: len({row.get(x) for row in rows if row.get(other) == value}) for value in _values(rows, other)}
    )
    if len(spread) < 2:
        return rows
    enough = MIN_SIZES if other == "unique_interactions" else len(rows)
    value = max(spread, key=lambda candidate: (min(spread[candidate], enough), candidate))
    kept = [row for row in rows if row.get(other) == value]
    notes.append(
        f"{other} is held at {value:,.0f}, one of {len(spread)} values in the rows; --where {other}=N holds another"
    )
    return kept


def _values(rows: Iterable[Row], column: str) -> set[float]:
    return {row[column] for row in rows if isinstance(row.get(column), int | float)}


def _measured(rows: list[Row], question: Question, notes: list[str]) -> list[Row]:
    """Rows that carry a size and a loss; the others are counted in a note, for a law must not lose rows silently."""
    needed = (question.x, question.loss)
    kept = [row for row in rows if all(isinstance(row.get(column), int | float) for column in needed)]
    if not kept:
        raise UserError(f"no row has numbers in both {question.x} and {question.loss}")
    if len(kept) < len(rows):
        notes.append(f"{counted(len(rows) - len(kept), 'row')} without {question.x} or {question.loss} left out")
    return kept


def _one_shape(rows: list[Row], x: str, notes: list[str]) -> list[Row]:
    """One shape for every size: a named one, else that of most runs, else that of lowest valid loss."""
    kept: list[Row] = []
    for group in same_size(rows, x):
        shapes: dict[Any, list[Row]] = {}
        for row in group:
            shapes.setdefault((row.get("n_layers"), row.get("d_model")), []).append(row)
        chosen = max(shapes.values(), key=_standing)
        kept += chosen
        if len(shapes) > 1:
            notes.append(
                f"of {len(shapes)} shapes near {show_count(chosen[0][x])} the law takes {chosen[0].get('n_layers')} x "
                f"{chosen[0].get('d_model')}"
            )
    ids = {id(row) for row in kept}
    return [row for row in rows if id(row) in ids]


def same_size(rows: Iterable[Row], x: str = "n_blocks") -> list[list[Row]]:
    """Rows grouped by size, smallest first; a group spans at most 2 % of column ``x``."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: float(row[x])):
        if groups and row[x] <= (1.0 + SAME_SIZE) * groups[-1][0][x]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _standing(runs: Sequence[Row]) -> tuple[bool, int, float]:
    """How a shape ranks among those of its size."""
    return any(row.get("size") for row in runs), len(runs), -sum(map(valid_loss, runs)) / len(runs)


def is_called(row: Row, name: str) -> bool:
    """Whether a row's size has this name, or is of this shape (``4x128``)."""
    return name.lower() in (str(row.get("size") or "").lower() or None, f"{row.get('n_layers')}x{row.get('d_model')}")


def _named(rows: list[Row], x: str, name: str) -> list[Row]:
    """Rows whose size has this name or shape, or whose x is within 1 % of this count."""
    named = [row for row in rows if is_called(row, name)]
    count = parse_count(name)
    if not named and count is not None:
        named = [row for row in rows if abs(row[x] / count - 1.0) <= _CLOSE]
    if not named:
        present = sorted({(row[x], str(row.get("size") or "")) for row in rows})
        shown = ", ".join(f"{size} ({show_count(value)})" if size else show_count(value) for value, size in present)
        raise UserError(f"--holdout {name} matches no row; there are {shown}")
    return named
