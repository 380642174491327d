"""Every published format gives the same rows; filters, statistics, comparison and card say what is true."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import OWN, ROWS, lines_of, options_for, rows_of, write_jsonl_2023, write_raw, write_zip

from recbole_scale import files
from recbole_scale.errors import UserError
from recbole_scale.prepare import card, filters, sources, writing
from recbole_scale.prepare.columns import Coder, Interactions
from recbole_scale.prepare.command import main, paper_filters, prepare
from recbole_scale.prepare.filters import Filters, apply_filters
from recbole_scale.prepare.readers import FORMATS, Options, read_raw
from recbole_scale.prepare.sources import text_blocks

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
EXACT = [(user, item, float(rating), time) for user, item, rating, time in ROWS]
ORDERED = [EXACT[at] for at in (2, 0, 4, 6, 1, 3, 5)]  # user 7, then 12, then 3; by time; ties as in the file


def log_of(*columns: list[int], domain: list[int] | None = None) -> Interactions:
    """A log from lists of user, item and time numbers."""
    roles = {"user": columns[0], "item": columns[1], **({"domain": domain} if domain else {})}
    coders = {}
    for role, values in roles.items():
        coder = Coder()
        coder.append(pa.array([str(value) for value in values], pa.string()).dictionary_encode())
        coders[role] = coder.finish()
    return Interactions(np.array(columns[2], dtype=np.int64), "s", coders)


def read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str)


@pytest.mark.parametrize("block_bytes", [16, 200, sources.BLOCK_BYTES])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "sequences"])
def test_every_format_gives_the_same_rows(name, block_bytes, tmp_path, monkeypatch):
    """Also when the file is cut into many small blocks."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    if block_bytes == 16 and name in ("amazon-2018", "jsonl"):
        block_bytes = 100  # a block must hold a quarter of its longest line
        monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    raw = read_raw(name, [write_raw(name, tmp_path)], options_for(name))
    milliseconds = name == "amazon-2023"
    assert raw.log.unit == ("ms" if milliseconds else "s")
    assert rows_of(raw.log) == [(*row[:3], row[3] * (1000 if milliseconds else 1)) for row in EXACT]
    assert raw.files[0].rows == len(ROWS)
    assert raw.dropped == {}


def test_sequences_count_time_by_user(tmp_path):
    raw = read_raw("sequences", [write_raw("sequences", tmp_path)])
    expected = [("7", "4", 1), ("7", "30", 2), ("7", "9", 3), ("12", "4", 1), ("12", "30", 2), ("12", "9", 3)]
    assert [(row[0], row[1], row[3]) for row in rows_of(raw.log)] == [*expected, ("3", "4", 1)]


