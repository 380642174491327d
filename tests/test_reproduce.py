"""The script that reproduces the paper: its commands are ones the scripts take, its mistakes are one sentence."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_scale.runs.records import read_rows

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "run_scripts" / "reproduce_paper.sh"
PARTS = ["data", "sizes", "law", "data_size", "epochs", "shape", "width", "overall", "ablation", "challenges", "report"]
PARSERS = {
    "size_sweep.py": "recbole_scale.sweep.command",
    "fit_power_law.py": "recbole_scale.fit.command",
    "report.py": "recbole_scale.report.command",
    "challenge_tasks.py": "recbole_scale.challenges.command",
    "compare_baselines.py": "recbole_scale.compare.command",
}


def reproduce(*arguments, cwd):
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )


def commands(output):
    """Every printed command as a list of words."""
    return [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("+ ")]


@pytest.mark.parametrize("how", [["--smoke"], ["--smoke", "--quick"], ["--dataset", "ml-20m"]])
def test_every_printed_command_is_one_its_script_takes(folder, how):
    done = reproduce(*how, "--dry_run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n# ") == len(PARTS)
    printed = commands(done.stdout)
    scripts = [words for words in printed if words[1].endswith(".py")]
    assert {Path(words[1]).name for words in scripts} >= set(PARSERS)
    for words in scripts:
        assert Path(words[1]).is_file()
        if Path(words[1]).name not in PARSERS:
            continue
        command = importlib.import_module(PARSERS[Path(words[1]).name])
        options, settings = command.parser().parse_with_settings(words[2:])
        if hasattr(command, "read_grid"):
            assert command.read_grid(options, settings).rungs
    assert list(folder.iterdir()) == []  # a dry run leaves nothing


def test_each_part_is_a_command_of_its_own(folder):
    for part in PARTS:
        done = reproduce("--smoke", "--dry_run", part, cwd=folder)
        assert done.returncode == 0 and done.stdout.count("\n# ") == 1, part
        draws = [words for words in commands(done.stdout) if "--figures" in words]
        assert len(draws) == (part in ("data_size", "epochs", "shape", "report")), part  # those whose figure it holds


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["law"], "name the data set with --dataset, or look around with --smoke"),
        (["--quick"], "--quick shortens --smoke, so give both"),
        (["--smoke", "lawn"], "there is no part 'lawn', only data sizes law"),
        (["--smoke", "--epoch"], "there is no option --epoch; a setting of the runs is given as --epoch=VALUE"),
        (["--dataset"], "--dataset needs a value"),
    ],
)
def test_a_mistake_is_one_sentence(folder, arguments, sentence):
    done = reproduce(*arguments, cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and list(folder.iterdir()) == []


def test_a_missing_script_is_said_and_the_other_parts_go_on(folder):
    (folder / "run_scripts").mkdir()
    copy = folder / "run_scripts" / SCRIPT.name
    copy.write_text(SCRIPT.read_text())
    done = subprocess.run(
        ["bash", str(copy), "--smoke", "overall", "report"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "compare_baselines.py is not there" in done.stdout and "report.py is not there" in done.stdout


def test_a_failed_part_is_named_and_stops_neither_the_others_nor_passes_unseen(folder):
    python = folder / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *size_sweep*) exit 3;; esac\necho "ran $*"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), "--smoke", "law", "data"], cwd=folder, env={**os.environ, "PYTHON": str(python)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.strip() == "error: failed: law"
    assert "fit_power_law" not in done.stdout  # the part ends at its failed command
    assert "ran -m recbole_scale --dataset=ml-100k --dry_run" in done.stdout


def test_the_law_and_its_report_from_a_users_own_data(walk):
    how = ["--dataset", "walk", "--sizes", "1x8 1x16 2x16 2x24", "--seeds", "1", "--holdout", "13.8K", "--out", "out"]
    quick = ["--epochs=2", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=256", "--topk=[5,10]"]
    done = reproduce(*how, *quick, "law", "report", cwd=walk)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = read_rows(walk / "out" / "runs.jsonl")
    assert sorted(rows["n_blocks"]) == [768, 3072, 6144, 13824] and set(rows["status"]) == {"ok"}
    assert (walk / "out" / "law" / "law.json").is_file()
    assert "walk" in (walk / "out" / "report.html").read_text()
    assert (walk / "out" / "figures" / "epochs.pdf").is_file()
    again = reproduce(*how, *quick, "law", cwd=walk)
    assert again.returncode == 0 and "4 of them finished; 0 to go" in again.stdout
