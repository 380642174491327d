"""The documents say what is true: commands run as written, columns and sizes are the code's, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from document_commands import DOCUMENTS, ROOT, commands, run_document

sys.path.insert(0, str(ROOT / "docs"))
import generate

import recbole_scale
from recbole_scale.errors import MEND_RECBOLE
from recbole_scale.fit.lengths import doublings
from recbole_scale.fit.rows import Question, as_rows
from recbole_scale.fit.study import answer

README = (ROOT / "README.md").read_text("utf-8")
WITH_CODE = [name for name in DOCUMENTS if re.search(r"```(bash|python)\n", (ROOT / name).read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_every_command_and_python_block_runs_as_written(name, monkeypatch):
    run_document(name)


def test_every_command_is_one_that_is_run_or_checked():
    known = ("make ", "source ", "pip ", "git ", "run_recbole", "run_hyper", "recbole-scale ", "bash run_scripts/",
             "python benchmarks/", "python docs/", "python -m pytest")  # fmt: skip
    assert [
        line for name in DOCUMENTS for line in commands((ROOT / name).read_text()) if not line.startswith(known)
    ] == []


def test_every_option_of_every_command_exists(monkeypatch, capsys):
    """In a second or two, what the slow test finds out by running: no verb or option of a document is gone."""
    from recbole_scale import cli

    for name in WITH_CODE:
        for line in commands((ROOT / name).read_text("utf-8")):
            words = line.replace('"', "").split()
            if words[0] != "recbole-scale" or words[1].startswith("-"):
                continue
            assert words[1] in cli.VERBS, f"{name}: {line}"
            _, left = cli.parser_of(words[1]).parse_known_args(words[2:])
            assert words[1] in ("sweep", "compare", "study") or left == [], f"{name}: {line}: {left}"


def test_the_readme_is_short_and_shows_a_figure_for_light_and_for_dark():
    assert len(README.encode()) <= 11 * 1024
    for mode in ("light", "dark"):
        assert f"docs/images/law-{mode}.png" in README and (ROOT / f"docs/images/law-{mode}.png").is_file()


def test_columns_and_sizes_are_those_of_the_code():
    assert (ROOT / "docs" / "rows.md").read_text("utf-8") == generate.rows_page(), "run python docs/generate.py"
    assert generate.sizes_table() in README, "run python docs/generate.py"


def test_the_tuned_ladder_is_told_as_its_rows_are():
    ladder, blind = generate.tuned_tables()
    text = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    assert ladder in text and blind in text, "run python docs/generate.py"
    # the figures of one cell by other means: the mean of three rows, and the law's formula with the committed constants
    rows = recbole_scale.read_rows(ROOT / "results" / "ml-1m" / "tuned.jsonl").query("d_model == 16 and epochs == 6")
    assert f"| {rows['test_nll'].mean():.3f} (" in ladder.splitlines()[2]
    law = json.loads((ROOT / "results" / "ml-1m" / "blind" / "6" / "law.json").read_text("utf-8"))
    found = law["constants"]
    assert f"| {found['E'] + (found['x0'] / 786_432) ** found['alpha']:.3f} [" in blind.splitlines()[2]


def test_the_law_of_the_tuned_ladder_is_told_as_its_rows_give_it():
    told = " ".join((ROOT / "docs" / "scaling.md").read_text("utf-8").split())
    kept = json.loads((ROOT / "results" / "ml-1m" / "tuned_law.json").read_text("utf-8"))
    rows = as_rows(recbole_scale.read_rows(ROOT / "results" / "ml-1m" / "tuned.jsonl"))
    found = answer(rows, Question(where={"epochs": "12"}, predict=("1.57M",)))
    refit = [getattr(found.law, name) for name in ("E", "x0", "alpha")]
    assert refit == pytest.approx([kept["constants"][name] for name in ("E", "x0", "alpha")], rel=1e-6)
    for name, form in (
        ("E", "E = {:.3f} nats (95 %: {:.3f} to {:.3f})"),
        ("alpha", "alpha = {:.3f} ({:.3f} to {:.3f})"),
    ):
        assert form.format(kept["constants"][name], *kept["bands_95"][name]) in told
    assert "{:.3f} ({:.3f} to {:.3f}) for a run of 8 x 128".format(*found.predictions[0].loss) in told
    left = found.law.predict(786_432) - kept["constants"]["E"]
    assert f"beyond 786K is about {left:.3f} nats" in told
    won = {(one.n, one.epochs): one for one in doublings(rows)}
    for n, epochs in ((98_304, 12), (196_608, 6), (786_432, 6)):
        assert f"{won[n, epochs].won:.3f} ± {won[n, epochs].error:.3f}" in told
    means = (
        recbole_scale.read_rows(ROOT / "results" / "ml-1m" / "tuned.jsonl")
        .groupby(["epochs", "n_blocks"])["test_nll"]
        .mean()
    )
    assert all(means[epochs].is_monotonic_decreasing for epochs in (6, 12, 24))
    last = won[786_432, 12]
    assert f"(24 won {last.won:.3f} ± {last.error:.3f})" in told and last.enough is None
    longest = [row for row in rows if row["n_blocks"] == 786_432 and row["epochs"] == 24]
    best = sorted(row["best_epoch"] + 1 for row in longest)
    assert f"was lowest after {' and '.join(map(str, best))} of 24 epochs" in told
    step = means[24, 196_608] - means[24, 786_432]
    assert f"after 24 epochs by {step:.3f} nats, less than its two runs differ" in told
    assert step < max(row["test_nll"] for row in longest) - min(row["test_nll"] for row in longest)
    blind = [line.split(" | ") for line in generate.tuned_tables()[1].splitlines()[2:]]
    off, idle = ([cells[column].strip("+-| %") for cells in blind] for column in (4, 5))
    assert f"{', '.join(off[:-1])} and {off[-1]} % off after 6, 12 and 24 epochs" in " ".join(README.split())
    assert f'("no change" from 4 x 64: {", ".join(idle[:-1])} and {idle[-1]} %)' in " ".join(README.split())
    assert max(map(float, off)) < 0.3 and [float(a) < float(b) for a, b in zip(off, idle, strict=True)][-1] is False


def test_what_another_dropout_gives_is_told_as_its_rows_are():
    told = " ".join((ROOT / "docs" / "scaling.md").read_text("utf-8").split())
    folder = ROOT / "results" / "ml-1m"
    other = recbole_scale.read_rows(folder / "dropout.jsonl")
    other = other[[settings["dropout_bottom"] == settings["dropout_top"] == 0.1 for settings in other["settings"]]]
    own = recbole_scale.read_rows(folder / "tuned.tuning.jsonl").query("n_blocks == 786_432")
    own = own[[settings["learning_rate"] == 0.0015 for settings in own["settings"]]]
    (one,), (two,) = other.to_dict("records"), own.to_dict("records")
    assert one["seed"] == two["seed"] and one["settings"]["learning_rate"] == 0.0015
    assert f"reaches {one['test_nll']:.3f} nats after 6 epochs" in told and f"gives {two['test_nll']:.3f}" in told
    assert f"(valid {one['best_valid_nll']:.3f} and {two['best_valid_nll']:.3f};" in told
    shorter, longer = (
        recbole_scale.read_rows(folder / "tuned.jsonl").query(f"n_blocks == 196_608 and epochs == {epochs}")["test_nll"]
        for epochs in (6, 12)
    )
    size, length = shorter.mean() - one["test_nll"], shorter.mean() - longer.mean()
    won = f"won as much over 4 x 64 ({size:.3f} nats) as twice its epochs do ({length:.3f})"
    assert won in " ".join(README.split()) and abs(size - length) < 0.005
    predicted = json.loads((folder / "blind" / "6" / "law.json").read_text("utf-8"))["predictions"][0]["loss"][0]
    off = f"{100 * (predicted / one['test_nll'] - 1):.1f} %"
    assert f"{off} below what the four sizes predict" in told
    assert f"with the smaller sizes' dropout, in one run, {off}." in " ".join(README.split())


def test_the_law_that_the_readme_tells_is_that_of_the_rows():
    held = next(one for one in generate.law().held_out if abs(one.x / 1_572_864 - 1) < 0.01)
    told = re.search(r"test loss of ([\d.]+) nats at 1.57M,\nwhere ([\d.]+) was measured, inside its band", README)
    assert told is not None
    assert float(told[1]) == pytest.approx(held.predicted, abs=0.01)
    assert held.lower <= held.observed <= held.upper
    assert float(told[2]) == pytest.approx(held.observed, abs=0.0006)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_anchors_lead_somewhere(name):
    text = (ROOT / name).read_text("utf-8")
    targets = re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in targets:
        path, _, anchor = target.partition("#")
        page = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert page.exists(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{name}: {target} is none of {slugs}"


def test_rows_named_in_the_documents_are_there():
    for name in DOCUMENTS:
        for path in re.findall(r"`(results/[\w./-]+)`", (ROOT / name).read_text("utf-8")):
            generated = path.startswith(("results/runs.", "results/challenges.jsonl", "results/compare-"))
            assert generated or (ROOT / path).exists(), f"{name}: {path}"


def test_what_is_kept_of_results_is_shown_or_listed():
    """A picture is shown by a document; rows and tables, or their folder, are named by one."""
    kept = subprocess.run(["git", "ls-files", "results", "docs/images"], cwd=ROOT, capture_output=True, text=True)
    texts = {name: (ROOT / name).read_text("utf-8") for name in DOCUMENTS}
    shown = {
        ((ROOT / name).parent / target).resolve()
        for name, text in texts.items()
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    }
    named = shown | {ROOT / path for text in texts.values() for path in re.findall(r"`(results/[\w./-]+)`", text)}
    files = [ROOT / line for line in kept.stdout.splitlines() if (ROOT / line).exists()]
    assert kept.returncode or files
    for path in files:
        if path.suffix in (".png", ".pdf", ".svg", ".html"):
            assert path in shown, f"no document shows {path.relative_to(ROOT)}"
        else:
            assert {path, *path.parents} & (named - {ROOT / "results"}), f"no document names {path.relative_to(ROOT)}"


@pytest.mark.slow
def test_the_example_goes_the_whole_way(folder):
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "example.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("test NLL") == 4 and "98.3K parameters would reach" in done.stdout
    assert "epoch" not in done.stderr  # a run in a notebook does not flood it


# the lines of the README's plain blocks before "Sixty seconds"
INSTALLS = [
    line
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", README.split("## Sixty")[0], flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if not kind
]


def test_every_way_to_install_is_the_same():
    """make, pip, uv and the sentence about a missing RecBole: the package first, then one RecBole without its pins."""
    makefile, pyproject = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    assert len(INSTALLS) == 3
    assert "$(PIP) install -e .\n\t$(PIP) install --no-deps $(RECBOLE)" in makefile
    for line in (INSTALLS[0], INSTALLS[2].replace("uv ", "").replace("--torch-backend cpu ", "")):
        assert line.endswith("pip install -e . && pip install --no-deps recbole==1.2.1")
    assert INSTALLS[1] == "uv sync" and INSTALLS[2].startswith("uv venv && uv pip install --torch-backend cpu ")
    assert 'default-groups = ["recbole"]' in pyproject and 'override-dependencies = ["ray[tune]>=2.50"' in pyproject
    everywhere = (README, makefile, pyproject, MEND_RECBOLE)
    assert {found for text in everywhere for found in re.findall(r"recbole==([\d.]*\d)", text)} == {"1.2.1"}
    assert all("recbole==" in text for text in everywhere)
    assert Path(ROOT / ".ci" / "run").read_text().index("document_commands.py README.md") > 0


@pytest.mark.slow
@pytest.mark.parametrize("line", INSTALLS[:2], ids=["pip", "uv"])
def test_a_plain_block_installs_into_an_empty_environment(line, tmp_path):
    """As written, in a fresh clone; downloads what a user's machine would, torch for CUDA with uv."""
    clone, path = tmp_path / "clone", f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (tmp_path / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    shell = {"cwd": clone, "env": {**kept, "PATH": path}, "capture_output": True, "text": True}
    try:
        done = subprocess.run(["bash", "-c", line], **shell)
        assert done.returncode == 0 and not re.search(r"^ERROR", done.stderr, flags=re.MULTILINE), done.stderr[-2000:]
        plan = [".venv/bin/run_recbole", "--model=ScaledSASRec", "--dataset=ml-100k", "--dry_run"]
        done = subprocess.run(plan, **shell)
        assert done.returncode == 0 and "  time " in done.stdout + done.stderr, done.stderr[-2000:]
        changed = subprocess.run(["git", "status", "--short"], **shell)
        assert changed.stdout == ""  # no lock file and no link to be committed
    finally:
        shutil.rmtree(clone)
