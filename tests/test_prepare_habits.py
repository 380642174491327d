"""Logs as users have them: quotes, encodings, formats of time, JSON of their own, chosen rows, sessions, no times."""

from __future__ import annotations

import gzip
import json
import re

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_scale.errors import UserError
from recbole_scale.prepare.command import main
from recbole_scale.prepare.quotes import lines_of_rows, open_at_end
from recbole_scale.prepare.sources import text_blocks


def prepared(folder, *arguments):
    """Rows (user, item, time as text) of what ``prepare`` writes."""
    main([*arguments, "--out", str(folder / "out" / "x"), "--overwrite"])
    lines = (folder / "out" / "x" / "x.inter").read_text("utf-8").splitlines()
    at = [[name.split(":")[0] for name in lines[0].split("\t")].index(n) for n in ("user_id", "item_id", "timestamp")]
    return [tuple(line.split("\t")[n] for n in at) for line in lines[1:]]


COLUMNS = ("--user", "u", "--item", "i", "--time", "t")


def written(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


# Quotes --------------------------------------------------------------------------------------------------------------


def test_a_quote_inside_a_value_is_a_character(tmp_path):
    path = written(tmp_path, "a.csv", 'u,name,i,t\n1,32" monitor,a,1700000000\n1,tv,b,1700000001\n')
    assert prepared(tmp_path, "csv", "--raw", path, *COLUMNS) == [("1", "a", "1700000000"), ("1", "b", "1700000001")]
    path = written(tmp_path, "a.tsv", 'u1\t1700000000\ta1\t12" Mix\tt1\nu1\t1700000001\ta2\tOne Song\tt2\n')
    numbers = ("--no_header", "--user", "1", "--time", "2", "--item", "5")
    for more in ((), ("--delimiter", "tab"), ("--quote", "none")):
        assert [row[1] for row in prepared(tmp_path, "csv", "--raw", path, *numbers, *more)] == ["t1", "t2"]


def test_a_value_that_begins_with_a_lone_quote_needs_quote_none(tmp_path):
    path = written(tmp_path, "a.csv", 'u,name,i,t\n1,"Weird Al,a,1\n1,tv,b,2\n')
    with pytest.raises(UserError, match=r"line 2: a double quote is opened and never closed; .* --quote none"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--quote", "none")
    assert rows == [("1", "a", "1"), ("1", "b", "2")]


@given(st.lists(st.sampled_from(['"', ",", "a", "\n", '""', ',"', '",']), max_size=30).map("".join), st.integers(8, 20))
@settings(max_examples=300, deadline=None)
def test_blocks_are_cut_where_pyarrow_ends_a_row(tmp_path_factory, text, block):
    data = ("x,y\n" + text + "\n").encode()
    if open_at_end(data, ",") is not None:
        return
    path = tmp_path_factory.mktemp("q") / "a.csv"
    path.write_bytes(data)

    def rows(piece):
        kept = []
        options = pa.csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=lambda r: kept.append(r.text) or "skip"
        )
        names = pa.csv.ReadOptions(column_names=["f0", "f1"])
        table = pa.csv.read_csv(
            pa.BufferReader(piece), names, options, pa.csv.ConvertOptions(column_types={"f0": "string", "f1": "string"})
        )
        return list(zip(*(c.to_pylist() for c in table.columns), strict=True)), kept

    whole, bad = rows(data)
    pieces = [rows(b.data) for b in text_blocks(path, quoted=",", block_bytes=block) if b.data.strip(b"\n")]
    assert [row for good, _ in pieces for row in good] == whole and [r for _, b in pieces for r in b] == bad


def test_lines_of_rows_follow_quoted_line_ends():
    assert lines_of_rows(b'a,"b\nc"\n\nd 12" e,f\n"g\n\n""h",i\nj', ",") == [0, 3, 4, 7]
    assert open_at_end(b'a,"b', ",") == 2 and open_at_end(b'b"', ",", inside=True) is None
    assert open_at_end(b"b", ",", inside=True) == -1 and open_at_end(b'a 12" b', ",") is None


def test_double_quotes_in_ids_are_replaced_and_told(tmp_path, capsys):
    path = written(tmp_path, "a.csv", 'u,i,t\n1,"12"" Mix",1\n1,7" single,2\n2,7" single,3\n')
    with pytest.raises(UserError, match=r"line 2, column 'i': .* a double quote.*; --id_quotes replace writes"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    capsys.readouterr()
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--id_quotes", "replace")
    assert [row[1] for row in rows] == ["12″ Mix", "7″ single", "7″ single"]
    assert "2 ids with a double quote" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "x" / "x.json").read_text())["replaced_quotes"] == 2
    path = written(tmp_path, "b.csv", 'u,i,t\n1,a",1\n1,a″,2\n')
    with pytest.raises(UserError, match="hold both double quotes and ″"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--id_quotes", "replace")


def test_a_headerless_file_with_words_is_split_at_its_tabs(tmp_path):
    path = written(tmp_path, "a.tsv", "ann lee\tthe long song\t1\nbob\ta, b and c\t2\n")
    rows = prepared(tmp_path, "csv", "--raw", path, "--no_header", "--user", "1", "--item", "2", "--time", "3")
    assert rows == [("ann lee", "the long song", "1"), ("bob", "a, b and c", "2")]


# Encodings and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "gb18030"])
def test_encodings(tmp_path, encoding):
    word = "caf\u00e9" if encoding != "gb18030" else "\u5546\u54c1"
    path = written(tmp_path, "a.csv", f"u,i,t\n1,{word},1\n1,x,2\n", encoding)
    with pytest.raises(UserError, match="--encoding"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--encoding", encoding)
    assert [row[1] for row in rows] == [word, "x"]


def test_a_wrong_encoding_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"u,i,t\n1,a,1\n1,\x81\xff,2\n")
    with pytest.raises(UserError, match=r"a.csv line 3: not gb18030 text"):
        prepared(tmp_path, "csv", "--raw", str(path), *COLUMNS, "--encoding", "gb18030")
    with pytest.raises(UserError, match="--encoding latin1000 is not known"):
        prepared(tmp_path, "csv", "--raw", str(path), *COLUMNS, "--encoding", "latin1000")


@pytest.mark.parametrize(
    ("form", "texts", "expected"),
    [
        ("%m/%d/%Y %I:%M:%S %p", ["11/06/2019 8:55:25 AM", "11/06/2019 8:55:25 PM"], ["1573030525", "1573073725"]),
        ("%a %b %d %H:%M:%S %z %Y", ["Tue Apr 03 18:00:09 +0000 2012", "Tue Apr 03 20:00:10 +0200 2012"],
         ["1333476009", "1333476010"]),
        ("%Y%m%d", ["20140401", "20140402"], ["1396310400", "1396396800"]),
        ("%d.%m.%Y %H:%M:%S.%f", ["01.04.2014 00:00:00.000001", "01.04.2014 00:00:00.000002"],
         ["1396310400000001", "1396310400000002"]),
    ],
)  # fmt: skip
def test_times_in_a_form_of_their_own(tmp_path, form, texts, expected):
    path = written(tmp_path, "a.tsv", "".join(f"1\ti{n}\t{text}\n" for n, text in enumerate(texts)))
    call = ["csv", "--raw", path, "--no_header", "--delimiter", "tab", "--user", "1", "--item", "2", "--time", "3"]
    assert [row[2] for row in prepared(tmp_path, *call, "--time_format", form)] == expected
    with open(path, "a") as file:
        file.write("1\tz\tsoon\n")
    with pytest.raises(UserError, match="line 3, column '3': 'soon' is not a time of --time_format"):
        prepared(tmp_path, *call, "--time_format", form)
    assert len(prepared(tmp_path, *call, "--time_format", form, "--bad_rows", "drop")) == 2


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("2020-01-01T10:00:00", "2020-01-01T11:00:00+02:00", "names a time zone, as the first time does not"),
        ("2020-01-01T10:00:00Z", "2020-01-01 11:00:00", "names no time zone, as the first time does"),
        ("2020-01-01 10:00:00 UTC", "2020-01-02", "names no time zone, as the first time does"),
    ],
)
def test_times_with_and_without_a_zone_cannot_be_compared(tmp_path, first, second, says):
    path = written(tmp_path, "a.csv", f"u,i,t\n1,a,{first}\n1,b,{second}\n")
    with pytest.raises(UserError, match=f"line 3, column 't': '{re.escape(second)}' {says}"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    paths = [written(tmp_path, f"{at}.csv", f"u,i,t\n1,{at},{time}\n") for at, time in enumerate((first, second))]
    with pytest.raises(UserError, match=f"1.csv line 2, column 't': .* {says}"):  # of two files
        prepared(tmp_path, "csv", "--raw", *paths, *COLUMNS)
    assert len(prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--bad_rows", "drop")) == 1


def test_the_format_may_stand_behind_the_files(tmp_path):
    path = written(tmp_path, "a.csv", "u,i,t,e\n1,a,1,x\n")
    assert prepared(tmp_path, *COLUMNS, "--raw", path, "csv") == [("1", "a", "1")]
    assert prepared(tmp_path, "--raw", path, *COLUMNS, "--where", "e=x", "csv") == [("1", "a", "1")]
    with pytest.raises(UserError, match="the format of the raw files comes first: recbole-scale prepare FORMAT --raw"):
        prepared(tmp_path, *COLUMNS, "--raw", path)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("31/12/2019 18:05", "'%d/%m/%Y %H:%M'"),
        ("12/31/2019", "'%m/%d/%Y'"),
        ("03/04/2019 6:05 PM", "'%d/%m/%Y %I:%M %p' or '%m/%d/%Y %I:%M %p'"),  # either day or month comes first
        ("31.12.2019 18:05:07", "'%d.%m.%Y %H:%M:%S'"),
        ("2019/12/31", "'%Y/%m/%d'"),
        ("31/12/19", "'%d/%m/%y'"),
        ("Tue Apr 03 18:00:09 +0000 2012", "'%a %b %d %H:%M:%S %z %Y'"),
        ("Tue, 03 Apr 2012 18:00:09 GMT", "'%a, %d %b %Y %H:%M:%S %Z'"),
    ],
)
def test_the_form_of_a_time_is_proposed(tmp_path, text, forms):
    path = written(tmp_path, "a.csv", f"u;i;t\n1;a;{text}\n")
    with pytest.raises(UserError, match=re.escape(f"'{text}' is not a time") + f".*--time_format {re.escape(forms)}"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    for form in forms.split(" or "):
        assert prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--time_format", form.strip("'"))


@pytest.mark.parametrize("form", ["inter", "sequences"])
def test_every_format_that_asks_for_an_encoding_takes_one(tmp_path, form):
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    text = head + "1\tcaf\u00e9\t1\n" if form == "inter" else "1 caf\u00e9\n"
    path = written(tmp_path, "a.txt", text, "latin-1")
    with pytest.raises(UserError, match="say --encoding"):
        prepared(tmp_path, form, "--raw", path)
    assert prepared(tmp_path, form, "--raw", path, "--encoding", "latin-1") == [("1", "caf\u00e9", "1")]


@pytest.mark.parametrize("option", [["--no_header"], ["--quote", "none"], ["--no_user_column"], ["--delimiter", ";"]])
def test_an_option_that_would_change_nothing_is_told(tmp_path, option):
    path = written(tmp_path, "a.jsonl", '{"u": 1, "i": 2, "t": 3}\n')
    with pytest.raises(UserError, match=f"{option[0]} is for .*; not for jsonl"):
        prepared(tmp_path, "jsonl", "--raw", path, *COLUMNS, *option)


def test_times_of_two_units_in_one_file_are_refused(tmp_path):
    path = written(tmp_path, "a.csv", "u,i,t\n1,a,1500000000\n1,b,1500000001000\n2,a,1500000002\n")
    with pytest.raises(UserError, match="two units, 1500000000 looks like s and 1500000001000 like ms"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
    assert len(prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--time_unit", "ms")) == 3


# JSON ----------------------------------------------------------------------------------------------------------------

YELP = [
    {"user_id": "U1", "business_id": "B1", "stars": 4.0, "date": "2018-07-07 22:09:11", "text": 'a "good" {one}'},
    {"user_id": "U1", "business_id": "B2", "stars": 4.0, "date": "2018-07-08 22:09:11"},
]
YELP_COLUMNS = ("--user", "user_id", "--item", "business_id", "--time", "date")


@pytest.mark.parametrize("form", ["lines", "gz", "array", "pretty"])
def test_json_with_fields_of_its_own(tmp_path, form):
    text = "".join(json.dumps(row) + "\n" for row in YELP)
    if form in ("array", "pretty"):
        text = json.dumps(YELP, indent=2 if form == "pretty" else None)
    path = tmp_path / ("review.json" + ".gz" * (form == "gz"))
    path.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    rows = prepared(tmp_path, "jsonl", "--raw", str(path), *YELP_COLUMNS, "--rating", "stars")
    assert rows == [("U1", "B1", "1531001351"), ("U1", "B2", "1531087751")]


def test_nested_fields_and_arrays_of_objects(tmp_path):
    lines = [
        {"user": {"id": 7}, "items": [{"sku": "a", "at": {"s": 5}}, {"sku": "b", "at": {"s": 3}}]},
        {"user": {"id": 8}, "items": [{"sku": "c", "at": {"s": 4}}]},
        {"user": {"id": 9}, "items": []},
    ]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    call = ("jsonl", "--raw", path, "--user", "user.id", "--item", "items.sku", "--time", "items.at.s")
    assert prepared(tmp_path, *call) == [("7", "b", "3"), ("7", "a", "5"), ("8", "c", "4")]
    with open(path, "a") as file:
        file.write('{"user": {}, "items": [{"sku": "d", "at": {"s": 4}}]}\n')
    with pytest.raises(UserError, match=r"line 4, column 'user.id': .* is empty or absent"):
        prepared(tmp_path, *call)
    dotted = written(tmp_path, "b.jsonl", '{"a.b": "u", "i": "x", "t": 3}\n')
    assert prepared(tmp_path, "jsonl", "--raw", dotted, "--user", "a.b", "--item", "i", "--time", "t") == [
        ("u", "x", "3")
    ]


def test_numbers_that_pandas_made_floats_are_ids(tmp_path):
    """One missing value makes a column of whole numbers floats, in JSON lines and in Parquet."""
    expected = [("3", "12", "1"), ("3", "x y", "2"), ("4", "9007199254740991", "3")]
    rows = [{"u": 3.0, "i": 12.0, "t": 1}, {"u": 3, "i": "x y", "t": 2}, {"u": 4.0, "i": 9007199254740991.0, "t": 3}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert prepared(tmp_path, "jsonl", "--raw", written(tmp_path, "a.jsonl", lines), *COLUMNS) == expected
    assert prepared(tmp_path, "jsonl", "--raw", written(tmp_path, "a.json", json.dumps(rows)), *COLUMNS) == expected
    table = pa.table({"u": [3.0, None, float("nan"), 4.0], "i": [1.0, 2.0, 3.0, 4.0], "t": [1, 2, 3, 4]})
    path = str(tmp_path / "a.parquet")
    pq.write_table(table, path)
    with pytest.raises(UserError, match="row 2, column 'u': '' is empty or absent"):
        prepared(tmp_path, "parquet", "--raw", path, *COLUMNS)
    call = ("parquet", "--raw", path, *COLUMNS, "--bad_rows", "drop")
    assert prepared(tmp_path, *call) == [("3", "1", "1"), ("4", "4", "4")]
    pq.write_table(pa.table({"u": [3.5, 4.0], "i": [1, 2], "t": [1, 2]}), path)
    with pytest.raises(UserError, match=r"column 'u' is numbers with fractions \(double\), which cannot be a user"):
        prepared(tmp_path, *call)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3.5, "'3.5' is no whole number"),
        (1e300, r"'1e\+300' is no whole number, or too large"),
        (float("nan"), "'nan' is no whole number"),
        (True, "'true' is no text or whole number"),
        ([1], r"'\[1\]' is no text or whole number"),
        ({"id": 1}, "is no text or whole number"),
        (10**50, "'10{39}' is too long for an id"),
        ("\ud800", "is half of a letter"),
        (None, "'' is empty or absent"),
    ],
)
def test_what_is_no_id_in_json_is_told_for_what_it_is(tmp_path, value, says):
    row = json.dumps(value)
    text = '{"u": 1, "i": "a", "t": 1, "e": 1}\n' + f'{{"u": {row}, "i": "a", "t": 2, "e": 2}}\n'
    call = ("jsonl", "--raw", written(tmp_path, "a.jsonl", text), *COLUMNS)
    with pytest.raises(UserError, match=rf"line 2, column 'u': .*{says}"):
        prepared(tmp_path, *call)
    assert prepared(tmp_path, *call, "--bad_rows", "drop") == [("1", "a", "1")]
    assert prepared(tmp_path, *call, "--where", "e=1") == [
        ("1", "a", "1")
    ]  # a row that is not wanted may hold anything


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_are_chosen_by_true_and_by_whole_numbers(tmp_path, form):
    rows = [
        {"u": 1, "i": "a", "t": 1, "bought": False, "kind": 1.0},
        {"u": 1, "i": "b", "t": 2, "bought": True, "kind": 2.0},
    ]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path := str(tmp_path / "a.parquet"))
    for where in ("bought=true", "kind=2"):
        assert prepared(tmp_path, form, "--raw", path, *COLUMNS, "--where", where) == [("1", "b", "2")]


