"""Layer-wise dropout (LAD) and the switching optimizer (SO), on and off, as the table of arXiv 2311.11351.

    python benchmarks/ablation.py --dataset ml-1m --data_path dataset --shapes 2x64 24x64 --seeds 1 2 3 \\
        --out results/ablation.jsonl epochs=20 sgd_epochs=10

One training gives both values of SO: its first phase is the run without SO, bit for bit, and its best model is kept at
the switch. Without LAD all layers have the mean of LAD's rates. Two rows a training go to `--out`; trainings whose rows
are there are passed over, and a training that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shlex
import sys
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

ROWS = {"LAD + SO": (True, True), "without LAD": (False, True), "without SO": (True, False), "neither": (False, False)}
EFFECTS = {
    "LAD, with SO": ((True, True), (False, True)),
    "LAD, without SO": ((True, False), (False, False)),
    "SO, with LAD": ((True, True), (True, False)),
    "SO, without LAD": ((False, True), (False, False)),
    "both": ((True, True), (False, False)),
}


def shape_settings(shape: str) -> dict[str, Any]:
    """Settings of LAYERSxWIDTH: the model that a sweep makes of it, with the nearest size's rates."""
    from recbole_scale.model.sizes import shaped

    return shaped(shape).settings


def settings_of(arguments: argparse.Namespace, shape: str, seed: int, lad: bool) -> dict[str, Any]:
    """Settings of one training; what the user gave wins."""
    from recbole_scale.settings import parse_arguments

    bottom, top = arguments.dropout
    middle = (bottom + top) / 2
    return {
        **shape_settings(shape),
        "dropout_bottom": bottom if lad else middle,
        "dropout_top": top if lad else middle,
        "attn_dropout_prob": None,  # LAD acts on attention too
        "optimizer_switch": True,
        "valid_metric": "NLL",
        "show_progress": False,
        "checkpoint_dir": arguments.checkpoint_dir,
        "data_path": str(arguments.data_path),
        **parse_arguments(f"--{setting}" for setting in arguments.settings),
        "seed": seed,
    }


def train(config: Any, loaded: Any) -> tuple[Any, Any, dict[bool, Any]]:
    """Train, or go on training; returns network, trainer, and test metrics without and with SO."""
    from recbole_scale.runs.prepared import build_model, prepare
    from recbole_scale.training.run_checkpoints import first_phase_file
    from recbole_scale.training.trainer import ScaledSASRecTrainer

    prepared = prepare(config, loaded)
    network = build_model(prepared)
    trainer = ScaledSASRecTrainer(config, network)
    if os.path.exists(trainer.last_file):
        trainer.resume_checkpoint(trainer.last_file)
    trainer.fit(prepared.train_data, prepared.valid_data, saved=True, show_progress=config["show_progress"])
    best = trainer.saved_model_file
    test = {
        so: trainer.evaluate(prepared.test_data, model_file=best if so else first_phase_file(best))
        for so in (False, True)
    }
    return network, trainer, test


