"""What RecBole's models ask of the data besides interactions: labels, items to compare with, enough of everything.

Asked before a run trains or is planned, not where data are read: RecBole's API reads and splits without a training too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recbole.data.dataloader import UserDataLoader
from recbole.data.dataset import Dataset
from recbole.utils import InputType, ModelType

from recbole_scale.errors import UserError
from recbole_scale.interfaces import Loader, RunConfig
from recbole_scale.model.likelihood import SOFTMAX_LOSSES

LABELLED_TYPES = (ModelType.CONTEXT, ModelType.DECISIONTREE)
# of other types, those whose loss reads a label, which drawn items give where the data have none
BY_LABEL = ("DIEN", "DIN", "DMF", "FISM", "NAIS", "NNCF", "NeuMF")


def draws_negatives(config: RunConfig) -> bool:
    """Whether training rows come with items that their users have not taken."""
    return (config["train_neg_sample_args"] or {}).get("distribution", "none") != "none"


def check_demands(config: RunConfig, train_data: Loader) -> None:
    """All of them, of the loader of training rows.

    Raises:
        UserError: something is missing.
    """
    dataset = train_data._dataset
    labelled = config["LABEL_FIELD"] in dataset.field2type
    _check_labels(config, labelled)
    _check_negatives(config, train_data, labelled)
    _check_counts(config, dataset)


def _check_labels(config: RunConfig, labelled: bool) -> None:
    """Labels, for models that learn them and for metrics of them."""
    learnt = config["MODEL_TYPE"] in LABELLED_TYPES and not draws_negatives(config)
    if (learnt or "labeled" in config["eval_args"]["mode"].values()) and not labelled:
        who = f"{config['model']} learns labels" if learnt else "eval_args.mode labeled measures labels"
        raise UserError(
            f"{who}, but the interactions of '{config['dataset']}' have no column '{config['LABEL_FIELD']}'; "
            "threshold={rating: 3} makes labels from ratings, LABEL_FIELD and load_col name a column of the file's own"
        )


def _check_negatives(config: RunConfig, train_data: Loader, labelled: bool) -> None:
    """Items that users have not taken, beside those taken or as rows of label 0."""
    whole_users = isinstance(train_data, UserDataLoader)
    if whole_users and (config["train_neg_sample_args"] or {}).get("dynamic"):
        raise UserError(f"{config['model']} trains on whole users: train_neg_sample_args.dynamic chooses nothing there")
    pairs = (
        config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
        and config["loss_type"] not in SOFTMAX_LOSSES
        and not whole_users
    )
    of_graph = config["MODEL_TYPE"] == ModelType.KNOWLEDGE  # its triples are drawn by the same setting
    if (pairs or of_graph or (config["model"] in BY_LABEL and not labelled)) and not draws_negatives(config):
        raise _no_draws(config)


def _no_draws(config: RunConfig) -> UserError:
    return UserError(
        f"{config['model']} learns from items that a user has not taken beside those taken, but "
        "train_neg_sample_args draws none; leave it out, or set {distribution: uniform, sample_num: 1}"
    )


def _check_counts(config: RunConfig, dataset: Dataset) -> None:
    """As many users and items as a model of RecBole's groups or looks through, padding included.

    The model itself finds that there are fewer while it trains; NCL after its first twenty epochs.
    """
    least = {"NCL": min(dataset.user_num, dataset.item_num)}.get(config["model"], dataset.item_num)
    for key in ("num_clusters", "reranker_CAN_NUM"):
        wanted = max(int(part) for part in str(config[key] or 0).split(","))
        if wanted > least:
            raise UserError(f"{key} is {config[key]}, but must be at most {least} for '{config['dataset']}'")


@contextmanager
def failures_told(config: RunConfig) -> Iterator[None]:
    """Turn what only a batch shows into a sentence: DGCF's draws, a label that a model outside RecBole reads.

    Raises:
        UserError: naming the setting.
    """
    try:
        yield
    except (KeyError, ValueError) as failure:
        what = str(failure.args[0]) if failure.args else ""
        if isinstance(failure, KeyError) and what == config["LABEL_FIELD"] and not draws_negatives(config):
            raise _no_draws(config) from failure
        if config["model"] == "DGCF" and what.startswith("Sample larger than population"):
            raise UserError(
                "DGCF draws as many items as users for each batch, and there are not so many; "
                f"a train_batch_size below {config['train_batch_size']} draws fewer"
            ) from failure
        raise
