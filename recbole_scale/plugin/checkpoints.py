"""From the path of a checkpoint to its settings and its model: the one way, whoever opens it."""

from __future__ import annotations

from typing import Any

from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType

from recbole_scale.errors import UserError
from recbole_scale.interfaces import KnownIds, RunConfig
from recbole_scale.plugin.config import begin, checkpoint_config, recboles_refusal
from recbole_scale.plugin.register import find_model
from recbole_scale.training.checkpoint import load_checkpoint


def open_checkpoint(path: str, data_path: str | None = None) -> tuple[dict[str, Any], Any]:
    """State and Config of a checkpoint, on the device at hand.

    Args:
        path: a checkpoint that :mod:`recbole_scale` or RecBole under it wrote.
        data_path: folder of data sets, where it is not the one of the training.

    Raises:
        UserError: no such checkpoint, a damaged one, one without settings, or settings that RecBole refuses.
    """
    state = load_checkpoint(path)
    settings = state.get("config")
    if not isinstance(settings, dict) or not {"model", "dataset"} <= settings.keys():
        raise UserError(f"{path} holds no settings of a run; checkpoints of plain RecBole cannot be read")
    config = checkpoint_config(settings, **({"data_path": data_path} if data_path else {}))
    begin(config)
    construct_transform(config)  # writes into the settings of models that mask items, which the run's id counts
    return state, config


def open_sequential(path: str, data_path: str | None = None) -> tuple[dict[str, Any], Any]:
    """As :func:`open_checkpoint`, of a model that needs no more than histories.

    Raises:
        UserError: as there, or another kind of model.
    """
    state, config = open_checkpoint(path, data_path)
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"{path} holds {config['model']}, which is no sequential model")
    return state, config


def trained_model(config: RunConfig, dataset: KnownIds, state: dict[str, Any], path: str) -> Any:
    """The model of a checkpoint with its weights, in evaluation mode, on ``dataset`` as it is now.

    Raises:
        UserError: RecBole refuses to build it, or its tensors have other shapes.
    """
    return with_weights(
        recboles_refusal(lambda: find_model(config["model"])(config, dataset).to(config["device"])), config, state, path
    )


def with_weights(network: AbstractRecommender, config: RunConfig, state: dict[str, Any], path: str) -> Any:
    """A model with the weights of a checkpoint, in evaluation mode.

    Raises:
        UserError: its tensors have other shapes.
    """
    try:
        network.load_state_dict(state["state_dict"])
    except RuntimeError as failure:
        reason = " ".join(str(failure).split())[:300]
        raise UserError(f"{other_data(config, path)}: {reason}") from failure
    network.load_other_parameter(state.get("other_parameter"))
    return network.eval()


def other_data(config: RunConfig, path: str) -> str:
    """The beginning of a sentence about data that has changed since training."""
    return f"data set '{config['dataset']}' in {config['data_path']} is not the one that {path} was trained on"
