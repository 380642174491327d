"""Sweeps on real runs: rows, skipping, failures, kill -9, Ray, and one command's mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_scale.data.hashed import share_of_user
from recbole_scale.errors import UserError
from recbole_scale.fit.rows import as_rows
from recbole_scale.runs.measuring import read_per_user
from recbole_scale.runs.prepared import prepare
from recbole_scale.runs.ray_cluster import at_once, share_of_a_run
from recbole_scale.runs.records import COLUMNS, read_rows
from recbole_scale.runs.run import make_config
from recbole_scale.sweep import engine as engine_module
from recbole_scale.sweep.command import main
from recbole_scale.sweep.engine import RowsFile, run_point
from recbole_scale.sweep.on_ray import on_ray
from recbole_scale.sweep.sweep import Point

SCRIPT = Path(__file__).resolve().parents[1] / "run_scripts" / "size_sweep.py"
COMMON = ["--dataset", "walk", "--epochs", "2", "--rows", "rows.jsonl", "--train_batch_size=256", "--topk=[5,10]"]
NUMBERS = ("run_id", "test_nll", "best_valid_nll", "interactions_seen", "n_blocks", "seed", "data_fraction")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return as_rows(read_rows(folder / "rows.jsonl"))


def numbers(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {row["run_id"]: [row[name] for name in NUMBERS] for row in rows}


def test_a_grid_becomes_rows_and_finished_rows_are_skipped(
    walk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    run_module = sys.modules["recbole_scale.runs.prepared"]
    original = run_module.create_dataset
    monkeypatch.setattr(run_module, "create_dataset", lambda config: reads.append(1) or original(config))
    arguments = [*COMMON, "--shapes", "1x8", "2x8", "--seeds", "1", "2", "--fractions", "0.5", "1"]
    assert main(arguments) == 0
    rows = rows_of(walk)
    assert len(rows) == 8 and all(row["status"] == "ok" for row in rows)
    assert {(r["n_blocks"], r["seed"], r["data_fraction"]) for r in rows} == {
        (n, s, f) for n in (768, 1536) for s in (1, 2) for f in (0.5, 1.0)
    }
    assert len(reads) == 1, "the data set is read once for the plan and all runs"
    assert all(row["epochs"] == 2 and len(row["evaluations"]) == 2 for row in rows)
    assert not list(walk.glob("saved/*.last.pth")) and len(list(walk.glob("saved/*.best.pth"))) == 8
    printed, bar = capsys.readouterr()
    assert "8 runs, 0 of them finished" in printed and "test NLL" in printed
    assert "\r" not in bar  # tests/test_terminal.py looks at the bar, which only a terminal shows
    assert main(arguments) == 0
    assert len(rows_of(walk)) == 8
    assert "8 runs, 8 of them finished" in capsys.readouterr().out


def test_a_fraction_keeps_the_same_users_and_all_tests(walk: Path) -> None:
    def prepared(**settings: Any) -> Any:
        return prepare(make_config("ScaledSASRec", "walk", None, {"topk": [5], **settings}))

    whole, half, other = prepared(), prepared(data_fraction=0.5), prepared(data_fraction=0.5, seed=9)
    histories = whole.dataset.histories
    tokens = whole.dataset.field2id_token["user_id"][histories.users]
    kept = share_of_user(tokens) < 0.5
    lengths = histories.lengths
    trained = lengths - np.minimum(2, lengths - 2) - 1  # less the held-out ones and the first, which is no target
    assert half.train_data.n_targets == trained[kept].sum() == other.train_data.n_targets
    assert whole.train_data.n_targets == trained.sum()
    assert len(half.test_data.dataset) == len(whole.test_data.dataset) == len(lengths)
    assert half.fingerprint == whole.fingerprint
    # an independent look at what the batches hold: no item sequence of a user who was left out
    allowed = {tuple(histories.items[a : b - 2]) for a, b, k in
               zip(histories.offsets[:-1], histories.offsets[1:], kept, strict=True) if k}  # fmt: skip
    inputs = half.train_data.batch(0)["item_id_list"].numpy()
    for row in inputs:
        text = ",".join(map(str, row[row > 0]))
        assert any(text in ",".join(map(str, history)) for history in allowed)


@pytest.mark.parametrize(("failure", "traced"), [(UserError("the disk is full"), False), (ValueError("ours"), True)])
def test_a_mistake_in_a_run_is_told_by_its_row_without_a_traceback(monkeypatch, caplog, failure, traced):
    def fails(*arguments: Any) -> None:
        raise failure

    monkeypatch.setattr("recbole_scale.sweep.engine.make_config", fails)
    row = run_point(Point("1x8", "walk", {}, (), "0123456789", 768, 100, 2, 1e9), lambda point: None)
    assert row["status"] == "failed" and str(failure) in row["error"]
    assert ("Traceback" in caplog.text) == traced


def test_users_beside_a_row_average_to_it(walk: Path) -> None:
    assert main([*COMMON, "--shapes", "1x8", "--seeds", "1", "--per_user", "users"]) == 0
    (row,) = rows_of(walk)
    users = read_per_user(walk / "users" / f"{row['run_id']}.npz")
    assert users is not None and len(set(users["user"])) == len(users["user"]) == row["n_users"]
    assert np.mean(users["nll"], dtype=np.float64) == pytest.approx(row["test_nll"], abs=1e-5)
    hits = (users["rank"] > 0) & (users["rank"] <= 10)
    assert np.mean(hits) == pytest.approx(row["test_metrics"]["recall@10"], abs=1e-5)
    assert "per_user_file" not in row["settings"]


def test_columns_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--columns"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(COLUMNS)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, "half", True])
def test_a_wrong_fraction_is_told(walk: Path, fraction: object) -> None:
    with pytest.raises(UserError, match="data_fraction"):
        prepare(make_config("ScaledSASRec", "walk", None, {"topk": [5], "data_fraction": fraction}))


def test_a_failed_run_is_a_row_and_is_tried_again(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine_module.train_and_test

    def fails_once(config: Any, **kwargs: Any) -> Any:
        if config["seed"] == 1:
            raise RuntimeError("out of\nmemory")
        return original(config, **kwargs)

    monkeypatch.setattr(engine_module, "train_and_test", fails_once)
    arguments = [*COMMON, "--shapes", "1x8", "--seeds", "1", "2"]
    assert main(arguments) == 1
    first, second = sorted(rows_of(walk), key=lambda row: row["seed"])
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert first["error"] == "RuntimeError: out of memory" and first["settings"]["seed"] == 1
    monkeypatch.setattr(engine_module, "train_and_test", original)
    assert main(arguments) == 0
    assert [row["status"] for row in rows_of(walk)].count("ok") == 2


def test_a_killed_sweep_goes_on_with_the_same_numbers(walk: Path) -> None:
    arguments = [*COMMON, "--shapes", "1x8", "2x16", "--seeds", "1", "--epochs", "6", "--save_step=2"]
    command = [sys.executable, str(SCRIPT), *arguments]
    whole = walk / "whole"
    whole.mkdir()
    (whole / "dataset").symlink_to(walk / "dataset")
    subprocess.run(command, cwd=whole, check=True, capture_output=True)
    process = subprocess.Popen(command, cwd=walk, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:  # killed once the first row is there
        if (walk / "rows.jsonl").is_file() and list(walk.glob("saved/*.last.pth")):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=walk, check=True, capture_output=True, text=True)
    assert "2 runs finished" in done.stdout or "1 run finished" in done.stdout or "2 of them finished" in done.stdout
    assert numbers(rows_of(walk)) == numbers(rows_of(whole))


def test_ray_gives_the_numbers_of_one_process(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    arguments = [*COMMON, "--shapes", "1x8", "2x8", "--seeds", "1"]
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--rows", "here.jsonl"], cwd=walk, check=True, capture_output=True, env=environment, timeout=600
    )
    done = subprocess.run(
        [*command, "--ray_address", "local"], cwd=walk, capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert numbers(rows_of(walk)) == numbers(as_rows(read_rows(walk / "here.jsonl")))


def test_a_sweep_file_gives_the_same_plan(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"dataset": "walk", "shapes": ["1x8", "2x8"], "seeds": [1, 2], "epochs": 2,
               "settings": {"train_batch_size": 256, "topk": [5, 10]}}  # fmt: skip
    (walk / "sweep.yaml").write_text(json.dumps(content))
    assert main(["--sweep", "sweep.yaml", "--rows", "rows.jsonl", "--dry_run"]) == 0
    measured = re.compile(r"about [\d.]+ (s|min|h)\b")  # the times of tried steps differ from call to call
    from_file, times = measured.subn("about T", capsys.readouterr().out)
    assert main([*COMMON, "--shapes", "1x8", "2x8", "--seeds", "1", "2", "--dry_run"]) == 0
    assert measured.subn("about T", capsys.readouterr().out) == (from_file, times) and times
    assert not (walk / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "walk"], "a sweep needs shapes"),
        (["--shapes", "1x8"], "a sweep needs --dataset"),
        (["--dataset", "walk", "--layers", "1"], "--layers and --d_model go together"),
        (["--dataset", "walk", "--sizes", "tinny"], "did you mean 'tiny'"),
        (["--dataset", "walk", "--equal_n", "many"], "--equal_n many"),
        (["--dataset", "walk", "--shapes", "1x8", "--fractions", "2"], "data_fraction is 2"),
        (["--dataset", "walk", "--shapes", "1x8", "--learning_rat=1"], "did you mean 'learning_rate'"),
        (["--dataset", "wlk", "--shapes", "1x8"], "wlk"),
        (["--dataset", "walk", "--shapes", "1x8", "--gpus_per_run=1"], "--gpus_per_run is for runs on Ray"),
        (["--dataset", "walk", "--shapes", "1x8", "--tune_epochs=1"], "--tune_epochs is for the runs of --tune"),
        (["--dataset", "walk", "--shapes", "1x8", "--n_layers=2"], "decides n_layers itself: --shapes says which"),
        (["--dataset", "walk", "--shapes", "1x8", "--model=GRU4Rec"], "a ladder is of ScaledSASRec"),
        (["--dataset", "walk", "--shapes", "1x8", "--sweep", "s.yaml"], "s.yaml: recbole-scale sweep decides seed"),
        (
            ["--dataset", "walk", "--shapes", "1x8", "--config_files", "c.yaml"],
            "c.yaml: recbole-scale sweep decides per_",
        ),
        (["--dataset", "walk", "--shapes", "1x8", "1x8x2"], "are the same"),
        (["--dataset", "walk", "--shapes", "1x8", "--epochs", "0"], "epochs is 0, but a run of a sweep trains"),
        (["--dataset", "walk", "--shapes", "1x8", "--tune", "2", "--tune_epochs=0"], "epochs is 0, but a run"),
        (["--dataset", "walk", "--shapes", "-1x8"], "size '-1x8' is none of tiny"),
        (
            ["--dataset", "walk", "--shapes", "1x8", "--dryrun"],
            "no option --dryrun; did you mean '--dry_run'?",
        ),
        (["walk", "--shapes", "1x8"], "the word 'walk' belongs to no option; recbole-scale sweep --help"),
        (["--dataset", "walk", "--shapes", "1x8", "--rows", "c.yaml"], "c.yaml is no row; nothing was added"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(walk: Path, arguments: list[str], sentence: str) -> None:
    Path("s.yaml").write_text("settings: {seed: 2020}")
    Path("c.yaml").write_text("per_user_file: mine.npz")
    with pytest.raises(UserError) as told:
        main([*arguments, "--topk=[5]"])
    assert sentence in str(told.value)
    assert not (walk / "results").exists()


def test_a_config_file_says_what_no_option_says(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("dataset: walk\nseed: 7\nresults_file: mine.jsonl\ndata_fraction: 0.5\ntopk: [5]\n")
    main(["--shapes", "1x8", "--epochs", "1", "--config_files", "c.yaml"])
    told = "from the config files: dataset walk, seed 7, data_fraction 0.5, results_file mine.jsonl\n"
    assert capsys.readouterr().out.startswith(told)
    row = json.loads(Path("mine.jsonl").read_text())
    assert (row["dataset"], row["seed"], row["data_fraction"]) == ("walk", 7, 0.5)
    main(["--shapes", "1x8", "--epochs", "1", "--config_files", "c.yaml", "--seeds", "3", "--rows", "r.jsonl"])
    assert capsys.readouterr().out.startswith("from the config files: dataset walk, data_fraction 0.5\n")
    assert json.loads(Path("r.jsonl").read_text())["seed"] == 3


HEAD, GPUS = {"CPU": 64.0}, {"CPU": 96.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "asked", "share", "count"),
    [
        ([{"CPU": 4.0}], (None, None), (1.0, 0.0), 4),
        ([{"CPU": 64.0, "GPU": 8.0}], (None, None), (8.0, 1.0), 8),
        ([{"CPU": 64.0, "GPU": 8.0}], (None, 0.5), (4.0, 0.5), 16),
        ([{"CPU": 64.0, "GPU": 8.0}], (None, 0.0), (1.0, 0.0), 64),
        ([{"CPU": 2.0, "GPU": 8.0}], (None, None), (0.25, 1.0), 8),  # fewer cores than GPUs
        ([{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], (None, None), (1.0, 1.0), 1),  # a head without a GPU
        ([HEAD, GPUS], (None, None), (12.0, 1.0), 8),  # no GPU is idle for the head's sake
        ([GPUS, {"CPU": 16.0, "GPU": 4.0}], (None, None), (4.0, 1.0), 12),
        ([HEAD, GPUS], (16.0, 0.0), (16.0, 0.0), 10),
    ],
)
def test_a_run_on_ray_gets_its_share_of_a_node(nodes, asked, share, count):
    found = share_of_a_run(nodes, *asked)
    assert tuple(found.values()) == share
    assert at_once(nodes, found, "a run") == count


@pytest.mark.parametrize(
    ("asked", "says"),
    [((60.0, 1.0), "a run asks for 60 CPU and 1 GPU, but no node of the cluster holds that; they have 64 CPU and 0"),
     ((97.0, 0.0), "a run asks for 97 CPU, but no"), ((1.0, 9.0), "a run asks for 9 GPU, but no")],
)  # fmt: skip
def test_what_no_node_holds_is_refused_instead_of_waited_for(asked, says):
    nodes = [HEAD, {"CPU": 32.0, "GPU": 8.0}] if asked[0] == 60.0 else [HEAD, GPUS]
    with pytest.raises(UserError) as told:
        at_once(nodes, share_of_a_run(nodes, *asked), "a run")
    assert str(told.value).startswith(says)


def test_several_gpus_for_a_run_of_a_sweep_are_refused():
    with pytest.raises(UserError, match="run_recbole --nproc=2 trains one run on several"):
        on_ray("auto", None, 2.0, RowsFile("r.jsonl"))


def test_what_resuming_needs_goes_only_when_the_row_is_written(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the row is due costs no training."""
    from recbole_scale.runs import records
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    trained, train, append = [], ScaledSASRecTrainer._train_epoch, records.append_lines

    def full(path: Any, *more: Any) -> bool:
        raise UserError("the run's row could not be added to rows.jsonl (no space left on device)")

    def count(self: Any, *more: Any, **named: Any) -> Any:
        trained.append(1)
        return train(self, *more, **named)

    monkeypatch.setattr(ScaledSASRecTrainer, "_train_epoch", count)
    monkeypatch.setattr(records, "append_lines", full)
    arguments = [*COMMON, "--shapes", "1x8", "--seeds", "1"]
    with pytest.raises(UserError, match="no space left"):
        main(arguments)
    assert trained and list(walk.glob("saved/*.last.pth"))
    trained.clear()
    monkeypatch.setattr(records, "append_lines", append)
    assert main(arguments) == 0
    assert trained == [] and not list(walk.glob("saved/*.last.pth"))
    assert [row["status"] for row in rows_of(walk)] == ["ok"]


