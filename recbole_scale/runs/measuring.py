"""What RecBole's own trainers do not measure, so that their rows can stand beside ours, and a limit on training time.

A trainer of RecBole's is measured from outside: its methods are wrapped, its arithmetic is its own.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeGuard

import numpy as np
from recbole.utils import ModelType

from recbole_scale.bars import log_line
from recbole_scale.data.texts import joined, separated
from recbole_scale.errors import UserError
from recbole_scale.files import whole_files
from recbole_scale.interfaces import Loader, RecBoleTrainer, Trainer
from recbole_scale.runs.prepared import Prepared
from recbole_scale.runs.records import RunRow
from recbole_scale.training import group
from recbole_scale.training.epoch_log import epoch_line, shown_metrics


class BudgetSpent(Exception):
    """Leaves RecBole's loop over epochs after the evaluation that followed the last second of training."""


class Meter:
    """Counts a RecBole trainer's targets, seconds and evaluations, and ends its training when ``limit`` is spent.

    The trainer gets the attributes that ours has: ``seconds_train``, ``targets_seen``, ``evaluations``,
    ``best_epoch``. Time is that of training steps and their batches; evaluation does not count.
    """

    def __init__(self, trainer: RecBoleTrainer, limit: float | None) -> None:
        self.trainer, self.limit = trainer, limit
        trainer.eval_step = min(trainer.eval_step, trainer.epochs)  # Pop and kin train one epoch, whatever was set
        self._train_epoch, self._valid_epoch = trainer._train_epoch, trainer._valid_epoch
        trainer._train_epoch, trainer._valid_epoch = self.train_epoch, self.valid_epoch
        trainer.seconds_train, trainer.targets_seen, trainer.evaluations, trainer.best_epoch = 0.0, 0, [], None
        self._trained = 0, "", 0.0, 0.0  # the last epoch: number, loss, seconds, targets per second
        for name, value in getattr(trainer, "measured_before", {}).items():  # of a resumed run
            setattr(trainer, name, value)

    @property
    def spent(self) -> bool:
        """Whether the time for training is over."""
        return self.limit is not None and self.trainer.seconds_train >= self.limit

    def train_epoch(self, train_data: Loader, epoch_idx: int, *arguments: Any, **named: Any) -> Any:
        """As the trainer's; an epoch may end early, and one that comes after the end raises :class:`BudgetSpent`."""
        if self.spent:
            raise BudgetSpent
        trainer = self.trainer
        before, seconds = trainer.targets_seen, trainer.seconds_train
        batches = _Timed(train_data, self)
        loss = self._train_epoch(batches, epoch_idx, *arguments, **named)
        batches.stop_clock()
        speed = (trainer.targets_seen - before) / max(trainer.seconds_train - seconds, 1e-9)
        total = sum(loss) if isinstance(loss, tuple) else loss
        mean = None if total is None else float(total) / max(batches.count, 1)
        trainer.evaluations.append({"epoch": epoch_idx, "train_loss": mean, "targets_per_second": round(speed, 1)})
        if self.spent:
            trainer.eval_step = min(trainer.eval_step, 1)  # what there is gets evaluated, unless nothing is to be
        self._trained = epoch_idx, "" if mean is None else f"loss {mean:.4f}", trainer.seconds_train - seconds, speed
        if trainer.eval_step <= 0 or (epoch_idx + 1) % trainer.eval_step:
            self._log_epoch()
        return loss

    def _log_epoch(self, valid: Sequence[str] = (), remark: str = "", seconds: tuple[float, ...] = ()) -> None:
        epoch, loss, took, speed = self._trained
        log_line(self.trainer.logger, epoch_line(epoch, loss, valid, [remark], [took, *seconds], speed))

    def valid_epoch(self, *arguments: Any, **named: Any) -> Any:
        """As the trainer's, noting metrics and the best epoch so far."""
        started, trainer = perf_counter(), self.trainer
        score, result = self._valid_epoch(*arguments, **named)
        best, trainer.latest_valid_result = trainer.best_valid_score, result
        gained = score >= best if trainer.valid_metric_bigger else score <= best
        if gained:
            trainer.best_epoch = trainer.evaluations[-1]["epoch"] if trainer.evaluations else 0
        chosen = trainer.valid_metric.lower()
        remark = "" if gained else f"no gain: {trainer.cur_step + 1}"
        self._log_epoch(shown_metrics(result, chosen, [chosen] if gained else []), remark, (perf_counter() - started,))
        if trainer.evaluations:
            trainer.evaluations[-1] |= {f"valid_{k}": float(v) for k, v in result.items()}
            trainer.evaluations[-1] |= {f"valid_{k}_filtered": v for k, v in trainer.evaluator.filtered.items()}
        return score, result


