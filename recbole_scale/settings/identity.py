"""What names a run: the hash of its settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from recbole_scale.interfaces import RunConfig

# settings that do not change a run's numbers
ENVIRONMENT = {
    "gpu_id", "use_gpu", "state", "show_progress", "checkpoint_dir", "log_wandb", "wandb_project", "worker",
    "data_path", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "device",
    "data_cache", "rows_on_demand", "per_user_file", "local_rank", "single_spec", "config_files", "results_file",
    "save_step", "resume", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "nproc", "ip", "port", "offset",
    "group_offset", "world_size", "dry_run", "parallel", "by_data", "share_trunk",
    "shard_group", "cut_items", "async_checkpoints",
    "bad_rows",  # what it lets through is refused without it
    # names of columns that RecBole's transforms (BERT4Rec's masks and others) add to the settings as the data is loaded
    "MASK_INDEX", "MASK_ITEM_SEQ", "POS_ITEMS", "NEG_ITEMS", "INVERSE_ITEM_SEQ", "CROP_ITEM_SEQ", "CROP_ITEM_SEQ_LEN",
    "REORDER_ITEM_SEQ",
}  # fmt: skip

# keys that came later: left empty, a run keeps the name it had
LATER = ("valid_users", "test_users", "dropout_embedding")

BY_DATA = ("dropout_bottom", "dropout_top", "epochs", "train_batch_size")  # decided by the log, unless the user has


def run_id(config: RunConfig, without: tuple[str, ...] = ()) -> str:
    """Ten hex digits that name a run: the hash of every resolved setting that can change its numbers.

    Defaults that the data has decided count as what they were before, so that the id is known before data is read; a
    value that the user has set is told from an equal default, which the data may still change.
    ``without``: settings that do not count, for the name of what several runs share.
    """
    before = before_data(config)
    final = {**config.final_config_dict, **before}
    final = {k: v for k, v in final.items() if k not in LATER or v is not None}
    settings = {k: v for k, v in final.items() if k not in ENVIRONMENT and k not in without}
    if "dropout_bottom" in final:
        given = config.external_config_dict.keys() & {*BY_DATA} - before.keys() - {*without}
        held = sorted(key for key in given if final[key] == config.internal_config_dict[key])
        settings |= {"held": held} if held else {}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def before_data(config: RunConfig) -> dict[str, Any]:
    """What the defaults were that a run's data has decided since, by key."""
    return dict(config.final_config_dict.get("by_data") or {})
