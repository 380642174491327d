"""``sweep --tune``: the same number of rates for each shape, on another seed, by valid loss, told in the rows."""

from __future__ import annotations

import json

import pytest
from conftest import QUICK

from recbole_scale.errors import UserError
from recbole_scale.fit.rows import as_rows
from recbole_scale.model.sizes import rung_of
from recbole_scale.runs import records
from recbole_scale.sweep import command
from recbole_scale.sweep.sweep import Grid
from recbole_scale.sweep.tuning import Tuning

SETTINGS = [f"--MAX_ITEM_LIST_LENGTH={QUICK['MAX_ITEM_LIST_LENGTH']}", "--train_batch_size=256", "--topk=[5, 10]"]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_shape_gets_the_best_of_as_many_rates_and_its_rows_say_so(walk, capsys):
    arguments = ["--dataset", "walk", "--shapes", "1x8x1", "2x16x2", "--seeds", "1", "2", "--epochs", "1", "2",
                 "--tune", "3", "--rows", "r.jsonl", *SETTINGS]  # fmt: skip
    assert command.main(arguments) == 0
    trials, rows = rows_of(walk / "r.tuning.jsonl"), rows_of(walk / "r.jsonl")
    assert len(trials) == 6 and {row["seed"] for row in trials} == {9} and {row["epochs"] for row in trials} == {1}
    assert len(rows) == 2 * 2 * 2 and {row["seed"] for row in rows} == {1, 2}
    for width in (8, 16):
        tried = {row["settings"]["learning_rate"]: row["best_valid_nll"] for row in trials if row["d_model"] == width}
        assert sorted(tried) == [0.0015, 0.003, 0.006]  # around tiny's own
        best = min(tried, key=tried.__getitem__)
        for row in (row for row in rows if row["d_model"] == width):
            assert row["settings"]["learning_rate"] == row["tuning"]["learning_rate"] == best
            assert row["tuning"]["valid_nll"] == {f"{rate:g}": nll for rate, nll in sorted(tried.items())}
            assert row["tuning"]["at_the_edge"] == (best != 0.003)
    assert not list(walk.glob("saved/*.last.pth")) and len(list(walk.glob("saved/*.best.pth"))) == len(rows)
    capsys.readouterr()
    assert command.main(arguments) == 0  # finished trials are skipped too
    assert len(rows_of(walk / "r.tuning.jsonl")) == 6 and len(rows_of(walk / "r.jsonl")) == 8
    told = capsys.readouterr().out
    assert "6 runs, 6 of them finished" in told and "8 runs, 8 of them finished" in told
    assert len(as_rows(records.read_rows("r.jsonl"))) == 8  # what laws read


def test_a_dry_run_trains_nothing(walk, capsys):
    arguments = ["--dataset", "walk", "--shapes", "1x8x1", "--tune", "0.01", "0.1", "--rows", "r.jsonl", "--dry_run"]
    assert command.main([*arguments, *SETTINGS]) == 0
    told = capsys.readouterr().out
    assert "rate 0.01" in told and "rate 0.1" in told and "then each shape's runs" in told
    assert not list(walk.glob("*.jsonl"))


@pytest.mark.parametrize(
    "tune, seeds, settings, says",
    [
        ([3], (9,), {}, "--tune_seed 9 is one of the sweep's --seeds"),
        ([3], (1,), {"learning_rate": 0.1}, "give one of them"),
        ([1], (1,), {}, "--tune 1 must be 2 to 12"),
        ([0.1], (1,), {}, "at least two rates"),
        ([0.1, -1], (1,), {}, "at least two rates above 0"),
        ([float("nan"), 0.1], (1,), {}, "at least two rates above 0"),
    ],
)
def test_mistakes_are_one_sentence(walk, tune, seeds, settings, says):
    grid = Grid("walk", (rung_of("1x8x1"),), seeds=seeds, settings=settings)
    with pytest.raises(UserError, match=says):
        Tuning.of(grid, tune, 9, None)
