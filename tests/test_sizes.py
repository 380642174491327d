"""The six shipped files: complete, known to the package, of the paper's shapes, and documented."""

from __future__ import annotations

import re

import pytest
from test_model import PAPER_N, make_config

from recbole_scale.errors import UserError
from recbole_scale.model.scaled_sasrec import attention_rates, dropout_rates
from recbole_scale.model.sizes import SIZE_NAMES, Shape, load_size, parameter_groups
from recbole_scale.settings import ScaledSASRecSettings, check_keys, load_settings_file, properties_folder

PROPERTIES = properties_folder()
ALL_FILES = sorted(
    str(path.relative_to(str(PROPERTIES))) for path in __import__("pathlib").Path(str(PROPERTIES)).rglob("*.yaml")
)
PAPER = {  # arXiv 2311.11351: layers, width, heads, epochs
    "tiny": (2, 64, 2, 30),
    "small": (4, 128, 4, 30),
    "base": (8, 128, 4, 30),
    "medium": (12, 256, 8, 27),
    "large": (24, 512, 8, 12),
    "xlarge": (48, 1200, 24, 12),
}


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_shipped_file_is_yaml_of_known_keys(name):
    settings = load_settings_file(str(PROPERTIES.joinpath(name)))
    assert settings
    check_keys(settings, f"in {name}")


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_a_size_has_the_papers_shape_and_n(size):
    rung = load_size(size)
    assert (rung["n_layers"], rung["hidden_size"], rung["n_heads"], rung["epochs"]) == PAPER[size]
    assert rung["size"] == size and rung["inner_size"] == 4 * rung["hidden_size"]
    shape = Shape.from_config(make_config(**rung), 100)
    assert parameter_groups(shape)["n_blocks"] == 12 * rung["n_layers"] * rung["hidden_size"] ** 2 == PAPER_N[size]


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_a_size_has_rates_that_fall_with_depth_and_reach_attention(size):
    config = make_config(attn_dropout_prob=None) | load_size(size)
    rates = dropout_rates(ScaledSASRecSettings.read(config))
    assert len(rates) == config["n_layers"] and rates == sorted(rates, reverse=True) and 0 < rates[-1] <= rates[0] < 0.5
    plain = size in ("tiny", "small", "base")  # measured without
    assert attention_rates(ScaledSASRecSettings.read(config)) == ([0.0] * len(rates) if plain else rates)


def test_learning_rates_fall_and_batches_grow_with_size():
    rungs = [load_size(size) for size in SIZE_NAMES]
    rates, batches = ([rung[key] for rung in rungs] for key in ("learning_rate", "train_batch_size"))
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1] > 0
    assert batches == sorted(batches) and batches[0] < batches[-1]


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_line_says_what_it_means(name):
    """`key: value  # (type) meaning` on every line that sets something, keys inside a mapping apart."""
    for line in PROPERTIES.joinpath(name).read_text("utf-8").splitlines():
        if re.match(r"\w+: ", line) and name.startswith(SIZE_NAMES):
            assert re.search(r"# \(\w+\) .{8,}", line), line


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_a_file_says_why_its_dropout_is_what_it_is(size):
    text = PROPERTIES.joinpath(f"{size}.yaml").read_text("utf-8")
    assert re.search(r"^# Dropout: .+", text, re.MULTILINE) and re.search(r"^# Learning rate and batch: .+", text, re.M)


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'large'"):
        load_size("larg")


def test_everything_counts_one_n_whatever_the_inner_size(walk):
    """The network's own matrices, its row, a sweep's plan and a challenge's row agree where inner_size is 8 d."""
    from recbole_scale.challenges import models
    from recbole_scale.model.sizes import Rung, matrices_of
    from recbole_scale.runs import plan
    from recbole_scale.runs.prepared import LoadedData, build_model, prepare
    from recbole_scale.runs.run import make_config
    from recbole_scale.sweep.sweep import Grid, plan_sweep

    wide = {"hidden_size": 32, "inner_size": 256, "n_layers": 2, "topk": [5], "state": "error"}
    prepared = prepare(make_config("ScaledSASRec", "walk", None, wide))
    network = build_model(prepared)
    matrices = sum(p.numel() for name, p in network.blocks.named_parameters() if p.ndim == 2)
    assert matrices == matrices_of(2, 32, 256) == 2 * (4 * 32**2 + 2 * 32 * 256) != 12 * 2 * 32**2
    assert plan.costs(prepared, network)["n_blocks"] == matrices
    opened = models.Checkpoint("x.best.pth", prepared.config, prepared.dataset, "f", "r")
    assert models.describe(opened, network)["n_blocks"] == matrices
    (point,) = plan_sweep(Grid("walk", (Rung("2x32", 0, {}),), settings=wide), LoadedData())
    assert point.n_blocks == matrices
    assert f"N {matrices / 1000:.3g}K" in plan.describe(prepared, network)
