"""From trained checkpoints to table, figures, rows and export, as a user runs it; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, walk_rows, write_inter

import recbole_scale
from recbole_scale.challenges import models
from recbole_scale.challenges.cases import leave_one_out
from recbole_scale.challenges.command import main
from recbole_scale.challenges.estimates import case_metrics
from recbole_scale.challenges.scoring import score
from recbole_scale.challenges.table import COLUMNS
from recbole_scale.errors import UserError, exit_code
from recbole_scale.runs.records import read_rows

ONE = {**QUICK, "epochs": 1}
STOCK = {**ONE, "metrics": ["Hit", "NDCG", "NLL", "ItemCoverage"], "valid_metric": "NLL", "topk": [5, 10]}
WITHOUT_DOMAINS = {"inter": ["user_id", "item_id", "timestamp"]}
SHORT = ["--lengths", "2", "4", "8", "--ratios", "0.2", "0.5", "--seeds", "2", "--resamples", "50"]


def write_walk(folder: Path, name: str = "walk", seed: int = 0) -> None:
    """The data set of ``walk`` with a column of domains: three of them, by item."""
    path = folder / "dataset" / name / f"{name}.inter"
    write_inter(path, walk_rows(seed=seed))
    head, *lines = path.read_text().splitlines()
    domains = [f"{line}\td{int(line.split()[1][1:]) % 3}" for line in lines]
    path.write_text("\n".join([head + "\tdomain:token", *domains]) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, str]:
    """A folder with data and two sizes of ScaledSASRec, SASRec and a model of other data."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_walk(folder)
        write_walk(folder, "other", seed=5)
        found = {"folder": str(folder)}
        for name, model, data, changes in (
            ("small", "ScaledSASRec", "walk", {}),
            ("big", "ScaledSASRec", "walk", {"n_layers": 3, "load_col": WITHOUT_DOMAINS}),
            ("SASRec", "SASRec", "walk", {}),
            ("other", "ScaledSASRec", "other", {}),
        ):
            found[name] = recbole_scale.run(model, data, config_dict={**ONE, **changes})["checkpoint"]
    return {name: str(Path(folder, path)) for name, path in found.items()}


@pytest.fixture
def place(trained, monkeypatch) -> Path:
    """The folder of the trained models, as working folder."""
    monkeypatch.chdir(trained["folder"])
    return Path(trained["folder"])


@pytest.mark.parametrize("model", ["ScaledSASRec", "SASRec", "GRU4Rec", "Caser", "BERT4Rec"])
def test_every_model_scores_as_in_its_own_test_run(walk, model):
    result = recbole_scale.run(model, "walk", config_dict=STOCK)
    (point,) = models.open_checkpoints([result["checkpoint"]])
    assert point.run_id == result["run_id"]
    ranker, about = models.build_ranker(point)
    cases = leave_one_out(point.dataset.histories, point.dataset.split)
    scored = score(ranker, cases)
    mine = {name: values.mean() for name, values in case_metrics(scored.rank, scored.nll).items()}
    for k in (5, 10):
        assert mine[f"hr@{k}"] == pytest.approx(result["test_result"][f"hit@{k}"], abs=1e-4)
        assert mine[f"ndcg@{k}"] == pytest.approx(result["test_result"][f"ndcg@{k}"], abs=1e-4)
    assert mine["nll"] == pytest.approx(result["nll"], abs=1e-4)
    covered = len(np.unique(scored.top)) / ranker.n_items
    assert covered == pytest.approx(result["test_result"]["itemcoverage@10"], abs=0.03)  # RecBole counts padding too
    assert about["model"] == model and about["n_parameters"] > 0
    whole = models.RecBoleRanker(ranker.model, point.config, ranker.n_items)
    whole.any_width = False  # rows of MAX_ITEM_LIST_LENGTH: padding must not change a score
    np.testing.assert_allclose(score(whole, cases).nll, scored.nll, atol=1e-5)


