"""``recbole-scale VERB``: one head for all commands, help at once, one spelling of options, checkpoints by name."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from recbole_scale import cli
from recbole_scale.arguments import CommandParser, file_names, place
from recbole_scale.errors import MEND_RECBOLE, UserError, exit_code
from recbole_scale.runs.trained import best_of_rows, checkpoints_named, one_checkpoint
from recbole_scale.settings import parse_arguments

THERE = [verb for verb in cli.VERBS if verb in cli.verbs_text()]


def test_help_lists_the_verbs_in_the_order_of_use(capsys):
    assert cli.run_verb(["--help"]) == 0
    text = capsys.readouterr().out
    wanted = ["prepare", "synthetic", "sweep", "fit", "report", "challenges", "compare", "recommend"]
    assert [line.split()[0] for line in text.splitlines() if re.match(r"  \w", line)] == [
        verb for verb in cli.VERBS if verb in THERE
    ]
    assert [verb for verb in THERE if verb != "study"] == wanted


@pytest.mark.parametrize("command", ["recbole-scale", *THERE, "run_recbole", "run_hyper"])
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_load_nothing_that_takes_long(command, word):
    """What makes them quick, 0.2 s of CPU; torch, RecBole or even pandas alone would take more than half a second."""
    code = (
        "import sys\nfrom recbole_scale import cli\n"
        f"main = {{'run_recbole': cli._run_recbole, 'run_hyper': cli._run_hyper}}.get({command!r})\n"
        "try:\n    main() if main else cli.run_verb(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "slow = {'torch', 'recbole', 'ray', 'matplotlib', 'scipy', 'pandas', 'pyarrow', 'numpy'}\n"
        "print('loaded', sorted(slow & set(sys.modules)))"
    )
    words = [command, word] if command in THERE else [word]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *text, loaded = done.stdout.splitlines()
    assert loaded == "loaded []"
    if word == "--version":
        assert text == [f"recbole-scale {version('recbole-scale')}"]
    else:
        assert text[0].startswith(f"usage: {'recbole-scale ' if command in THERE else ''}{command} ")


def test_the_help_of_prepare_names_every_format():
    from recbole_scale.prepare.readers import FORMATS

    told = next(action.help for action in cli.parser_of("prepare")._actions if action.dest == "format")
    assert told == ", ".join(FORMATS)


def _help_of(command: str) -> str:
    return cli.parser_of(command).format_help()


@pytest.mark.parametrize("columns", [80, 100])
def test_help_fits_its_terminal_and_its_examples_can_be_copied(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", "1000")
    commands = [*THERE, "run_recbole", "run_hyper"]
    wide = {command: _help_of(command) for command in commands}
    monkeypatch.setenv("COLUMNS", str(columns))
    for text in (cli.verbs_text(), *map(_help_of, commands)):
        assert max(map(len, text.splitlines())) <= columns, text
    for command in commands:
        examples = [line for line in wide[command].splitlines() if re.match(r"  (recbole-scale|run_\w+) ", line)]
        narrow = re.sub(r" \\\n +", " ", _help_of(command))
        assert examples and all(line in narrow.splitlines() for line in examples), command


@pytest.mark.parametrize(
    "words, says",
    [
        (["swep"], "there is no verb 'swep'; did you mean 'sweep'? (recbole-scale --help lists them)"),
        (["--dataset", "x", "sweep"], "the verb comes first: recbole-scale sweep --dataset ..."),
        (["fit", "--dataest", "x"], "there is no option --dataest; did you mean '--dataset'?"),
        (["report", "page.html"], "the word 'page.html' belongs to no option"),
        (["recommend", "--out", "x.csv"], "give either --checkpoint, or --rows"),
        (["fit", "--resamples", "many"], "argument --resamples: must be a whole number, not 'many'"),
        (["sweep", "--dataset", "x", "--shapes", "tiny", "--learning_rate"], "--learning_rate has no value"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, says):
    assert exit_code(lambda: cli.run_verb(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_options_are_spelled_either_way():
    parser = CommandParser("x", "does x")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--data_path")
    parser.add_argument("--files", nargs="+", metavar="FILE")
    parser.add_argument("--dry_run", action="store_true")
    for words in (
        ["--seeds", "1", "2", "--data_path", "d", "--dry_run"],
        ["--seeds=1,2", "--data_path=d", "--dry-run"],
        ["--seeds=[1, 2]", "--data-path=d", "--dry_run"],
        ["--seeds", "1,2", "--data-path", "d", "--dry-run"],
    ):
        options, settings = parser.parse_with_settings(words)
        assert (options.seeds, options.data_path, options.dry_run, settings) == ([1, 2], "d", True, {})
    options, settings = parser.parse_with_settings(["--files", "a b.csv", "c,d.csv", "--epochs", "10", "--topk=[5]"])
    assert options.files == ["a b.csv", "c,d.csv"] and settings == {"epochs": 10, "topk": [5]}
    with pytest.raises(UserError, match="no option --seed; did you mean '--seeds'"):  # nothing is abbreviated
        parser.parse_args(["--seed", "1"])


def made_parser():
    parser = CommandParser("made", "A command.")
    for name, kind in (("name", None), ("rate", float), ("count", int)):
        parser.add_argument(f"--{name}", "-" + name[0], type=kind)
    parser.add_argument("--where", action="append", default=[])
    parser.add_argument("--file", type=place)
    return parser


@pytest.mark.parametrize("words, says", [
    (["--name="], "argument --name/-n: is empty"), (["--file", " "], "argument --file: is empty"),
    (["--rate=nan"], "must be a number, not 'nan'"), (["--rate", "1e400"], "must be a number, not '1e400'"),
    (["--rate=text"], "must be a number, not 'text'"), (["--count=1.5"], "must be a whole number, not '1.5'"),
])  # fmt: skip
def test_an_odd_value_of_an_option_is_one_sentence(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        made_parser().parse_args(words)


def test_values_that_are_right_are_taken_as_they_are():
    words = ["--name=a", "--name", "a", "--where", "x=1", "--where=y=2", "--rate=-1e3", "--file=1", "--count", "-2"]
    found = made_parser().parse_args(words)
    assert (found.name, found.where, found.rate, found.count) == ("a", ["x=1", "y=2"], -1000.0, -2)
    assert found.file == "./1" and made_parser().parse_args(["--file=a/None"]).file == "a/None"


@pytest.mark.parametrize(
    "after",
    [["--layers", "1", "2"], ["--dataset", "walk", "--layers=1,2"], ["--layers", "1", "2", "--seed_list=[1, 2]"]],
)
def test_a_setting_with_a_space_in_it_is_no_word_of_the_list_before_it(after):
    parser = CommandParser("x", "y")
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--dataset")
    options, settings = parser.parse_with_settings([*after, "--topk=[5, 10]"])
    assert options.layers == [1, 2] and settings["topk"] == [5, 10]


@pytest.mark.parametrize("words, settings", [
    (["--topk=[5,", "10]"], {"topk": [5, 10]}), (["--topk", "[5,", "10]", "--seeds", "1"], {"topk": [5, 10]}),
    (["--topk", "5", "10"], {"topk": [5, 10]}), (["--metrics", "NDCG,", "Recall"], {"metrics": ["NDCG", "Recall"]}),
    (["--eval_args={order:", "TO}"], {"eval_args": {"order": "TO"}}), (["--clip", "=", "-1"], {"clip": -1}),
    (["--epochs=", "3"], {"epochs": 3}), (["--wandb_project", "a b", "--seeds=1"], {"wandb_project": "a b"}),
    (["--checkpoint_dir=my #1 log"], {"checkpoint_dir": "my #1 log"}),
    (["--checkpoint_dir", "#1"], {"checkpoint_dir": "#1"}),
    (["--data_path=Sales: May"], {"data_path": "Sales: May"}), (["--data_path=~/logs"], {"data_path": "/a/b/logs"}),
])  # fmt: skip
def test_a_settings_value_may_stand_in_words_of_its_own_and_hold_anything(monkeypatch, words, settings):
    monkeypatch.setenv("HOME", "/a/b")
    parser = CommandParser("x", "y")
    parser.add_argument("--seeds", type=int, nargs="+")
    assert parser.parse_with_settings(words)[1] == settings


@pytest.mark.parametrize("words, on", [
    (["--dry_run"], True), (["--dry-run=True"], True), (["--dry_run", "true"], True), (["--dry_run=no"], False),
    (["--dry_run", "False", "--name", "a"], False),
])  # fmt: skip
def test_a_switch_may_say_true_or_false_as_settings_do(words, on):
    parser = made_parser()
    parser.add_argument("--dry_run", action="store_true")
    assert parser.parse_args(words).dry_run is on
    with pytest.raises(UserError, match="--dry_run is 3, but must be True or False"):
        parser.parse_args(["--dry_run=3"])


def test_of_an_option_given_twice_the_last_holds_as_everywhere():
    assert made_parser().parse_args(["--name=a", "--rate=1", "-n", "b"]).name == "b"


def test_a_value_to_keep_may_hold_blanks_and_a_delimiter_may_be_one():
    words = ["csv", "--raw", "a.csv", "--out", "o", "--where", "event=add to cart, view", "shop=x", "--delimiter", " "]
    found = cli.parser_of("prepare").parse_args(words)
    assert found.where == ["event=add to cart, view", "shop=x"] and found.delimiter == " "
    from recbole_scale.prepare.command import _wheres

    assert _wheres(found.where) == {"event": ["add to cart", "view"], "shop": ["x"]}


def test_config_files_are_named_with_blanks_between_or_in_them(folder):
    (folder / "my conf.yaml").write_text("epochs: 1\n")
    for words in (["a.yaml b.yaml"], ["a.yaml", "b.yaml"], ["a.yaml,b.yaml"]):
        assert file_names(words) == ["a.yaml", "b.yaml"]
    assert file_names(["my conf.yaml", "a.yaml"]) == ["my conf.yaml", "a.yaml"] and file_names(None) == []


def test_settings_take_both_forms():
    assert parse_arguments(["--epochs", "10", "--learning_rate=1e-3", "--clip", "-1", "--train-batch-size", "8"]) == {
        "epochs": 10,
        "learning_rate": 1e-3,
        "clip": -1,
        "train_batch_size": 8,
    }
    for words, says in ((["--epochs"], "no value"), (["--a", "--b=1"], "no value"), (["10"], "not of the form")):
        with pytest.raises(UserError, match=says):
            parse_arguments(words)


LADDERS = {"sweep": "sweep", "study": "study", "compare": "compare", "run_hyper": "search"}  # command: room


def _options_of(command):
    return importlib.import_module(f"recbole_scale.{LADDERS[command]}.options")


@pytest.mark.parametrize("command", LADDERS)
def test_what_a_command_decides_itself_is_never_overridden_in_silence(command):
    """Each such setting is refused, naming what says it, which is an option of this command or of the one named."""
    module = _options_of(command)
    made = module.parser()
    left = [key for key in module.DECIDED if made._spelled([f"--{key}"])[0] not in made._option_string_actions]
    assert {"nproc", "per_user_file"} <= set(left)
    head = ["--dataset=x", "--models=Pop"] if command == "compare" else []
    for key in left:
        with pytest.raises(UserError, match=f"^{made.prog} decides {key} itself: ") as told:
            made.parse_with_settings([*head, f"--{key.replace('_', '-')}=3"])
        other = re.search(r"recbole-scale (\w+)", str(told.value).partition(": ")[2])
        known = {
            *made._option_string_actions,
            *(_options_of(other[1]).parser()._option_string_actions if other else ()),
        }
        assert all(option in known or option == "--learning_rate" for option in re.findall(r"--\w+", str(told.value)))
    assert made.parse_with_settings([*head, "--dropout_top=0.1"])[1] == {"dropout_top": 0.1}


def test_one_models_settings_are_no_way_around(folder):
    made = _options_of("compare").parser()
    head = ["--dataset=x", "--models", "SASRec"]
    for key in ("seed", "epochs", "results_file", "checkpoint_dir", "dataset"):
        with pytest.raises(UserError, match=f"recbole-scale compare decides SASRec.{key} itself"):
            made.parse_with_settings([*head, f"--SASRec.{key}=3"])
    assert made.parse_with_settings([*head, "--SASRec.n_layers=3"])[1] == {"SASRec.n_layers": 3}


def test_a_config_file_may_state_recboles_defaults_and_the_only_model(folder):
    made = _options_of("sweep").parser()
    Path("usual.yaml").write_text("seed: 2020\nmodel: ScaledSASRec\nnproc: 1\nepochs: 3\n")
    Path("own.yaml").write_text("topk: [5]\nseed: 3\n")
    made.check_files(["usual.yaml"], but=["epochs"])
    with pytest.raises(UserError, match=r"^own.yaml: recbole-scale sweep decides seed itself: --seeds says which"):
        made.check_files(["usual.yaml", "own.yaml"], but=["epochs"])
    assert made.parse_with_settings(["--model=ScaledSASRec"])[1] == {"model": "ScaledSASRec"}


@pytest.mark.parametrize("command", [verb for verb in THERE if verb not in ("prepare", "synthetic", "study")])
@pytest.mark.parametrize("name", ["--rows", "--runs", "--results_file", "--results-file"])
def test_rows_have_one_name_and_its_older_ones(command, name):
    made = cli.parser_of(command)
    needed = ["--dataset=x", "--models=Pop"] if command == "compare" else []
    options, settings = made.parse_with_settings([*needed, name, "a.jsonl"])
    assert "a.jsonl" in vars(options).values() and not settings


@pytest.mark.parametrize("words, runs", [
    ([], "verb"), (["sweep", "--columns"], "verb"), (["-V"], "verb"), (["swep"], "verb"),
    (["--model=Pop"], "run"), (["-m", "Pop"], "run"), (["--version"], "run"), (["--help"], "run"),
])  # fmt: skip
def test_the_module_is_a_verb_or_a_run(monkeypatch, words, runs):
    called = []
    monkeypatch.setattr(cli, "recbole_scale_command", lambda: called.append("verb"))
    monkeypatch.setattr(cli, "run_recbole_command", lambda: called.append("run"))
    monkeypatch.setattr(sys, "argv", ["recbole_scale", *words])
    cli.module_command()
    assert called == [runs]


@pytest.mark.parametrize("command", [*THERE, "run_recbole", "run_hyper"])
def test_every_command_tells_its_version(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.parser_of(command).parse_args(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"recbole-scale {version('recbole-scale')}\n"


@pytest.mark.parametrize("verb", THERE)
def test_every_command_has_the_same_head(verb):
    """No command has a parser of its own, with abbreviations or argparse's own two-line errors."""
    assert type(cli.parser_of(verb)) is CommandParser


