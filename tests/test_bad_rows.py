"""Lines that RecBole's reader takes in silence: refused by name, or read as it reads them and counted."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import walk_rows, write_inter

from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.run import make_config
from recbole_scale.settings import run_id

MODELS = [
    ("ScaledSASRec", {}),
    ("GRU4Rec", {"train_neg_sample_args": None}),
    ("SASRec", {"train_neg_sample_args": None, "rows_on_demand": False}),
    ("BPR", {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}),
]


def prepared(model, **settings):
    own = {"topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5", "state": "warning"}
    return prepare(make_config(model, "walk", config_dict={**own, **settings}))


@pytest.fixture
def untidy(walk):
    """The walk with two lines of one column more, one without a user, two without an item."""
    path = walk / "dataset" / "walk" / "walk.inter"
    head, *lines = path.read_text().splitlines()
    lines[3] += "\textra"
    lines[8] += "\t"
    lines[20:20] = ["\ti1\t5", "u1\t\t6", "\t\t7"]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.mark.parametrize(("model", "more"), MODELS)
def test_they_are_read_as_recbole_reads_them_and_counted(untidy, caplog, model, more):
    found = prepared(model, bad_rows="as_recbole", **more)
    assert caplog.text.count("2 lines with more columns than the header are cut, 3 lines without a user or item") == 1
    write_inter(untidy, walk_rows())
    tidy = prepared(model, **more)
    for field in ("user_id", "item_id"):
        assert found.dataset.field2id_token[field].tolist() == tidy.dataset.field2id_token[field].tolist()
    for ours, theirs in ((found.train_data, tidy.train_data), (found.test_data, tidy.test_data)):
        assert len(ours._dataset) == len(theirs._dataset)
    assert found.config["bad_rows"] == "as_recbole" and run_id(found.config) == run_id(tidy.config)


@pytest.mark.parametrize(("model", "more"), MODELS)
@pytest.mark.parametrize("line", ["u1\ti1\t5\tx", "\ti1\t5", "u1\t\t5"])
def test_without_the_key_they_are_refused_and_it_is_named(walk, model, more, line):
    path = walk / "dataset" / "walk" / "walk.inter"
    path.write_text(path.read_text() + line + "\n")
    end = path.read_text().count("\n")
    with pytest.raises(UserError, match=rf"walk.inter, line {end}\b.*; bad_rows: as_recbole reads such lines"):
        prepared(model, **more)


@pytest.mark.parametrize("line", ["u1\ti1", "u1\ti1\t", "u1\ti1\tsoon", "u1\t[PAD]\t5", "u1\ti1\tinf\tx"])
def test_what_has_no_right_reading_stays_refused(walk, line):
    path = walk / "dataset" / "walk" / "walk.inter"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"walk.inter, line {path.read_text().count(chr(10))}\b"):
        prepared("ScaledSASRec", bad_rows="as_recbole")


def test_pandas_which_recbole_reads_with_cuts_such_lines_too(untidy):
    frame = pd.read_csv(untidy, delimiter="\t", engine="python", dtype=str,
                        usecols=["user_id:token", "item_id:token", "timestamp:float"])  # fmt: skip
    assert len(frame.dropna()) == len(walk_rows()) and len(frame) == len(walk_rows()) + 3


@pytest.mark.parametrize(("model", "more"), MODELS)
def test_ids_that_pandas_takes_for_nothing_are_ids(walk, model, more):
    path = walk / "dataset" / "walk" / "walk.inter"
    write_inter(path, [*walk_rows(), *[(user, "null", 99) for user in ("NA", "nan", "u1")], ("NA", "i1", 100)])
    names = prepared(model, **more).dataset.field2id_token
    assert {"NA", "nan"} <= set(names["user_id"]) and "null" in names["item_id"]
    frame = pd.read_csv(path, delimiter="\t", engine="python", dtype=str)  # as RecBole calls it
    assert frame.isna().to_numpy().sum() == 6
