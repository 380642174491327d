"""RecBole's own settings as typed values: the keys of its ``overall.yaml`` and ``sample.yaml``.

Defaults and documentation are RecBole's (tested equal); kinds follow what it documents and what its code takes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from recbole_scale.settings.keys import EPOCHS, NEGATIVES, NORM_CLIPPING
from recbole_scale.settings.kinds import (
    COLUMN,
    COLUMN_PART,
    FLAG,
    METRIC,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    Kind,
    Refused,
    choice,
    either,
    fields,
    listing,
    mapping,
    matching,
    number,
    only,
    optional,
    separator,
    whole,
    word,
)
from recbole_scale.settings.typed import Settings, key

TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")


def _interval(value: Any) -> str:
    """``[5,inf)``, or several with ``;`` between them; YAML reads ``[5,10]`` as a list of two."""
    if isinstance(value, list) and len(value) == 2:
        value = f"[{value[0]},{value[1]}]"
    if not isinstance(value, str) or len(value) > 1000:
        raise Refused
    for part in value.split(";"):
        found = re.fullmatch(r"\s*[\[(]\s*([^,\s]+)\s*,\s*([^,\s]+)\s*[\])]\s*", part)
        try:
            low, high = float(found[1]), float(found[2])  # type: ignore[index]
        except (TypeError, ValueError):
            raise Refused from None
        if math.isnan(low) or math.isnan(high) or low > high:
            raise Refused
    return value


INTERVAL = Kind('an interval such as "[5,inf)"', "str", _interval)
MODE = matching(r"full|labeled|(uni|pop)[1-9][0-9]{0,8}", "full, labeled, uniN or popN (N sampled items)")
COLUMNS = listing(COLUMN, least=0)
LEAVE_ONE_OUT = choice("valid_and_test", "valid_only", "test_only")


TIMES = listing(either(number(), word(60)), 2, 2)  # numbers in the unit of the data, or dates
SHARES = Kind("three shares such as [0.8, 0.1, 0.1], the first above 0", "list", lambda value: _shares(value))


def _shares(value: Any) -> list[float]:
    """Shares of train, valid and test."""
    shares: list[float] = listing(NOT_NEGATIVE, 3, 3).read(value)
    if not shares[0] > 0:
        raise Refused
    return shares


def _split(value: Any) -> dict[str, Any]:
    """One rule and its value."""
    rule, how = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    rules = {"LS": LEAVE_ONE_OUT, "RS": SHARES, "TS": either(SHARES, TIMES)}
    if rule not in rules:
        raise Refused
    return {rule: rules[rule].read(how)}


SPLIT = Kind(
    "{LS: valid_and_test} (leave-one-out), {RS: [0.8, 0.1, 0.1]} (shares, the first above 0) or "
    "{TS: [t1, t2]} (two times, or three shares, of one time line)",
    "dict",
    _split,
)
EVAL_ARGS = fields(
    "{split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}",
    split=SPLIT,
    order=choice("RO", "TO"),
    group_by=optional(choice("user", "none", any_case=True)),
    mode=either(MODE, mapping(MODE, known=("valid", "test"))),
)
GPU = either(whole(-1, 10_000), Kind("", "str", lambda value: _gpus(value)), listing(whole(0, 10_000)))


def _gpus(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"-1|(\d{1,5}(\s*,\s*\d{1,5})*)?", value):
        raise Refused
    return value


@dataclass(frozen=True)
class RecBoleSettings(Settings):
    """RecBole's ``overall.yaml``."""

    gpu_id: str = key(
        Kind("numbers of GPUs, such as 0 or '0,1', or -1 for none", "str", GPU.read), "0", "The id of GPU device(s)."
    )
    worker: int = key(whole(0, 1024), 0, "The number of workers processing the data.")
    use_gpu: bool = key(FLAG, True, "Whether or not to use GPU.")
    seed: int = key(whole(0, 2**32 - 1), 2020, "Random seed.")
    state: str = key(choice("info", "debug", "error", "warning", "critical", any_case=True), "INFO", "Logging level.")
    reproducibility: bool = key(FLAG, True, "Whether or not to make results reproducible.")
    data_path: str = key(PATH, "dataset/", "The path of input dataset.")
    checkpoint_dir: str = key(PATH, "saved", "The path to save checkpoint file.")
    show_progress: bool = key(FLAG, True, "Whether or not to show the progress bar of every epoch.")
    save_dataset: bool = key(FLAG, False, "Whether or not to save filtered dataset.")
    dataset_save_path: None = key(optional(PATH), None, "The path of saved dataset.")
    save_dataloaders: bool = key(FLAG, False, "Whether or not save split dataloaders.")
    dataloaders_save_path: None = key(optional(PATH), None, "The path of saved dataloaders.")
    log_wandb: bool = key(FLAG, False, "Whether or not to use Weights & Biases(W&B).")
    wandb_project: str = key(word(), "recbole", "The project to conduct experiments in W&B.")
    shuffle: bool = key(FLAG, True, "Whether or not to shuffle the training data before each epoch.")
    epochs: int = key(EPOCHS, 300, "The number of training epochs.")
    train_batch_size: int = key(whole(), 2048, "The training batch size.")
    learner: str = key(choice(*LEARNERS, any_case=True), "adam", "The name of used optimizer.")
    learning_rate: float = key(POSITIVE, 0.001, "Learning rate.")
    train_neg_sample_args: dict[str, Any] | None = key(
        optional(NEGATIVES),
        {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0},
        "Negative sampling configuration for model training.",
    )
    eval_step: int = key(whole(0), 1, "The number of training epochs before an evaluation on the valid dataset.")
    stopping_step: int = key(whole(0), 10, "The threshold for validation-based early stopping.")
    clip_grad_norm: dict[str, float] | None = key(
        NORM_CLIPPING, None, "The args of clip_grad_norm_ which will clip gradient norm of model."
    )
    weight_decay: float = key(NOT_NEGATIVE, 0.0, "The weight decay value (L2 penalty) for optimizers.")
    loss_decimal_place: int = key(whole(0, 30), 4, "The decimal place of training loss.")
    require_pow: bool = key(FLAG, False, "Whether or not to perform power operation in EmbLoss.")
    enable_amp: bool = key(FLAG, False, "Whether or not to use mixed precision training.")
    enable_scaler: bool = key(FLAG, False, "Whether or not to use GradScaler in mixed precision training.")
    transform: str | None = key(optional(choice(*TRANSFORMS)), None, "The transform operation for batch data process.")
    eval_args: dict[str, Any] = key(
        EVAL_ARGS,
        {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
        "4 keys: group_by, order, split, and mode",
    )
    repeatable: bool = key(FLAG, False, "Whether to evaluate results with a repeatable recommendation scene.")
    metrics: list[str] = key(
        listing(METRIC, lone=True), ["Recall", "MRR", "NDCG", "Hit", "Precision"], "Evaluation metrics."
    )
    topk: list[int] = key(listing(whole(1, 1_000_000), lone=True), [10], "The value of k for topk evaluation metrics.")
    valid_metric: str = key(METRIC, "MRR@10", "The evaluation metric for early stopping.")
    valid_metric_bigger: bool = key(FLAG, True, "Whether to take a bigger valid metric value as a better result.")
    eval_batch_size: int = key(whole(), 4096, "The evaluation batch size.")
    metric_decimal_place: int = key(whole(0, 30), 4, "The decimal place of metric scores.")


@dataclass(frozen=True)
class RecBoleDataSettings(Settings):
    """RecBole's ``dataset/sample.yaml``."""

    field_separator: str = key(separator(1), "\t", "Separator of different columns in atomic files.")
    seq_separator: str = key(separator(8), " ", "Separator inside the sequence features.")
    USER_ID_FIELD: str = key(COLUMN, "user_id", "Field name of user ID feature.")
    ITEM_ID_FIELD: str = key(COLUMN, "item_id", "Field name of item ID feature.")
    RATING_FIELD: str | None = key(optional(COLUMN), "rating", "Field name of rating feature.")
    TIME_FIELD: str | None = key(optional(COLUMN), "timestamp", "Field name of timestamp feature.")
    seq_len: dict[str, int] | None = key(
        optional(mapping(whole(), keys=COLUMN)), None, "Field name of sequence feature: maximum length of each sequence"
    )
    LABEL_FIELD: str = key(COLUMN, "label", "Expected field name of the generated labels for point-wise dataLoaders.")
    threshold: dict[str, float] | None = key(
        optional(mapping(number(), keys=COLUMN)), None, "0/1 labels will be generated according to the pairs."
    )
    NEG_PREFIX: str = key(COLUMN_PART, "neg_", "Negative sampling prefix for pair-wise dataLoaders.")
    numerical_features: list[str] = key(COLUMNS, [], "Float feature fields to be embedded")
    load_col: dict[str, list[str]] | None = key(
        optional(mapping(either(only("*"), COLUMNS), form="{inter: [user_id, item_id, timestamp]}")),
        {"inter": ["user_id", "item_id"]},
        "The suffix of atomic files: (list) field names to be loaded.",
    )
    unload_col: dict[str, list[str]] | None = key(
        optional(mapping(COLUMNS, form="{inter: [rating]}")),
        None,
        "The suffix of atomic files: (list) field names NOT to be loaded.",
    )
    unused_col: dict[str, list[str]] | None = key(
        optional(mapping(COLUMNS, form="{inter: [rating]}")),
        None,
        "The suffix of atomic files: (list) field names which are loaded but not used.",
    )
    additional_feat_suffix: list[str] | None = key(
        optional(listing(COLUMN, least=0, lone=True)), None, "Control loading additional atomic files."
    )
    rm_dup_inter: str | None = key(
        optional(choice("first", "last")), None, "Whether to remove duplicated user-item interactions."
    )
    val_interval: dict[str, Any] | None = key(
        optional(mapping(either(INTERVAL, listing(word())), keys=COLUMN, form='{rating: "[3,inf)"}')),
        None,
        "Filter inter by values in {value field (str): interval (str)}.",
    )
    filter_inter_by_user_or_item: bool = key(FLAG, True, "Whether or not to filter inter by user or item.")
    user_inter_num_interval: str | None = key(
        optional(INTERVAL),
        "[0,inf)",
        "User interval for filtering inter, such as [A,B] / [A,B) / (A,B) / (A,B].",
    )
    item_inter_num_interval: str | None = key(
        optional(INTERVAL),
        "[0,inf)",
        "Item interval for filtering inter, such as [A,B] / [A,B) / (A,B) / (A,B].",
    )
    alias_of_user_id: list[str] | None = key(
        optional(COLUMNS), None, "Fields' names remapped into the same index system with USER_ID_FIELD."
    )
    alias_of_item_id: list[str] | None = key(
        optional(COLUMNS), None, "Fields' names remapped into the same index system with ITEM_ID_FIELD."
    )
    alias_of_entity_id: list[str] | None = key(
        optional(COLUMNS), None, "Fields' names remapped into the same index system with ENTITY_ID_FIELD."
    )
    alias_of_relation_id: list[str] | None = key(
        optional(COLUMNS), None, "Fields' names remapped into the same index system with RELATION_ID_FIELD."
    )
    preload_weight: dict[str, str] | None = key(
        optional(mapping(COLUMN, keys=COLUMN)),
        None,
        "Preloaded weight in {IDs (token): pretrained vectors (float-like)}.",
    )
    normalize_field: list[str] | None = key(optional(COLUMNS), None, "List of filed names to be normalized.")
    normalize_all: bool | None = key(optional(FLAG), None, "Whether or not to normalize all the float like fields.")
    discretization: dict[str, Any] | None = key(
        optional(mapping(fields("{method: ED, bucket: 10}", method=choice("ED", "LD"), bucket=whole()), keys=COLUMN)),
        None,
        "The discretization settings.",
    )
    ITEM_LIST_LENGTH_FIELD: str = key(
        COLUMN, "item_length", "Field name of the feature representing item sequences' length."
    )
    LIST_SUFFIX: str = key(COLUMN_PART, "_list", "Suffix of field names which are generated as sequences.")
    MAX_ITEM_LIST_LENGTH: int = key(whole(1, 1_000_000), 50, "Maximum length of each generated sequence.")
    POSITION_FIELD: str = key(COLUMN, "position_id", "Field name of the generated position sequence.")
    HEAD_ENTITY_ID_FIELD: str = key(COLUMN, "head_id", "Field name of the head entity ID feature.")
    TAIL_ENTITY_ID_FIELD: str = key(COLUMN, "tail_id", "Field name of the tail entity ID feature.")
    RELATION_ID_FIELD: str = key(COLUMN, "relation_id", "Field name of the relation ID feature.")
    ENTITY_ID_FIELD: str = key(COLUMN, "entity_id", "Field name of the entity ID.")
    kg_reverse_r: bool = key(FLAG, False, "Whether to reverse relations of triples for bidirectional edges.")
    entity_kg_num_interval: str | None = key(optional(INTERVAL), "[0,inf)", "Entity interval for filtering kg.")
    relation_kg_num_interval: str | None = key(optional(INTERVAL), "[0,inf)", "Relation interval for filtering kg.")
    benchmark_filename: list[str] | None = key(
        optional(listing(COLUMN)), None, "List of pre-split user-item interaction suffix."
    )
