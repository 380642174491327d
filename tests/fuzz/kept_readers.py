"""Readers of what the package itself keeps beside data and runs: sharded checkpoints, caches, data cards."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutants import damaged, odd_line, odd_value
from reader import Reader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def sharded_reader(folder: Path) -> Reader:
    """A folder with one file damaged, taken away or replaced, or an odd index that has its own checksum."""
    from recbole_scale.training import sharded_checkpoint as sharded

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        weight = torch.arange(24.0).reshape(8, 3)
        cut = distribute_tensor(weight, init_device_mesh("cpu", (1,)), [Shard(0)])
        sharded.save_sharded({"weight": cut, "epoch": 3, "bias": torch.ones(2)}, folder / "whole.dcp")
    finally:
        torch.distributed.destroy_process_group()
    good = {path.name: path.read_bytes() for path in (folder / "whole.dcp").iterdir()}

    def change(content: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
        name = rng.choice(sorted(content))
        if rng.random() < 0.1:
            return {other: data for other, data in content.items() if other != name}
        if rng.random() < 0.4:  # whoever writes an odd index can write its checksum too
            index = odd_value(json.loads(content[sharded.INDEX]), rng)
            if isinstance(index, dict):
                index["checksum"] = sharded._own_checksum(index)
            return {**content, sharded.INDEX: json.dumps(index).encode()}
        return {**content, name: damaged(content[name], rng)}

    def write(content: dict[str, bytes], path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)

    def same(found: dict[str, Any], content: dict[str, bytes]) -> bool:
        kept = {name: data for name, data in content.items() if name != sharded.INDEX}
        if any(good.get(name) != data for name, data in kept.items()):  # no file of the index' own may differ
            return json.loads(content[sharded.INDEX])["files"].keys() <= {n for n in kept if kept[n] == good.get(n)}
        return content[sharded.INDEX] != good[sharded.INDEX] or torch.equal(found["weight"], weight)

    return Reader("sharded checkpoints", [good], sharded.load_sharded, write, change, same, suffixes=["one.dcp"])


def cache_reader(folder: Path) -> Reader:
    """A cache beside its source: damaged, it is as good as none."""
    from recbole_scale.data.cache import cache_path
    from recbole_scale.data.log import Log, Recipe, load_log, read_log

    source = folder / "cached" / "log.inter"
    source.parent.mkdir()
    body = "".join(f"u{row % 7}\ti{row % 5}\t{row * 3}\n" for row in range(40))
    source.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + body)
    recipe = Recipe(source, "user_id", "item_id", "timestamp")
    right, place = read_log(recipe), cache_path(source, recipe.settings())
    load_log(recipe)

    def read(path: Path) -> Log:
        place.write_bytes(path.read_bytes())
        return load_log(recipe)

    def same(found: Log, content: bytes) -> bool:
        pairs = [(found.histories.items, right.histories.items), (found.histories.offsets, right.histories.offsets),
                 (found.times, right.times)]  # fmt: skip
        names = [[names.to_pylist() for names in (log.users, log.items)] for log in (found, right)]
        return all(np.array_equal(*pair) for pair in pairs) and names[0] == names[1]

    return Reader("caches", [place.read_bytes()], read, same=same, weight=2)  # each is written anew, and synced


def card_reader(folder: Path) -> Reader:
    """A data card, as the page uses it: it only adds to what the page says."""
    from study_rows_made import SHAPES, made_row

    from recbole_scale.fit.rows import Question
    from recbole_scale.prepare.card import read_card
    from recbole_scale.report.about import about_section
    from recbole_scale.report.report import make_study

    study = make_study([made_row(shape) for shape in SHAPES], Question("made", resamples=0))
    card = {"name": "made", "dropped": {"bad rows": 3, "5-core": 12}, "users": 5, "domains": ["a", "b"]}

    def change(content: bytes, rng: random.Random) -> bytes:
        return odd_line(content, rng) if rng.random() < 0.7 else damaged(content, rng)

    def read(path: Path) -> bytes:
        return about_section(study, "", read_card(path)).encode()

    return Reader("data cards", [json.dumps(card).encode() + b"\n"], read, change=change)
