"""What RecBole's models ask of the data besides interactions: labels, items to compare with, enough of everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recbole.data.dataset import Dataset
from recbole.utils import ModelType

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Loader, RunConfig
from recbole_scale.plugin.config import WINDOW_MODELS

LABELLED_TYPES = (ModelType.CONTEXT, ModelType.DECISIONTREE)


def draws_negatives(config: RunConfig) -> bool:
    """Whether training rows come with items that their users have not taken."""
    return (config["train_neg_sample_args"] or {}).get("distribution", "none") != "none"


def check_labels(config: RunConfig, dataset: Dataset) -> None:
    """Labels, for models that learn them and for metrics of them.

    Raises:
        UserError: the interactions have none, or the model gives none.
    """
    learnt = config["MODEL_TYPE"] in LABELLED_TYPES and not draws_negatives(config)
    measured = "labeled" in config["eval_args"]["mode"].values()
    if measured and config["model"] in WINDOW_MODELS:
        raise UserError(f"{config['model']} ranks items and knows no labels; set eval_args.mode full, uni100 or pop100")
    if (learnt or measured) and dataset.label_field not in dataset.field2type:
        who = f"{config['model']} learns labels" if learnt else "eval_args.mode labeled measures labels"
        raise UserError(
            f"{who}, but the interactions of '{config['dataset']}' have no column '{dataset.label_field}'; "
            "threshold={rating: 3} makes labels from ratings, LABEL_FIELD and load_col name a column of the file's own"
        )


def check_counts(config: RunConfig, dataset: Dataset) -> None:
    """As many users and items as a model of RecBole's groups or looks through, padding included.

    Raises:
        UserError: there are fewer, which the model itself finds while it trains; NCL after its first twenty epochs.
    """
    least = {"NCL": min(dataset.user_num, dataset.item_num)}.get(config["model"], dataset.item_num)
    for key in ("num_clusters", "reranker_CAN_NUM"):
        wanted = max(int(part) for part in str(config[key] or 0).split(","))
        if wanted > least:
            raise UserError(f"{key} is {config[key]}, but must be at most {least} for '{config['dataset']}'")


@contextmanager
def missing_draws_told(config: RunConfig, loader: Loader) -> Iterator[None]:
    """Turn the errors of a training without the columns that negatives or labels make into a sentence.

    Raises:
        UserError: naming the setting.
    """
    asked = config["train_neg_sample_args"] or {}
    if asked.get("dynamic") and not hasattr(loader, "get_model"):
        raise UserError(f"{config['model']} trains on whole users: train_neg_sample_args.dynamic chooses nothing there")
    try:
        yield
    except (KeyError, NotImplementedError, ValueError) as failure:
        what = str(failure.args[0]) if failure.args else ""
        column = isinstance(failure, KeyError) and what.startswith((config["NEG_PREFIX"], config["LABEL_FIELD"]))
        if not draws_negatives(config) and (column or "sampling distribution [none]" in what):
            raise UserError(
                f"{config['model']} learns from items that a user has not taken beside those taken, but "
                "train_neg_sample_args draws none; leave it out, or set {distribution: uniform, sample_num: 1}"
            ) from failure
        if config["model"] == "DGCF" and what.startswith("Sample larger than population"):
            raise UserError(
                "DGCF draws as many items as users for each batch, and there are not so many; "
                f"a train_batch_size below {config['train_batch_size']} draws fewer"
            ) from failure
        raise
