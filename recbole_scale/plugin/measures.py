"""Which metrics are measured when the user says nothing, and whether those that are asked for can be."""

from __future__ import annotations

from functools import cache
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_scale.errors import UserError, nearest
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
    if has_cutoff(name) and cutoffs and k not in map(str, cutoffs):
        k = str(10 if 10 in cutoffs else max(cutoffs))
    final["valid_metric"] = f"{name}@{k}" if has_cutoff(name) else name


def has_cutoff(name: str) -> bool:
    """Whether a metric is of the first k items of a list, and is written with ``@k``."""
    return name.lower() not in ("nll", "gauc") and metric_types.get(name.lower()) == EvaluatorType.RANKING


def check_metrics(final: dict[str, Any]) -> None:
    """RecBole trains an epoch before it looks ``valid_metric`` up, or finds that the mode gives no rankings.

    Raises:
        UserError: a metric that is not there, or that this evaluation does not give.
    """
    for name in final["metrics"]:
        if name.lower() not in metric_types:
            known = ", ".join(sorted(metric_types))
            raise UserError(f"metrics: there is no metric named '{name}'{nearest(name, metric_types)} (known: {known})")
    name, at, k = final["valid_metric"].lower().partition("@")
    measured = [metric.lower() for metric in final["metrics"]]
    ranks = has_cutoff(name)
    if name not in measured or (ranks and k not in map(str, final["topk"])) or (at and not ranks):
        raise UserError(
            f"valid_metric {final['valid_metric']} is not measured: metrics are {', '.join(final['metrics'])}, "
            f"topk is {final['topk']}" + (f"; write {name.upper()}@{final['topk'][0]}, say" * bool(ranks and not at))
        )
    mode = final["eval_args"].get("mode", "full")
    modes = mode.values() if isinstance(mode, dict) else [mode]
    if "nll" in measured and any(one != "full" for one in modes):
        raise UserError(f"NLL needs the full ranking, but eval_args.mode is {mode}; leave NLL out of metrics")
    ranked = [metric for metric in final["metrics"] if metric_types[metric.lower()] == EvaluatorType.RANKING]
    if ranked and "labeled" in modes:
        raise UserError(
            f"{ranked[0]} ranks items, but eval_args.mode is {mode}, which measures AUC, LogLoss, MAE and RMSE of "
            "labels; set mode full, uni100 or pop100, or metrics to some of these"
        )