def test_checkpoints_by_file_glob_or_run(folder):
    Path("saved").mkdir()
    first, second = (f"saved/ScaledSASRec-x-{run}.best.pth" for run in ("0123456789", "0123456abc"))
    for path in (first, second, first.replace("best", "last")):
        Path(path).touch()
    assert checkpoints_named([second, "saved/*"]) == [second, first]
    assert one_checkpoint(["0123456789"]) == first and one_checkpoint(["01234567"]) == first
    for names, says in (
        (["012345"], "begins the ids of 2 runs"),
        (["abcdef"], "no checkpoint of the run abcdef"),
        (["saved/*.dcp"], "no checkpoint matches"),
        (["saved/ScaledSASRec-x-0123456789.bst.pth"], "did you mean 'saved/ScaledSASRec-x-0123456789.best.pth'"),
    ):
        with pytest.raises(UserError, match=says.replace("*", r"\*")):
            checkpoints_named(names)
    with pytest.raises(UserError, match="means 2 checkpoints"):
        one_checkpoint(["saved/*"])


def test_the_best_run_of_rows(folder):
    Path("saved").mkdir()
    runs = [
        ("a" * 10, "x", "ok", 5.0),
        ("b" * 10, "x", "ok", 4.0),
        ("c" * 10, "x", "failed", 3.0),
        ("d" * 10, "y", "ok", 2.0),
    ]
    lines = [dict(zip(("run_id", "dataset", "status", "best_valid_nll"), run, strict=True)) for run in runs]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path(f"saved/ScaledSASRec-x-{'a' * 10}.best.pth").touch()
    assert best_of_rows("rows.jsonl", "x").endswith(f"{'a' * 10}.best.pth")  # b's checkpoint is gone
    Path(f"saved/ScaledSASRec-x-{'b' * 10}.best.pth").touch()
    assert best_of_rows("rows.jsonl", "x").endswith(f"{'b' * 10}.best.pth")
    for dataset, says in (
        (None, "runs on x, y"),
        ("z", "no finished run on 'z'"),
        ("y", "no checkpoint of the 1 run in"),
    ):
        with pytest.raises(UserError, match=says):
            best_of_rows("rows.jsonl", dataset)


