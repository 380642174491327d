"""Everything that reads what others wrote, each with small good inputs; what is read of a changed one is returned."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from kept_readers import cache_reader, card_reader, sharded_reader
from mutants import damaged, odd_line, odd_value
from reader import Reader
from twins import (
    fields,
    keys,
    plain,
    quoted,
    same_challenges,
    same_log,
    same_prepared,
    same_rows,
    same_settings,
    same_space,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def quiet(act: Callable[[], Any]) -> Any:
    """Without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return act()


def rows_readers(folder: Path) -> list[Reader]:
    """Rows of runs, through the law and the page; rows of challenges, through the page's section."""
    from study_rows_made import SHAPES, made_row

    from recbole_scale.fit.law_output import as_json, as_text
    from recbole_scale.fit.rows import Question, as_rows
    from recbole_scale.fit.study import answer
    from recbole_scale.report.challenges import challenge_table, labelled, read_challenges
    from recbole_scale.runs.records import KINDS_OF_COLUMNS, read_rows
    from recbole_scale.runs.row_file import read_lines

    made = [made_row(shape, seed) for shape in SHAPES for seed in (1, 2)]
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in made)
    challenges = next((REPOSITORY / "results").rglob("challenges.jsonl")).read_bytes().splitlines(keepends=True)
    question = Question(x="n_blocks", loss="test_nll", resamples=0)

    def fit(path: Path) -> Any:
        rows, read = read_rows(path), read_lines(path, KINDS_OF_COLUMNS)
        assert len(rows) == len(read)
        found = answer(as_rows(rows), question)
        assert as_text(found) and as_json(found)
        return read

    def change(content: bytes, rng: random.Random) -> bytes:
        return odd_line(content, rng) if rng.random() < 0.6 else damaged(content, rng)

    def score(path: Path) -> Any:
        read = read_challenges(path)
        kept = deepcopy(read)
        rows = labelled(read)
        for name in {row["challenge"] for row in rows}:
            challenge_table(name, [row for row in rows if row["challenge"] == name])
        return kept

    return [
        Reader("rows, fitted", [rows], fit, change=change, same=same_rows, weight=12),
        Reader(
            "rows of challenges", [b"".join(challenges[:60])], score, change=change, same=same_challenges, weight=12
        ),
    ]


def per_user_reader(folder: Path) -> Reader:
    """Ranks of a run's users."""
    from recbole_scale.data.texts import joined
    from recbole_scale.runs.measuring import read_per_user

    text, ends = joined("abc")
    kept = {"user_text": text, "user_ends": ends, "rank": np.array([1, 0, 3], np.int32), "nll": np.ones(3, np.float32)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)

    def same(found: Any, content: bytes) -> bool:
        return found is None or (
            found["user"].tolist() == list("abc") and all(np.array_equal(found[n], kept[n]) for n in ("rank", "nll"))
        )

    return Reader("per-user files", [buffer.getvalue()], read_per_user, same=same)


