"""What RecBole's models ask of the data besides interactions: labels, items to compare with, enough of everything.

Asked before a run trains or is planned, not where data are read: RecBole's API reads and splits without a training too.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import recbole
from recbole.data.dataloader import UserDataLoader
from recbole.data.dataset import Dataset
from recbole.utils import InputType, ModelType

from recbole_scale.errors import UserError, as_mistake, keep_traceback
from recbole_scale.interfaces import Loader, RunConfig
from recbole_scale.model.likelihood import SOFTMAX_LOSSES

RECBOLE = Path(recbole.__file__).parent
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
    if _is_tree(config):
        for key in ("epochs", "eval_step"):
            if config[key] < 1:
                raise UserError(f"{key} is {config[key]}, but {config['model']} keeps the best of one round or more")
    labelled = config["LABEL_FIELD"] in (dataset.inter_feat.columns if _is_tree(config) else dataset.field2type)
    _check_labels(config, labelled)
    _check_negatives(config, train_data, labelled)
    _check_counts(config, dataset)


def _is_tree(config: RunConfig) -> bool:
    return bool(config["MODEL_TYPE"] == ModelType.DECISIONTREE)  # which sees no drawn rows


def _check_labels(config: RunConfig, labelled: bool) -> None:
    """Labels, for models that learn them and for metrics of them."""
    learnt = config["MODEL_TYPE"] in LABELLED_TYPES and (_is_tree(config) or not draws_negatives(config))
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


class NoNumber(UserError, ValueError):
    """A loss of nan: a mistake with a sentence, and the ValueError that callers of RecBole's trainers know."""


@contextmanager
def failures_told(config: RunConfig) -> Iterator[None]:
    """Turn what only a model or a batch shows into a sentence: DGCF's draws, no number for a loss, a missed label.

    Raises:
        UserError: naming the setting, or the line of RecBole's model that fails as it is set.
    """
    try:
        yield
    except Exception as failure:
        what = str(failure.args[0]) if failure.args else ""
        if isinstance(failure, KeyError) and what == config["LABEL_FIELD"] and not draws_negatives(config):
            raise _no_draws(config) from failure
        if what.startswith("SparseAdam does not support dense"):
            raise UserError(f"learner sparse_adam needs sparse gradients, and {config['model']} has none") from failure
        if what == "Training loss is nan":
            masks = "; so is it where mask_ratio masks no item of a batch" * (config["model"] == "BERT4Rec")
            raise NoNumber(
                f"the training loss of {config['model']} is no number (nan); often that is a learning_rate too high "
                f"(it is {config['learning_rate']}){masks}"
            ) from failure
        if config["model"] == "DGCF" and what.startswith("Sample larger than population"):
            raise UserError(
                "DGCF draws as many items as users for each batch, and there are not so many; "
                f"a train_batch_size below {config['train_batch_size']} draws fewer"
            ) from failure
        place = _line_of_model(failure)
        stock = config.model_class.__module__.startswith("recbole.model")
        if place is None or not stock or as_mistake(failure) is not None:
            raise
        told = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}".removesuffix(": ")
        kept = keep_traceback(failure)
        shown = f"the traceback is in {kept}" if kept else "RECBOLE_SCALE_TRACEBACK=1 shows all"
        raise UserError(f"RecBole's {config['model']} fails as it is set ({told}; {place}; {shown})") from failure


def _line_of_model(failure: BaseException) -> str | None:
    """Where RecBole's model failed, itself or in what it called of torch; None where it was another's code."""
    ours = Path(__file__).parents[1]
    own = [
        frame
        for frame in traceback.extract_tb(failure.__traceback__)
        if Path(frame.filename).is_relative_to(RECBOLE) or Path(frame.filename).is_relative_to(ours)
    ]
    if not own or not Path(own[-1].filename).is_relative_to(RECBOLE / "model"):
        return None
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
