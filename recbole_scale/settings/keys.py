"""The settings of ScaledSASRec as typed values: one line a key with its kind, default and documentation.

A new key is one line here; ``python -m recbole_scale.settings.write`` then puts it into
``properties/model/ScaledSASRec.yaml``, the defaults that a run reads (a test holds the two equal).
"""

from __future__ import annotations

from dataclasses import dataclass

from recbole_scale.errors import UserError
from recbole_scale.settings.kinds import (
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    choice,
    either,
    fields,
    listing,
    number,
    only,
    optional,
    whole,
)  # fmt: skip
from recbole_scale.settings.typed import Settings, key

SIZES = ("tiny", "small", "base", "medium", "large", "xlarge")
ACTIVATIONS = ("gelu", "relu", "swish", "tanh", "sigmoid")
LEARNERS = ("adamw", "adam", "sgd", "adagrad", "rmsprop", "sparse_adam")
SCHEDULES = ("cosine", "constant", "wsd")
MANY = 1_000_000  # epochs, or evaluations without a gain, that no budget reaches
EPOCHS = whole(0, MANY)
NORM_CLIPPING = optional(
    fields("{max_norm: 1.0}", needs=("max_norm",), max_norm=POSITIVE, norm_type=number(0, low_too=False))
)

NEGATIVES = fields(
    "{distribution: uniform, sample_num: 1}",
    distribution=optional(choice("none", "uniform", "popularity")),
    sample_num=either(whole(1, 1_000_000), only("none")),
    alpha=either(NOT_NEGATIVE, only("none")),
    dynamic=FLAG,
    candidate_num=whole(0, 1_000_000),
)


