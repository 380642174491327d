"""How RecBole's data sets read their files: our reader, faults by file and line, texts no longer than they are.

Installed by :mod:`recbole_scale.plugin.register`, the one place that touches RecBole's look-ups.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_scale.data import dataset as our_dataset  # by name only: it may be what is just being imported
from recbole_scale.data.atomic import PADDING, check_file, encoding_of, first_bad_line, read_header
from recbole_scale.data.histories import time_order
from recbole_scale.data.texts import as_objects
from recbole_scale.errors import UserError, nearest

_ORIGINAL: dict[str, Any] = {}


def install() -> None:
    """Replace RecBole's reading."""
    _ORIGINAL.update({name: getattr(Dataset, name) for name in ("_load_inter_feat", "_download")})
    _ORIGINAL["get_preload_weight"] = Dataset.get_preload_weight
    _ORIGINAL["_change_feat_format"] = SequentialDataset._change_feat_format
    Dataset._load_feat = _load_feat
    Dataset._load_inter_feat = _load_inter_feat
    Dataset._download = _download
    Dataset._remap = _remap
    Dataset._fill_nan = _fill_nan
    # float64 as read, which KSR's layers do not take
    Dataset.get_preload_weight = lambda self, field: _ORIGINAL["get_preload_weight"](self, field).astype("float32")
    SequentialDataset._change_feat_format = _sort_exactly_first


def _load_feat(self: Any, filepath: str, source: Any) -> Any:
    """Read interactions with our fast reader, features with RecBole's."""
    if source != FeatureSource.INTERACTION:
        return _load_features(self, filepath, source)
    fields = our_dataset.read_kinds(self, filepath)
    wanted, unwanted = self._get_load_and_unload_col(source)
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
        name = self.config[key]
        if name in (wanted or ()) and name not in fields:
            raise UserError(f"{filepath}, line 1: there is no column '{name}' ({key}){nearest(name, fields)}")
    listed = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
    if self.config["benchmark_filename"] and listed in (wanted or ()) and listed not in fields:
        raise UserError(
            f"{filepath}, line 1: there is no column '{listed}'; the rows of benchmark_filename are "
            f"{self.uid_field}:token, {listed}:token_seq, {self.iid_field}:token"
        )
    columns = [f for f in fields if (wanted is None or f in wanted) and f not in (unwanted or ())]
    frame = our_dataset.load_interactions(self, filepath, source, columns)
    for name in columns:
        if fields[name].endswith("_seq"):
            frame[name] = _sequences(self, filepath, name, frame[name], fields[name])
    return frame


def _sequences(dataset: Dataset, path: str, name: str, texts: pd.Series, kind: str) -> Any:
    """A column's lists, from texts with ``seq_separator`` between the values, cut to ``seq_len`` as RecBole cuts."""
    limit = (dataset.config["seq_len"] or {}).get(name)
    lists: list[np.ndarray] = []
    for text in texts:
        values = [value for value in text.split(dataset.config["seq_separator"]) if value][:limit]
        try:
            lists.append(as_objects(values) if kind == "token_seq" else np.array(values, dtype=np.float64))
        except ValueError:
            raise UserError(f"{path}, column {name}: '{text[:60]}' is no list of numbers") from None
    dataset.field2seqlen[name] = max(map(len, lists))
    return lists


def _load_features(self: Any, filepath: str, source: Any) -> Any:
    """As RecBole's, which fills gaps in copies that pandas 3 drops; a value that is no number is named by line."""
    wanted, unwanted = self._get_load_and_unload_col(source)
    if wanted == set():
        return None
    separator, encoding = self.config["field_separator"], encoding_of(self.config)
    fields = read_header(filepath, separator, encoding)
    columns = [name for name in fields if (wanted is None or name in wanted) and name not in (unwanted or ())]
    kinds = {name: fields[name] for name in columns}
    if source != "link":  # entities of a knowledge graph are linked to items, and no field of their own
        our_dataset.note_fields(self, kinds, source)
    if not columns:
        self.logger.warning(f"No columns has been loaded from [{source}]")
        return None
    types = {f"{name}:{kind}": "float64" if kind == "float" else object for name, kind in kinds.items()}
    try:
        frame = pd.read_csv(
            filepath, sep=separator, usecols=list(types), dtype=types, encoding=encoding, engine="python"
        )
    except ValueError as failure:
        told = first_bad_line(filepath, fields, columns, separator, encoding=encoding)
        raise UserError(told or f"{filepath}: {failure}") from failure
    frame.columns = columns
    for name in columns:
        if kinds[name].endswith("_seq"):
            frame[name] = _sequences(self, filepath, name, frame[name].fillna(""), kinds[name])
    return frame


