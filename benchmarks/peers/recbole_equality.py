"""Six of RecBole's models trained by stock RecBole and by this package: the same batches, losses and metrics?

    python benchmarks/peers/recbole_equality.py --out results/recbole_equality

runs every model twice, one epoch with the same settings and seed: in the environment ``recbole-stock`` (numpy below 2,
this package not imported) and in this Python, and writes ``.jsonl`` (both sides' numbers) and ``.md`` (the table).
``--stock_python`` takes another environment. Times of the log are replaced by their rank: stock RecBole keeps them in
float32, which at today's epoch puts neighbours in the wrong order, the one difference that is meant.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

NAME = "ranked"
SHARED = {
    "epochs": 1, "train_batch_size": 2048, "eval_batch_size": 512, "embedding_size": 16, "hidden_size": 16,
    "inner_size": 32, "n_layers": 1, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 20, "topk": [5, 10],
    "valid_metric": "NDCG@10", "metrics": ["Recall", "NDCG", "MRR"], "metric_decimal_place": 8, "use_gpu": False,
    "show_progress": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "WARNING",
}  # fmt: skip
CE = {"train_neg_sample_args": None}
MODELS: dict[str, dict[str, Any]] = {
    "SASRec": CE, "GRU4Rec": CE, "BERT4Rec": CE, "Caser": CE, "BPR": {}, "LightGCN": {},
}  # fmt: skip


def write_ranked(source: Path, folder: Path) -> None:
    """Write ``folder/ranked/ranked.inter``: user, item and the rank of the time among all."""
    header, *lines = source.read_text().splitlines()
    at = [column.partition(":")[0] for column in header.split("\t")].index
    rows = [line.split("\t") for line in lines]
    order = sorted(range(len(rows)), key=lambda i: float(rows[i][at("timestamp")]))
    rank = {i: place for place, i in enumerate(order)}
    text = [f"{row[at('user_id')]}\t{row[at('item_id')]}\t{rank[i]}" for i, row in enumerate(rows)]
    (folder / NAME).mkdir()
    whole = ["user_id:token\titem_id:token\ttimestamp:float", *text]
    (folder / NAME / f"{NAME}.inter").write_text("\n".join(whole) + "\n")


def one_side(model: str, data: str) -> dict[str, Any]:
    """Train and test ``model`` with whatever RecBole this process has: first batch, losses, metrics."""
    if importlib.util.find_spec("ray") is None or "recbole_scale" not in sys.modules:
        ray = types.ModuleType("ray")
        ray.tune = types.ModuleType("ray.tune")  # type: ignore[attr-defined]
        sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    import recbole.quick_start  # noqa: F401 (this package replaces its parts as it is imported)
    from recbole.trainer.trainer import Trainer

    losses: list[float] = []
    first: dict[str, str] = {}
    original = Trainer._train_epoch

    def noted(self: Any, train_data: Any, epoch_idx: int, loss_func: Any = None, **named: Any) -> Any:
        loss_of = loss_func or self.model.calculate_loss

        def with_note(batch: Any) -> Any:
            if not first:
                for column in ("user_id", "item_id", "neg_item_id", "item_id_list", "Mask_item_id_list"):
                    if column in batch.columns:
                        first[column] = hashlib.sha256(batch[column].cpu().numpy().tobytes()).hexdigest()[:12]
            loss = loss_of(batch)
            losses.append(float(sum(loss) if isinstance(loss, tuple) else loss))
            return loss

        return original(self, train_data, epoch_idx, with_note, **named)

    Trainer._train_epoch = noted
    settings = {**SHARED, **MODELS[model], "data_path": data}
    sys.argv = sys.argv[:1]
    if "recbole_scale" in sys.modules:
        import recbole_scale

        result = recbole_scale.run(model, NAME, config_dict={**settings, "results_file": None}, saved=False)
    else:
        from recbole.quick_start.quick_start import run_recbole

        result = run_recbole(model=model, dataset=NAME, config_dict=settings, saved=False)
    parts = ("best_valid_result", "test_result")
    metrics = {part: {k: float(v) for k, v in result[part].items()} for part in parts}
    import numpy
    import torch

    versions = {"numpy": numpy.__version__, "torch": torch.__version__}
    return {"model": model, "first_batch": first, "losses": losses, **metrics, **versions}


def ask(python: str, side: str, model: str, data: Path, folder: Path) -> dict[str, Any]:
    """:func:`one_side` in a process of ``python``."""
    command = [python, str(Path(__file__).resolve()), "--side", side, "--model", model, "--data", str(data)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model}, {side}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"side": side, **found}


def table(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Markdown: what is equal, and the numbers."""
    lines = [
        "| model | first batch | steps | first loss | last loss | largest difference of a loss | test NDCG@10 | "
        "all metrics equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stock, ours in pairs:
        apart = max(abs(a - b) for a, b in zip(stock["losses"], ours["losses"], strict=True))
        same = all(stock[part] == ours[part] for part in ("best_valid_result", "test_result"))
        batch = "equal" if stock["first_batch"] == ours["first_batch"] else "DIFFERENT"
        ndcg = ", ".join(f"{side['test_result']['ndcg@10']:.6f}" for side in (stock, ours))
        ends = [", ".join(f"{side['losses'][at]:.6f}" for side in (stock, ours)) for at in (0, -1)]
        cells = [stock["model"], batch, str(len(stock["losses"])), *ends, f"{apart:.1e}", ndcg, "yes" if same else "NO"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("results/recbole_equality"))
    parser.add_argument("--data", type=Path, default=Path("dataset/synthetic/synthetic.inter"), help="an atomic file")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stock_python", help="a Python with stock RecBole (default: makes benchmarks/.envs)")
    parser.add_argument("--side", choices=("stock", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if options.side == "ours":
            import recbole_scale  # noqa: F401
        print(json.dumps(one_side(options.model, str(options.data))), flush=True)
        return
    stock = options.stock_python
    if stock is None:
        from environments import ensure_environment

        stock = str(ensure_environment("recbole-stock"))
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        write_ranked(options.data, Path(folder))
        for model in options.models:
            both = [
                ask(p, s, model, Path(folder), Path(folder)) for p, s in ((stock, "stock"), (sys.executable, "ours"))
            ]
            pairs.append((both[0], both[1]))
            print(table(pairs[-1:]).splitlines()[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    from recbole_scale.runs.records import commit

    made = {"commit": commit(), "command": " ".join(["python", "benchmarks/peers/recbole_equality.py", *sys.argv[1:]])}
    rows = [json.dumps(side | made) for pair in pairs for side in pair]
    options.out.with_suffix(".jsonl").write_text("\n".join(rows) + "\n")
    numpies = " and ".join(side["numpy"] for side in pairs[0])
    head = "Stock RecBole 1.2.1 and this package, one epoch each with the same settings and seed"
    head += f" (numpy {numpies}, torch {pairs[0][1]['torch']}); stock's number first."
    head += f" Made at {made['commit']} by `{made['command']}`."
    options.out.with_suffix(".md").write_text(f"{head}\n\n{table(pairs)}\n")


if __name__ == "__main__":
    main()
