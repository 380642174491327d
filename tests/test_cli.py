"""The command line: RecBole's flags, safe values, the plan, and one sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import walk_rows, write_inter

import recbole_scale
from recbole_scale import cli
from recbole_scale.errors import UserError, exit_code
from recbole_scale.settings import find_settings_file, load_settings_file, parse_arguments, parse_value

SHAPE = ["--hidden_size=16", "--inner_size=32", "--MAX_ITEM_LIST_LENGTH=10", "--epochs=1", "--topk=[5]",
         "--metrics=[Recall,NLL]", "--show_progress=False"]  # fmt: skip


def call(monkeypatch, capsys, *arguments):
    """Run ``run_recbole`` in this process; returns exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["run_recbole", *arguments])
    code = exit_code(cli._run_recbole)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "recbole_scale", *arguments], cwd=folder, capture_output=True, text=True
    )


def test_a_run_prints_its_metrics_checkpoint_and_row(walk):
    done = run_script(walk, "--dataset", "walk", "-m", "ScaledSASRec", *SHAPE)
    assert done.returncode == 0, done.stderr
    assert "NLL" in done.stderr + done.stdout and "saved/ScaledSASRec-walk-" in done.stdout
    assert "results/runs.jsonl" in done.stdout
    assert (walk / "results" / "runs.jsonl").read_text().count("\n") == 1


def test_dry_run_prints_the_plan_and_trains_nothing(walk):
    done = run_script(walk, "--dataset=walk", "--size=small", "--dry_run", "--topk=[5]")
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    for word in ("small: 4 layers x 128", "N 786K", "windows", "steps", "memory", "60 users, 40 items"):
        assert word in text
    assert not (walk / "results").exists() and not list(walk.glob("saved/*"))


MISTAKES = [
    (["--learning_rat=0.1"], "unknown key 'learning_rat' among the settings; did you mean 'learning_rate'?"),
    (["--model=ScaledSASrec"], "no model 'ScaledSASrec'; did you mean 'ScaledSASRec'?"),
    (["--dataset=wakl"], "no data set folder dataset/wakl; did you mean 'walk'?"),
    (
        ["--config_files=properties/larg.yaml"],
        "no config file properties/larg.yaml; did you mean 'properties/large.yaml'?",
    ),
    (["--size=smal"], "size is 'smal', but must be one of tiny"),
    (["--TIME_FIELD=time"], "no column 'time'"),
    (["--epochs"], "--epochs has no value; write --epochs=value"),
    (["--seed=1", "--seed=2"], "--seed is given twice"),
    (["--n_heads=5"], "hidden_size 64 is not a multiple of n_heads 5"),
    (["--window_stride=500"], "window_stride is 500"),
    (["--valid_metric=NDCG@7"], "valid_metric NDCG@7 is not measured"),
    (["--learner=adamm"], "learner is 'adamm', but must be one of adamw"),
    (["--lr_schedule=cosin"], "lr_schedule is 'cosin', but must be one of cosine"),
    (["--metrics=[Recal]"], "no metric named 'Recal'"),
    (["--topk=[500]"], "topk asks for 500 items, but 'walk' has 40"),
    (["--nproc=0"], "--nproc is 0, but must be at least 1"),
    (["--resume", "nothing.pth"], "there is no checkpoint nothing.pth"),
    (["--eval_args={split: {TS: 8}, order: TO, mode: full}"], "leave-one-out"),
    (["--user_inter_num_interval=[500,inf)"], "empty"),
]


