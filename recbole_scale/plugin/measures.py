"""Which metrics are measured when the user says nothing: the same for every sequential model, RecBole's included."""

from __future__ import annotations

from functools import cache
from typing import Any

from recbole.utils import ModelType

from recbole_scale.settings import load_settings_file, properties_folder

_KEYS = ("metrics", "topk", "valid_metric", "metric_decimal_place")


@cache
def _of_scaled_sasrec() -> dict[str, Any]:
    settings = load_settings_file(str(properties_folder() / "model" / "ScaledSASRec.yaml"))
    return {key: settings[key] for key in _KEYS}


def add_default_metrics(defaults: dict[str, Any]) -> None:
    """Give a sequential model's defaults the metrics, and the one that chooses the epoch, of ScaledSASRec's file."""
    if defaults["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        defaults.update(_of_scaled_sasrec())


def fit_metrics(final: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Make the defaults fit what the user has ``chosen``: no NLL of sampled candidates, a metric that is there."""
    if final["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return
    cutoffs = final["topk"] if isinstance(final["topk"], list) else [final["topk"]]
    whole = isinstance(final["metrics"], list) and isinstance(final["valid_metric"], str)
    if (
        not whole
        or not isinstance(final.get("eval_args") or {}, dict)
        or not all(isinstance(k, int) and 0 < k < 10**9 for k in cutoffs)
    ):
        return  # the checks, which come next, say what is wrong
    mode = (final.get("eval_args") or {}).get("mode", "full")
    full = all(part == "full" for part in (mode.values() if isinstance(mode, dict) else [mode]))
    if not full and "metrics" not in chosen:
        final["metrics"] = [name for name in final["metrics"] if name.upper() != "NLL"]
    if "valid_metric" in chosen or not final["metrics"]:
        return
    name, _, k = final["valid_metric"].partition("@")
    measured = {str(metric).lower(): str(metric) for metric in final["metrics"]}
    if name.lower() not in measured:
        name = measured.get("ndcg", str(final["metrics"][0]))
    if name.upper() != "NLL" and cutoffs and k not in map(str, cutoffs):
        k = str(10 if 10 in cutoffs else max(cutoffs))
    final["valid_metric"] = "NLL" if name.upper() == "NLL" else f"{name}@{k}"