def test_recbole_missing_is_one_sentence(tmp_path):
    """In a process where RecBole cannot be found, as after ``pip install recbole-scale`` alone."""
    hide = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'recbole': raise ModuleNotFoundError('No module', name=name)\n"
        "import recbole_scale\nsys.meta_path.insert(0, Hide())\n"
    )
    for code in (
        "from recbole_scale import cli; sys.argv = ['run_recbole', '--dataset=x']; cli.run_recbole_command()",
        "from recbole_scale.errors import exit_code\nsys.exit(exit_code(lambda: recbole_scale.run('ScaledSASRec')))",
    ):
        done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-500:]
        assert done.stderr == f"error: RecBole is not installed; {MEND_RECBOLE} installs it without its cap on Ray\n"


@pytest.mark.parametrize(
    "found, says", [("2.6.3", "Ray 2.6.3 is installed, which does not run"), (None, "not installed")]
)
def test_an_old_ray_is_named(monkeypatch, found, says):
    from recbole_scale.plugin import compat

    def version(name):
        if found is None:
            raise compat.PackageNotFoundError
        return found

    monkeypatch.setattr(compat, "version", version)
    with pytest.raises(UserError, match=says):
        compat.load_ray_tune()


def test_a_gpu_that_is_not_there_is_one_warning(folder, caplog, monkeypatch):
    from document_commands import small_log

    from recbole_scale.plugin import config
    from recbole_scale.runs.run import make_config
    from recbole_scale.terminal import say_once

    small_log(Path("dataset/small/small.inter"))
    monkeypatch.setattr(config, "_gpu_is_there", lambda: False)
    say_once.cache_clear()
    caplog.set_level("WARNING")  # whatever RecBole's logging was left at
    for _ in range(3):
        assert make_config("ScaledSASRec", "small", config_dict={"device": "cuda"})["device"].type == "cpu"
    told = [record.message for record in caplog.records if "GPU" in record.message]
    assert told == ["device is cuda, but there is no GPU that torch can use: this runs on the CPU"]
    assert make_config("ScaledSASRec", "small", config_dict={"device": "cpu"})["device"].type == "cpu"


