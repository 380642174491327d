"""Rows of a study made from a known law, for the tests of figures and report: nothing is trained."""

from __future__ import annotations

import numpy as np

TRUTH = {"E": 5.0, "n0": 900.0, "alpha": 0.25, "d0": 3000.0, "beta": 0.3}
SHAPES = ((1, 16), (2, 16), (2, 32), (2, 64), (4, 64), (4, 128))
NAMED = {(2, 64): "tiny", (4, 128): "small"}
ITEMS, LENGTH, WHOLE = 3706, 50, 570_000


def law_of(n: float, d: float = WHOLE) -> float:
    """Test loss of the known joint law."""
    return TRUTH["E"] + (TRUTH["n0"] / n) ** TRUTH["alpha"] + (TRUTH["d0"] / d) ** TRUTH["beta"]


def ndcg_of(n: float) -> float:
    """NDCG@10 of the known metric law."""
    return 0.25 / (1 + (9e3 / n) ** 0.5)


def made_row(shape, seed=1, d=WHOLE, epochs=8, rng=None, noise=0.0, overfit=0.0, **columns):
    """One finished run; ``overfit`` is how far its valid loss rises from the best epoch to the last."""
    layers, width = shape
    n = 12 * layers * width**2
    nll = law_of(n, d) * (1.0 if rng is None else float(np.exp(noise * rng.standard_normal())))
    steps = np.arange(1, epochs + 1)
    best = epochs - 1 if not overfit else epochs // 2
    curve = nll - 0.05 + 1.2 * np.exp(-1.2 * (steps - 1)) - 1.2 * np.exp(-1.2 * best)
    if overfit:
        curve[best:] = curve[best] + overfit * np.linspace(0, 1, epochs - best)
    cost = 6 * n + 12 * layers * LENGTH * width + 6 * width * ITEMS
    ndcg = ndcg_of(n)
    return {
        "run_id": f"{layers}x{width}-{seed}-{d}-{epochs}",
        "status": "ok",
        "dataset": "made",
        "model": "ScaledSASRec",
        "size": NAMED.get(shape),
        "n_layers": layers,
        "d_model": width,
        "n_blocks": n,
        "n_blocks_exact": n + 13 * layers * width,
        "n_parameters": n + ITEMS * width,
        "seed": seed,
        "epochs": epochs,
        "best_epoch": best,
        "unique_interactions": d,
        "interactions_seen": d * epochs,
        "data_fraction": d / WHOLE,
        "flops_per_interaction": cost,
        "flops_total": cost * d * epochs,
        "seconds_train": cost * d * epochs / 1e10,
        "seconds_total": cost * d * epochs / 1e10 + 1.0,
        "evaluations": [
            {"epoch": int(e) - 1, "train_nll": float(v + 0.3 - 0.06 * e), "valid_nll": float(v)}
            for e, v in zip(steps, curve, strict=True)
        ],
        "best_valid_nll": float(curve.min()),
        "test_nll": nll,
        "test_nll_se": 0.03,
        "test_metrics": {"recall@10": 2 * ndcg, "ndcg@10": ndcg, "itemcoverage@10": 0.5},
        "device": "cpu",
        "commit": "0123456789ab",
        "versions": {"torch": "2.13"},
        "settings": {"n_layers": layers, "hidden_size": width, "seed": seed, "epochs": epochs, "hidden_act": "gelu"},
        **columns,
    }


def made_rows(noise=0.0, seeds=(1, 2, 3), shapes=SHAPES):
    """The ladder on the whole data, with a failed run."""
    rng = np.random.default_rng(0)
    rows = [made_row(shape, seed, rng=rng, noise=noise) for shape in shapes for seed in seeds]
    return [*rows, {"status": "failed", "dataset": "made", "model": "ScaledSASRec", "error": "out of memory"}]


def full_study(noise=0.001):
    """A ladder with fractions, shapes of equal N, repeated schedules, an overfitting top and a baseline."""
    rng = np.random.default_rng(1)
    rows = made_rows(noise)
    options = {"rng": rng, "noise": noise}
    rows += [made_row(shape, d=int(WHOLE * share), **options) for shape in SHAPES[1:5:2] for share in (0.1, 0.25, 0.5)]
    rows += [made_row(shape, seed, **options) for shape in ((1, 90), (8, 32), (32, 16)) for seed in (1, 2)]
    for epochs in (2, 4, 16):
        rows.append(made_row((2, 64), epochs=epochs, **options))
        rows[-1]["test_nll"] += 0.2 / epochs
        rows[-1]["best_valid_nll"] += 0.2 / epochs
    over = made_row((8, 128), epochs=12, overfit=0.15, **options)
    over["test_nll"] = law_of(12 * 4 * 128**2) + 0.04
    rows.append(over)
    rows.append({
        **made_row((2, 64)), "run_id": "gru", "model": "GRU4Rec", "size": None, "n_layers": None, "d_model": None,
        "n_blocks": None, "test_nll": 6.1,
    })  # fmt: skip
    return rows
