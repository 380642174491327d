"""The settings that this package adds to a run of any model, and FMLPRec's; one line a key, as in ``keys.py``."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_scale.settings.keys import ACTIVATIONS
from recbole_scale.settings.kinds import FLAG, PATH, POSITIVE, RATE, choice, number, optional, whole
from recbole_scale.settings.typed import Settings, key


@dataclass(frozen=True)
class FMLPRecSettings(Settings):
    """What FMLPRec takes beside RecBole's own settings (``properties/model/FMLPRec.yaml``)."""

    n_layers: int = key(whole(1, 10_000), 2, "Blocks: a filter and a feed-forward layer each.")
    hidden_size: int = key(whole(1, 1_000_000), 64, "Width.")
    inner_size: int = key(whole(1, 10_000_000), 256, "Width of the feed-forward part.")
    hidden_dropout_prob: float = key(RATE, 0.5, "Dropout after the embedding, each filter and each feed-forward layer.")
    hidden_act: str = key(
        choice(*ACTIVATIONS),
        "relu",
        "Activation of the feed-forward part: relu (equation 8) gelu swish tanh sigmoid.",
    )
    layer_norm_eps: float = key(number(0, 1, low_too=False), 1e-12, "Added to the variance in LayerNorm.")
    initializer_range: float = key(
        number(0, 100, low_too=False), 0.02, "Standard deviation of the initial weights, the filters' too."
    )
    loss_type: str = key(
        choice("CE", "BPR"), "CE", "CE: full softmax over all items; BPR: one sampled negative, as in the paper."
    )


@dataclass(frozen=True)
class PackageSettings(Settings):
    """What this package adds to a run of any model."""

    train_budget_seconds: float | None = key(
        optional(POSITIVE),
        None,
        "Training ends after so many seconds of steps, inside an epoch if need be, and the cosine follows the clock; "
        "empty: epochs decide.",
    )
    per_user_file: str | None = key(
        optional(PATH), None, "Write each test user's rank of the held-out item and its NLL to this .npz file."
    )
    results_file: str | None = key(
        optional(PATH), "results/runs.jsonl", "File that the run's row is added to; empty: none."
    )
    rows_on_demand: bool = key(
        FLAG, True, "RecBole's sequential models read rows made when a batch needs them, in place of a padded table."
    )
    valid_users: int | None = key(
        optional(whole()), None, "Users ranked at each evaluation, drawn by a hash of their names; empty: all."
    )
    test_users: int | None = key(
        optional(whole()), None, "Users ranked at the end, drawn by the same hash; empty: all."
    )
    bad_rows: str = key(
        choice("refuse", "as_recbole"),
        "refuse",
        "Interactions with an empty user or item, or with more columns than the header: refuse names the first; "
        "as_recbole leaves the former out and cuts the latter, as RecBole's reader does in silence, and counts them.",
    )
    detect_anomaly: bool = key(
        FLAG, False, "autograd's anomaly mode; RecBole's import of SINE switches it on for all models."
    )
