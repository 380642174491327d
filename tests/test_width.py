"""The width rule: a coordinate check, flat over widths with the rule and not without; groups and rates as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUICK

import recbole_scale
from recbole_scale.runs.prepared import build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.training.checkpoint import load_checkpoint
from recbole_scale.training.optimizers import build_optimizer
from recbole_scale.training.trainer import ScaledSASRecTrainer

WIDTHS = (16, 32, 64, 128)
RATE = 0.001


def settings_of(width, **more):
    shape = {"hidden_size": width, "inner_size": 4 * width, "n_heads": width // 8}
    return {**QUICK, **shape, "hidden_dropout_prob": 0.0, "state": "error", **more}


def measured(width, rule):
    """Mean size of activations and of their change over ten steps: of each block, the hidden state and the logits."""
    prepared = prepare(make_config("ScaledSASRec", "walk", config_dict=settings_of(width, lr_rule=rule)))
    model = build_model(prepared)
    batch = prepared.train_data.batch(0)
    seen = {}
    hooks = [(f"block {i}", b) for i, b in enumerate(model.blocks)] + [("hidden", model.final_norm)]
    for name, module in hooks:
        module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out.detach().clone()))

    def look():
        with torch.no_grad():
            hidden = model(batch[model.ITEM_SEQ])
            return {**seen, "logits": hidden @ model.item_embedding.weight.T}

    before = look()
    optimizer = build_optimizer(model, "adam", RATE, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = RATE * group["lr_scale"]
    for _ in range(10):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    after = look()
    ratio = width / 64 if rule else 1.0  # what the last norm holds back is the logits', not the hidden state's
    size = {name: value.abs().mean().item() for name, value in after.items()}
    change = {f"change of {name}": (after[name] - before[name]).abs().mean().item() for name in after}
    found = size | change
    return {name: value * (ratio if "hidden" in name else 1) for name, value in found.items()}


def slopes(rule):
    """Exponent of each size over the width."""
    sizes = [measured(width, rule) for width in WIDTHS]
    x = np.log(WIDTHS)
    return {name: np.polyfit(x, np.log([size[name] for size in sizes]), 1)[0] for name in sizes[0]}


def test_activations_and_updates_are_flat_over_widths_with_the_rule_alone(walk):
    with_rule, without = slopes("width"), slopes(None)
    for name, slope in with_rule.items():
        # logits still hold their initial values, which fall with 1 / sqrt(width), as the rule wants it
        assert abs(slope) < (0.35 if "logits" in name else 0.15), (name, slope)
    for name in ("logits", "change of logits", "block 1", "change of block 1"):
        assert without[name] > 0.5, (name, without[name])


def test_rates_by_group_are_those_of_the_table(walk):
    config = make_config("ScaledSASRec", "walk", config_dict=settings_of(128, lr_rule="width"))
    assert config["learning_rate"] == 0.003  # tiny's, at the base width
    model = build_model(prepare(config))
    groups = build_optimizer(model, "adamw", 0.003, 0.01).param_groups
    rates = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {name: (1.0, 0.0) for name, _ in model.named_parameters()}
    for name in expected:
        if name.startswith("blocks") and name.endswith("weight") and "ln_" not in name:
            expected[name] = (0.5, 0.01)
        if name.startswith("final_norm"):
            expected[name] = (0.5, 0.0)
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == expected
    assert torch.equal(model.final_norm.weight, torch.full((128,), 0.5))
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02 / 2**0.5, rel=0.03)
    assert model.item_embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)


def test_at_the_base_width_the_rule_changes_nothing(walk):
    weights = []
    for rule in ("width", None):
        settings = settings_of(64, lr_rule=rule, epochs=1)
        config = make_config("ScaledSASRec", "walk", config_dict=settings)
        prepared = prepare(config)
        trainer = ScaledSASRecTrainer(config, build_model(prepared))
        trainer.fit(prepared.train_data, None, saved=False)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_with_the_rule_resumes_to_the_same_numbers(walk):
    settings = settings_of(32, lr_rule="width", epochs=3)
    whole = recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)
    last = whole["checkpoint"].replace(".best.", ".last.")
    assert {group["lr_scale"] for group in load_checkpoint(last)["optimizer"]["param_groups"]} == {1.0, 2.0}
    again = recbole_scale.run("ScaledSASRec", "walk", config_dict={**settings, "epochs": 4}, resume=last)
    assert again["test_result"] != whole["test_result"]
