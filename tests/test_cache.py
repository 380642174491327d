"""Our own reading against RecBole's, and the cache: believed when it is whole and of this file and these settings."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import walk_rows, write_inter
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset

from recbole_scale.data import cache
from recbole_scale.data import log as loading
from recbole_scale.data.cache import CHUNK_BYTES, cache_path, content_digest, read_cache, write_cache
from recbole_scale.data.histories import Histories, Positions
from recbole_scale.data.log import DTYPES, Recipe, load_log, read_log
from recbole_scale.data.recbole_filters import LogFilters
from recbole_scale.data.splits import split_histories
from recbole_scale.errors import UserError


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["test"])


def config_for(dataset: str, **more):
    return Config("ScaledSASRec", dataset, config_dict={"data_cache": True, **more})


def assert_as_recbole(config) -> None:
    """Our dataset against RecBole's reading, filtering and remapping of the same file."""
    try:
        theirs = Dataset(config)
    except ValueError as failure:
        assert "empty" in str(failure)
        with pytest.raises(UserError, match="empty"):
            create_dataset(config)
        return
    ours = create_dataset(config)
    assert ours.recipe() is not None, "these settings are read by RecBole's own path"
    for field in ("user_id", "item_id"):
        assert ours.field2id_token[field].tolist() == theirs.field2id_token[field].tolist()
        assert ours.field2token_id[field] == theirs.field2token_id[field]
    for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum", "feat_name_list", "user_num"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("inter_num", "user_counter", "item_counter", "avg_actions_of_users", "sparsity"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name)), name
    frame = theirs.inter_feat
    columns = [frame[name].to_numpy() for name in ("user_id", "item_id", "timestamp")]
    expected = Histories.from_columns(*columns)
    order = np.lexsort((columns[2], columns[0]))
    np.testing.assert_array_equal(ours.times, columns[2][order])
    np.testing.assert_array_equal(ours.inter_feat["timestamp"], columns[2][order])
    train, *_ = ours.build()
    for name in ("items", "users", "offsets"):
        mine = getattr(ours.histories, name)
        np.testing.assert_array_equal(mine, getattr(expected, name))
        assert mine.dtype == getattr(expected, name).dtype
    split = split_histories(expected, config["eval_args"]["split"])
    np.testing.assert_array_equal(train.inter_feat._positions[:], split.targets(expected, "train"))


names = st.sampled_from(["a", "b", "c d", "é", '"', "nan", "PAD", "007", "7"])
times = st.one_of(st.integers(0, 6), st.sampled_from([1.5, 1_700_000_001, 1_700_000_002, 3e18]))
log_rows = st.lists(st.tuples(names, names, times, st.sampled_from(["", "1", "2.5", "5"])), min_size=1, max_size=60)
intervals = st.sampled_from([None, "[2,inf)", "[3,inf)", "(1,4]", "[1,1];[3,6)", "[0,inf)", "[9,inf)"])
filters = st.fixed_dictionaries(
    {
        "rm_dup_inter": st.sampled_from([None, "first", "last"]),
        "user_inter_num_interval": intervals,
        "item_inter_num_interval": intervals,
        "val_interval": st.sampled_from(
            [
                None,
                {"rating": "[2,inf)"},
                {"rating": "(1,5)", "timestamp": "[1,1700000001]"},
                {"timestamp": "[1,2);[4,9]"},
            ]
        ),
    }
)


@given(log_rows, filters)
@settings(max_examples=60, deadline=None)
def test_ids_histories_and_splits_are_recboles(rows, chosen):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "any", "any.inter")
        path.parent.mkdir()
        lines = ["rating:float\tuser_id:token\titem_id:token\ttimestamp:float"]
        lines += [f"{rating}\t{user}\t{item}\t{when}" for user, item, when, rating in rows]
        path.write_text("\n".join(lines) + "\n")
        config = config_for("any", data_path=folder, **chosen)
        assert_as_recbole(config)
        assert_as_recbole(config)  # now from the cache


