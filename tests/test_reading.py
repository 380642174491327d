"""What users bring as an atomic file: headers, ids and times that are almost right are read rightly or refused."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import walk_rows, write_inter

from recbole_scale.data.atomic import read_coded, read_header
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config

TABLE = {"rows_on_demand": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


def prepared(model="ScaledSASRec", dataset="walk", **settings):
    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "error", "train_neg_sample_args": None}
    return prepare(make_config(model, dataset, config_dict={**own, **settings}))


def header(folder, text, rows=None):
    """The walk with another header line."""
    path = folder / "dataset" / "walk" / "walk.inter"
    write_inter(path, rows or walk_rows())
    path.write_text(text + "\n" + path.read_text().split("\n", 1)[1])


def orders_of(dataset):
    histories, names = dataset.histories, [dataset.field2id_token[name] for name in ("user_id", "item_id")]
    pieces = np.split(histories.items, histories.offsets[1:-1])
    return {names[0][user]: names[1][items].tolist() for user, items in zip(histories.users, pieces, strict=True)}


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("GRU4Rec", {}), ("SASRec", TABLE)])
def test_times_called_tokens_are_sorted_as_numbers(walk, model, more):
    rows = [(user, item, 9_990 + time) for user, item, time in walk_rows()]  # 9999 sorts after 10000 as text
    header(walk, "user_id:token\titem_id:token\ttimestamp:token", rows)
    by_user = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        by_user.setdefault(user, []).append((time, item))
    assert orders_of(prepared(model, **more).dataset) == {u: [item for _, item in g] for u, g in by_user.items()}


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("SASRec", TABLE)])
def test_times_that_are_no_numbers_are_refused_with_their_line(walk, model, more):
    rows = [*walk_rows()[:9], ("u1", "i1", "2020-01-31")]
    header(walk, "user_id:token\titem_id:token\ttimestamp:token", rows)
    with pytest.raises(UserError, match=r"line 11, column 3 \(timestamp\): '2020-01-31' is not a number"):
        prepared(model, **more)


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("SASRec", TABLE)])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("user_id:float\titem_id:token\ttimestamp:float", "user_id must be a token, not a float; write user_id:token"),
        ("user_id:token\titem_id:token_seq\ttimestamp:float", "item_id must be a token, not a token_seq"),
        ("user_id:token\titem_id:token\ttimestamp:float_seq", "the time timestamp must be a float"),
    ],
)
def test_ids_must_be_tokens_and_times_numbers(walk, model, more, text, sentence):
    header(walk, text)
    with pytest.raises(UserError, match=sentence):
        prepared(model, **more)


@pytest.mark.parametrize(
    ("separator", "told"), [(",", "','"), (";", "';'"), ("|", r"'\|'"), (" ", "' '"), ("\t", r'"\\t"')]
)
def test_another_separator_is_named(tmp_path, separator, told):
    path = tmp_path / "x.inter"
    path.write_text(separator.join(["user_id:token", "item_id:token", "timestamp:float"]) + "\n")
    with pytest.raises(UserError, match=f"line 1, column 1: .*set field_separator: {told}$"):
        read_header(path, "," if separator == "\t" else "\t")
    path.write_text("user_id\titem_id\n")
    with pytest.raises(UserError, match=r"column 1: 'user_id' is not name:type; recbole-scale prepare csv makes such"):
        read_header(path)


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("SASRec", TABLE)])
def test_the_name_of_the_padding_is_no_id(walk, model, more):
    write_inter(walk / "dataset" / "walk" / "walk.inter", [*walk_rows(), ("u1", "[PAD]", 99)])
    line = len(walk_rows()) + 2
    with pytest.raises(UserError, match=rf"line {line}, column 2 \(item_id\): '\[PAD\]' is RecBole's name"):
        prepared(model, **more)


@pytest.mark.parametrize("at", [1, 2, 700, 20_000])
def test_bytes_that_are_no_text_are_found_on_their_line(tmp_path, at):
    lines = [b"user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{n}\t\N{REPLACEMENT CHARACTER}{n % 9}\t{n}".encode() for n in range(30_000)]
    lines[at - 1] = lines[at - 1].replace(b"id" if at == 1 else b"u", b"caf\xe9", 1)
    (tmp_path / "x.inter").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=rf"line {at}\b.*not UTF-8 text"):
        read_coded(tmp_path / "x.inter", ["user_id", "item_id", "timestamp"])


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("SASRec", TABLE)])
def test_times_in_two_units_are_refused(walk, model, more):
    rows = [(u, i, (1_500_000_000 + t) * (1000 if u > "u3" else 1)) for u, i, t in walk_rows()]
    write_inter(walk / "dataset" / "walk" / "walk.inter", rows)
    with pytest.raises(UserError, match=r"walk.inter: times are in two units, 15\d+ looks like s and 15\d+ like ms"):
        prepared(model, **more)


@pytest.mark.parametrize("name", ["sample", "url", "kg_url"])
@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_a_data_set_may_have_the_name_of_a_file_of_recbole(folder, name, model):
    write_inter(folder / "dataset" / name / f"{name}.inter", walk_rows())
    write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows())
    assert orders_of(prepared(model, name).dataset) == orders_of(prepared(model).dataset)
    other, same = (make_config(model, dataset).final_config_dict for dataset in (name, "walk"))
    assert {k: v for k, v in other.items() if v != same.get(k)}.keys() == {"dataset", "data_path"}


@pytest.mark.parametrize(("model", "more"), [("ScaledSASRec", {}), ("SASRec", TABLE)])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user_inter_num_interval", 10),
        ("item_inter_num_interval", "[5,"),
        ("user_inter_num_interval", "5-10"),
        ("user_inter_num_interval", "[9,3]"),
        ("item_inter_num_interval", "[5,inf);x"),
        ("val_interval", {"timestamp": "(,5]"}),
        ("val_interval", {"timestamp": 5}),
        ("val_interval", "[1,5]"),
    ],
)
def test_a_filter_that_is_no_interval_is_refused_by_its_key(walk, model, more, key, value):
    with pytest.raises(UserError, match=f"^{key} .*must"):
        prepared(model, **more, **{key: value})


@pytest.mark.parametrize("value", ["[5,inf)", " ( 5 , inf ) ", [5, 30], "[5,6];[7,1e3]", "[-inf,inf]", None])
def test_intervals_as_users_write_them_are_taken(walk, value):
    assert prepared(user_inter_num_interval=value).dataset.user_num > 20