def test_sequences_without_a_user_column_number_the_lines(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("a,b\n\nc,d,e\n")
    raw = read_raw("sequences", [path], Options(delimiter=",", user_column=False))
    rows = [(row[0], row[1], row[3]) for row in rows_of(raw.log)]
    assert rows == [("1", "a", 1), ("1", "b", 2), ("3", "c", 1), ("3", "d", 2), ("3", "e", 3)]


@pytest.mark.parametrize(
    ("name", "member"),
    [("ml-100k", "ml-100k/u.data"), ("ml-1m", "ml-1m/ratings.dat"), ("ml-10m", "ml-10M100K/ratings.dat")]
    + [(name, f"{name}/ratings.csv") for name in ("ml-20m", "ml-25m", "ml-32m")],
)
def test_movielens_is_read_from_its_zip_and_its_folder(name, member, tmp_path):
    data = "\n".join(lines_of(name, ROWS)).encode()
    packed = write_zip(tmp_path / "published.zip", member, data)
    folder = tmp_path / member.split("/")[0]
    folder.mkdir()
    (folder / member.split("/")[1]).write_bytes(data)
    for path in (packed, folder):
        assert rows_of(read_raw(name, [path]).log) == EXACT


def test_amazon_csv_and_json_of_one_year_agree(tmp_path):
    path = tmp_path / "Books.csv"
    path.write_text("".join(f"{item},{user},{rating},{time}\n" for user, item, rating, time in ROWS))
    assert rows_of(read_raw("amazon-2018", [path]).log) == EXACT  # 2018's csv names the item first
    json_path = tmp_path / "reviews_Books_5.json"
    json_path.write_text("\n".join(lines_of("amazon-2018", ROWS)))
    assert rows_of(read_raw("amazon-2014", [json_path]).log) == EXACT
    new = read_raw("amazon-2023", [write_jsonl_2023(tmp_path / "Books.jsonl.gz")])
    assert [row[3] for row in rows_of(new.log)] == [row[3] * 1000 for row in ROWS]


def test_a_json_block_with_a_fault_gives_the_same_texts_as_one_without(tmp_path):
    """The line-by-line path must not write ratings or ids another way."""
    good = tmp_path / "Good.json"
    good.write_text("\n".join(lines_of("amazon-2018", ROWS)))
    blank = tmp_path / "Blank.json"
    blank.write_text("\n\n".join(lines_of("amazon-2018", ROWS)))
    one, two = (read_raw("amazon-2018", [path]).log for path in (good, blank))
    assert [column.texts.to_pylist() for column in list(one.columns.values())[:3]] == [
        column.texts.to_pylist() for column in list(two.columns.values())[:3]
    ]
    assert rows_of(one) == rows_of(two)


def test_domain_files_merge_by_user_and_time_and_repeats_are_counted(tmp_path):
    books, toys = tmp_path / "ratings_Books.csv", tmp_path / "ratings_Toys.csv"
    books.write_text("u1,b1,5,100\nu2,b2,4,50\nu1,b9,5,300\n")
    toys.write_text("u1,t1,5,200\nu1,b1,1,100\nu1,b1,5,101\nu2,t2,3,50\n")
    done = prepare("amazon-2014", [books, toys], tmp_path / "mix")
    lines = done.path.read_text().splitlines()
    assert lines == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tdomain:token",
        "u1\tb1\t5\t100\tBooks",
        "u1\tb1\t5\t101\tToys",
        "u1\tt1\t5\t200\tToys",
        "u1\tb9\t5\t300\tBooks",
        "u2\tb2\t4\t50\tBooks",
        "u2\tt2\t3\t50\tToys",
    ]
    assert done.card["rows_read"] == 7
    assert done.card["dropped"] == {"the same user, item and time again": 1}
    assert done.card["statistics"]["domains"]["share_of_users_by_number"] == {"2": 1.0}


