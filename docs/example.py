"""The whole way in a minute: a made-up log, a ladder of four sizes, the law, and what a larger model would reach.

    python docs/example.py

Works in an empty folder as well as in this one; everything goes to ./example.
"""

from pathlib import Path

import recbole_scale
from recbole_scale.prepare.synthetic import SyntheticSettings, write_synthetic

WORK = Path("example")
ROWS = WORK / "runs.jsonl"
QUIET = {"show_progress": False, "state": "warning", "data_path": str(WORK / "dataset"), "results_file": str(ROWS),
         "checkpoint_dir": str(WORK / "saved")}  # fmt: skip


def main() -> None:
    """A log of 300 users whose best possible loss is known, and how near four sizes come to it."""
    card = write_synthetic(SyntheticSettings(users=300, items=100, interactions=6000), WORK / "dataset" / "made")
    print(f"{card['interactions']:,} interactions; nothing can do better than {best_nll(card):.3f} nats")

    for layers, width in ((1, 4), (1, 8), (1, 16), (2, 32)):
        shape = {"n_layers": layers, "hidden_size": width, "n_heads": 1, "inner_size": 4 * width}
        settings = {**QUIET, **shape, "epochs": 6, "learning_rate": 0.01, "valid_metric": "NLL"}
        result = recbole_scale.run("ScaledSASRec", "made", config_dict=settings)
        print(f"{layers} x {width:<3} test NLL {result['nll']:.3f}")

    rows = recbole_scale.read_rows(ROWS)
    law = recbole_scale.fit_power_law(rows["n_blocks"], rows["test_nll"])
    print(law)
    low, high = law.interval(98_304)
    print(f"98.3K parameters would reach {law.predict(98_304):.3f} nats, 95 % band {low:.3f} to {high:.3f}")


def best_nll(card: dict) -> float:
    """The entropy of the process that made the log: the loss of a reader who knows it."""
    return min(card["nats_per_interaction"].values())


if __name__ == "__main__":
    main()