@dataclass(frozen=True)
class SizeSettings(Settings):
    """What a rung of the ladder sets (``properties/<size>.yaml``); the defaults are tiny's."""

    n_layers: int = key(whole(1, 10_000), 2, "Decoder blocks.")
    hidden_size: int = key(whole(1, 1_000_000), 64, "d_model, the width.")
    n_heads: int = key(whole(1, 10_000), 2, "Attention heads.")
    inner_size: int = key(whole(1, 10_000_000), 256, "Width of the feed-forward part, 4 x d_model.")
    epochs: int = key(EPOCHS, 30, "The paper's number of epochs at this size.")
    dropout_bottom: float = key(RATE, 0.1, "Rate at the first block and the embedding.")
    dropout_top: float = key(RATE, 0.1, "Rate at the last block; linear between.")
    learning_rate: float = key(POSITIVE, 0.003, "Peak learning rate of AdamW.")
    train_batch_size: int = key(whole(), 1024, "Positions (training targets) per optimizer step.")


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What the network is."""

    size: str = key(
        choice(*SIZES), "tiny", "Rung of the ladder: tiny small base medium large xlarge; sets the keys of its file."
    )
    hidden_act: str = key(
        choice(*ACTIVATIONS), "gelu", "Activation of the feed-forward part: gelu relu swish tanh sigmoid."
    )
    layer_norm_eps: float = key(number(0, 1, low_too=False), 1e-5, "Added to the variance in LayerNorm.")
    initializer_range: float = key(number(0, 100, low_too=False), 0.02, "Standard deviation of the initial weights.")
    loss_type: str = key(
        choice("CE", "SCE"),
        "CE",
        "CE: exact softmax over all items at every position; SCE: sampled, past a million items.",
    )
    sce_samples: int = key(
        whole(), 8192, "SCE: items drawn per batch and shared by its positions; at all items it is exact."
    )
    sce_power: float = key(
        number(0, 1), 0.5, "SCE: an item is drawn with probability ~ (training count + 1)^power; 0: uniform."
    )
    dropout_rates: list[float] | None = key(
        optional(listing(RATE, most=10_000)),
        None,
        "One rate per layer, bottom first; empty: linear, dropout_bottom to dropout_top.",
    )
    hidden_dropout_prob: float | None = key(optional(RATE), None, "One rate for all layers; empty: dropout_rates.")
    attn_dropout_prob: float | None = key(
        optional(RATE), None, "One rate for attention weights in all layers; empty: the layer's rate."
    )
    dropout_embedding: float | None = key(
        optional(RATE), None, "Rate after the embedding; empty: the first layer's rate."
    )
    MAX_ITEM_LIST_LENGTH: int = key(whole(1, 1_000_000), 50, "Longest history the model sees.")


@dataclass(frozen=True)
class DataSettings(Settings):
    """What is read, and how it is cut."""

    window_stride: int | None = key(
        optional(whole()), None, "Targets per training window; empty: MAX_ITEM_LIST_LENGTH, windows edge to edge."
    )
    data_fraction: float = key(
        number(0, 1, low_too=False),
        1.0,
        "Share of users that train, chosen by a hash of their name; all users are evaluated.",
    )
    mask_history: bool = key(
        FLAG, False, "Leave a user's earlier items out of the ranking (the paper ranks all items)."
    )
    train_neg_sample_args: None = key(optional(NEGATIVES), None, "None: the softmax is over all items.")
    normalize_all: bool = key(FLAG, False, "Times are only sorted by; scaling them would cost precision.")
    data_cache: bool | str = key(
        either(FLAG, only("auto")),
        "auto",
        "Keep what was read in a binary file beside the atomic file; auto: from 8 MB on.",
    )


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How the network is trained."""

    learner: str = key(
        choice(*LEARNERS, any_case=True),
        "adamw",
        "adamw adam sgd adagrad rmsprop; sparse_adam: AdamW that moves of the items only a batch's, for SCE.",
    )
    share_trunk: bool = key(
        FLAG,
        False,
        "With wsd: keep the state at which the decay begins, and start from that of a run with other epochs alone. "
        "Sweeps of several epochs do.",
    )
    lr_rule: str | None = key(
        optional(choice("width")),
        None,
        "width: rates and initial values of the blocks' matrices by width (muP); learning_rate is then that of "
        "lr_base_width, tiny's if unset. Empty: one rate for all.",
    )
    lr_base_width: int = key(whole(), 64, "Width that learning_rate and initializer_range are meant for, with lr_rule.")
    weight_decay: float = key(NOT_NEGATIVE, 0.01, "On weight matrices; not on biases, LayerNorm or embeddings.")
    clip_grad_norm: dict[str, float] | None = key(
        NORM_CLIPPING, {"max_norm": 1.0}, "Arguments of clip_grad_norm_; empty: no clipping."
    )
    lr_schedule: str = key(
        choice(*SCHEDULES),
        "cosine",
        "After the warmup: cosine (to lr_min_ratio at the last step), constant, or wsd (stable, then a decay to it).",
    )
    lr_min_ratio: float = key(number(0, 1), 0.1, "Last learning rate over the peak, for cosine and wsd.")
    decay_share: float = key(
        number(0, 1, low_too=False, high_too=False),
        0.2,
        "Share of the steps over which wsd decays; what comes before is the same for every number of epochs.",
    )
    warmup_steps: int | None = key(
        optional(whole(0)),
        None,
        "Steps over which the learning rate rises linearly from 0; empty: 200, and at most a tenth of all.",
    )
    stopping_step: int = key(
        whole(),
        5,
        "Training stops at this many evaluations in a row without a better valid_metric (an equal one is none better); "
        "with cosine they count from half its fall on, with wsd they start the decay.",
    )
    softmax_chunk: int | None = key(
        optional(whole()),
        None,
        "Positions whose logits exist at once; empty: 8 MB of them on a CPU, 1/64 of a GPU's free memory.",
    )
    precision: str = key(
        choice("auto", "float32", "bf16", "bf16_weights"),
        "auto",
        "float32, bf16 (float32 master weights), bf16_weights; auto: bf16 on a GPU that has it.",
    )
    tf32: bool = key(FLAG, False, "On a GPU: float32 products in TF32 (10 bits of fraction), several times as fast.")
    softmax: str = key(
        choice("auto", "chunks", "triton"),
        "auto",
        "On a GPU: triton, a kernel that writes no logits, or chunks of them; auto: triton up to hidden_size 128 with "
        "8,192 items and more.",
    )
    pad_heads: bool | None = key(
        optional(FLAG),
        None,
        "Compute heads whose width is no multiple of 8 (xlarge's 50) with zeros at their end, for flash attention; "
        "same weights, same numbers. Empty: on a GPU.",
    )
    activation_checkpointing: bool = key(
        FLAG, False, "Keep each block's input only and compute the block again backward: less memory, 1/3 more work."
    )
    compile: bool | str = key(
        either(FLAG, only("graphs")),
        False,
        "torch.compile each block; the first steps wait for the compiler. graphs: also replay each as a CUDA graph, in "
        "batches of a few fixed shapes; for sizes whose steps are many small kernels.",
    )
    parallel: str = key(
        choice("auto", "ddp", "fsdp", "hsdp"),
        "auto",
        "With several processes: ddp (whole copies), fsdp (model cut over them), hsdp (cut over those of a machine, "
        "copies between machines); auto: ddp if it fits, else fsdp.",
    )
    shard_group: int | None = key(
        optional(whole()),
        None,
        "Processes over which hsdp cuts a copy, neighbours by rank; empty: a machine's (nproc).",
    )
    cut_items: bool = key(
        FLAG,
        False,
        "With fsdp: item rows stay in the process that has them, which looks up and multiplies for all; for millions "
        "of items, whose table does not fit where it would be gathered.",
    )
    accumulation_steps: int = key(
        whole(), 1, "Parts into which a batch is cut to save memory; gradients add up to the whole batch's."
    )
    spike_factor: float | None = key(
        optional(number(1, low_too=False)),
        1.5,
        "A training loss above this x the median of the last 100 is logged as a spike; empty: none is.",
    )
    optimizer_switch: bool = key(
        FLAG, False, "After the first optimizer has converged, go on with SGD from the best model (the paper's SO)."
    )
    switch_patience: int | None = key(
        optional(whole()),
        None,
        "Evaluations without a better valid_metric before the switch; empty: where early stopping would stop.",
    )
    switch_at_epoch: int | None = key(
        optional(whole()),
        None,
        "Switch at the start of this epoch (from 0), whatever the valid_metric; switches on by itself.",
    )
    sgd_learning_rate: float = key(
        POSITIVE, 0.003, "Learning rate after the switch (ours; 0.03 and more gained nothing for tiny on ml-100k)."
    )
    sgd_momentum: float = key(RATE, 0.9, "Momentum after the switch.")
    sgd_weight_decay: float = key(
        NOT_NEGATIVE,
        0.0,
        "After the switch; SGD's decay is part of the gradient, unlike AdamW's, and would change the loss.",
    )
    sgd_lr_schedule: str = key(choice(*SCHEDULES), "constant", "As lr_schedule, after the switch; no warmup.")
    sgd_epochs: int = key(
        whole(1, 1_000_000),
        10,
        "Most epochs after the switch, counted apart from epochs; stopping_step ends them early.",
    )
    save_step: int = key(
        whole(0), 0, "Also write last.pth every so many steps inside an epoch; 0: at each epoch's end."
    )
    async_checkpoints: bool | None = key(
        optional(FLAG),
        None,
        "Write checkpoints in a thread, from a copy in host memory, while training goes on. Empty: on a GPU (a CPU "
        "that trains has neither a core nor the memory to spare).",
    )


