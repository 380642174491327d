"""What this package asks of RecBole's objects, which have no types: Config, batches, data sets, loaders, trainers.

RecBole's own classes and ours both have these attributes; mypy holds our code to asking for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from logging import Logger

    import numpy as np
    import torch
    from torch import Tensor
    from torch.nn import Parameter


class ByKey(Protocol):
    """Settings by their keys, a dict or RecBole's Config."""

    def __getitem__(self, key: str, /) -> Any: ...


class RunConfig(ByKey, Protocol):
    """RecBole's Config: the settings of a run; a key that is not there is None."""

    final_config_dict: dict[str, Any]
    external_config_dict: dict[str, Any]
    internal_config_dict: dict[str, Any]
    model_class: type

    def __setitem__(self, key: str, value: Any) -> None: ...


class Batch(Protocol):
    """RecBole's Interaction: columns by name, with equally many rows each."""

    interaction: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor: ...
    def __contains__(self, name: str) -> bool: ...
    def __len__(self) -> int: ...
    def to(self, device: torch.device) -> Batch: ...
    @property
    def columns(self) -> list[str]: ...


class KnownIds(Protocol):
    """The ids that a data set knows, and the names of its columns: what a model of histories is built from."""

    uid_field: str
    iid_field: str
    time_field: str
    item_list_length_field: str
    user_num: int
    item_num: int
    field2id_token: dict[str, np.ndarray]


class DataSet(KnownIds, Protocol):
    """RecBole's Dataset; ``inter_feat`` is a DataFrame until it is built and a batch of all rows after."""

    config: RunConfig
    dataset_name: str
    inter_feat: Any
    field2type: dict[str, Any]
    field2source: dict[str, Any]
    field2seqlen: dict[str, int]
    field2bucketnum: dict[str, int]
    benchmark_filename_list: list[str] | None
    file_size_list: list[int]

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Any: ...


class Loader(Protocol):
    """A loader of batches; ``_dataset`` is RecBole's name for the part of the split that it reads."""

    _dataset: Any
    dataset: Any
    generator: torch.Generator
    step: int
    uid_list: Tensor  # of rows that are users, in models without histories

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class Law(Protocol):
    """A fitted law, in one number or in two."""

    @property
    def identified(self) -> bool: ...
    @property
    def message(self) -> str: ...
    def constants(self) -> Mapping[str, float]: ...
    def bands(self) -> Mapping[str, tuple[float, float]]: ...


class Model(Protocol):
    """A torch module that ranks all items."""

    def full_sort_predict(self, interaction: Batch) -> Tensor: ...
    def parameters(self) -> Iterator[Parameter]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def eval(self) -> Any: ...


class Trainer(Protocol):
    """A trainer, RecBole's or ours; ``evaluator``, ``eval_collector`` and ``tensorboard`` are RecBole's."""

    config: RunConfig
    model: Model
    logger: Logger
    saved_model_file: str
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    evaluator: Any
    eval_collector: Any
    tensorboard: Any
    data_id: str | None

    @property
    def evaluations(self) -> list[dict[str, Any]]: ...
    def fit(self, train_data: Any, valid_data: Any = None, **named: Any) -> tuple[float, dict[str, float] | None]: ...
    def evaluate(self, eval_data: Any, **named: Any) -> Any: ...
    def resume_checkpoint(self, resume_file: str) -> None: ...


class RecBoleTrainer(Trainer, Protocol):
    """A trainer of RecBole's: its workings, and what :class:`~recbole_scale.runs.measuring.Meter` has it count."""

    device: torch.device
    item_tensor: Any
    tot_item_num: int
    epochs: int
    eval_step: int
    cur_step: int
    valid_metric: str
    valid_metric_bigger: bool
    latest_valid_result: dict[str, float]
    seconds_train: float
    targets_seen: int
    evaluations: list[dict[str, Any]]
    best_epoch: int | None
    evaluate: Any
    _train_epoch: Any
    _train_at_once: Any
    _valid_epoch: Any
    _full_sort_batch_eval: Any
    _neg_sample_batch_eval: Any
    _spilt_predict: Any
