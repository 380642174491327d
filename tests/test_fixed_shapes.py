"""`compile: graphs`: batches of a few shapes, padded, give the numbers of batches that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUICK
from torch import nn

from recbole_scale.data.windows import TARGET_LIST, batch_windows, cut_windows, fixed_widths, widths_of
from recbole_scale.errors import UserError
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training import parallel
from recbole_scale.training.accumulation import accumulate
from recbole_scale.training.optimizers import build_optimizer, clear_gradients
from recbole_scale.training.parallel import BatchLoss

SETTINGS = {**QUICK, "hidden_dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": 20, "train_batch_size": 160}


@pytest.mark.parametrize("longest", [1, 7, 8, 9, 50, 64, 65, 200])
def test_widths_are_few_and_each_length_has_the_next(longest):
    widths = fixed_widths(longest)
    assert len(widths) <= 8 and widths[-1] == longest and (np.diff(widths) > 0).all()
    assert all(width % 8 == 0 for width in widths[:-1])
    found = widths_of(np.arange(1, longest + 1), widths)
    for length, width in enumerate(found, 1):
        assert width == min(w for w in widths if w >= length)


def test_every_window_is_in_one_batch_within_the_budget():
    rng = np.random.default_rng(0)
    windows = cut_windows(np.arange(300) * 90, rng.integers(0, 90, 300), 50, 25, rng)
    widths = fixed_widths(50)
    batches = batch_windows(windows, 400, rng, widths)
    assert sorted(np.concatenate(batches)) == list(range(len(windows)))
    full = 0
    for batch in batches:
        width = widths_of(windows.length[batch].max(), widths)
        assert len(batch) <= 400 // width
        full += len(batch) == 400 // width
    assert full >= len(batches) - 1  # only the windows' last batch is short


@pytest.fixture
def loader(walk):
    config = make_config("ScaledSASRec", "walk", config_dict={**SETTINGS, "compile": "graphs"})
    config.final_config_dict["compile"] = False  # the model is built without a compiler, the loader is as it was
    prepared = prepare(config)
    config.final_config_dict["compile"] = "graphs"
    made = type(prepared.train_data)(config, prepared.train_data.dataset)
    config.final_config_dict["compile"] = False
    return made, build_model(prepared)


@pytest.mark.parametrize("pieces, world", [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_what_a_process_is_given_has_one_shape_a_width(loader, pieces, world):
    loader, _ = loader
    shapes = {tuple(part[TARGET_LIST].shape) for step in range(len(loader)) for rank in range(world)
              for part, _ in loader.parts(step, pieces, rank, world)}  # fmt: skip
    assert {width for _, width in shapes} <= {8, 16, 20}
    assert len(shapes) == len({width for _, width in shapes}) > 1
    targets = sum(int((part[TARGET_LIST] > 0).sum()) for step in range(len(loader)) for rank in range(world)
                  for part, weight in loader.parts(step, pieces, rank, world) if weight)  # fmt: skip
    assert targets == loader.n_targets
    assert 0 < loader.padding < 1


def test_padded_rows_and_columns_change_neither_loss_nor_gradients(loader):
    loader, model = loader
    model.train()
    padded = 0
    for step in range(len(loader)):
        batch, index = loader.batch(step), loader.batches[step]
        plain = loader._gather(index, None)
        padded += batch[TARGET_LIST].shape != plain[TARGET_LIST].shape
        found = []
        for one in (batch, plain):
            model.zero_grad()
            loss = model.calculate_loss(one)
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters())])
        for ours, twin in zip(*found, strict=True):
            torch.testing.assert_close(ours, twin, atol=1e-6, rtol=1e-5)
    assert padded > len(loader) / 2


def test_gradients_that_stay_where_they_are_add_up_to_the_same(loader):
    loader, model = loader
    parts, found = loader.parts(0, 3), []
    optimizer = build_optimizer(model, "adamw", 0.0, 0.0)
    for keep in (False, True, True):
        clear_gradients(optimizer, model.blocks.parameters() if keep else ())
        places = [p.grad.data_ptr() for p in model.parameters() if p.grad is not None]
        assert len(places) == (len(list(model.blocks.parameters())) if keep else 0)
        accumulate(BatchLoss(model.train()), parts, lambda: torch.autocast("cpu", enabled=False), "cpu")
        assert not keep or places == [p.grad.data_ptr() for p in model.blocks.parameters()]
        found.append([p.grad.clone() for p in model.parameters()])
    for first, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, first, atol=1e-7, rtol=1e-6)


def test_what_does_not_go_together_with_graphs_is_one_sentence(walk, monkeypatch):
    with pytest.raises(UserError, match="compile: graphs keeps what activation_checkpointing computes again"):
        build_model(
            prepare(
                make_config(
                    "ScaledSASRec",
                    "walk",
                    config_dict={**SETTINGS, "compile": "graphs", "activation_checkpointing": True},
                )
            )
        )
    monkeypatch.setattr(parallel.group, "world_size", lambda: 2)
    model = nn.Linear(2, 2)
    model.graphs = True
    with pytest.raises(UserError, match="fsdp gathers them anew; take compile: True"):
        parallel.data_parallel(model, "fsdp")


def test_graphs_is_a_value_of_the_key_and_names_another_run(walk):
    from recbole_scale.settings import run_id

    plain, graphs = (make_config("ScaledSASRec", "walk", config_dict={**SETTINGS, "compile": kind})
                     for kind in (False, "graphs"))  # fmt: skip
    assert run_id(plain) != run_id(graphs)
    assert prepare(plain).train_data.widths is None
    with pytest.raises(UserError, match="compile"):
        make_config("ScaledSASRec", "walk", config_dict={**SETTINGS, "compile": "graph"})