def _fill_nan(self: Any) -> None:
    """RecBole's, which fills copies that pandas 3 drops: padding for a missing token, the mean for a missing number."""
    for feat in (getattr(self, name) for name in self.feat_name_list):
        for field in feat:
            kind = self.field2type[field]
            if kind in (FeatureType.TOKEN, FeatureType.FLOAT):
                feat[field] = feat[field].fillna(0 if kind == FeatureType.TOKEN else feat[field].mean())
            else:
                empty = np.array([], dtype="int64" if kind == FeatureType.TOKEN_SEQ else "float64")
                feat[field] = [empty if isinstance(value, float) else value for value in feat[field]]


def _load_inter_feat(self: Any, token: str, dataset_path: str) -> None:
    names = [f"{token}.{name}.inter" for name in self.benchmark_filename_list or ()] or [f"{token}.inter"]
    for name in names:
        check_file(os.path.join(dataset_path, name))
    _ORIGINAL["_load_inter_feat"](self, token, dataset_path)


def _download(self: Any) -> None:
    """RecBole downloads the data sets it knows by name; anything else that is missing is told in one sentence."""
    path = os.path.join(self.dataset_path, f"{self.dataset_name}.inter")
    known = self._get_download_url("url", allow_none=True) if not os.path.isabs(self.dataset_name) else None
    if not known:
        check_file(path)
    try:
        _ORIGINAL["_download"](self)
    except (OSError, SystemExit) as failure:
        raise UserError(f"there is no file {path}, and it could not be downloaded from {known}") from failure
    except (ValueError, RuntimeError):  # RecBole ends with a barrier, which one process alone cannot pass
        check_file(path)


def _remap(self: Any, columns: list[tuple[Any, str, Any]]) -> None:
    """Number the texts of some columns by first appearance, as RecBole's, with texts as objects.

    RecBole's arrays of texts are as wide as the longest: one id of 20,000 characters among 20,000 takes 1.6 GB.
    """
    pieces = [_flat(feat[field], kind) for feat, field, kind in columns]
    if not pieces:
        return
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    codes, texts = pd.factorize(np.concatenate(pieces))
    tokens = as_objects([PADDING, *texts])
    numbers = {token: number for number, token in enumerate(tokens)}
    for (feat, field, kind), ids in zip(columns, np.split(codes + 1, ends), strict=True):
        self.field2id_token.setdefault(field, tokens)
        self.field2token_id.setdefault(field, numbers)
        feat[field] = ids if kind == FeatureType.TOKEN else np.split(ids, np.cumsum([*map(len, feat[field])])[:-1])


def _flat(column: pd.Series, kind: Any) -> np.ndarray:
    """All texts of a column, of its lists where it has lists, objects [n]."""
    if kind == FeatureType.TOKEN:
        return column.to_numpy(dtype=object)
    return np.concatenate([np.asarray(one, dtype=object) for one in column])


def _sort_exactly_first(self: Any) -> None:
    """Sort by exact time before RecBole turns times into float32 (steps of 64 to 128 s); its later sort is stable."""
    frame = self.inter_feat
    whole = self.time_field in frame and self.uid_field in frame and frame[self.time_field].dtype != object
    if self.config["benchmark_filename"] is None and whole:  # discretised times are pairs
        order = time_order(frame[self.uid_field].to_numpy(), frame[self.time_field].to_numpy())
        self.inter_feat = frame.iloc[order].reset_index(drop=True)
    _ORIGINAL["_change_feat_format"](self)