def test_json_that_is_none_is_told(tmp_path):
    path = written(tmp_path, "a.json", '[{"u": 1},\n{"u": }]')
    with pytest.raises(UserError, match="line 2: the file begins as a JSON array and is none"):
        prepared(tmp_path, "jsonl", "--raw", path, *COLUMNS)
    path = written(tmp_path, "b.csv", json.dumps(YELP[0]) + "\n")
    with pytest.raises(UserError, match="this is JSON"):
        prepared(tmp_path, "csv", "--raw", path, *YELP_COLUMNS)


# Rows that are wanted, sessions, no times ----------------------------------------------------------------------------

EVENTS = "t,u,event,i\n1,7,view,a\n2,7,purchase,b\n3,8,addtocart,c\n4,8,purchase,d\nbad,9,view,e\n"


def test_rows_are_kept_by_the_value_of_a_column(tmp_path, capsys):
    path = written(tmp_path, "events.csv", EVENTS)
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "event=purchase")
    assert rows == [("7", "b", "2"), ("8", "d", "4")]  # a bad row that nobody wants is no fault
    assert "3 rows: event is not purchase" in capsys.readouterr().out
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "event=purchase,addtocart", "u=8")
    assert [row[1] for row in rows] == ["c", "d"]
    path = written(tmp_path, "b.csv", EVENTS + "x,9,purchase,f\n")
    with pytest.raises(UserError, match="line 7, column 't': 'x' is not a time"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "event=purchase")
    with pytest.raises(UserError, match=r"no column 'evnt'.*did you mean 'event'"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "evnt=purchase")
    with pytest.raises(UserError, match="not of the form COL=VALUE"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "purchase")


