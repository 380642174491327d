"""RecBole's corners: its data set's own methods on rows made on demand, parts without rows, odd columns, no epochs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import write_inter
from recbole_data import NAME, settings_of, with_first_weights, write_made

import recbole_scale
from recbole_scale.errors import UserError

TIMES = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


def both_tables(folder):
    """The training part of a run with rows on demand, and with RecBole's own table."""
    write_made(folder)
    parts = [with_first_weights("SASRec", rows_on_demand=wanted)[0].train_data._dataset for wanted in (True, False)]
    assert type(parts[0]).__name__ == "BaselineDataset" and type(parts[1]).__name__ == "SequentialDataset"
    return parts


def test_columns_of_rows_on_demand_are_recboles(folder):
    ours, stock = both_tables(folder)
    for field in ("user_id", "item_id", "item_id_list", "item_length", "timestamp", "timestamp_list"):
        assert torch.equal(ours.inter_feat[field], stock.inter_feat[field]), field
    assert set(ours.inter_feat.interaction) == set(stock.inter_feat.interaction)
    assert ours.inter_feat.numpy()["item_id_list"].shape == stock.inter_feat.numpy()["item_id_list"].shape
    assert ours.item_id_list_field == stock.item_id_list_field and ours.timestamp_list_field == "timestamp_list"
    assert list(ours.inter_feat) == list(ours.inter_feat.columns)


def test_matrices_of_rows_on_demand_are_recboles(folder):
    ours, stock = both_tables(folder)
    a, b = ours.inter_matrix(form="csr"), stock.inter_matrix(form="csr")
    assert a.shape == b.shape and (a != b).nnz == 0
    for found in (part.history_item_matrix() for part in (ours, stock)):
        assert found[0].shape[0] == ours.user_num
    np.testing.assert_array_equal(ours.history_item_matrix()[2], stock.history_item_matrix()[2])


def test_rows_on_demand_can_be_mixed_and_sorted_and_are_trained_on_so(folder):
    ours, _ = both_tables(folder)
    rows = ours.inter_feat
    before = rows["item_id"].clone()
    torch.manual_seed(0)
    rows.shuffle()
    assert not torch.equal(rows["item_id"], before) and torch.equal(rows["item_id"].sort()[0], before.sort()[0])
    assert torch.equal(rows[3:5]["item_id_list"], rows["item_id_list"][3:5])
    rows.sort(by="item_id")
    assert torch.equal(rows["item_id"], before.sort()[0])


SPLITS = {"no valid": {"LS": "test_only"}, "no test": {"LS": "valid_only"}, "a ratio of 0": {"RS": [0.8, 0.2, 0.0]}}
WHO = {"windows": ("ScaledSASRec", {}), "rows": ("GRU4Rec", {}), "table": ("GRU4Rec", {"rows_on_demand": False}),
       "general": ("BPR", TIMES)}  # fmt: skip


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("split", SPLITS)
def test_a_part_that_is_not_wanted_is_not_evaluated(folder, who, split):
    write_made(folder)
    model, more = WHO[who]
    settings = settings_of(model) | more | {"eval_args": {"split": SPLITS[split], "order": "TO"}}
    result = recbole_scale.run(model, NAME, config_dict=settings)
    parts = (result["best_valid_result"], result["test_result"])
    assert [bool(part) for part in parts] == [split != "no valid", split == "no valid"]
    row = json.loads((folder / "results" / "runs.jsonl").read_text())
    assert row["status"] == "ok" and bool(row["test_metrics"]) == bool(parts[1])


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("length", [1, 2])
def test_users_of_one_or_two_rows_leave_nothing_and_that_is_said(folder, who, length):
    rows = [(f"u{user}", f"i{(3 * user + k) % 11}", 10 * user + k) for user in range(20) for k in range(length)]
    write_inter(folder / "dataset" / "short" / "short.inter", rows)
    model, more = WHO[who]
    with pytest.raises(UserError, match=r"no interaction of 'short' is (held out for|left to train on)"):
        recbole_scale.run(model, "short", config_dict=settings_of(model) | more | TIMES)


@pytest.mark.parametrize("who", WHO)
def test_without_an_epoch_the_untrained_model_is_tested(folder, who):
    write_made(folder)
    model, more = WHO[who]
    result = recbole_scale.run(model, NAME, config_dict=settings_of(model) | more | {"epochs": 0})
    prepared, _, trainer = with_first_weights(model, **more)
    assert result["test_result"] == dict(trainer.evaluate(prepared.test_data, load_best_model=False))


COLUMNS = {
    "a discretised time": {**TIMES, "numerical_features": ["timestamp"],
                           "discretization": {"timestamp": {"method": "ED", "bucket": 5}}},
    "every column of every file": {"load_col": None},
    "columns of items": {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}},
}  # fmt: skip


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("columns", COLUMNS)
def test_odd_columns_train_and_rank(folder, who, columns):
    write_made(folder)
    model, more = WHO[who]
    settings = settings_of(model) | more | COLUMNS[columns]
    if (who, columns) == ("windows", "a discretised time"):
        with pytest.raises(UserError, match="histories are sorted by 'timestamp', which discretization makes pairs"):
            recbole_scale.run(model, NAME, config_dict=settings)
        return
    result = recbole_scale.run(model, NAME, config_dict=settings)
    assert result["test_result"]["nll"] > 0


def test_nones_inside_a_setting_are_empty(folder):
    from recbole_scale.settings import parse_value

    asked = "{'split': {'RS': [8, 1, 1]}, 'group_by': None}"
    assert parse_value(asked)["group_by"] is None and parse_value("[None, None1]") == [None, "None1"]


def test_a_run_without_a_row_says_so(folder, monkeypatch, capsys):
    from test_every_model import command

    write_made(folder)
    code, out, _ = command(monkeypatch, capsys, "Pop", results_file=None, **settings_of("Pop"))
    assert code == 0 and "None" not in out and "row         none (results_file is empty), run_id" in out