class _Timed:
    """A training loader with a clock around its batches, which stops handing them out when the meter says so."""

    def __init__(self, loader: Loader, meter: Meter) -> None:
        self._loader, self._meter = loader, meter
        self._last: float | None = None
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        trainer = self._meter.trainer
        self._last = perf_counter()
        for batch in self._loader:
            yield batch
            self.count += 1
            trainer.targets_seen += len(batch) // getattr(self._loader, "times", 1)
            self.stop_clock()
            self._last = perf_counter()
            if self._meter.spent:
                return

    def stop_clock(self) -> None:
        """Add the time since the last look to the trainer's."""
        if self._last is not None:
            self._meter.trainer.seconds_train += perf_counter() - self._last
            self._last = None

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def measured_fit(trainer: Trainer, prepared: Prepared, **named: Any) -> tuple[Any, Any]:
    """``trainer.fit`` with a :class:`Meter` where the trainer measures nothing itself; stops at the time budget.

    Returns:
        best valid score and the metrics of that evaluation, as RecBole's ``fit``.
    """
    limit = prepared.config["train_budget_seconds"]
    if _measures_nothing(trainer):
        if hasattr(trainer, "_train_at_once"):
            _time_trees(trainer)
        else:
            Meter(trainer, limit)
            named["verbose"] = False  # the meter's line an epoch in the place of RecBole's five
    try:
        best: tuple[Any, Any] = trainer.fit(prepared.train_data, prepared.valid_data, **named)
    except BudgetSpent:
        best = trainer.best_valid_score, trainer.best_valid_result
    return best


def _measures_nothing(trainer: Trainer) -> TypeGuard[RecBoleTrainer]:
    return not hasattr(trainer, "seconds_train")


def best_valid_filtered(trainer: Trainer) -> dict[str, float] | None:
    """Metrics without seen items at the epoch of the best valid metric; None where they were not measured."""
    best = getattr(trainer, "best_epoch", None)
    entries = [one for one in trainer.evaluations if one["epoch"] == best]
    named = {key: value for key, value in (entries[-1] if entries else {}).items() if key.startswith("valid_")}
    found = {k.removeprefix("valid_").removesuffix("_filtered"): v for k, v in named.items() if k.endswith("_filtered")}
    return found if named else None


def _time_trees(trainer: RecBoleTrainer) -> None:
    """Have a trainer of boosted trees count its rounds and their seconds; a round cannot be cut short."""
    grow, trainer.seconds_train, trainer.evaluations = trainer._train_at_once, 0.0, []

    def timed(*arguments: Any) -> None:
        started = perf_counter()
        grow(*arguments)
        trainer.seconds_train += perf_counter() - started
        trainer.evaluations.append({"epoch": len(trainer.evaluations)})

    trainer._train_at_once = timed


def measured_bests(trainer: Trainer, prepared: Prepared, test_result: Any, saved: bool, **named: Any) -> RunRow:
    """Columns of a row about both models that a run keeps: their epochs, and test metrics of each.

    The other model is tested only where it is of another epoch than the chosen one, whose ``test_result`` is known.
    RecBole's own trainers keep one model; without checkpoints (``saved``) there is only the model as it is.
    """
    bests, filtered = getattr(trainer, "bests", None), trainer.evaluator.filtered
    if bests is None or not saved:
        kind = "nll" if prepared.config["valid_metric"].lower() == "nll" else "ranking"
        return _of_kind(kind, getattr(trainer, "best_epoch", None), test_result, filtered)
    columns: RunRow = {}
    for best in bests.all:
        result, of_lists = test_result, filtered
        if best.epoch != bests.chosen.epoch:
            result = trainer.evaluate(
                prepared.test_data, model_file=getattr(trainer, "other_model_file", None), **named
            )
            of_lists = trainer.evaluator.filtered
        columns |= _of_kind(best.kind, best.epoch, result, of_lists)
    return columns