def test_names_near_the_packaged_data_and_metrics(folder):
    from recbole_scale.data.atomic import check_file
    from recbole_scale.runs.run import make_config

    with pytest.raises(UserError, match="no data set folder dataset/ml100k; did you mean 'ml-100k'"):
        check_file("dataset/ml100k/ml100k.inter")
    with pytest.raises(UserError, match=r"no metric named 'NDGC'; did you mean 'ndcg'\? \(known: .*nll.*recall"):
        make_config("ScaledSASRec", "ml-100k", config_dict={"metrics": ["NDGC"]})


def test_prepare_says_what_to_type_next_and_how_bad_rows_are_dropped(folder, capsys):
    Path("log.csv").write_text("uid,iid,ts\n" + "".join(f"u{i % 7},i{i % 11},{1_700_000_000 + i}\n" for i in range(99)))
    words = ["prepare", "csv", "--raw", "log.csv", "--user", "uid", "--item", "iid", "--time", "ts", "--out"]
    assert cli.run_verb([*words, "dataset/mine"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "next     recbole-scale study --dataset mine --hours 1, or run_recbole --dataset mine"
    assert cli.run_verb([*words, "elsewhere/mine"]) == 0
    assert "run_recbole --dataset mine --data_path elsewhere" in capsys.readouterr().out
    with Path("log.csv").open("a") as log:
        log.write("u1,i1,never\n")
    with pytest.raises(UserError, match=r"line 101.*\(--bad_rows drop leaves such rows out and counts them\)"):
        cli.run_verb([*words, "dataset/other"])
