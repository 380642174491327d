"""Shared fixtures: a working folder per test, a small data set, and RecBole's ml-100k."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# sums round otherwise with another number of threads, in this process and in those that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read as Triton is first imported, by whatever test

import recbole_scale  # noqa: F401 (registers the plugin before a test imports RecBole)

# fresh examples on every machine but CI's, where a change must not fail for what it did not touch
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: runs write log/, saved/ and results/ there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_inter(path: Path, rows: list[tuple[object, object, object]]) -> None:
    """Write (user, item, time) rows as an atomic file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def walk_rows(n_users: int = 60, n_items: int = 40, seed: int = 0) -> list[tuple[str, str, int]]:
    """Users who mostly step to the next item on a ring, so that a sequence model has something to learn."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        item = int(rng.integers(n_items))
        for time in range(int(rng.integers(3, 40))):
            rows.append((f"u{user}", f"i{item}", time + 1))
            item = (item + 1) % n_items if rng.random() < 0.8 else int(rng.integers(n_items))
    rng.shuffle(rows)
    return rows


@pytest.fixture
def walk(folder: Path) -> Path:
    """A working folder with the small data set ``walk`` in ``dataset/``."""
    write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows())
    return folder


QUICK = {
    "epochs": 2,
    "hidden_size": 16,
    "inner_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 256,
    "topk": [5, 10],
    "show_progress": False,
}