def test_several_models_give_table_figures_and_rows(trained, place, capsys):
    call = ["--checkpoints", trained["big"], trained["SASRec"], trained["small"], "--dataset", "walk", "--out", "out"]
    assert main([*call, *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "trajectory   left out: trajectory needs a data set with held-out windows" in shown
    written = {path.name for path in Path("out").iterdir()}
    figures = ("long_tail", "cold_start", "multi_domain", "robustness")
    assert written == {"challenges.jsonl", *(f"{name}.{kind}" for name in figures for kind in ("png", "pdf"))}
    rows = [json.loads(line) for line in Path("out", "challenges.jsonl").read_text().splitlines()]
    assert {row["challenge"] for row in rows} == set(figures)
    assert all(list(row) == list(COLUMNS) for row in rows)
    assert all(row["lower"] <= row["value"] + 1e-9 and row["value"] - 1e-9 <= row["upper"] for row in rows)
    order = list(dict.fromkeys((row["model"], row["n_blocks"]) for row in rows))
    assert order == [("ScaledSASRec", 12 * layers * 16**2) for layers in (2, 3)] + [("SASRec", None)]
    by_model = [[row for row in rows if row["run_id"] == run] for run in {row["run_id"] for row in rows}]
    assert len(by_model) == 3 and len({len(part) for part in by_model}) == 1  # every model on the same cases
    cells = {tuple(row[name] for name in ("challenge", "setting", "level", "group", "metric", "n")) for row in rows}
    assert len(cells) == len(by_model[0])
    tail = [row for row in by_model[0] if row["challenge"] == "long_tail" and row["metric"] == "mrr"]
    whole = next(row for row in tail if row["group"] == "all")
    assert sum(row["n"] for row in tail if row is not whole) == whole["n"]
    noisy = next(row for row in by_model[0] if row["setting"] == "swap" and row["metric"] == "nll")
    assert noisy["noise_seeds"] == 2 and noisy["change"] is not None
    assert {row["gain"] is None for row in rows if row["n_blocks"] == 12 * 2 * 16**2} == {True}


def test_runs_are_found_by_their_rows(trained, place, capsys):
    call = ["--runs", "results/runs.jsonl", "--dataset", "walk", "--challenges", "long_tail", "--out", "out_runs"]
    assert main([*call, "--resamples", "20"]) == 0
    rows = [json.loads(line) for line in Path("out_runs", "challenges.jsonl").read_text().splitlines()]
    runs = read_rows("results/runs.jsonl")
    assert {row["run_id"] for row in rows} == set(runs[runs["dataset"] == "walk"]["run_id"])


WRONG = {
    "no domain column": (["--challenges", "multi_domain", "--domain_field", "domian"], "did you mean 'domain'"),
    "users all too short": (["--challenges", "cold_start"], "cold_start needs histories of at least 50 items"),
    "unknown group rule": (["--group_rule", "equal_thirds"], "group_rule 'equal_thirds' is none of"),
    "unknown challenge": (["--challenges", "longtail"], "did you mean 'long_tail'"),
    "unknown noise": (["--noise", "shuffle"], "noise 'shuffle' is none of"),
    "unknown metric": (["--metric", "ndcg@7"], "metric 'ndcg@7' is none of"),
    "another name": (["--dataset", "other"], "was trained on 'walk', not on 'other'"),
    "no windows": (["--challenges", "trajectory"], "--make_trajectory_data writes one"),
    "ratio": (["--ratios", "1.5"], "the noise ratio 1.5 is not in 0..1"),
    "lengths": (["--lengths", "5", "2"], "must rise"),
    "out is a file": (["--out", "dataset/walk/walk.inter"], "cannot be made a folder"),
    "out is in a file": (["--out", "dataset/walk/walk.inter/out"], "walk.inter is no folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_and_nothing_is_written(trained, place, capsys, case):
    options, sentence = WRONG[case]
    call = ["--checkpoints", trained["small"], "--out", f"wrong_{case}", *options]
    assert exit_code(lambda: main(call)) == 2
    shown = capsys.readouterr().err
    assert sentence in shown and shown.count("\n") == 1
    assert not Path(f"wrong_{case}").exists()


def test_checkpoints_of_different_data_are_refused(trained, place, capsys):
    call = ["--checkpoints", trained["small"], trained["other"], "--out", "wrong_data"]
    assert exit_code(lambda: main(call)) == 2
    assert "was trained on another data set than" in capsys.readouterr().err
    assert not Path("wrong_data").exists()


def test_a_model_that_gives_no_numbers_leaves_nothing_behind(trained, place, capsys):
    import torch

    state = torch.load(trained["small"], weights_only=True)
    state["state_dict"]["item_embedding.weight"][3] = float("nan")
    torch.save(state, "nan.pth")
    assert exit_code(lambda: main(["--checkpoints", "nan.pth", "--challenges", "long_tail", "--out", "wrong_nan"])) == 2
    assert "not finite numbers" in capsys.readouterr().err
    assert not Path("wrong_nan").exists()


def test_a_checkpoint_whose_file_has_changed_since_is_refused(walk, capsys):
    checkpoint = recbole_scale.run("ScaledSASRec", "walk", config_dict=ONE)["checkpoint"]
    write_inter(walk / "dataset" / "walk" / "walk.inter", walk_rows(seed=9))
    with pytest.raises(UserError, match=r"'walk' in .* is not the one that .* was trained on"):
        models.open_checkpoints([checkpoint])


def test_a_file_that_is_no_checkpoint_is_refused(trained, place, capsys):
    assert exit_code(lambda: main(["--checkpoints", "dataset/walk/walk.inter"])) == 2
    assert exit_code(lambda: main(["--checkpoints", "saved/none.pth"])) == 2
    assert exit_code(lambda: main([])) == 2
    assert exit_code(lambda: main(["--runs", "results/runs.jsonl", "--dataset", "wlak"])) == 2
    assert capsys.readouterr().err.count("error: ") == 4


def test_stock_recbole_on_the_export_gives_our_metrics(trained, place):
    """RecBole's own data set, loader and evaluator read the benchmark files; the model's tensors fit as they are."""
    import torch
    from recbole.config import Config
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.data.dataset import SequentialDataset
    from recbole.trainer import Trainer
    from recbole.utils import get_model

    call = ["--checkpoints", trained["SASRec"], "--out", "out_export", "--export", "exported", *SHORT]
    assert main([*call, "--challenges", "long_tail", "cold_start", "multi_domain", "robustness"]) == 0
    rows = [json.loads(line) for line in Path("out_export", "challenges.jsonl").read_text().splitlines()]
    parts = {
        "long_tail-equal_interactions-G4": ("long_tail", "equal_interactions", None, "G4"),
        "cold_start-last-2": ("cold_start", "last", 2, "all"),
        "multi_domain-diff": ("multi_domain", "diff", None, "all"),
        "robustness-clean-0": ("robustness", "clean", 0.0, "all"),
    }
    state = torch.load(trained["SASRec"], weights_only=True)["state_dict"]
    folder = Path("exported", "walk-cases")
    for part, key in parts.items():
        settings = {**ONE, "data_path": "exported", "benchmark_filename": ["ids", "valid", part], "repeatable": True}
        settings |= {"metrics": ["Hit", "NDCG"], "valid_metric": "NDCG@10", "topk": [5, 10], "state": "error"}
        config = Config("SASRec", "walk-cases", [str(folder / "walk-cases.yaml")], settings)
        built = SequentialDataset(config).build()
        model = get_model("SASRec")(config, built[0])
        model.load_state_dict(state)
        loader = FullSortEvalDataLoader(config, built[2], None)
        theirs = Trainer(config, model).evaluate(loader, load_best_model=False)
        ours = {r["metric"]: r for r in rows if key == tuple(r[n] for n in ("challenge", "setting", "level", "group"))}
        assert len(built[2]) == ours["hr@5"]["n"] > 0
        for k in (5, 10):
            assert theirs[f"hit@{k}"] == pytest.approx(ours[f"hr@{k}"]["value"], abs=1e-4)
            assert theirs[f"ndcg@{k}"] == pytest.approx(ours[f"ndcg@{k}"]["value"], abs=1e-4)


def test_the_export_holds_the_training_rows_of_recbole(trained, place):
    main(["--checkpoints", trained["small"], "--out", "out_t", "--export", "exported_t", "--challenges", "long_tail"])
    (point,) = models.open_checkpoints([trained["small"]])
    lines = Path("exported_t", "walk-cases", "walk-cases.train.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id_list:token_seq\titem_id:token"
    dataset = point.dataset
    rows = dataset.inter_feat[np.arange(len(dataset))]
    items = dataset.field2id_token["item_id"]
    assert len(lines) - 1 == len(rows)
    for number in (0, len(rows) // 2, len(rows) - 1):
        user, history, target = lines[1 + number].split("\t")
        length = int(rows["item_length"][number])
        assert history.split(" ") == items[rows["item_id_list"][number][:length].numpy()].tolist()
        assert target == items[rows["item_id"][number]]
        assert user == dataset.field2id_token["user_id"][rows["user_id"][number]]
        assert target not in (history.split(" ") if number < 0 else [])


def test_a_trajectory_from_cutting_to_figures(folder, capsys):
    write_walk(folder)
    assert main(["--dataset", "walk", "--make_trajectory_data", "dataset", "--window", "4"]) == 0
    assert "train on it with run_recbole --dataset=walk-cut4 --data_path=dataset" in capsys.readouterr().out
    points = [
        recbole_scale.run(model, "walk-cut4", config_dict=ONE)["checkpoint"] for model in ("ScaledSASRec", "GRU4Rec")
    ]
    call = ["--checkpoints", *points, "--dataset", "walk-cut4", "--challenges", "trajectory", "--resamples", "20"]
    assert main([*call, "--feeds", "greedy", "sampled", "truth", "--out", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"challenges.jsonl", "trajectory.png", "trajectory.pdf"}
    rows = [json.loads(line) for line in Path("out", "challenges.jsonl").read_text().splitlines()]
    steps = {(row["setting"], row["level"]) for row in rows if row["metric"] == "hr@10" and row["level"]}
    assert steps == {(feed, step) for feed in ("greedy", "sampled", "truth") for step in (1, 2, 3, 4)}
    window = {(row["setting"], row["metric"]) for row in rows if row["level"] is None}
    assert {("one list", "ndcg@10"), ("greedy", "recall@window"), ("sampled", "recall@window")} <= window
    first = {
        row["setting"]: row["value"] for row in rows[: len(rows) // 2] if (row["metric"], row["level"]) == ("nll", 1)
    }
    assert len(set(first.values())) == 1  # nothing was fed back yet


def test_a_model_trained_on_the_uncut_data_is_refused_for_its_windows(trained, folder, capsys):
    write_walk(folder)
    main(["--dataset", "walk", "--make_trajectory_data", "cut", "--window", "4"])
    (folder / "dataset/walk/walk.windows").write_bytes((folder / "cut/walk-cut4/walk-cut4.windows").read_bytes())
    capsys.readouterr()
    call = ["--checkpoints", trained["small"], "--challenges", "trajectory", "--out", "wrong"]
    assert exit_code(lambda: main(call)) == 2
    assert "which may hold the window" in capsys.readouterr().err
    assert not Path("wrong").exists()