def test_sessions_by_a_column_and_by_pauses(tmp_path):
    text = "s,u,i,t\nA,1,a,1000\nA,1,b,1100\nB,1,c,9000\nC,2,d,1000\nC,2,e,2800\nC,2,f,4601\n"
    path = written(tmp_path, "a.csv", text)
    rows = prepared(tmp_path, "csv", "--raw", path, "--session", "s", "--item", "i", "--time", "t")
    assert [row[0] for row in rows] == ["A", "A", "B", "C", "C", "C"]
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--session_gap", "30m")
    assert [row[:2] for row in rows] == [
        ("1#1", "a"), ("1#1", "b"), ("1#2", "c"), ("2#1", "d"), ("2#1", "e"), ("2#2", "f"),
    ]  # fmt: skip
    rows = prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--session_gap", "0.5h", "--user_core", "2")
    assert [row[1] for row in rows] == ["a", "b", "d", "e"]
    with pytest.raises(UserError, match="--session takes the place of --user"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--session", "s")
    with pytest.raises(UserError, match="--session_gap soon is no time"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--session_gap", "soon")


@pytest.mark.parametrize("delimiter", [" ", "\t"])
def test_lines_of_user_and_item_in_order_need_no_times(tmp_path, capsys, delimiter):
    rows = ["1 5", "1 3", "2 3", "1 5", "2 9"]
    path = written(tmp_path, "a.txt", "\n".join(row.replace(" ", delimiter) for row in rows) + "\n")
    call = ["csv", "--raw", path, "--no_header", "--user", "1", "--item", "2"]
    found = prepared(tmp_path, *call, "--time", "order")
    assert [row[:2] for row in found] == [("1", "5"), ("1", "3"), ("1", "5"), ("2", "3"), ("2", "9")]
    assert "order of the rows (1 to 5)" in capsys.readouterr().out
    with pytest.raises(UserError, match="or --time order where the rows are in order"):
        prepared(tmp_path, *call)
    with pytest.raises(UserError, match="--session_gap needs times"):
        prepared(tmp_path, *call, "--time", "order", "--session_gap", "1h")


def test_order_of_rows_in_every_format(tmp_path):
    import pyarrow.parquet as pq

    table = pa.table({"u": ["1", "2", "1"], "i": ["b", "c", "a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    (tmp_path / "a.inter").write_text(
        "u:token\ti:token\n" + "".join(f"{r['u']}\t{r['i']}\n" for r in table.to_pylist())
    )
    for form in ("parquet", "jsonl", "inter"):
        call = (form, "--raw", str(tmp_path / f"a.{form}"), "--user", "u", "--item", "i", "--time", "order")
        assert [row[:2] for row in prepared(tmp_path, *call)] == [("1", "b"), ("1", "a"), ("2", "c")], form


@pytest.mark.parametrize(
    ("times", "unit", "note"),
    [
        ((0, 1_500_000_000), "auto", "earliest time lies before 1990"),
        ((1_500_000_000, 9_000_000_000), "auto", "latest time lies more than a year ahead"),
        ((1_500_000_000, 1_500_000_001), "auto", None),
        ((1, 2), "auto", None),
        ((1_500_000_000_000, 1_500_000_000_001), "s", "latest time lies more than a year ahead"),
    ],
)
def test_times_that_can_hardly_be_are_noted(tmp_path, capsys, times, unit, note):
    path = written(tmp_path, "a.csv", "u,i,t\n" + "".join(f"1,i{n},{time}\n" for n, time in enumerate(times)))
    prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--time_unit", unit)
    out = capsys.readouterr().out
    assert (note in out) if note else "note: the" not in out


def test_rows_that_were_not_chosen_are_told_as_that(tmp_path):
    path = written(tmp_path, "a.csv", "u,i,t\n1,a,1\n1,b,2\n")
    with pytest.raises(UserError, match=r"no row of the files is left \(2 dropped: i is not c\)"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS, "--where", "i=c")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("precious")
    with pytest.raises(UserError, match="x is a file, but must be the data set's folder"):
        prepared(tmp_path, "csv", "--raw", path, *COLUMNS)