@dataclass(frozen=True)
class ScaledSASRecSettings(TrainingSettings, DataSettings, ModelSettings, SizeSettings):
    """Everything that a run of ScaledSASRec takes beside RecBole's own settings.

    Raises:
        UserError: values that do not go together.
    """

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        if self.dropout_rates is not None and len(self.dropout_rates) != self.n_layers:
            raise UserError(
                f"dropout_rates has {len(self.dropout_rates)} rates, but must list one for each of the "
                f"{self.n_layers} layers, bottom first"
            )
        if self.compile == "graphs" and self.activation_checkpointing:
            raise UserError("compile: graphs keeps what activation_checkpointing computes again; leave one of them out")
        if self.window_stride is not None and self.window_stride > self.MAX_ITEM_LIST_LENGTH:
            raise UserError(
                f"window_stride is {self.window_stride}, but must lie in 1..{self.MAX_ITEM_LIST_LENGTH} "
                "(MAX_ITEM_LIST_LENGTH)"
            )
        if self.switch_at_epoch is not None and self.switch_at_epoch > self.epochs:
            raise UserError(
                f"switch_at_epoch is {self.switch_at_epoch}, but must be a whole number from 1 to epochs "
                f"({self.epochs})"
            )
        for wrong, told in (
            (self.loss_type != "SCE", "needs loss_type: SCE; CE has a gradient for every item"),
            (self.optimizer_switch or self.switch_at_epoch is not None,
             "cannot switch to SGD; leave optimizer_switch out, or take adamw"),
            (self.parallel in ("fsdp", "hsdp"), "needs whole copies of the model; parallel: ddp has them"),
        ):  # fmt: skip
            if wrong and self.learner == "sparse_adam":
                raise UserError(f"learner: sparse_adam {told}")