@pytest.mark.parametrize("arguments, says", MISTAKES, ids=[" ".join(m[0])[:40] for m in MISTAKES])
def test_a_mistake_is_one_sentence_and_exit_code_2(walk, monkeypatch, capsys, arguments, says):
    more = [] if "--topk=[500]" in arguments else ["--topk=[5]"]
    named = [] if arguments[0].startswith("--dataset") else ["--dataset=walk"]
    code, _, err = call(monkeypatch, capsys, *named, "--epochs=1", *more, *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1, err
    assert says in errors[0]
    assert "Traceback" not in err and not (walk / "results").exists()


HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"
BAD_FILES = [
    (HEAD + "u1\ti1\t1\nu1\ti2\n", "line 3: 2 columns where the header has 3"),
    (HEAD + "u1\ti1\t1\nu1\ti2\tsoon\n", "line 3, column 3 (timestamp): 'soon' is not a number"),
    (HEAD + "u1\ti1\tnan\n", "line 2, column 3 (timestamp): 'nan' is not a finite"),
    (HEAD + "\ti1\t1\n", "line 2, column 1 (user_id): the value is empty"),
    (HEAD + "", "a header and no rows"),
    ("user_id:token\titem:token\ttimestamp:float\nu1\ti1\t1\n", "no column 'item_id'"),
    (HEAD.replace("\t", ",") + "u1,i1,1\n", "separated by commas, set field_separator: ','"),
    ("user_id,item_id,timestamp\nu1,i1,1\n", "recbole-scale prepare csv makes such a file of a table without types"),
    ("user_id:tokn\titem_id:token\ttimestamp:float\nu1\ti1\t1\n", "line 1, column 1: type 'tokn'"),
    ("", "line 1: the header is missing"),
]


@pytest.mark.parametrize("text, says", BAD_FILES, ids=[m[1][:40] for m in BAD_FILES])
@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec"])
def test_a_bad_file_is_named_with_line_and_column(folder, monkeypatch, capsys, text, says, model):
    path = folder / "dataset" / "bad" / "bad.inter"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    more = [] if model == "ScaledSASRec" else ["--train_neg_sample_args=None"]
    code, _, err = call(monkeypatch, capsys, "--dataset=bad", f"--model={model}", *more)
    assert code == 2, err
    assert says in err and "dataset/bad/bad.inter" in err and "Traceback" not in err


def test_odd_bytes_are_read_as_they_are(folder):
    """A BOM, CRLF line ends, quotes and spaces in ids are data, not structure."""
    rows = [(f'u"{u}', f"item {i}", i) for u in range(4) for i in range(6)]
    path = folder / "dataset" / "odd" / "odd.inter"
    write_inter(path, rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    result = recbole_scale.run("ScaledSASRec", "odd", config_dict=dict(s.lstrip("-").split("=") for s in SHAPE))
    assert result["test_result"]["nll"] > 0


@pytest.mark.parametrize(
    "text",
    ['__import__("os").getpid()', "open('x','w')", "().__class__", "!!python/object/apply:os.getpid []", "1+1"],
)
def test_values_are_never_evaluated(walk, text):
    from recbole.config import Config

    assert parse_value(text) == text
    for settings in ({"wandb_project": text},):
        config = Config("ScaledSASRec", "walk", config_dict=settings)
        assert config["wandb_project"] == text
    (walk / "evil.yaml").write_text("wandb_project: !!python/object/apply:os.getpid []\n")
    with pytest.raises(UserError, match=r"evil.yaml, line 1"):
        Config("ScaledSASRec", "walk", config_file_list=["evil.yaml"])


def test_recboles_own_reading_of_the_command_line_evaluates_nothing(walk, monkeypatch):
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["script", '--wandb_project=__import__("os").getpid()', "--seed=7"])
    config = Config("ScaledSASRec", "walk")
    assert config["wandb_project"] == '__import__("os").getpid()' and config["seed"] == 7


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 0.001), ("5", 5), ("[5,10]", [5, 10]), ("['a','b']", ["a", "b"]), ("True", True), ("None", None),
     ("~", None), ("{'LS':'valid_and_test'}", {"LS": "valid_and_test"}), ("0,1", "0,1"), ("2020-01-01", "2020-01-01"),
     ("a: b: c", "a: b: c"), ("[0,inf)", "[0,inf)"), ("NDCG@10", "NDCG@10")],
)  # fmt: skip
def test_values_are_yaml_scalars_and_lists(text, value):
    assert parse_value(text) == value
    assert parse_arguments([f"--key={text}"]) == {"key": value}


def test_settings_files_are_found_among_the_packaged_ones(folder):
    packaged = find_settings_file("properties/large.yaml")
    assert load_settings_file(packaged)["n_layers"] == 24
    assert find_settings_file("large.yaml") == packaged
    (folder / "properties").mkdir()
    (folder / "properties" / "large.yaml").write_text("n_layers: 1\n")
    assert load_settings_file(find_settings_file("properties/large.yaml"))["n_layers"] == 1  # the user's own wins


def test_precedence_is_size_then_files_then_arguments(walk):
    (walk / "mine.yaml").write_text("n_layers: 3\ndropout_top: 0.05\n")
    from recbole_scale.runs.run import make_config

    config = make_config("ScaledSASRec", "walk", ["mine.yaml"], {"size": "medium", "dropout_top": 0.15})
    assert (config["hidden_size"], config["n_layers"], config["dropout_top"]) == (256, 3, 0.15)
    config = make_config("ScaledSASRec", "walk", ["properties/small.yaml"], {})
    assert (config["size"], config["hidden_size"]) == ("small", 128)
    (walk / "typo.yaml").write_text("n_layer: 3\n")
    with pytest.raises(UserError, match=r"unknown key 'n_layer' in typo.yaml; did you mean 'n_layers'"):
        make_config("ScaledSASRec", "walk", ["typo.yaml"])


@pytest.mark.parametrize("name", ["tiny", "small", "base", "medium", "large", "xlarge"])
def test_every_shipped_size_loads_and_names_only_known_keys(walk, name):
    from recbole_scale.runs.run import make_config

    config = make_config("ScaledSASRec", "walk", [f"properties/{name}.yaml"])
    assert config["size"] == name and config["inner_size"] == 4 * config["hidden_size"]
    assert isinstance(config["learning_rate"], float) and config["dropout_bottom"] >= config["dropout_top"]


def test_own_data_needs_three_columns_only(folder):
    write_inter(folder / "dataset" / "mine" / "mine.inter", walk_rows())
    settings = dict(s.lstrip("-").split("=") for s in SHAPE)
    assert recbole_scale.run("ScaledSASRec", "mine", config_dict=settings)["nll"] > 0