def checkpoint_readers(folder: Path) -> list[Reader]:
    """Damaged files, and whole files of odd content, resumed by a trainer."""
    from conftest import QUICK, walk_rows, write_inter
    from recbole.utils import get_trainer

    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.runs.run import make_config, run
    from recbole_scale.training.checkpoint import load_checkpoint

    write_inter(folder / "dataset" / "walk" / "walk.inter", walk_rows())
    settings = {**QUICK, "epochs": 1, "n_layers": 1, "state": "error"}
    last = Path(quiet(lambda: run("ScaledSASRec", "walk", config_dict=settings))["checkpoint"].replace("best", "last"))
    state = load_checkpoint(last)
    config = make_config("ScaledSASRec", "walk", None, settings)
    prepared = prepare(config)
    network = build_model(prepared)
    silent = SimpleNamespace(add_scalar=lambda *_: None, add_text=lambda *_: None, add_hparams=lambda *_: None)

    def same(found: Any, content: bytes) -> bool:
        return all(torch.equal(found["state_dict"][name], weight) for name, weight in state["state_dict"].items())

    def change(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        part = rng.choice(["progress", "progress", "random", "optimizer", "config", "state_dict", "data"])
        return {**content, part: odd_value(content[part], rng)} if rng.random() < 0.9 else odd_value(content, rng)

    def resume(path: Path) -> None:
        with patch("recbole.trainer.trainer.get_tensorboard", lambda logger: silent):
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
        trainer.resume_checkpoint(str(path))
        quiet(lambda: trainer.fit(prepared.train_data, prepared.valid_data, saved=False, verbose=False))

    return [
        Reader("checkpoints, damaged", [last.read_bytes()], load_checkpoint, same=same, weight=14),
        Reader("checkpoints, odd content", [state], resume, lambda content, path: torch.save(content, path), change),
    ]


def data_reader(folder: Path) -> Reader:
    """Atomic files."""
    from recbole_scale.data.log import Recipe, read_log

    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    body = "".join(f"u{row % 7}\ti{row % 5}\t{row * 3}\n" for row in range(40))
    return Reader(
        ".inter",
        [(head + body).encode()],
        lambda path: read_log(Recipe(path, "user_id", "item_id", "timestamp")),
        same=same_log,
    )


def settings_readers(folder: Path) -> list[Reader]:
    """Settings files, ``--key=value`` and params files."""
    from recbole_scale.runs.run import make_config
    from recbole_scale.search.space import read_space, space_size
    from recbole_scale.settings import check_keys, load_settings_file, parse_arguments

    file = b"n_layers: 2\nhidden_size: 64\ntopk: [5, 10]\nmetrics: ['NDCG', 'NLL']\n"
    file += b"eval_args:\n  split: {LS: valid_and_test}\n"
    params = b"learning_rate loguniform -8,-4\nn_layers choice [1, 2]\nhidden_dropout_prob uniform 0.0,0.5\n"
    words = ["--topk=[5,10]", "--n_layers=2", "--learning_rate=0.01", "--metrics=['NDCG']", "--seed=3", "--size=tiny",
             "--eval_args={mode: full}", "--clip_grad_norm={max_norm: 1.0}", "--dropout_top=0.1"]  # fmt: skip

    def from_file(path: Path) -> Any:
        settings = load_settings_file(str(path))
        check_keys(settings, "here")
        make_config("ScaledSASRec", "walk", None, dict(settings))
        return settings

    def from_word(path: Path) -> Any:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        settings = parse_arguments([text])
        check_keys(settings, "here")
        return make_config("ScaledSASRec", "walk", None, settings)

    def space(path: Path) -> Any:
        found = read_space(str(path))
        space_size(found)
        return found

    return [
        Reader("settings files", [file], from_file, same=same_settings, suffixes=["input.yaml"], weight=6),
        Reader("--key=value", [word.encode() for word in words], from_word, weight=6),
        Reader(".hyper files", [params], space, same=same_space, suffixes=["input.hyper"]),
    ]


def search_readers(folder: Path) -> list[Reader]:
    """A search's plan, and what its trials left: the table, the best, and the values that come next."""
    from recbole_scale.search.folder import Trial
    from recbole_scale.search.outcome import conclude
    from recbole_scale.search.plan import IDENTITY, SearchPlan
    from recbole_scale.search.space import Parameter

    home = folder / "searched"
    space = [Parameter("learning_rate", "loguniform", (-8, -4)), Parameter("n_layers", "choice", (1, 2)),
             Parameter("hidden_size", "quniform", (8, 64, 8))]  # fmt: skip
    plan = SearchPlan(str(home), "ScaledSASRec", "walk", {"epochs": 2}, space, "ndcg@10", True, 2, 1, "Hyperopt")
    row = {"run_id": "a", "status": "ok", "test_metrics": {"ndcg@10": 0.1}, "best_valid_metrics": {"ndcg@10": 0.2}}
    trial = Trial(home, 0)
    plan.save()
    trial.begin({"n_layers": 1})
    trial.add_evaluation(1, 0.1, 0.1)
    trial.end("finished", best=0.1, row=row)
    files = [home / "search.json", *(trial.folder / f"{name}.json" for name in ("trial", "result"))]

    def load(path: Path) -> Any:
        found = SearchPlan.load(str(path.parent))
        assert found is not None and found.describe() and found.ray_address is None
        found.check_same(found)
        return json.loads(json.dumps(found.as_json()))

    def same(found: Any, content: bytes) -> bool:
        written = plain(json.loads(content))
        return all(found[name] == written[name] for name in IDENTITY)

    def concluded(name: str) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            for other, content in whole.items():
                (trial.folder / other).write_bytes(path.read_bytes() if other == name else content)
            return quiet(lambda: conclude(plan)).score

        return read

    def change(content: bytes, rng: random.Random) -> bytes:
        return odd_line(content, rng) if rng.random() < 0.7 else damaged(content, rng)

    flat = [json.dumps(json.loads(file.read_bytes())).encode() + b"\n" for file in files]
    lines = (trial.folder / "evaluations.jsonl").read_bytes()
    whole = {file.name: file.read_bytes() for file in trial.folder.iterdir()}
    return [
        Reader("plans of searches", flat[:1], load, change=change, same=same, suffixes=["search.json"]),
        Reader("values of trials", flat[1:2], concluded("trial.json"), change=change, weight=4),
        Reader("ends of trials", flat[2:], concluded("result.json"), change=change),
        Reader("evaluations of trials", [lines], concluded("evaluations.jsonl"), change=change, weight=4),
    ]


def prepare_readers(folder: Path) -> list[Reader]:
    """Raw files in the published formats."""
    from raw_files import lines_of, options_for

    from recbole_scale.prepare.command import prepare

    readers = []
    names = {"ml-100k": ("u.data", fields("\t", 0, 1), False), "ml-1m": ("ratings.dat", fields("::", 0, 1), False),
             "ml-20m": ("ratings.csv", quoted(0, 1), True), "amazon-2014": ("ratings_A.csv", quoted(0, 1), False),
             "amazon-2018": ("A.json", keys("reviewerID", "asin"), False), "amazon-2023": ("A.csv", quoted(0, 1), True),
             "csv": ("log.csv", quoted(2, 3), True), "inter": ("log.inter", fields("\t", 0, 1), True)}  # fmt: skip
    from raw_files import ROWS

    for kind, (name, split, has_header) in names.items():

        def read(path: Path, kind: str = kind) -> Any:
            out = path.parent / "out"
            shutil.rmtree(out, ignore_errors=True)
            try:
                quiet(lambda: prepare(kind, [path], out, options_for(kind)))
                return next(out.glob("*.inter")).read_text("utf-8")
            finally:
                left = [one.name for one in out.glob(".*")] if out.exists() else []
                assert not left, f"left behind: {left}"

        content = "\n".join(lines_of(kind, ROWS)).encode() + b"\n"
        same = same_prepared(split, has_header, once=kind.startswith("amazon"))
        readers.append(Reader(f"prepare {kind}", [content], read, same=same, suffixes=[name], weight=3))
    return readers


def all_readers(folder: Path) -> list[Reader]:
    """Every reader; ``folder`` is the working folder."""
    return [
        *rows_readers(folder),
        per_user_reader(folder),
        *checkpoint_readers(folder),
        data_reader(folder),
        *settings_readers(folder),
        *search_readers(folder),
        *prepare_readers(folder),
        sharded_reader(folder),
        cache_reader(folder),
        card_reader(folder),
    ]