@pytest.mark.parametrize(
    ("texts", "times", "unit"),
    [
        (["1588615855", "1588615856"], [1588615855, 1588615856], "s"),
        (["1588615855070", "1588615855071"], [1588615855070, 1588615855071], "ms"),
        (["16777217.0", "16777219.000"], [16777217, 16777219], "s"),
        (["1.5", "2"], [1500, 2000], "ms"),
        (["1.353628801e9", "7"], [1353628801, 7], "s"),
        (["978300760.000001", "978300760"], [978300760000001, 978300760000000], "us"),
        (["2001-01-01", "2001-01-01T00:00:01"], [978307200, 978307201], "s"),
        (["2001-01-01 00:00:00.25+00:00", "2001-01-01 01:00:00+01:00"], [978307200250, 978307200000], "ms"),
        (["2001-01-01 00:00:00 UTC", "2001-01-01 00:00:01 UTC"], [978307200, 978307201], "s"),
    ],
)
def test_times_are_exact_integers(texts, times, unit, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("u;i;t\n" + "".join(f"a;{at};{text}\n" for at, text in enumerate(texts)))
    log = read_raw("csv", [path], Options(columns={"user": "u", "item": "i", "time": "t"})).log
    assert (log.time.tolist(), log.unit) == (times, unit)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::", " "])
def test_the_delimiter_is_sniffed(delimiter, tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n".join(delimiter.join(line) for line in (["x", "u", "t", "i"], ["9", "a", "5", "b"])))
    options = Options(columns={"user": "u", "item": "i", "time": "t"})
    assert rows_of(read_raw("csv", [path], options).log) == [("a", "b", 0.0, 5)]
    given = Options(columns=options.columns, delimiter=delimiter)
    assert rows_of(read_raw("csv", [path], given).log) == [("a", "b", 0.0, 5)]


def test_a_file_without_header_is_read_by_column_number(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("5,b,a\n6,c,a\n")
    options = Options(columns={"user": "3", "item": "2", "time": "1"}, header=False)
    assert rows_of(read_raw("csv", [path], options).log) == [("a", "b", 0.0, 5), ("a", "c", 0.0, 6)]


def test_quoted_line_ends_stay_in_their_row(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    text = "u,note,i,t\n" + "".join(f'a,"x\ny ""{at}"" \n",i{at},{at}\n' for at in range(40))
    path.write_text(text)
    for block_bytes in (30, 100, 1 << 20):
        monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
        log = read_raw("csv", [path], Options(columns={"user": "u", "item": "i", "time": "t"})).log
        assert [row[1] for row in rows_of(log)] == [f"i{at}" for at in range(40)]
        assert b"".join(block.data for block in text_blocks(path, quoted=",")) == text.encode()


def test_parquet_reads_texts_integers_and_timestamps(tmp_path):
    table = pa.table(
        {
            "who": pa.array(["a", "b"]).dictionary_encode(),
            "what": pa.array([2**60, 5], pa.uint64()),
            "when": pa.array([1_588_615_855_000_001, 7], pa.int64()).cast(pa.timestamp("us", "Europe/Berlin")),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {"user": "who", "item": "what", "time": "when"}
    log = read_raw("parquet", [tmp_path / "t.parquet"], Options(columns=columns)).log
    assert rows_of(log) == [("a", str(2**60), 0.0, 1_588_615_855_000_001), ("b", "5", 0.0, 7)]
    assert log.unit == "us"


def test_output_is_ordered_by_user_and_exact_time_with_ties_as_read(tmp_path):
    done = prepare("ml-1m", [write_raw("ml-1m", tmp_path)], tmp_path / "one")
    table = read_table(done.path)
    assert list(table.columns) == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    rows = [(user, item, float(rating), int(time)) for user, item, rating, time in table.itertuples(index=False)]
    assert rows == ORDERED


def test_prepared_file_goes_through_again_unchanged(tmp_path):
    first = prepare("ml-1m", [write_raw("ml-1m", tmp_path)], tmp_path / "one")
    second = prepare("inter", [first.path], tmp_path / "two")
    assert second.path.read_bytes() == first.path.read_bytes()


def test_writing_in_chunks_gives_the_same_bytes(tmp_path):
    log = read_raw("ml-1m", [write_raw("ml-1m", tmp_path)]).log
    with files.whole_files(tmp_path / "a", tmp_path / "b") as (whole, parts):
        writing.write_interactions(whole, log)
        writing.write_interactions(parts, log, chunk_rows=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert whole.sha256() == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


LOGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LOGS)
def test_duplicates_are_those_pandas_finds(rows):
    log = filters.in_order(log_of(*map(list, zip(*rows, strict=True))))
    frame = pd.DataFrame([(row[0], row[1], row[3]) for row in rows_of(log)], columns=["user", "item", "time"])
    for with_time, keys in ((True, ["user", "item", "time"]), (False, ["user", "item"])):
        kept = filters.drop_duplicates(log, with_time)
        expected = frame.drop_duplicates(keys)
        assert [(row[0], row[1], row[3]) for row in rows_of(kept)] == list(expected.itertuples(index=False, name=None))


@settings(max_examples=60, deadline=None)
@given(LOGS, st.integers(1, 4), st.integers(1, 4))
def test_core_is_the_largest_part_that_keeps_its_promise(rows, user_core, item_core):
    """Compared with taking one offending user or item away at a time, in any order the same end."""
    log = filters.core(log_of(*map(list, zip(*rows, strict=True))), user_core, item_core)
    left = [(str(user), str(item), 0.0, time) for user, item, time in rows]
    while True:
        users, items = pd.Series([row[0] for row in left]), pd.Series([row[1] for row in left])
        few = [user for user, count in users.value_counts().items() if count < user_core]
        rare = [item for item, count in items.value_counts().items() if count < item_core]
        if not few and not rare:
            break
        left = [row for row in left if row[0] != few[0]] if few else [row for row in left if row[1] != rare[0]]
    assert rows_of(log) == left


@settings(max_examples=40, deadline=None)
@given(LOGS, st.integers(0, 3), st.integers(0, 3))
def test_dropping_ends_keeps_the_middle(rows, earliest, latest):
    log = filters.in_order(log_of(*map(list, zip(*rows, strict=True))))
    by_user: dict[str, list] = {}
    for row in rows_of(log):
        by_user.setdefault(row[0], []).append(row)
    expected = [row for part in by_user.values() for row in part[earliest : max(len(part) - latest, 0)]]
    assert rows_of(filters.drop_ends(log, earliest, latest)) == expected


def test_order_is_right_when_times_are_too_wide_for_one_key():
    log = log_of([1, 0, 1, 0], [1, 2, 3, 4], [2**62, 5, 0, 5])
    assert [(row[0], row[1]) for row in rows_of(filters.in_order(log))] == [
        ("1", "3"),
        ("1", "1"),
        ("0", "2"),
        ("0", "4"),
    ]


def test_filters_count_what_each_dropped(tmp_path):
    log = read_raw("ml-1m", [write_raw("ml-1m", tmp_path)]).log
    kept, dropped = apply_filters(log, Filters(min_rating=2, user_core=2, item_core=2))
    assert dropped == {"rated below 2": 1, "user with under 2 rows or item with under 2 rows": 2}
    assert rows_of(kept) == [row for row in ORDERED if row[0] != "3" and row[1] != "9"]
    assert len(kept) + sum(dropped.values()) == len(ROWS)


def test_statistics_are_those_pandas_counts(tmp_path):
    users, items = [1, 1, 2, 3, 3, 3], [1, 2, 1, 1, 2, 9]
    log = log_of(users, items, [10**9, 5, 10**9, 1, 2, 2 * 10**9], domain=[1, 2, 1, 1, 1, 1])
    stats = card.statistics(log)
    assert (stats["users"], stats["items"], stats["interactions"]) == (3, 3, 6)
    assert stats["sparsity"] == pytest.approx(1 - 6 / 9)
    assert stats["length_quantiles"] == {"0": 1, "25": 1, "50": 2, "75": 2, "90": 2, "99": 2, "100": 3}
    assert (stats["users_with_one"], stats["users_under_three"]) == (1, 2)
    assert stats["domains"]["interactions"] == {"1": 5, "2": 1}
    assert stats["domains"]["share_of_users_by_number"] == {"1": pytest.approx(2 / 3), "2": pytest.approx(1 / 3)}
    text = card.format_table(stats)
    assert "1970-01-01 to 2033-05-18" in text
    assert "2 users with fewer than 3" in text


def test_domain_counts_do_not_depend_on_the_way_they_are_counted(monkeypatch):
    log = log_of([1, 1, 2, 3, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], domain=[1, 2, 1, 3, 3])
    table = card.statistics(log)["domains"]
    monkeypatch.setattr(card, "TABLE_CELLS", 0)
    assert card.statistics(log)["domains"] == table


def test_published_count_of_movielens_20m_is_all_ratings_less_eleven_a_user():
    paper, readme = card.PAPER_COUNTS["ml-20m"], card.README_COUNTS["ml-20m"]
    assert paper["users"] == readme["users"]
    assert paper["interactions"] == readme["interactions"] - filters.HELD_OUT * readme["users"]
    assert paper_filters("ml-20m") == Filters(drop_latest=filters.HELD_OUT)


def long_rows(users: int, length: int) -> list[tuple[str, str, str, int]]:
    return [(f"u{user}", f"i{at % 25}", "4", 10**9 + at) for user in range(users) for at in range(length)]


def test_filter_and_expect_paper_on_movielens(tmp_path, monkeypatch, capsys):
    path = write_raw("ml-20m", tmp_path, long_rows(4, 30))
    arguments = ["ml-20m", "--raw", str(path), "--out", str(tmp_path / "ml"), "--filter", "paper", "--expect", "paper"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "users: 4 here, 138,493 published (-138,489, -100.00%)" in out
    assert "interactions: 76 here, 18,476,840 published" in out
    monkeypatch.setitem(card.PAPER_COUNTS, "ml-20m", {"users": 4, "items": 19, "interactions": 76})
    assert main(arguments) == 0
    assert "counts equal the published ones (paper)" in capsys.readouterr().out
    assert read_table(tmp_path / "ml" / "ml.inter").groupby("user_id:token").size().tolist() == [19] * 4


def test_expect_paper_on_amazon_shows_the_counts_at_other_cores(tmp_path, capsys):
    path = tmp_path / "Books.csv.gz"
    write_raw("amazon-2023", tmp_path, long_rows(40, 50))
    assert main(
        ["amazon-2023", "--raw", str(path), "--out", str(tmp_path / "a"), "--filter", "paper", "--expect", "paper"]
    )
    out = capsys.readouterr().out
    assert "users: 40 here, 367,710 published" in out
    assert "core 30, users 40, items 25, interactions 2,000, less_held_out 1,560" in out


def test_expect_readme_compares_with_the_publishers_counts(tmp_path, capsys):
    path = write_raw("ml-100k", tmp_path)
    assert main(["ml-100k", "--raw", str(path), "--out", str(tmp_path / "m"), "--expect", "readme"]) == 1
    assert "items: 3 here, 1,682 published" in capsys.readouterr().out


def test_card_tells_source_licence_filters_counts_and_hashes(tmp_path):
    raw = write_raw("ml-1m", tmp_path)
    done = prepare("ml-1m", [raw], tmp_path / "one", filters=Filters(min_rating=2))
    told = json.loads((tmp_path / "one" / "one.json").read_text())
    assert told["sha256"] == hashlib.sha256(done.path.read_bytes()).hexdigest()
    assert told["files"] == [{"file": raw.name, "rows": 7, "sha256": hashlib.sha256(raw.read_bytes()).hexdigest()}]
    assert "GroupLens" in told["licence"] and told["source"].startswith("https://grouplens.org")
    assert told["filters"]["min_rating"] == 2
    assert (told["rows_read"], told["dropped"], told["statistics"]["interactions"]) == (7, {"rated below 2": 1}, 6)
    assert str(tmp_path) not in (tmp_path / "one" / "one.json").read_text()


def test_account_of_what_was_read_dropped_and_kept_is_printed(tmp_path, capsys):
    raw = write_raw("ml-1m", tmp_path)
    assert (
        main(["ml-1m", "--raw", str(raw), "--out", str(tmp_path / "x"), "--min_rating", "2", "--user_core", "2"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "read 7 rows from ratings.dat",
        "dropped 1 row: rated below 2",
        "dropped 1 row: user with under 2 rows",
    ]
    assert lines[3].split()[:3] == ["kept", "5", "rows"]
    assert lines[4].split() == ["users", "2"]


def test_many_batches_of_ids_keep_their_codes(monkeypatch):
    coder, texts = Coder(), [[f"u{at % 7}" for at in range(start, start + 5)] for start in range(0, 50, 5)]
    for part in texts:
        coder.append(pa.array(part).dictionary_encode())
        coder._merge()
    column = coder.finish()
    assert [column.texts[code].as_py() for code in column.codes] == [text for part in texts for text in part]
    assert column.used() == 7


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measuring data (../shared/data) are not on this machine")
@pytest.mark.parametrize(
    ("name", "counts"),
    [("ml-1m", (6_040, 3_706, 1_000_209)), ("amazon-mix5", (60_261, 75_216, 736_953))],
)
def test_measuring_data_go_through(name, counts, tmp_path):
    raw = tmp_path / f"{name}.inter"
    raw.write_bytes(lzma.decompress((SHARED / f"{name}.inter.xz").read_bytes()))
    stats = prepare("inter", [raw], tmp_path / "out" / name).card["statistics"]
    assert (stats["users"], stats["items"], stats["interactions"]) == counts
    if name == "amazon-mix5":
        in_two = sum(share for number, share in stats["domains"]["share_of_users_by_number"].items() if number != "1")
        assert round(in_two * stats["users"]) == 9_885


def test_rating_column_is_optional_and_min_rating_needs_it(tmp_path):
    path = write_raw("csv", tmp_path)
    columns = {role: name for role, name in OWN.columns.items() if role != "rating"}
    log = read_raw("csv", [path], Options(columns=columns)).log
    assert "rating" not in log.columns
    with pytest.raises(UserError, match="min_rating needs ratings"):
        apply_filters(log, Filters(min_rating=1))