def _of_kind(kind: str, epoch: int | None, result: Any, of_lists: Any) -> RunRow:
    if kind == "nll":
        return {"best_epoch_nll": epoch, "test_metrics_nll": result, "test_metrics_nll_filtered": of_lists}
    return {"best_epoch_ranking": epoch, "test_metrics_ranking": result, "test_metrics_ranking_filtered": of_lists}


# Per user -----------------------------------------------------------------------------------------------------------


def measured_test(trainer: Trainer, prepared: Prepared, per_user_file: str | None, **named: Any) -> tuple[Any, float]:
    """``trainer.evaluate`` on the test rows; returns its metrics and the seconds it took.

    ``per_user_file``: also write an ``.npz`` of one entry a test row: ``rank`` of the held-out item (1 is best, 0
    beyond the longest top-k list), ``rank_filtered`` where the user's earlier items are left out of a second ranking,
    ``nll`` in nats where it was measured, and the users' raw ids as ``user_text`` (UTF-8 of all) and ``user_ends``
    (where each ends), which :func:`read_per_user` gives as ``user``.
    """
    kept: list[Any] = []
    if per_user_file:
        evaluate = trainer.evaluator.evaluate

        def keep(struct: Any) -> Any:
            kept.append(struct)
            return evaluate(struct)

        trainer.evaluator.evaluate, trainer.eval_collector.keep_rows = keep, True
    started = perf_counter()
    result = trainer.evaluate(prepared.test_data, **named)
    seconds = perf_counter() - started
    if per_user_file:
        trainer.evaluator.evaluate, trainer.eval_collector.keep_rows = evaluate, False
        if group.rank() == 0 and kept:  # every process has all rows
            save_per_user(per_user_file, prepared, kept[-1])
    return result, seconds


def read_per_user(path: str | os.PathLike[str]) -> dict[str, np.ndarray] | None:
    """What :func:`save_per_user` wrote, every byte checked; None where there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            second = [name for name in ("rank_filtered",) if name in stored]  # where the run had a second ranking
            found = {name: stored[name] for name in ("rank", *second, "nll")}
            if "user" in stored:  # written before texts were joined
                found["user"] = stored["user"].astype(object)
            else:
                found["user"] = separated(stored["user_text"], stored["user_ends"])
    except (OSError, ValueError, LookupError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error,
            SyntaxError, TypeError, AttributeError, OverflowError, struct.error):  # fmt: skip
        return None
    kinds = {"user": "O", "rank": "i", "rank_filtered": "i", "nll": "f"}
    whole = all(array.ndim == 1 and array.dtype.kind == kinds[name] for name, array in found.items())
    return found if whole and len({len(array) for array in found.values()}) == 1 else None


def save_per_user(path: str, prepared: Prepared, struct: Any) -> None:
    """Write what an evaluation gathered for each user (see :func:`measured_test`).

    Raises:
        UserError: the evaluation ranked no lists, or rows hold several held-out items.
    """
    dataset = prepared.test_data._dataset
    if "rec.topk" not in struct or (struct.get("rec.topk")[:, -1] != 1).any():
        raise UserError("per_user_file needs one held-out item a row, ranked in full (HR, NDCG or Recall in metrics)")
    ranks = {"rank": _ranks(struct)}
    if getattr(struct, "filtered", None) is not None:
        ranks["rank_filtered"] = _ranks(struct.filtered)
    sequential = prepared.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    ids = dataset.inter_feat[dataset.uid_field] if sequential else prepared.test_data.uid_list
    text, ends = joined(dataset.field2id_token[dataset.uid_field][np.asarray(ids)])
    nll = struct.get("rec.nll").numpy() if "rec.nll" in struct else np.full(len(ends), np.nan)
    columns = {**ranks, "nll": nll.astype(np.float32), "user_text": text, "user_ends": ends}
    with whole_files(Path(path), what="per_user_file") as (file,):
        np.savez_compressed(file.handle, **columns)  # type: ignore[arg-type]


def _ranks(struct: Any) -> np.ndarray:
    """Rank of each row's one held-out item in its list, int32 [n]; 0 where the list does not have it."""
    hits = struct.get("rec.topk")[:, :-1].numpy()
    return np.where(hits.any(1), hits.argmax(1) + 1, 0).astype(np.int32)
