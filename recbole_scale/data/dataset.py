"""RecBole's view of our histories: a dataset whose rows are built on demand, and the loader of training windows."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import SequentialDataset
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_scale.data import rows as our_rows  # by name only: it may be what is just being imported
from recbole_scale.data.atomic import PADDING, encoding_of, read_atomic, read_header, with_kinds
from recbole_scale.data.defaults import decide_by_data
from recbole_scale.data.hashed import drawn_users, share_of_user
from recbole_scale.data.histories import Histories, time_order
from recbole_scale.data.log import Log, Recipe, load_log
from recbole_scale.data.ready_made import rows_of
from recbole_scale.data.recbole_filters import Interval, LogFilters
from recbole_scale.data.splits import Split, split_histories
from recbole_scale.data.texts import Names, Numbers
from recbole_scale.data.time_units import check_units
from recbole_scale.errors import UserError, nearest
from recbole_scale.interfaces import DataSet

# settings of RecBole's that our own reading leaves to RecBole's
RECBOLE_ONLY = (
    "benchmark_filename", "additional_feat_suffix", "alias_of_user_id", "alias_of_item_id", "threshold",
    "normalize_field", "normalize_all", "discretization", "numerical_features", "preload_weight",
)  # fmt: skip

CACHE_FROM_BYTES = 8 << 20


class HistoryDataset(SequentialDataset):
    """A RecBole sequential dataset of ids only, kept as histories; rows equal RecBole's, but exist only when asked for.

    Reading, filtering and remapping give what RecBole's own give: they are ours where the settings allow it
    (:meth:`recipe`), RecBole's elsewhere. ``build`` returns train, valid and test views of one set of histories, so
    that memory is O(interactions).
    """

    histories: Histories
    times: np.ndarray  # exact time of each of the histories' items, float64 [R]; only where our own reading was used
    split: Split
    phase: str
    ranked: tuple[int, int] | None = None  # users drawn to be ranked, and of how many; None: all
    digest: str | None = None  # of the file that was read, where the cache asked for it
    left_to_recbole: tuple[str, ...] = RECBOLE_ONLY
    reads_features = False  # ids are all there is
    _rows: Any = None

    @property
    def inter_feat(self) -> Any:
        """A DataFrame until ``build``, HistoryRows after. Ours is made when asked for, sorted by user and time."""
        if self._rows is None and "histories" in vars(self):
            users = np.repeat(self.histories.users, self.histories.lengths).astype(np.int64)
            items = self.histories.items.astype(np.int64)
            columns = {self.uid_field: users, self.iid_field: items, self.time_field: self.times}
            self._rows = pd.DataFrame(columns, copy=True)
        return self._rows

    @inter_feat.setter
    def inter_feat(self, rows: Any) -> None:
        self._rows = rows

    def _from_scratch(self) -> None:
        self._get_preset()
        self._get_field_from_config()
        recipe = self.recipe()
        if recipe is None:
            super()._from_scratch()
        else:
            self._adopt(load_log(recipe, self._wants_cache(recipe)), recipe)

    def _load_user_or_item_feat(self, *arguments: Any) -> Any:
        return super()._load_user_or_item_feat(*arguments) if self.reads_features else None

    def _wants_cache(self, recipe: Recipe) -> bool:
        """``data_cache``: True, False, or auto, which leaves small files without one, read in a blink as they are."""
        wanted = self.config["data_cache"]  # None: a model that has no such default
        return recipe.path.stat().st_size >= CACHE_FROM_BYTES if wanted in ("auto", None) else bool(wanted)

    def recipe(self) -> Recipe | None:
        """What our own reading needs to know, or None where the settings ask for more than it can do."""
        path = Path(self.dataset_path, f"{self.dataset_name}.inter")
        if any(self.config[key] for key in self.left_to_recbole) or not path.is_file() or self._has_features():
            return None
        hooks = ("_load_data", "_data_processing", "_data_filtering", "_remap_ID_all", "_load_feat", "_load_inter_feat")
        if any(getattr(type(self), name) is not getattr(SequentialDataset, name) for name in hooks):
            return None  # somebody's subclass filters in its own way
        kinds = read_kinds(self, path)
        columns = self._chosen(kinds)
        ours = {self.uid_field: "token", self.iid_field: "token", self.time_field: "float"}
        if len(ours) < 3 or any(name not in columns or kinds[name] != kind for name, kind in ours.items()):
            return None
        if any(kinds[name] != "float" for name in columns if name not in ours):
            return None
        filters = self._filters({name for name in columns if kinds[name] == "float"})
        if filters is None:
            return None
        names = self.uid_field, self.iid_field, self.time_field
        encoding = encoding_of(self.config)
        return Recipe(path, *names, self.config["field_separator"], filters, self.config["bad_rows"], encoding)

    def _has_features(self) -> bool:
        """Whether RecBole would read a file of user or item features, and leave out who is not in it."""
        if not self.reads_features:
            return False
        wanted = self.config["load_col"]
        sources = [source for source in ("user", "item") if wanted is None or wanted.get(source)]
        return any(os.path.isfile(os.path.join(self.dataset_path, f"{self.dataset_name}.{s}")) for s in sources)

    def _chosen(self, fields: dict[str, str]) -> list[str]:
        wanted, unwanted = self._get_load_and_unload_col(FeatureSource.INTERACTION)
        return [name for name in fields if (wanted is None or name in wanted) and name not in (unwanted or ())]

    def _filters(self, floats: set[str]) -> LogFilters | None:
        """RecBole's filter settings, or None where ours would not do the same."""
        keep, ranges = self.config["rm_dup_inter"], self.config["val_interval"] or {}
        if keep not in (None, "first", "last") or any(name not in floats for name in ranges):
            return None
        values = tuple((name, tuple(self._parse_intervals_str(text))) for name, text in ranges.items())
        if not all(intervals for _, intervals in values):
            return None
        return LogFilters(
            keep, values, self._counts("user_inter_num_interval"), self._counts("item_inter_num_interval")
        )

    def _counts(self, key: str) -> tuple[Interval, ...]:
        intervals = tuple(self._parse_intervals_str(self.config[key]) or ())
        return () if intervals == (("[", 0.0, float("inf"), ")"),) else intervals  # RecBole's default: no limit

    def _adopt(self, log: Log, recipe: Recipe) -> None:
        """Leave everything as RecBole's reading, filtering and remapping leave it, the rows themselves apart."""
        fields = read_kinds(self, recipe.path)
        note_fields(self, {name: fields[name] for name in self._chosen(fields)}, FeatureSource.INTERACTION)
        self.field2source[self.uid_field] = FeatureSource.USER_ID
        self.field2source[self.iid_field] = FeatureSource.ITEM_ID
        self.user_feat = self.item_feat = None
        self._init_alias()
        self.feat_name_list = ["inter_feat"]
        for name, texts in ((self.uid_field, log.users), (self.iid_field, log.items)):
            tokens = Names(PADDING, texts)
            self.field2id_token[name] = tokens
            self.field2token_id[name] = Numbers(tokens)
        self.histories, self.times, self.digest = log.histories, log.times, log.digest

    def build(self) -> list[HistoryDataset]:
        """Sort by exact time, split each user's history, and return the train, valid and test views.

        Of ready-made splits (``benchmark_filename``) the rows are what the files say.
        """
        if self.benchmark_filename_list is not None:
            self.histories, self.split = rows_of(self)
        else:
            self.split = self._split_histories()
        self.split = replace(self.split, trains=self._training_users())
        if self.benchmark_filename_list is None:
            decide_by_data(self.config, self.histories)
        self.user_feat = self.item_feat = None  # ids only
        self.feat_name_list = ["inter_feat"]
        self._aug_presets()
        order = self._user_order()
        self.inter_feat = our_rows.HistoryRows(self, "all", order)
        return [self._view(phase, order) for phase in ("train", "valid", "test")]

    def _split_histories(self) -> Split:
        arguments = self.config["eval_args"]
        if arguments["order"] != "TO":
            raise UserError("a sequential model needs eval_args.order: TO (time order)")
        if isinstance(self._rows, pd.DataFrame):  # RecBole's own, or ours after somebody asked for it and changed it
            self._check_time()
            columns = [self._rows[name].to_numpy() for name in (self.uid_field, self.iid_field, self.time_field)]
            self.histories = Histories.from_columns(*columns)
            self.times = columns[2][time_order(columns[0], columns[2])]
        return split_histories(self.histories, arguments["split"], arguments["group_by"], self.times)

    def _user_order(self) -> np.ndarray | None:
        """Indices of the users [U] in the order of their rows; None: by id."""
        return None

    def _training_users(self) -> np.ndarray | None:
        """Mask [U] of the users that ``data_fraction`` leaves in training; None when it is 1."""
        fraction = self.config["data_fraction"]
        if fraction is None or (fraction == 1 and fraction is not True):
            return None
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise UserError(f"data_fraction is {fraction!r}, but must lie in 0..1 (0 excluded)")
        kept = share_of_user(self.field2id_token[self.uid_field][self.histories.users]) < fraction
        if not kept.any():
            raise UserError(f"data_fraction {fraction} leaves none of the {len(kept)} users for training")
        return kept

    def _check_time(self) -> None:
        if self.time_field is None or self.time_field not in self.inter_feat:
            raise UserError(
                f"data set '{self.dataset_name}' has no time column: TIME_FIELD is '{self.time_field}', the columns "
                f"read are {', '.join(self.inter_feat)}{nearest(str(self.time_field), self.inter_feat)}"
            )
        if self.inter_feat[self.time_field].dtype == object:
            raise UserError(
                f"histories are sorted by '{self.time_field}', which discretization makes pairs; leave it out there"
            )

    def _aug_presets(self) -> None:
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.set_field_property(list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)
        setattr(self, f"{self.iid_field}_list_field", list_field)
        times = self.time_field + self.config["LIST_SUFFIX"]
        self.set_field_property(times, FeatureType.FLOAT_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)
        setattr(self, f"{self.time_field}_list_field", times)
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _view(self, phase: str, order: np.ndarray | None) -> HistoryDataset:
        most = self.config[f"{phase}_users"] if phase != "train" else None
        drawn = None
        if most is not None:
            counts = self.split.ranges(self.histories, phase).counts
            names = self.field2id_token[self.uid_field]
            drawn, ranked = drawn_users(names, self.histories.users, counts, most)
        view: HistoryDataset = self.copy(our_rows.HistoryRows(self, phase, order, drawn))
        view.phase, view.ranked = phase, None if most is None else ranked
        return view

    def __len__(self) -> int:
        """Interactions before ``build``, rows after."""
        return len(self.histories.items) if self._rows is None else len(self._rows)

    @property
    def inter_num(self) -> int:
        """Interactions before ``build``, rows after."""
        return len(self)

    def counter(self, field: str) -> Counter:
        """How often each id of ``field`` occurs, as RecBole counts: over the rows' targets."""
        if field not in (self.uid_field, self.iid_field):
            raise UserError(f"only users and items are counted, not '{field}'")
        if self._rows is None:
            counts = np.r_[0, self.histories.lengths] if field == self.uid_field else np.bincount(self.histories.items)
        else:
            rows = self._rows
            counts = np.bincount(rows[field]) if isinstance(rows, pd.DataFrame) else rows.counts(field)
        ids = np.flatnonzero(counts)
        return Counter(dict(zip(ids.tolist(), counts[ids].tolist(), strict=True)))

    @property
    def avg_actions_of_users(self) -> float:
        """Mean number of interactions (rows, after ``build``) per user."""
        return len(self) / max(len(self.user_counter), 1)

    @property
    def avg_actions_of_items(self) -> float:
        """Mean number of interactions (rows, after ``build``) per item."""
        return len(self) / max(len(self.item_counter), 1)


