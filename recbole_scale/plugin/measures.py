"""Which metrics are measured when the user says nothing, and whether those that are asked for can be."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import recbole
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_scale.errors import UserError, nearest
from recbole_scale.settings import load_settings_file, properties_folder
from recbole_scale.settings.kinds import listed
from recbole_scale.terminal import say_once

OF_LABELS = ("AUC", "LogLoss")  # RecBole's where it measures labels
_KEYS = ("metrics", "topk", "valid_metric", "metric_decimal_place")


@cache
def _of_scaled_sasrec() -> dict[str, Any]:
    settings = load_settings_file(str(properties_folder() / "model" / "ScaledSASRec.yaml"))
    return {key: settings[key] for key in _KEYS}


@cache
def _of_recbole() -> dict[str, Any]:
    return load_settings_file(str(Path(recbole.__file__).parent / "properties" / "overall.yaml"))


def add_default_metrics(defaults: dict[str, Any]) -> None:
    """Give a sequential model's defaults the metrics, and the one that chooses the epoch, of ScaledSASRec's file."""
    if defaults["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        defaults.update(_of_scaled_sasrec())


def fit_metrics(final: dict[str, Any], chosen: dict[str, Any], one_kind: EvaluatorType | None) -> None:
    """Make the defaults fit what the user has ``chosen``: metrics that the mode gives, one of them to choose by.

    ``one_kind`` of metrics is all that the model gives, if not None.
    """
    final["metrics"], final["topk"] = listed(final["metrics"]), listed(final["topk"])
    if isinstance(final["metrics"], str):
        final["metrics"] = [final["metrics"]]
    cutoffs = final["topk"] if isinstance(final["topk"], list) else [final["topk"]]
    whole = isinstance(final["metrics"], list) and isinstance(final["valid_metric"], str)
    if (
        not whole
        or not isinstance(final.get("eval_args") or {}, dict)
        or not all(isinstance(k, int) and 0 < k < 10**9 for k in cutoffs)
    ):
        return  # the checks, which come next, say what is wrong
    if "metrics" not in chosen and final["metrics"]:
        _follow_mode(final, chosen.get("valid_metric"), one_kind)
    if "valid_metric" in chosen or not final["metrics"]:
        return
    name, _, k = final["valid_metric"].partition("@")
    measured = {str(metric).lower(): str(metric) for metric in final["metrics"]}
    if name.lower() not in measured:
        name = measured.get("ndcg", str(final["metrics"][0]))
    if has_cutoff(name) and cutoffs and k not in map(str, cutoffs):
        k = str(10 if 10 in cutoffs else max(cutoffs))
    final["valid_metric"] = f"{name}@{k}" if has_cutoff(name) else name


def _modes(final: dict[str, Any]) -> set[str]:
    """How valid and test are evaluated: full, labeled, uniN, popN."""
    mode = (final.get("eval_args") or {}).get("mode", "full")
    return set(map(str, mode.values() if isinstance(mode, dict) else [mode])) or {"full"}


def _follow_mode(final: dict[str, Any], valid_metric: str | None, one_kind: EvaluatorType | None) -> None:
    """Make default metrics those that the mode gives; ``valid_metric``, where the user names one, says which are meant.

    Stock RecBole keeps its ranking metrics and fails in the first evaluation of labels; those of labels it refuses with
    a full ranking.
    """
    modes, ranked = _modes(final), _ranks(final["metrics"][0])
    if modes != {"full"}:
        final["metrics"] = [name for name in final["metrics"] if name.upper() != "NLL"]
    labels = "labeled" in modes
    wanted = EvaluatorType.VALUE if labels else EvaluatorType.RANKING
    if labels == ("full" in modes) or ranked != labels or one_kind not in (None, wanted):
        return
    if valid_metric and _ranks(valid_metric) == labels:
        return
    final["metrics"] = list(OF_LABELS if labels else _of_recbole()["metrics"])
    if not valid_metric:
        final["valid_metric"] = OF_LABELS[0] if labels else _of_recbole()["valid_metric"]
    if not (final.get("local_rank") or final.get("offset")):
        what = "labeled measures labels" if labels else "full ranks items"
        say_once(f"eval_args.mode {what}; metrics, which are not set, are {', '.join(final['metrics'])}")


def _ranks(metric: str) -> bool:
    """Whether a metric, with or without its cutoff, is of ranked items and not of labels."""
    return metric_types.get(str(metric).partition("@")[0].lower(), EvaluatorType.RANKING) == EvaluatorType.RANKING


def has_cutoff(name: str) -> bool:
    """Whether a metric is of the first k items of a list, and is written with ``@k``."""
    return name.lower() not in ("nll", "gauc") and metric_types.get(name.lower()) == EvaluatorType.RANKING


def check_metrics(final: dict[str, Any], model: str, one_kind: EvaluatorType | None) -> None:
    """RecBole trains an epoch before it looks ``valid_metric`` up, or finds that the mode gives no rankings.

    Raises:
        UserError: a metric that is not there, or that this evaluation does not give.
    """
    for name in final["metrics"]:
        if name.lower() not in metric_types:
            known = ", ".join(sorted(metric_types))
            raise UserError(f"metrics: there is no metric named '{name}'{nearest(name, metric_types)} (known: {known})")
    mode, modes = final["eval_args"].get("mode", "full"), _modes(final)
    if one_kind == EvaluatorType.RANKING and "labeled" in modes:
        raise UserError(f"{model} ranks items and knows no labels; set eval_args.mode full, uni100 or pop100")
    if modes >= {"labeled", "full"}:
        raise UserError(
            f"eval_args.mode is {mode}, but labeled measures labels and full ranks items, and a run measures one of "
            "the two; set both to one of them, or full to uni100 or pop100"
        )
    named = [*final["metrics"], final["valid_metric"]]
    ranked = [metric for metric in named if _ranks(metric)]
    if one_kind == EvaluatorType.VALUE and (ranked or "full" in modes):
        raise UserError(
            f"{model} predicts labels and ranks no items; set eval_args.mode labeled and metrics to AUC, say"
        )
    if ranked and "labeled" in modes:
        raise UserError(
            f"{ranked[0]} ranks items, but eval_args.mode is {mode}, which measures AUC, LogLoss, MAE and RMSE of "
            "labels; set mode full, uni100 or pop100, or metrics to some of these"
        )
    if "full" in modes and len(ranked) < len(named):
        of_labels = next(metric for metric in named if not _ranks(metric))
        raise UserError(
            f"{of_labels} measures labels, but eval_args.mode is {mode}, which ranks items; "
            "set mode labeled, uni100 or pop100, or metrics to NDCG, say"
        )
    name, at, k = final["valid_metric"].lower().partition("@")
    measured = [metric.lower() for metric in final["metrics"]]
    ranks = has_cutoff(name)
    if name not in measured or (ranks and k not in map(str, final["topk"])) or (at and not ranks):
        raise UserError(
            f"valid_metric {final['valid_metric']} is not measured: metrics are {', '.join(final['metrics'])}, "
            f"topk is {final['topk']}" + (f"; write {name.upper()}@{final['topk'][0]}, say" * bool(ranks and not at))
        )
    if "nll" in measured and modes != {"full"}:
        raise UserError(f"NLL needs the full ranking, but eval_args.mode is {mode}; leave NLL out of metrics")