def rows_of(shape: str, seed: int, lad: bool, config: Any, trained: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """The two rows of a training, without and with SO."""
    import torch

    from recbole_scale.model.sizes import parameter_groups
    from recbole_scale.runs import records
    from recbole_scale.runs.records import without_paths
    from recbole_scale.settings import run_id

    network, trainer, test = trained
    first, second = trainer.phases
    rows = []
    for so, phase in ((False, first), (True, second)):
        epochs = len(trainer.evaluations) if so else second["first_epoch"]
        rows.append({
            "dataset": config["dataset"], "shape": shape, "seed": seed, "lad": lad, "so": so,
            "n_layers": config["n_layers"], "d_model": config["hidden_size"], "n_heads": config["n_heads"],
            "n_blocks": parameter_groups(network.shape)["n_blocks"],
            "test_nll": test[so]["nll"], "test_nll_se": test[so]["nll_se"], "valid_nll": phase["best_valid_nll"],
            "ndcg@10": test[so].get("ndcg@10"), "recall@10": test[so].get("recall@10"),
            "epochs": epochs, "best_epoch": phase["best_epoch"], "switch": second["reason"],
            "skipped_steps": trainer.guard.skipped_steps, "rollbacks": trainer.guard.rollbacks,
            "seconds_train": round(trainer.seconds_train, 1), "threads": torch.get_num_threads(),
            "run_id": run_id(config), "settings": without_paths(config.external_config_dict),
            "commit": records.commit(), "versions": records.versions(), "command": command(),
        })  # fmt: skip
    return rows


def command() -> str:
    """This command, without folders of this machine."""
    words = [word if not os.path.isabs(word) else os.path.basename(word.rstrip("/")) for word in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/ablation.py", *words])


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of an earlier call; a torn last line is passed over."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cell(values: list[float], form: str) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return ""
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def effect(values: list[float]) -> str:
    """Mean of paired differences, its 95 % interval by Student's t, and whether it can be told from none."""
    import scipy.stats

    if len(values) < 2:
        return f"{values[0]:+.4f}, one seed" if values else ""
    reach = scipy.stats.t.isf(0.025, len(values) - 1) * stdev(values) / len(values) ** 0.5
    told = "" if abs(mean(values)) > reach else ", not distinguishable"
    return f"{mean(values):+.4f} ({mean(values) - reach:+.4f} to {mean(values) + reach:+.4f}){told}"


def tables(rows: list[dict[str, Any]], metric: str) -> str:
    """The paper's table, then the effects paired over seeds (negative: a lower loss) with intervals, as Markdown."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    value = {(row["shape"], (row["lad"], row["so"]), row["seed"]): row[metric] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    heads = [f"{shape} ({next(r['n_blocks'] for r in rows if r['shape'] == shape):,})" for shape in shapes]
    ruler = "|---" * (len(shapes) + 1) + "|"
    lines = [f"| {metric}, mean ± sd over seeds | " + " | ".join(heads) + " |", ruler]
    for name, arm in ROWS.items():
        found = [[value[s, arm, seed] for seed in seeds if (s, arm, seed) in value] for s in shapes]
        lines.append(f"| {name} | " + " | ".join(cell(values, ".4f") for values in found) + " |")
    lines += ["", "| effect, paired over seeds (95 %) | " + " | ".join(heads) + " |", ruler]
    for name, (a, b) in EFFECTS.items():
        both = [[k for k in seeds if (s, a, k) in value and (s, b, k) in value] for s in shapes]
        found = [[value[s, a, k] - value[s, b, k] for k in ks] for s, ks in zip(shapes, both, strict=True)]
        lines.append(f"| {name} | " + " | ".join(effect(values) for values in found) + " |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing and print the tables."""
    from tqdm import tqdm

    from recbole_scale.runs.prepared import LoadedData
    from recbole_scale.runs.row_file import append_lines
    from recbole_scale.runs.run import make_config
    from recbole_scale.settings import run_id

    loaded, wanted = LoadedData(), []
    for shape in arguments.shapes:
        for seed in arguments.seeds:
            for lad in (True, False):
                settings = settings_of(arguments, shape, seed, lad)
                config = make_config("ScaledSASRec", arguments.dataset, config_dict=settings)
                wanted.append((shape, seed, lad, config))
    ids = {run_id(config) for *_, config in wanted}
    done = {row["run_id"] for row in read(arguments.out)}
    for shape, seed, lad, config in tqdm([w for w in wanted if run_id(w[-1]) not in done], desc="trainings"):
        print(f"{shape}, seed {seed}, {'with' if lad else 'without'} LAD", file=sys.stderr)
        clock, trained = perf_counter(), train(config, loaded)
        rows = rows_of(shape, seed, lad, config, trained)
        append_lines(arguments.out, rows, rows[0])
        print(f"  done in {perf_counter() - clock:.0f} s", file=sys.stderr)
        if not arguments.keep:
            for path in glob.glob(glob.escape(trained[1].saved_model_file.removesuffix(".best.pth")) + ".*.pth"):
                os.remove(path)
    print(tables([row for row in read(arguments.out) if row["run_id"] in ids], arguments.metric))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", type=Path, default=Path("dataset"), help="folder of NAME/NAME.inter")
    parser.add_argument("--shapes", nargs="+", default=["2x64"], help="LAYERSxWIDTH, as 2x64 24x64 2x1200")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--dropout", nargs=2, type=float, default=[0.2, 0.0], metavar=("BOTTOM", "TOP"),
                        help="LAD's rates; without LAD all layers have their mean")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="most epochs of the first phase; default: the size's")
    parser.add_argument("--out", type=Path, default=Path("results/ablation.jsonl"))
    parser.add_argument("--metric", default="test_nll", help="column of the tables")
    parser.add_argument("--checkpoint_dir", default="saved/ablation", help="for trainings that are not finished")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints of finished trainings")
    parser.add_argument("settings", nargs="*", help="more settings, key=value")
    arguments = parser.parse_intermixed_args()
    if arguments.epochs:
        arguments.settings.append(f"epochs={arguments.epochs}")
    from recbole_scale.errors import exit_code

    sys.exit(exit_code(lambda: run(arguments)))


if __name__ == "__main__":
    main()
