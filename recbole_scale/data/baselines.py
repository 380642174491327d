"""RecBole's own sequential models on our histories: the rows of its per-prefix copy, in its order, made when indexed.

Stock RecBole writes out one padded row per prefix (a Python loop, 8 bytes x length x rows for each list field); here a
row exists only inside its batch. What a model sees is the same, to the last bit and in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.transform import construct_transform
from recbole.utils import ModelType

from recbole_scale.data.dataset import RECBOLE_ONLY, HistoryDataset
from recbole_scale.data.loaders import HistoryEvalDataLoader, WindowDataLoader
from recbole_scale.interfaces import RunConfig

# models that read a row's user, target, items before it and their number, and nothing else of the data set
ID_ONLY = (
    "BERT4Rec", "CORE", "Caser", "FMLPRec", "FOSSIL", "FPMC", "GCSAN", "GRU4Rec", "GRU4RecCPR", "HGN", "HRM",
    "LightSANs", "Markov", "NARM", "NPE", "NextItNet", "RepeatLast", "RepeatNet", "SASRec",
    "SASRecCPR", "SHAN", "SINE", "SRGNN", "STAMP", "TransRec",
)  # fmt: skip

# settings that ask for RecBole's own table
_TABLE_ONLY = (
    "benchmark_filename", "additional_feat_suffix", "alias_of_user_id", "alias_of_item_id", "threshold",
    "discretization", "numerical_features", "preload_weight", "save_dataset", "dataset_save_path",
    "save_dataloaders", "dataloaders_save_path",
)  # fmt: skip


def rows_on_demand(config: RunConfig) -> bool:
    """Whether a run of one of RecBole's sequential models can read rows made on demand; else it takes RecBole's table.

    It cannot where the model or the settings ask for more than ids: features, ready-made splits, saved data sets,
    popularity sampling, a transform of the user's own, or a split that our histories do not know.
    """
    wanted = config["rows_on_demand"]
    if not (wanted is None or wanted) or config["model"] not in ID_ONLY:
        return False
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL or config["transform"] == "user_defined":
        return False
    if any(config[key] for key in _TABLE_ONLY) or any((config["load_col"] or {}).get(s) for s in ("user", "item")):
        return False
    if any(_distribution(config, phase) not in ("none", "uniform") for phase in ("train", "valid", "test")):
        return False
    return _known_split(config["eval_args"])


def _distribution(config: RunConfig, phase: str) -> str:
    return str((config[f"{phase}_neg_sample_args"] or {}).get("distribution", "none"))


def _known_split(eval_args: dict[str, Any]) -> bool:
    rule, value = next(iter((eval_args["split"] or {"": None}).items()))
    shares = rule == "RS" and isinstance(value, list) and len(value) == 3
    return eval_args["order"] == "TO" and (rule in ("LS", "TS") or shares)


def loader_class(config: RunConfig, phase: str, windows: bool) -> type | None:
    """Our loader for a phase ("train", "valid", "test"), or None for RecBole's; ``windows``: train on windows."""
    if not windows and not rows_on_demand(config):
        return None
    if phase != "train":
        return HistoryEvalDataLoader if config["eval_args"]["mode"][phase] == "full" else None
    if windows:
        return WindowDataLoader
    return None if config["worker"] else RowDataLoader  # RecBole's can have worker processes


class BaselineDataset(HistoryDataset):
    """Histories whose rows stand in the order in which RecBole's own split would put them."""

    reads_features = True  # as RecBole's own, which leaves out users and items that are in no such file
    left_to_recbole = tuple(key for key in RECBOLE_ONLY if key != "normalize_all")  # times are only sorted by

    def _user_order(self) -> np.ndarray:
        """RecBole sorts all rows by float32 time and then gathers users: the order of each user's first row [U]."""
        times = self._rounded_times()
        second = np.minimum(self.histories.offsets[:-1] + 1, len(times) - 1)
        first_row = times[second]
        first_row[self.histories.lengths < 2] = np.inf  # users without rows
        return np.argsort(first_row, kind="stable")

    def _rounded_times(self) -> np.ndarray:
        """Times as RecBole's table has them, float32 [R]."""
        times = self.times
        if self.config["normalize_all"]:
            low, high = times.min(initial=np.inf), times.max(initial=-np.inf)
            times = (times - low) / (high - low) if high > low else np.ones_like(times)
        return times.astype(np.float32)

    def row_of_flops(self) -> Any:
        """The second row of RecBole's table, the one on which it counts a model's FLOPs."""
        targets = self.split.targets(self.histories, "all")
        order = np.argsort(self._rounded_times()[targets], kind="stable")
        return self.inter_feat.at(targets[order[1:2]])


class RowDataLoader(TrainDataLoader):
    """RecBole's training loader over rows made on demand: the same batches for the same seed, without lists of indices.

    RecBole keeps a Python list of all row numbers, and torch's sampler makes another one each epoch.
    """

    def __init__(self, config: RunConfig, dataset: BaselineDataset, sampler: Any, shuffle: bool = False) -> None:
        self._set_neg_sample_args(
            config, dataset, config["MODEL_INPUT_TYPE"], config["train_neg_sample_args"]
        )  # as RecBole's constructors, but for the list
        self.shuffle, self.config, self._dataset, self._sampler = shuffle, config, dataset, sampler
        self.model = None
        self.sample_size = len(dataset)
        self._init_batch_size_and_step()
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self.transform = construct_transform(config)
        self.is_sequential = True
        rows: Any = range(self.sample_size)
        mixed = shuffle and self.sample_size > 0  # torch's sampler refuses to mix nothing
        torch.utils.data.DataLoader.__init__(
            self, rows, batch_size=self.step, collate_fn=self.collate_fn, shuffle=mixed, generator=self.generator
        )

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch, drawn from ``generator`` as torch's own loader draws."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # torch's seed for its workers
        order = torch.randperm(self.sample_size, generator=self.generator) if self.shuffle else None
        if self.shuffle:
            torch.randperm(self.sample_size, generator=self.generator)  # torch draws a second order and uses none of it
        step = int(self.step)
        for start in range(0, self.sample_size, step):
            end = min(start + step, self.sample_size)
            yield self.collate_fn(np.arange(start, end) if order is None else order[start:end].numpy())
