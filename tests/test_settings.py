"""Settings: one source of defaults and documentation; each odd value of each key is taken or refused in a sentence."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import QUICK

import recbole_scale
from recbole_scale import cli
from recbole_scale.errors import UserError, shown
from recbole_scale.model.sizes import SIZE_NAMES, load_size
from recbole_scale.runs import plan
from recbole_scale.runs.prepared import LoadedData, build_model, prepare
from recbole_scale.runs.run import make_config
from recbole_scale.settings import (
    load_settings_file,
    parse_arguments,
    parse_value,
    properties_folder,
    settings_text,
    value_text,
    write,
)
from recbole_scale.settings.checks import UNDOCUMENTED, WORKED_OUT, documented
from recbole_scale.settings.keys import NORM_CLIPPING, ScaledSASRecSettings, SizeSettings
from recbole_scale.settings.kinds import PATH
from recbole_scale.settings.package_keys import FMLPRecSettings
from recbole_scale.settings.reading import folder_of
from recbole_scale.settings.recbole_keys import RecBoleDataSettings, RecBoleSettings
from recbole_scale.settings.typed import defaults

# One source ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(write.FILES))
def test_the_packaged_defaults_are_the_documented_ones(name):
    text = (properties_folder() / "model" / name).read_text("utf-8")
    assert text == write.FILES[name](), "run: python -m recbole_scale.settings.write"


@pytest.mark.parametrize(("model", "part"), [("ScaledSASRec", ScaledSASRecSettings), ("FMLPRec", FMLPRecSettings)])
def test_a_run_without_settings_has_the_documented_values(walk, model, part):
    config = make_config(model, "walk", None, {"topk": [5, 10]})
    own = defaults(part)
    for key in ("train_neg_sample_args", "dropout_bottom"):  # RecBole writes the first out in full
        own = {name: value for name, value in own.items() if name != key}
    expected = own | (load_size("tiny") if model == "ScaledSASRec" else {})
    assert {name: config[name] for name in expected} == expected
    typed = part.read({name: config[name] for name in own})
    assert all(getattr(typed, one.name) == config[one.name] for one in fields(typed) if one.name in expected)


def test_names_that_settings_take_are_those_that_the_model_has():
    from recbole_scale.model.layers import ACTIVATIONS as BUILT
    from recbole_scale.settings.keys import ACTIVATIONS, SIZES

    assert set(ACTIVATIONS) == set(BUILT) and SIZES == SIZE_NAMES


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_a_size_sets_what_is_documented_for_sizes(size):
    text = (properties_folder() / f"{size}.yaml").read_text("utf-8")
    docs = dict(re.findall(r"^(\w+):.*?# \(\w+\) (.*)$", text, flags=re.MULTILINE))
    keys = {one.name: one for one in SizeSettings.documented()}
    assert set(keys) <= set(load_size(size)) <= {*keys, "size", "attn_dropout_prob"}
    for name, one in keys.items():
        assert docs[name] == one.doc and one.kind.check(name, load_size(size)[name]) == load_size(size)[name]
    assert size != "tiny" or {n: load_size(size)[n] for n in keys} == defaults(SizeSettings)


@pytest.mark.parametrize(
    ("part", "file"), [(RecBoleSettings, "overall.yaml"), (RecBoleDataSettings, "dataset/sample.yaml")]
)
def test_defaults_and_documentation_of_recboles_keys_are_recboles(part, file):
    text = Path(folder_of("recbole"), "properties", file).read_text("utf-8")
    theirs = yaml.safe_load(text)
    told = dict(re.findall(r"^(\w+)\s*:[^#]*#\s*\([^)]*\)\s*(.*?)\s*$", text, flags=re.MULTILINE))
    ours = {one.name: one for one in part.documented()}
    assert set(ours) == set(theirs) - {"kg_reverse_r"} | ({"kg_reverse_r"} & set(theirs))
    assert {name: one.default for name, one in ours.items()} == theirs
    for name, one in ours.items():
        assert one.kind.check(name, one.default) in (one.default, str(one.default).lower()), name
        assert name not in told or one.doc == told[name], name


def test_every_default_of_every_recbole_model_is_of_its_kind():
    checked = 0
    for path in sorted(Path(folder_of("recbole"), "properties", "model").glob("*.yaml")):
        for name, one in documented(path.stem).items():
            assert one.kind.check(name, one.default) == one.default or name in ("state", "learner")
            checked += 1
    assert checked > 90 * 80


# The table of odd values --------------------------------------------------------------------------------------------

ODD = ("banana", "-1", "0", "[1, 2]", "{a: 1}", "1e99", "None", "True", "1e-3", "2.5")
RATES = ("0", "1e-3")
# what is no nonsense of them, by key; every other pair must be refused
TAKEN = {
    **dict.fromkeys(
        ("activation_checkpointing", "compile", "cut_items", "data_cache", "detect_anomaly", "enable_amp",
         "enable_scaler", "filter_inter_by_user_or_item", "kg_reverse_r", "mask_history", "normalize_all",
         "optimizer_switch", "repeatable", "reproducibility", "require_pow", "rows_on_demand", "show_progress",
         "shuffle", "tf32", "use_gpu", "valid_metric_bigger"), ("True",)),
    **dict.fromkeys(
        ("additional_feat_suffix", "alias_of_entity_id", "alias_of_item_id", "alias_of_relation_id",
         "alias_of_user_id", "benchmark_filename", "clip_grad_norm", "dataloaders_save_path", "dataset_save_path",
         "discretization", "dropout_rates", "load_col",
         "normalize_field", "preload_weight", "rm_dup_inter", "shard_group", "softmax_chunk",
         "switch_at_epoch", "switch_patience", "test_users", "threshold", "train_neg_sample_args", "transform",
         "unload_col", "unused_col", "val_interval", "valid_users", "window_stride"), ("None",)),
    **dict.fromkeys(
        ("ENTITY_ID_FIELD", "HEAD_ENTITY_ID_FIELD", "ITEM_LIST_LENGTH_FIELD", "LABEL_FIELD", "LIST_SUFFIX",
         "NEG_PREFIX", "POSITION_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "checkpoint_dir",
         "seq_separator"), ("banana",)),
    **dict.fromkeys(("RATING_FIELD", "per_user_file", "results_file"), ("banana", "None")),
    **dict.fromkeys(
        ("epochs", "eval_step", "loss_decimal_place", "metric_decimal_place", "save_step", "seed",
         "worker"),
        ("0",)),
    **dict.fromkeys(("dropout_bottom", "dropout_top", "lr_min_ratio", "sce_power", "sgd_momentum"), RATES),
    **dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob", "dropout_embedding"), ("0", "None", "1e-3")),
    **dict.fromkeys(("learning_rate", "sgd_learning_rate", "initializer_range"), ("1e-3", "2.5")),
    **dict.fromkeys(("weight_decay", "sgd_weight_decay"), ("0", "1e-3", "2.5")),
    "decay_share": ("1e-3",),
    **dict.fromkeys(("entity_kg_num_interval", "relation_kg_num_interval"), ("[1, 2]", "None")),
    "item_inter_num_interval": ("None",),
    "user_inter_num_interval": ("None",),
    "lr_rule": ("None",),
    **dict.fromkeys(("async_checkpoints", "pad_heads"), ("None", "True")),
    "share_trunk": ("True",),
    "warmup_steps": ("0", "None"),
    "gpu_id": ("-1", "0", "[1, 2]"),
    "layer_norm_eps": ("1e-3",),
    "seq_len": ("{a: 1}", "None"),  # a column that is not there has no length to cut
    "spike_factor": ("None", "2.5"),
    "topk": ("[1, 2]",),
    "train_budget_seconds": ("None", "1e-3", "2.5"),
    **dict.fromkeys(("device", "encoding"), ("None",)),
    "ip": ("banana",),
    **dict.fromkeys(("group_offset", "offset", "port"), ("0",)),
    "world_size": ("-1", "0"),
    "wandb_project": ("banana", "-1", "0", "1e-3", "2.5"),
}  # fmt: skip
BASE = {"topk": "[5]", "epochs": 1, "state": "error", "show_progress": False, "hidden_size": 16, "inner_size": 32}
# what a refusal names besides: the column or file that is not there
NOT_THERE = {
    "threshold": "Field [a]",
    "additional_feat_suffix": "walk.banana]",
    "eval_args": "'a': 1",
    "data_path": "banana",
    "item_inter_num_interval": "the data is empty",
    "user_inter_num_interval": "the data is empty",
}
PLANNED = LoadedData()


def outcome(key, value, **more):
    """None for a value that the plan takes, else the sentence that refuses it."""
    try:
        config = make_config("ScaledSASRec", "walk", None, {**BASE, **more, key: value})
        prepared = prepare(config, PLANNED)
        plan.describe(prepared, build_model(prepared))
    except UserError as refusal:
        return str(refusal)
    return None


KEYS = sorted({*documented("ScaledSASRec"), *UNDOCUMENTED, *WORKED_OUT})


def test_the_table_has_every_key_that_a_run_reads(walk):
    read = set(make_config("ScaledSASRec", "walk", None, {"topk": [5]}).final_config_dict) - {"model", "dataset"}
    assert read <= set(KEYS) and len(KEYS) * len(ODD) >= 1500, f"{len(KEYS)} keys x {len(ODD)} values"


@pytest.mark.parametrize("key", KEYS)
def test_every_odd_value_of_a_key_is_taken_or_refused_in_one_sentence(walk, key):
    taken = [value for value in ODD if (sentence := outcome(key, value)) is None or not told(key, value, sentence)]
    assert tuple(taken) == TAKEN.get(key, ())


def told(key, value, sentence):
    """A refusal is one short line that names the key, and the value where the value is what is wrong."""
    assert "\n" not in sentence and len(sentence) < 600
    assert key in sentence or NOT_THERE.get(key, "\0") in sentence
    if key in WORKED_OUT:
        return True
    quoted = shown(parse_value(value))
    assert quoted in sentence or value.strip("{}[]") in sentence or NOT_THERE.get(key, "\0") in sentence, sentence
    return True


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", "2.5"), ("weight_decay", "2.5"), ("sgd_momentum", "0"), ("initializer_range", "2.5"),
     ("lr_min_ratio", "0"), ("clip_grad_norm", "None"), ("eval_step", "0"), ("seed", "0"),
     ("metric_decimal_place", "0"), ("enable_amp", "True"), ("train_budget_seconds", "1e-3"), ("topk", "[1, 2]")],
)  # fmt: skip
def test_what_the_plan_takes_trains(walk, key, value):
    settings = {**QUICK, "epochs": 1, "n_layers": 1, "topk": [5, 10], "state": "error", key: value}
    assert recbole_scale.run("ScaledSASRec", "walk", config_dict=settings)["checkpoint"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": -1}, "epochs is -1, but must be a whole number from 0"),
        ({"seed": "abc"}, "seed is 'abc', but must be a whole number from 0"),
        ({"clip_grad_norm": 5}, "clip_grad_norm is 5, but must be a mapping such as {max_norm: 1.0}"),
        ({"clip_grad_norm": {"norm_type": 2}}, "clip_grad_norm is {'norm_type': 2}, but must be"),
        ({"train_batch_size": -5}, "train_batch_size is -5"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH is 0"),
        ({"log_wandb": True}, "pip install wandb"),
        ({"user_inter_num_interval": "10"}, "user_inter_num_interval is 10, but must be an interval"),
        ({"user_inter_num_interval": "[5,"}, "user_inter_num_interval is '[5,'"),
        ({"item_inter_num_interval": "[5,1]"}, "item_inter_num_interval is"),
        ({"switch_at_epoch": 9, "epochs": 5}, "switch_at_epoch is 9, but must be a whole number from 1 to epochs (5)"),
        ({"dropout_rates": [0.1, 0.1, 0.1]}, "dropout_rates has 3 rates"),
        ({"train_budget_seconds": "10s"}, "train_budget_seconds is '10s', but must be a number above 0, or empty"),
        ({"train_budget_seconds": 5, "world_size": 2}, "train_budget_seconds is for one process"),
        ({"sce_power": 2}, "sce_power is 2, but must be a number from 0 to 1"),
        ({"spike_factor": 1}, "spike_factor is 1, but must be a number above 1, or empty"),
        ({"valid_metric": "NDCG"}, "write NDCG@5, say"),
        ({"valid_metric": "NLL@5"}, "valid_metric NLL@5 is not measured"),
        ({"metrics": ["NDGC"]}, "no metric named 'NDGC'; did you mean 'ndcg'?"),
        ({"eval_args": {"mode": "uni5"}, "metrics": ["NLL"], "valid_metric": "NLL"}, "NLL needs the full ranking"),
        ({"eval_args": {"mode": "uni0"}}, "mode must be"),
        ({"eval_args": {"splits": {}}}, "did you mean 'split'?"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "softmax over all items"),
        ({"load_col": {"inter": ["item_id", "timestamp"]}}, "leave out 'user_id', the USER_ID_FIELD"),
        ({"topk": []}, "topk is [], but must be a list"),
        ({"size": ["tiny"]}, "size is ['tiny'], but must be one of"),
        ({"hidden_size": 10**400}, "hidden_size is a number of 401 digits"),
        ({"wandb_project": "x" * 300_000}, "wandb_project is 'xxx"),
        ({"local_rank": 0}, "local_rank is 0, but needs offset, world_size, nproc, ip and port"),
        ({"MODEL_TYPE": "General"}, "MODEL_TYPE follows from the model and cannot be set"),
        ({"eval_type": "VALUE"}, "eval_type follows from metrics and cannot be set"),
        ({"encoding": "latin-2000"}, "encoding is 'latin-2000', but must be the name of an encoding"),
        ({"device": "cuda0"}, "device is 'cuda0', but must be cpu or cuda"),
        ({"device": "cuda:3"}, "device is 'cuda:3', but must be cpu or cuda"),
        ({"encoding": "hex"}, "encoding is 'hex', but must be the name of an encoding"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_it_must_be(walk, settings, says):
    with pytest.raises(UserError) as refusal:
        make_config("ScaledSASRec", "walk", None, {"topk": [5], **settings})
    assert says in str(refusal.value) and len(str(refusal.value)) < 600


def test_values_are_read_in_the_keys_own_type(walk):
    config = make_config("ScaledSASRec", "walk", None, {"topk": "5", "warmup_steps": "1e2", "dropout_top": "0",
                                                        "learner": "AdamW", "field_separator": "\t"})  # fmt: skip
    found = [config[key] for key in ("topk", "warmup_steps", "dropout_top", "learner", "field_separator")]
    assert found == [[5], 100, 0.0, "adamw", "\t"] and [type(v) for v in found[1:3]] == [int, float]
    one = {"nproc": 1, "world_size": 1, "port": 0, "ip": "::1", "encoding": "latin-1", "device": "cpu"}
    config = make_config("ScaledSASRec", "walk", None, {"topk": [5], "eval_args": {"mode": "full"}, **one})
    assert {key: config[key] for key in list(one)[:4]} == dict(list(one.items())[:4])
    assert (config["encoding"], str(config["device"])) == ("iso8859-1", "cpu")
    for norm_type in (0.5, 1, 2):
        assert NORM_CLIPPING.read({"max_norm": 1, "norm_type": norm_type})["norm_type"] == norm_type
    assert PATH.check("results_file", "a" * 4000) == "a" * 4000
    with pytest.raises(UserError):
        PATH.check("results_file", "a" * 4001)
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}  # what is not given keeps its default


def test_what_a_run_would_write_is_looked_at_first(walk):
    (walk / "file").write_text("")
    for settings, says in (
        ({"checkpoint_dir": "file"}, "checkpoint_dir is 'file', which is a file"),
        ({"results_file": "file/rows.jsonl"}, "results_file is 'file/rows.jsonl', but "),
        ({"results_file": "dataset"}, "which is a folder"),
        ({"per_user_file": "dataset"}, "per_user_file is 'dataset', which is a folder"),
    ):
        with pytest.raises(UserError) as refusal:
            make_config("ScaledSASRec", "walk", None, {"topk": [5], **settings})
        assert says in str(refusal.value)


def test_a_list_may_stand_without_its_brackets(walk):
    config = make_config("ScaledSASRec", "walk", None, {"topk": "5, 20", "metrics": "NDCG,NLL"})
    assert (config["topk"], config["metrics"], config["valid_metric"]) == ([5, 20], ["NDCG", "NLL"], "NDCG@5")


# YAML and names -----------------------------------------------------------------------------------------------------

BOMB = "[&a0 [" + ", ".join("1" * 9) + "], " + ", ".join(
    f"&a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)) + "]"  # fmt: skip
NO_VALUES = ["2001-13-45", "0x_", "0b_", "!!int foo", "!!bool maybe", "9" * 5000, "0x" + "f" * 5000, "[" * 3000,
             "&x [*x]", BOMB, "!!python/object/apply:os.getpid []", "{a: 1, a: 2}", "!!float x", "? [1]"]  # fmt: skip


@pytest.mark.parametrize("text", NO_VALUES, ids=[text[:20] for text in NO_VALUES])
@pytest.mark.parametrize("key", ["topk", "dropout_rates", "seed"])
def test_a_value_that_yaml_cannot_read_is_refused_in_a_short_sentence(walk, text, key):
    (settings,) = [parse_arguments([f"--{key}={text}"])]
    with pytest.raises(UserError) as refusal:
        make_config("ScaledSASRec", "walk", None, settings)
    assert str(refusal.value).startswith(f"{key} is ") and len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", NO_VALUES[3:5] + NO_VALUES[7:], ids=lambda text: text[:20])
def test_a_config_file_that_yaml_cannot_read_is_refused_with_its_line(walk, text):
    Path("odd.yaml").write_text(f"seed: 1\ntopk: {text}\n")
    with pytest.raises(UserError, match=r"^odd.yaml.*not YAML \(|^topk is ") as refusal:
        make_config("ScaledSASRec", "walk", ["odd.yaml"])
    assert len(str(refusal.value)) < 400


def test_a_key_twice_in_a_file_is_told_with_its_line(folder):
    Path("twice.yaml").write_text("epochs: 3\nseed: 1\nepochs: 4\n")
    with pytest.raises(
        UserError, match=r"twice.yaml, line 3, column 1: not YAML \(the key 'epochs' stands there twice"
    ):
        load_settings_file("twice.yaml")
    Path("same.yaml").write_text("base: &b {x: 1}\nmore:\n  <<: *b\n  x: 2\n")
    assert load_settings_file("same.yaml")["more"] == {"x": 2}  # merging stays


def test_dates_stay_text_and_blanks_stay_blanks():
    assert [parse_value(text) for text in ("2001-01-31", " ", "\t", "", "1e3", "0x1f")] == [
        "2001-01-31", " ", "\t", None, 1000.0, 31]  # fmt: skip


@pytest.mark.parametrize("name", ["/etc/passwd", "a/b", "x" * 300, "a\0b", "..", ".", "", " ", "..\\x", 5, None])
@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec", "BPR"])
def test_a_data_sets_name_is_a_name(walk, name, model):
    with pytest.raises(UserError, match=r"^dataset is .*, but must be the name of a folder"):
        make_config(model, None, None, {"dataset": name, "topk": [5]})


def test_a_data_set_named_as_a_file_of_recboles_is_read_like_any_other(folder):
    from conftest import walk_rows, write_inter

    for name in ("sample", "url"):
        write_inter(folder / "dataset" / name / f"{name}.inter", walk_rows())
        prepared = prepare(make_config("ScaledSASRec", name, None, {"topk": [5], "state": "error"}))
        assert prepared.dataset.user_num == 61


def test_making_a_config_changes_nothing_outside_it(walk, monkeypatch):
    import logging
    import os

    import torch
    import torch.distributed

    def outside():
        log = logging.getLogger()
        process = dict(os.environ), os.getcwd(), sorted(os.listdir()), log.level, log.handlers[:]
        return *process, torch.is_anomaly_enabled(), torch.get_num_threads(), torch.get_rng_state().tolist()

    before = outside()
    several = {"local_rank": 1, "nproc": 2, "world_size": 2, "offset": 0, "ip": "localhost", "port": 1}
    config = make_config("ScaledSASRec", "walk", None,
                         {"topk": [5], "gpu_id": "3", "detect_anomaly": True, **several})  # fmt: skip
    assert outside() == before
    assert not torch.distributed.is_initialized() and config["device"].type in ("cpu", "cuda")
    assert config["state"] == "error"  # what ranks but the first say


# Search spaces --------------------------------------------------------------------------------------------------------

ODD_SPACES = [
    ("learning_rate quniform 0,1,1e-12", "has more than 1,000,000,000 steps"),
    ("learning_rate loguniform -800,800", "natural logarithms, of which none is beyond"),
    ("learning_rate uniform 0,1e400", "are not numbers"),
    (f"n_layers quniform 1,{'9' * 5000},1", "are not numbers"),
    ("n_layers quniform 1,1e300,1e-300", "are not numbers"),
    ("hidden_dropout_prob uniform 0,2", "hidden_dropout_prob is 2"),
    ("n_layers choice [1, banana]", "n_layers is 'banana', but must be a whole number"),
    ("n_layers choice [[1]]", "n_layers is [1]"),
    ("n_layers choice " + "[" * 3000, "is no list of values"),
    ("n_layers choice &a [*a]", "is no list of values"),
    ("learning_rate choice [" + "1e-3, " * 30_000, "is no list of values"),
    ("learning_rate quniform 0,1,nan", "are not numbers"),
    ("learner choice [adamw, adamx]", "learner is 'adamx'"),
    ("\0 choice [1]", "unknown key"),
]


@pytest.mark.parametrize(("line", "says"), ODD_SPACES, ids=[line[:30] for line, _ in ODD_SPACES])
def test_an_odd_search_space_is_refused_at_once_with_its_line(folder, line, says):
    from recbole_scale.search.space import read_space

    Path("odd.hyper").write_text(f"# a space\n{line}\n")
    with pytest.raises(UserError) as refusal:
        read_space("odd.hyper", "ScaledSASRec")
    sentence = str(refusal.value)
    assert sentence.startswith("odd.hyper, line 2: ") and says in sentence and len(sentence) < 600


TEXTS = [
    "1e-3",
    "no",
    "[a]",
    "007",
    "a: b",
    "None",
    "~",
    "",
    " x ",
    "a #b",
    "#b",
    "'",
    '"',
    "{",
    "a\nb",
    "caf\u00e9",
    "\U0001f600",
    "\u2028",
    "\x7f",
    "- a",
    "2020-01-01",
    "0x1F",
    "1_000",
    "null",
    "True",
    "@x",
    "%x",
    "a, b",
    "!!int 3",
    "&a",
    "*a",
    "=",
    "x y",
]


@pytest.mark.parametrize(
    "value", [*TEXTS, TEXTS, {"a": TEXTS, "b": None}, 1e-5, 3, True, None, [5, 10], {"LS": "valid_and_test"}]
)
def test_a_value_that_is_handed_on_arrives_as_it_is(tmp_path, value):
    """On the command line of another process, through the parser there, and in a file."""
    _, settings = cli.parser_of("run_recbole").parse_with_settings([f"--key={value_text(value)}", "--other=1"])
    assert settings == {"key": value, "other": 1} and type(settings["key"]) is type(value)
    (tmp_path / "x.yaml").write_bytes(settings_text({"key": value}).encode("utf-8-sig"))
    assert load_settings_file(str(tmp_path / "x.yaml")) == {"key": value}
    if isinstance(value, str) and re.fullmatch(r"\w+ \w+|\w+, \w+", value):
        assert value_text(value) == value  # what needs no quotes has none


def test_a_fine_grid_is_counted_and_not_listed(folder):
    from itertools import islice

    from recbole_scale.search.space import exhaustive, read_space, samples, space_size

    Path("fine.hyper").write_text("learning_rate quniform 0.1,1,1e-9\n")
    space = read_space("fine.hyper", "ScaledSASRec")
    assert space_size(space) == 900_000_001
    drawn = list(islice(samples(space, 1), 20_000))
    assert 5000 < len(drawn) < 9002 and len(drawn) == len({repr(one) for one in drawn})  # four digits: 9,001 values
    with pytest.raises(UserError, match="cannot try 900,000,001 settings"):
        exhaustive(space, 1)