CHOSEN = [
    {"rm_dup_inter": "first"},
    {"rm_dup_inter": "last"},
    {"user_inter_num_interval": "[12,inf)", "item_inter_num_interval": "[12,inf)"},
    {"user_inter_num_interval": "[12,28]", "item_inter_num_interval": "[8,60]"},
    {"item_inter_num_interval": "[10,25]", "val_interval": {"timestamp": "(20,1000]"}, "rm_dup_inter": "first"},
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
def test_larger_logs_with_many_repeats_and_ties(folder, chosen):
    rng = np.random.default_rng(5)
    user, item, when = (rng.integers(0, n, 600) for n in (30, 40, 90))
    write_inter(folder / "dataset" / "many" / "many.inter", list(zip(user, (item * item) // 40, when, strict=True)))
    config = config_for("many", **chosen)
    assert 100 < len(Dataset(config)) < 600
    assert_as_recbole(config)


@pytest.mark.parametrize(
    "chosen",
    [{}, {"user_inter_num_interval": "[40,inf)", "item_inter_num_interval": "[20,300]"},
     {"rm_dup_inter": "last", "val_interval": {"rating": "[4,inf)"}}],
)  # fmt: skip
def test_ml_100k_is_read_as_recbole_reads_it(folder, chosen):
    assert_as_recbole(config_for("ml-100k", data_cache=False, **chosen))


@pytest.mark.parametrize(
    "chosen",
    [{"threshold": {"timestamp": 2}}, {"normalize_all": True}, {"normalize_field": ["timestamp"]},
     {"alias_of_item_id": ["domain"], "load_col": None}, {"load_col": {"inter": ["user_id", "item_id", "domain"]}},
     {"load_col": None}, {"val_interval": {"user_id": ["u1"]}}],
    ids=str,
)  # fmt: skip
def test_other_settings_go_recboles_own_way(folder, chosen):
    path = folder / "dataset" / "odd" / "odd.inter"
    path.parent.mkdir(parents=True)
    rows = "".join(f"u{u}\ti{i}\t{i}\td{i % 2}\n" for u in range(3) for i in range(4))
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\tdomain:token\n" + rows)
    config = config_for("odd", **chosen)
    theirs = Dataset(config)
    path.with_suffix(".item").write_text("item_id:token\tsize:float\ni1\t3\n")  # ids only: it drops no row
    dataset = create_dataset(config)
    assert dataset.recipe() is None and "histories" not in vars(dataset)
    assert dataset.inter_feat[["user_id"]].equals(theirs.inter_feat[["user_id"]])


def test_columns_of_items_that_are_not_read_leave_our_own_reading_and_every_row(folder):
    path = folder / "dataset" / "odd" / "odd.inter"
    write_inter(path, [(u, i, i) for u in range(3) for i in range(4)])
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    theirs = Dataset(config_for("odd", load_col=columns))
    path.with_suffix(".item").write_text("item_id:token\tsize:float\ni1\t3\n")
    dataset = create_dataset(config_for("odd", load_col={**columns, "item": ["item_id", "size"]}))
    assert dataset.recipe() is not None
    for name in ("user_id", "item_id"):
        assert dataset.inter_feat[name].tolist() == theirs.inter_feat[name].tolist()


def test_a_frame_that_was_changed_before_build_is_what_is_built(walk):
    dataset = create_dataset(config_for("walk"))
    dataset.inter_feat = dataset.inter_feat[dataset.inter_feat["user_id"] <= 5]
    dataset.build()
    assert dataset.histories.users.tolist() == [1, 2, 3, 4, 5]


def test_positions_index_as_the_array_they_stand_for():
    positions = Positions(np.array([3, 9, 9, 20]), np.cumsum([2, 0, 3, 1]))
    plain = np.array([3, 4, 9, 10, 11, 20])
    assert len(positions) == 6 and positions[:].tolist() == plain.tolist()
    for index in (0, -1, slice(1, 4), np.array([5, 0, 2]), plain > 9, np.array([-2]), [1, 1]):
        assert np.array_equal(positions[index], plain[index]), index


# The cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    path = tmp_path / "walk" / "walk.inter"
    write_inter(path, walk_rows())
    return Recipe(path, "user_id", "item_id", "timestamp")


def same(one, other) -> bool:
    arrays = [(one.times, other.times)]
    arrays += [(getattr(one.histories, n), getattr(other.histories, n)) for n in ("items", "users", "offsets")]
    texts = one.users.to_pylist() == other.users.to_pylist() and one.items.to_pylist() == other.items.to_pylist()
    return texts and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def was_read(recipe, monkeypatch) -> bool:
    """Whether a start reads the file again; its result is checked against the file in any case."""
    expected, calls = read_log(recipe), []
    monkeypatch.setattr(loading, "read_log", lambda recipe: calls.append(1) or read_log(recipe))
    assert same(load_log(recipe), expected)
    return bool(calls)


def place(recipe) -> Path:
    return cache_path(recipe.path, recipe.settings())


def test_a_second_start_reads_the_cache_alone(recipe, monkeypatch):
    assert was_read(recipe, monkeypatch)
    assert not was_read(recipe, monkeypatch)
    os.utime(recipe.path, (1, 1))  # a copy or a checkout: the same bytes at another time
    assert not was_read(recipe, monkeypatch)
    assert [p.name for p in recipe.path.parent.iterdir() if p != recipe.path] == [place(recipe).name]
    assert not load_log(recipe).histories.items.flags.writeable


def test_an_edit_of_equal_size_and_time_is_seen(recipe, monkeypatch):
    load_log(recipe)
    before = recipe.path.stat()
    text = recipe.path.read_text()
    recipe.path.write_text(text.replace("i7\t", "i8\t", 1))
    os.utime(recipe.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = recipe.path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert was_read(recipe, monkeypatch) and not was_read(recipe, monkeypatch)


def test_the_digest_sees_every_chunk(tmp_path):
    path, data = tmp_path / "big", bytearray(2 * CHUNK_BYTES + 5)
    seen = set()
    for at in (None, 0, CHUNK_BYTES - 1, CHUNK_BYTES, len(data) - 1):
        changed = data.copy()
        if at is not None:
            changed[at] ^= 1
        path.write_bytes(changed)
        seen.add(content_digest(path))
    assert len(seen) == 5


@pytest.mark.parametrize("cached", [True, False])
def test_a_start_hashes_the_file_once(walk, monkeypatch, cached):
    from recbole_scale.runs import prepared

    hashed = []
    monkeypatch.setattr(cache, "content_digest", lambda path: hashed.append(path) or content_digest(path))
    monkeypatch.setattr(loading, "content_digest", cache.content_digest)
    digests = {prepared.prepare(config_for("walk", data_cache=cached, topk=[5])).digest for _ in range(2)}
    assert len(hashed) == 2
    assert digests == {prepared.data_digest(config_for("walk"))}


def test_settings_have_caches_of_their_own_and_another_version_is_read_again(recipe, monkeypatch):
    filtered = Recipe(
        recipe.path, "user_id", "item_id", "timestamp", filters=LogFilters(user_counts=(("[", 9, 99, "]"),))
    )
    load_log(recipe)
    assert was_read(filtered, monkeypatch)
    assert not was_read(filtered, monkeypatch) and not was_read(recipe, monkeypatch)
    monkeypatch.setattr(cache, "CACHE_VERSION", cache.CACHE_VERSION + 1)
    assert was_read(recipe, monkeypatch) and not was_read(recipe, monkeypatch)


def test_without_data_cache_nothing_is_written(walk):
    create_dataset(config_for("walk", data_cache=False))
    assert [p.name for p in (walk / "dataset" / "walk").iterdir()] == ["walk.inter"]
    create_dataset(config_for("walk"))
    assert len(list((walk / "dataset" / "walk").glob("walk.inter.*.cache"))) == 1


def flip(at):
    def damage(data):
        data[int(at * (len(data) - 1))] ^= 16

    return damage


DAMAGES = {
    "empty": lambda data: data.clear(),
    "no magic": lambda data: data.__setitem__(slice(0, 8), b"NOTCACHE"),
    "half": lambda data: data.__delitem__(slice(len(data) // 2, None)),
    "last byte": lambda data: data.pop(),
    "one byte more": lambda data: data.append(0),
    "header only": lambda data: data.__delitem__(slice(200, None)),
    "header length": lambda data: data.__setitem__(slice(8, 16), b"\xff" * 8),
    "not JSON": lambda data: data.__setitem__(slice(16, 20), b"\xff\xfe{["),
    "two arrays swapped": lambda data: data.__setitem__(
        slice(2048, 4096), bytes(data[3072:4096]) + bytes(data[2048:3072])
    ),
    **{f"bit at {at}": flip(at) for at in np.linspace(0, 1, 25).round(3)},
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_damaged_cache_is_not_believed(recipe, monkeypatch, damage):
    load_log(recipe)
    data = bytearray(place(recipe).read_bytes())
    DAMAGES[damage](data)
    place(recipe).write_bytes(data)
    assert read_cache(place(recipe), DTYPES) is None
    assert was_read(recipe, monkeypatch) and not was_read(recipe, monkeypatch)


def swapped(one, other):
    return lambda arrays: {**arrays, one: arrays[other], other: arrays[one]}


CONTRADICTIONS = {
    "dtype": lambda arrays: {**arrays, "items": arrays["items"].astype(np.int64)},
    "float of the same width": lambda arrays: {**arrays, "items": arrays["items"].view(np.float32)},
    "byte order": lambda arrays: {**arrays, "offsets": arrays["offsets"].astype(">i8")},
    "swapped ends": swapped("user_ends", "item_ends"),
    "swapped texts": swapped("user_text", "item_text"),
    "swapped offsets": swapped("offsets", "user_ends"),
    "missing": lambda arrays: {k: v for k, v in arrays.items() if k != "times"},
    "unknown": lambda arrays: {**arrays, "more": arrays["items"]},
    "other order": lambda arrays: dict(reversed(arrays.items())),
    "item 0": lambda arrays: {**arrays, "items": np.where(arrays["items"] == 1, 0, arrays["items"]).astype("<i4")},
    "unnamed item": lambda arrays: {**arrays, "items": arrays["items"] + np.int32(1)},
    "too short": lambda arrays: {**arrays, "times": arrays["times"][:-1]},
    "offsets fall": lambda arrays: {**arrays, "offsets": arrays["offsets"][np.r_[0, 2, 1, 3 : len(arrays["offsets"])]]},
    "not UTF-8": lambda arrays: {**arrays, "user_text": np.full_like(arrays["user_text"], 255)},
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_cache_with_a_right_checksum_and_wrong_arrays_is_not_believed(recipe, monkeypatch, contradiction):
    load_log(recipe)
    stored = read_cache(place(recipe), DTYPES)
    assert stored is not None
    write_cache(place(recipe), stored[0], CONTRADICTIONS[contradiction](stored[1]))
    assert was_read(recipe, monkeypatch) and not was_read(recipe, monkeypatch)


def test_a_folder_that_cannot_be_written_costs_one_line(recipe, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(loading.os, "access", lambda path, mode: False)
    assert was_read(recipe, monkeypatch) and was_read(recipe, monkeypatch)
    assert sum("no cache" in record.message for record in caplog.records) == 2, "one line a start"
    assert list(recipe.path.parent.iterdir()) == [recipe.path]


def test_a_full_disk_costs_one_line_and_leaves_nothing(recipe, caplog):
    caplog.set_level("INFO")
    expected, limits = read_log(recipe), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the kernel refuses to write more
    try:
        log = load_log(recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(log, expected)
    lines = [record.message for record in caplog.records if "no cache" in record.message]
    assert len(lines) == 1 and "no space left" in lines[0]
    assert list(recipe.path.parent.iterdir()) == [recipe.path]


def test_temporaries_of_killed_writers_go_and_one_that_is_being_written_stays(recipe):
    dead, written = (recipe.path.with_name(f".{place(recipe).name}.{pid}.tmp") for pid in (1, 2))
    dead.write_bytes(b"half")
    with open(written, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(written, (time.time() - 7200,) * 2)  # a slow writer
        load_log(recipe)
        assert not dead.exists() and written.exists() and place(recipe).exists()


CHILD = """
import sys, time
from pathlib import Path
from recbole_scale.data import log as loading
from recbole_scale import files as writing
write = writing.WholeFile.write
def slowly(self, data):
    write(self, data)
    self.handle.flush()
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
writing.WholeFile.write = slowly
print("ready", flush=True)
sys.stdin.readline()
log = loading.load_log(loading.Recipe(Path(sys.argv[1]), "user_id", "item_id", "timestamp"))
print(log.histories.items.sum(), log.histories.offsets.sum(), log.times.sum())
"""


def test_two_processes_at_once_end_right_and_a_killed_one_leaves_no_half_cache(recipe, monkeypatch):
    """Three real processes: two write slowly side by side, one is killed while it writes."""
    other = Recipe(recipe.path.with_name("killed.inter"), "user_id", "item_id", "timestamp")
    other.path.write_bytes(recipe.path.read_bytes())
    jobs = [(recipe, "0.05"), (recipe, "0.05"), (other, "60")]
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    children = [subprocess.Popen([*command, str(r.path), pause], stdin=-1, stdout=-1, text=True) for r, pause in jobs]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert children[2].stdout.readline() == "writing\n"
    children[2].send_signal(signal.SIGKILL)
    outputs = [child.communicate(timeout=60)[0].splitlines() for child in children]
    log = read_log(recipe)
    expected = f"{log.histories.items.sum()} {log.histories.offsets.sum()} {log.times.sum()}"
    assert [lines[-1] for lines in outputs[:2]] == [expected] * 2
    assert outputs[0].count("writing") == outputs[1].count("writing") > 5, "both wrote: neither found the other's"
    assert not was_read(recipe, monkeypatch)
    assert not place(other).exists() and list(other.path.parent.glob(f".{place(other).name}.*.tmp"))
    assert was_read(other, monkeypatch) and not was_read(other, monkeypatch)


def test_auto_leaves_small_files_without_a_cache(walk, monkeypatch):
    import recbole_scale.data.dataset as module

    create_dataset(config_for("walk", data_cache="auto"))
    assert not list((walk / "dataset" / "walk").glob("*.cache"))
    monkeypatch.setattr(module, "CACHE_FROM_BYTES", 1)
    create_dataset(config_for("walk", data_cache="auto"))
    assert len(list((walk / "dataset" / "walk").glob("*.cache"))) == 1
