"""Small raw files in the published formats, made from one table of rows; nothing of anybody's data."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recbole_scale.prepare.columns import Interactions
from recbole_scale.prepare.readers import Options

Row = tuple[str, str, str, int]  # user, item, rating, seconds
OWN = Options(columns={"user": "who", "item": "what", "time": "when", "rating": "stars"})

# two users' rows are interleaved, times tie, and one pair of times is closer than float32 can tell (64 s at this epoch)
ROWS: list[Row] = [
    ("7", "30", "4", 1_588_615_855),
    ("12", "30", "5", 1_588_615_900),
    ("7", "4", "3", 1_588_615_854),
    ("12", "9", "1", 1_588_615_900),
    ("7", "9", "5", 1_588_615_855),
    ("3", "4", "2", 978_300_760),
    ("12", "4", "4", 978_300_761),
]


def lines_of(format_name: str, rows: Sequence[Row]) -> list[str]:
    """Return the text lines of a format (of its plain-text variant)."""
    if format_name == "ml-100k":
        return ["\t".join(map(str, row)) for row in rows]
    if format_name in ("ml-1m", "ml-10m"):
        return ["::".join(map(str, row)) for row in rows]
    if format_name in ("ml-20m", "ml-25m", "ml-32m"):
        return ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in rows)]
    if format_name == "amazon-2014":
        return [",".join(map(str, row)) for row in rows]
    if format_name == "jsonl":
        return [_review(row, "who", "what", "stars", "when", 1) for row in rows]
    if format_name == "amazon-2018":
        return [_review(row, "reviewerID", "asin", "overall", "unixReviewTime", 1) for row in rows]
    if format_name == "amazon-2023":
        return [
            "user_id,parent_asin,rating,timestamp",
            *(f"{user},{item},{rating},{time * 1000}" for user, item, rating, time in rows),
        ]
    if format_name == "csv":
        stamp = [datetime.fromtimestamp(row[3], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") for row in rows]
        own = zip(rows, stamp, strict=True)
        return ["stars,note,who,what,when", *(f'{row[2]},"a, b",{row[0]},{row[1]},{at}' for row, at in own)]
    if format_name == "inter":
        head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        return [head, *("\t".join(map(str, row)) for row in rows)]
    raise KeyError(format_name)


def _review(row: Row, user: str, item: str, rating: str, time: str, scale: int) -> str:
    text = {"reviewText": "a {'b'} \"c\"", "verified": True, "vote": None, "image": ["x"]}
    return json.dumps({user: row[0], **text, item: row[1], rating: float(row[2]), time: row[3] * scale})


NAMES = {
    "ml-100k": "u.data",
    "ml-1m": "ratings.dat",
    "ml-10m": "ratings.dat",
    "amazon-2014": "ratings_Books.csv",
    "amazon-2018": "Books_5.json.gz",
    "amazon-2023": "Books.csv.gz",
    "csv": "log.csv",
    "jsonl": "log.jsonl",
    "inter": "log.inter",
    "parquet": "log.parquet",
    "sequences": "log.txt",
}


def write_raw(format_name: str, folder: Path, rows: Sequence[Row] = ROWS) -> Path:
    """Write one raw file of a format into ``folder`` and return its path."""
    path = folder / NAMES.get(format_name, "ratings.csv")
    if format_name == "parquet":
        pq.write_table(own_table(rows), path)
        return path
    if format_name == "sequences":
        path.write_text("7 4 30 9\n12 4 30 9\n3 4\n")
        return path
    data = ("\n".join(lines_of(format_name, rows)) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_jsonl_2023(path: Path, rows: Sequence[Row] = ROWS) -> Path:
    """Write an amazon-2023 review file as json lines (milliseconds)."""
    data = "\n".join(_review(row, "user_id", "parent_asin", "rating", "timestamp", 1000) for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def own_table(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as a user's own parquet table: integer items, timestamps, float ratings."""
    return pa.table(
        {
            "who": [row[0] for row in rows],
            "what": pa.array([int(row[1]) for row in rows], pa.int64()),
            "when": pa.array([row[3] * 1000 for row in rows], pa.int64()).cast(pa.timestamp("ms")),
            "stars": pa.array([float(row[2]) for row in rows]),
        }
    )


def write_zip(path: Path, member: str, data: bytes) -> Path:
    """Write a zip that holds one file beside a README."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member.split("/")[0] + "/README.txt", "read me")
        archive.writestr(member, data)
    return path


def options_for(format_name: str) -> Options | None:
    """Return the options a format needs."""
    return OWN if format_name in ("csv", "jsonl", "parquet") else None


def rows_of(log: Interactions) -> list[tuple[str, str, float, int]]:
    """Return a log's rows as (user, item, rating or 0, time), in the log's order."""
    users, items = (log.columns[role].texts.to_pylist() for role in ("user", "item"))
    ratings = [0.0] * len(log)
    if "rating" in log.columns:
        texts = log.columns["rating"].texts.to_pylist()
        ratings = [float(texts[code]) for code in log.columns["rating"].codes]
    return [
        (users[user], items[item], rating, int(time))
        for user, item, rating, time in zip(log.user, log.item, ratings, log.time, strict=True)
    ]