def test_a_run_that_another_sweep_has_finished_meanwhile_is_not_trained(walk: Path, monkeypatch: Any) -> None:
    arguments = [*COMMON, "--shapes", "1x8", "--seeds", "1", "2"]
    assert main(arguments) == 0
    before = rows_of(walk)
    looks = iter([[], *[before] * 9])  # the sweep begins as if there were no rows
    monkeypatch.setattr("recbole_scale.sweep.command.finished_rows", lambda path: next(looks))
    assert main(arguments) == 0
    assert rows_of(walk) == before


def test_two_sweeps_share_the_work(walk: Path) -> None:
    """Each run is trained once, whoever comes first; both end well."""
    arguments = [*COMMON, "--shapes", "1x8", "2x8", "--seeds", "1", "2", "--epochs", "3"]
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, cwd=walk, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    told = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    ids = [row["run_id"] for row in rows_of(walk)]
    assert len(ids) == 4 and len(set(ids)) == 4
    assert not [path.name for path in walk.glob("saved/.*")]


def test_a_terminal_that_knows_no_plus_minus_loses_no_row(walk: Path) -> None:
    command = [sys.executable, str(SCRIPT), *COMMON, "--shapes", "1x8", "--seeds", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=walk, capture_output=True, env=environment, timeout=500)
    assert done.returncode == 0 and b" ? " in done.stdout and len(rows_of(walk)) == 1
