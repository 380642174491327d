"""What a plain reading of an input gives, by other code than ours: what is believed must be the same.

A twin knows nothing of what is refused: it is only asked about inputs that were read.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import yaml


def lines_of(content: bytes) -> list[str]:
    """Lines that hold something, without the mark that some editors put first."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    return [line for line in text.split("\n") if line.strip()]


def plain(value: Any) -> Any:
    """NaN and infinities are null in our rows; numbers of other kinds than Python's are its own."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_of(content: bytes) -> list[Any]:
    """Rows of JSON lines; a last one that a killed writer has torn is none."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    try:
        json.loads(lines[-1])
    except ValueError:
        if not content.endswith(b"\n"):
            lines.pop()
    return [plain(json.loads(line)) for line in lines]


def same_rows(found: list[Any], content: bytes) -> bool:
    """All rows of runs, in order."""
    return plain(found) == rows_of(content)


def same_challenges(found: list[Any], content: bytes) -> bool:
    """Rows of challenges; of a case measured twice the last one."""
    names = ("run_id", "n_parameters", "challenge", "setting", "level", "group", "metric", "mask_history")
    return plain(found) == list({json.dumps([row[name] for name in names]): row for row in rows_of(content)}.values())


def same_log(found: Any, content: bytes) -> bool:
    """An atomic file: users, items and times of all rows, each user's in the order of time."""
    head, *lines = lines_of(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))  # lines end as in RecBole's pandas
    names = [field.partition(":")[0] for field in head.split("\t")]
    at = [names.index(name) for name in ("user_id", "item_id", "timestamp")]
    rows = [[line.split("\t")[place] for place in at] for line in lines]
    written = Counter((user, item, float(time)) for user, item, time in rows)
    users, items = found.users.to_pylist(), found.items.to_pylist()
    read: Counter[tuple[str, str, float]] = Counter()
    offsets = found.histories.offsets
    for row, user in enumerate(users):
        part = slice(offsets[row], offsets[row + 1])
        times = found.times[part].tolist()
        if times != sorted(times):
            return False
        read.update(
            (user, items[item - 1], time) for item, time in zip(found.histories.items[part], times, strict=True)
        )
    return read == written


def same_settings(found: dict[str, Any], content: bytes) -> bool:
    """A settings file: as RecBole's own loader of YAML reads it."""
    from recbole.config import Config

    loader = Config._build_yaml_loader(None)
    return repr(yaml.load(content.decode("utf-8-sig"), Loader=loader) or {}) == repr(found)


def same_space(found: list[Any], content: bytes) -> bool:
    """A params file: a parameter for each line that is no comment, with as many values, and the numbers it says.

    A mark of byte order is no part of a number, wherever it stands.
    """
    lines = [line.split(None, 2) for line in lines_of(content) if not line.lstrip().startswith("#")]
    if [(p.name, p.kind) for p in found] != [(name, kind) for name, kind, _ in lines]:
        return False
    for parameter, (_, kind, text) in zip(found, lines, strict=True):
        if kind == "choice":
            if len(parameter.values) != len(yaml.safe_load(text)):
                return False
        elif [float(value) for value in parameter.values] != [
            float(part) for part in text.strip().replace("\ufeff", "").split(",")
        ]:
            return False
    return True


def same_prepared(split: Callable[[str], list[Any]], has_header: bool, once: bool) -> Callable[[str, bytes], bool]:
    """Raw files: user and item of all rows, whatever their order; ``split`` makes them of a line.

    ``once``: the format's own filters drop what is repeated.
    """
    counted: Any = set if once else Counter

    def same(found: str, content: bytes) -> bool:
        lines = lines_of(content)[has_header:]
        try:
            written = counted(tuple(map(str, split(line))) for line in lines)
        except IndexError:  # a line that breaks off inside quotes goes on in the next
            written = counted(tuple(map(str, split(line))) for line in with_breaks(lines))
        head, *made = found.split("\n")[:-1]
        names = [field.partition(":")[0] for field in head.split("\t")]
        rows = [dict(zip(names, line.split("\t"), strict=True)) for line in made]
        return counted((row["user_id"], row["item_id"]) for row in rows) == written

    return same


def with_breaks(lines: list[str]) -> list[str]:
    """Lines of a csv file, each with the next ones while a quote of it is open."""
    found: list[str] = []
    for line in lines:
        if found and found[-1].count('"') % 2:
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


def fields(separator: str, *places: int) -> Callable[[str], list[Any]]:
    """Fields of a line at ``places``."""
    return lambda line: [line.split(separator)[place].strip() for place in places]


def keys(*names: str) -> Callable[[str], list[Any]]:
    """Values of a line of JSON."""
    return lambda line: [json.loads(line)[name] for name in names]


def quoted(*places: int) -> Callable[[str], list[Any]]:
    """Fields of a line of a csv file with quotes, however long."""

    def split(line: str) -> list[Any]:
        limit = csv.field_size_limit(10**7)
        try:
            row = next(csv.reader(io.StringIO(line)))
        finally:
            csv.field_size_limit(limit)
        return [row[place].strip() for place in places]

    return split