def read_kinds(dataset: DataSet, path: str | os.PathLike[str]) -> dict[str, str]:
    """Fields of an interaction file with the types that a RecBole dataset reads them as (see :func:`with_kinds`)."""
    fields = read_header(path, dataset.config["field_separator"], encoding_of(dataset.config))
    return with_kinds(path, fields, (dataset.uid_field, dataset.iid_field), dataset.time_field)


def load_interactions(dataset: DataSet, path: str, source: Any, columns: list[str]) -> pd.DataFrame:
    """Read an atomic file for a RecBole dataset and note the fields' types there, as RecBole's own reader does.

    Lines with an empty user or item, or a time that is not a finite number, are errors with line and column.
    """
    separator = dataset.config["field_separator"]
    fields = read_kinds(dataset, path)
    required = tuple(f for f in (dataset.uid_field, dataset.iid_field, dataset.time_field) if f in columns)
    encoding = encoding_of(dataset.config)
    frame = read_atomic(path, columns, separator, required, fields, dataset.config["bad_rows"], encoding)
    if dataset.time_field in columns:
        check_units(path, frame[dataset.time_field].to_numpy())
    note_fields(dataset, {name: fields[name] for name in columns}, source)
    return frame


def note_fields(dataset: DataSet, kinds: dict[str, str], source: Any) -> None:
    """Tell a RecBole dataset the type and source of the fields that were read."""
    for name, text in kinds.items():
        kind = FeatureType(text)
        dataset.field2source[name] = source
        dataset.field2type[name] = kind
        dataset.field2seqlen[name] = 1
        if text.startswith("float"):
            dataset.field2bucketnum[name] = 2
