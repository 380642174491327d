"""What a search is (model, data, settings, space) and how it is carried out (trials, halving, resources)."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from recbole_scale.errors import UserError
from recbole_scale.search.folder import read_json, write_json
from recbole_scale.search.space import Parameter, exhaustive, samples, space_size, stated
from recbole_scale.text import counted, metric_name

# a search with another of these is another search; the rest may change between two starts
IDENTITY = ("model", "dataset", "settings", "space", "tool", "algo", "metric")

MOST_TRIALS = 100_000
NEEDED = "model dataset settings space tool algo metric bigger epochs seed home"  # what a plan cannot be without
KINDS_OF_PLAN = {
    **dict.fromkeys(("model", "dataset", "metric", "tool", "algo", "home", "digest"), "a text"),
    **dict.fromkeys(("epochs", "seed", "num_samples", "grace_period", "early_stop", "max_failures"),
                    "a whole number of 0 or more"),
    **dict.fromkeys(("reduction_factor", "cpus_per_trial", "gpus_per_trial"), "a number"),
    **dict.fromkeys(("bigger", "halving"), "true or false"),
    "settings": "an object", "space": "a list",
}  # fmt: skip


@dataclass
class SearchPlan:
    """A search, as ``search.json`` keeps it.

    ``settings`` are those of the config files and the command line; ``metric`` is the config's ``valid_metric``,
    ``bigger`` its direction, ``epochs`` the most a trial trains.
    """

    folder: str
    model: str
    dataset: str
    settings: dict[str, Any]
    space: list[Parameter]
    metric: str
    bigger: bool
    epochs: int
    seed: int
    tool: str = "Ray"
    algo: str = "random"
    num_samples: int = 10
    halving: bool = True
    grace_period: int | None = None
    reduction_factor: float = 3
    early_stop: int = 10
    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    max_failures: int = 3
    ray_address: str | None = None
    home: str = field(default_factory=os.getcwd)
    digest: str | None = None  # of the interaction files when the search began

    def __post_init__(self) -> None:
        checks = {
            "--num_samples": (1 <= self.num_samples <= MOST_TRIALS, f"from 1 to {MOST_TRIALS:,}"),
            "--grace_period": (self.grace_period is None or self.grace_period >= 1, "at least 1 epoch"),
            "--reduction_factor": (1.1 <= self.reduction_factor <= 1000, "from 1.1 to 1,000"),
            "--cpus_per_trial": (self.cpus_per_trial > 0, "above 0"),
            "--gpus_per_trial": ((self.gpus_per_trial or 0) >= 0, "0 or more"),
            "--max_failures": (self.max_failures >= 0, "0 or more"),
            "--early_stop": (self.early_stop >= 1, "at least 1"),
        }
        for option, (right, wanted) in checks.items():
            if not right:
                raise UserError(f"{option} must be {wanted}")

    @property
    def grace(self) -> int:
        """Epochs that every trial trains before it can be stopped."""
        return min(self.epochs, self.grace_period or min(5, max(1, self.epochs // 4)))

    @property
    def rungs(self) -> list[int]:
        """Epochs after which a trial must be among the best ``1 / reduction_factor`` seen there."""
        found, rung = [], float(self.grace)
        while self.halving and self.tool == "Ray" and rung <= self.epochs:
            found.append(round(rung))
            rung *= self.reduction_factor
        return found

    def samples(self) -> list[dict[str, Any]]:
        """Values of every trial, where they do not depend on earlier trials' scores."""
        if self.algo == "exhaustive":
            return exhaustive(self.space, self.seed)[: self.num_samples]
        return list(islice(samples(self.space, self.seed), self.num_samples))

    def trial_settings(self, values: dict[str, Any], folder: str) -> dict[str, Any]:
        """Settings of one trial: the search's, the drawn values, and every path absolute, as workers run elsewhere."""
        settings = {key: _absolute(key, value, self.home) for key, value in self.settings.items()}
        settings["data_path"] = os.path.join(self.home, str(self.settings.get("data_path") or "dataset"))
        settings |= values | {"checkpoint_dir": folder, "results_file": None, "show_progress": False}
        if self.gpus_per_trial == 0:
            settings["use_gpu"] = False
        return settings

    def better(self, score: float, than: float | None) -> bool:
        """Whether ``score`` is better than another; anything is better than none."""
        return than is None or (score > than if self.bigger else score < than)

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``search.json``; no cluster is joined because a file names it."""
        return asdict(self) | {"space": [asdict(parameter) for parameter in self.space], "ray_address": None}

    @classmethod
    def load(cls, folder: str) -> SearchPlan | None:
        """The plan of a folder, or None.

        Raises:
            UserError: ``search.json`` is damaged.
        """
        path = os.path.join(folder, "search.json")
        content = read_json(Path(path), KINDS_OF_PLAN, NEEDED)
        if content is None:
            return None
        given = {name: value for name, value in content.items() if name == "digest" or value is not None}
        space = [stated(parameter, path) for parameter in content["space"]]
        if not space:
            raise UserError(f"{path} is damaged (its space is empty)")
        try:
            return cls(**given | {"space": space, "folder": os.path.abspath(folder), "ray_address": None})
        except TypeError as failure:
            raise UserError(f"{path} is damaged ({failure})") from failure

    def save(self) -> None:
        """Write ``search.json``."""
        write_json(Path(self.folder) / "search.json", self.as_json())

    def check_same(self, other: SearchPlan) -> None:
        """Refuse to mix two searches in one folder.

        Raises:
            UserError: naming what differs.
        """
        if other.digest is not None and other.digest != self.digest:
            raise UserError(
                f"the folder {self.folder} holds a search on other data than '{self.dataset}' holds now; choose "
                "another --folder"
            )
        mine, its = self.as_json(), other.as_json()
        for key in IDENTITY:
            if _listed(mine[key]) != _listed(its[key]):
                why = f"its {key} differs: {_difference(its[key], mine[key])}"
                raise UserError(f"the folder {self.folder} holds another search ({why}); choose another --folder")

    def describe(self, source: str = "") -> str:
        """The space, the budget and the first trials, for the terminal."""
        direction = "highest" if self.bigger else "lowest"
        size = space_size(self.space)
        count = min(self.num_samples, size or self.num_samples)
        lines = {
            "search": f"{self.model} on {self.dataset}: {counted(count, 'trial')} of up to "
            f"{counted(self.epochs, 'epoch')} with {self.tool}, for the {direction} {metric_name(self.metric)}",
            "settings": ", ".join(f"{k}={v}" for k, v in self.settings.items()) or "defaults",
            "space": (source or f"{len(self.space)} parameters") + (f", {size:,} settings" if size else ""),
        }
        text = [f"{name:<10}{value}" for name, value in lines.items()]
        width = max(len(p.name) for p in self.space)
        text += [f"  {p.name:<{width}}  {p.kind:<10}  {p}" for p in self.space]
        text += [f"{name:<10}{value}" for name, value in self._means().items()]
        if self.tool == "Ray" or self.algo == "exhaustive":
            text += [f"  trial {number}  {as_text(values)}" for number, values in enumerate(self.samples()[:4])]
        return "\n".join(text)

    def _means(self) -> dict[str, str]:
        means = {"folder": os.path.relpath(self.folder)}
        if self.tool == "Hyperopt":
            return means | {
                "algorithm": f"{self.algo}, ends after {counted(self.early_stop, 'trial')} without a better score"
            }
        share = f"the best 1/{self.reduction_factor:g} go on"
        after = ", ".join(map(str, self.rungs))
        gpus = "1 GPU where there is one" if self.gpus_per_trial is None else f"{self.gpus_per_trial:g} GPU"
        return means | {
            "halving": f"after {after} epochs {share} (ASHA)" if self.rungs else "none: every trial trains to its end",
            "resources": f"{self.cpus_per_trial:g} CPU and {gpus} a trial, on {self.ray_address or 'this machine'}",
        }


def as_text(values: dict[str, Any]) -> str:
    """Drawn values on one line."""
    return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


def _absolute(key: str, value: Any, home: str) -> Any:
    """A file or folder named by a setting, as seen from any folder."""
    is_path = isinstance(value, str) and key.endswith(("_path", "_dir", "_file"))
    return os.path.join(home, value) if is_path and os.path.exists(os.path.join(home, value)) else value


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(k for k in (*old, *new) if old.get(k) != new.get(k))
        return f"{key} is {old.get(key)} there and {new.get(key)} here"
    return "the params file has changed" if isinstance(old, list) else f"{old} there and {new} here"
