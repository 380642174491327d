"""Search spaces in RecBole's params-file format: parsed, never evaluated; drawn from with one seed per trial.

Each line is ``name kind values``; blank lines and lines that begin with ``#`` are passed over::

    hidden_size choice [64,128]
    hidden_dropout_prob uniform 0.0,0.5
    n_layers quniform 1,4,1
    learning_rate loguniform -8,-4

``quniform low,high,q`` is ``round(uniform / q) * q``. ``loguniform low,high`` takes natural logarithms, as RecBole and
Hyperopt do: ``-8,-4`` spans 3.4e-4 to 1.8e-2.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from recbole_scale.errors import UserError, check_choice, nearest, shown
from recbole_scale.settings import known_keys, parse_value, properties_folder
from recbole_scale.settings.checks import documented
from recbole_scale.settings.kinds import LARGEST, PLAIN, Kind
from recbole_scale.settings.reading import LONGEST_FILE

MOST_STEPS, MOST_LISTED, LARGEST_LOGARITHM = 1_000_000_000, 1_000_000, 43  # exp(43) is about 2**62
KINDS = {"choice": "[a,b,...]", "uniform": "low,high", "quniform": "low,high,q", "loguniform": "low,high"}
# what every trial of a search must share, so that scores can be compared and trials do not write over one another
FIXED = {
    "model", "dataset", "config_files", "data_path", "checkpoint_dir", "results_file", "metrics", "topk",
    "valid_metric", "eval_args", "repeatable", "mask_history", "epochs", "eval_step", "gpu_id", "use_gpu",
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One line of a params file; ``values`` are the choices, or low, high and, for ``quniform``, q."""

    name: str
    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        drawn = float(rng.uniform(self.values[0], self.values[1]))
        return self.clean(math.exp(drawn) if self.kind == "loguniform" else drawn)

    def clean(self, value: Any) -> Any:
        """A drawn value as a setting: on the grid of q, whole where low, high and q are, else to four digits.

        RecBole hands ``quniform`` values over as floats, which no size of a layer can be.
        """
        if self.kind == "choice":
            return value
        low, high = (math.exp(v) for v in self.values[:2]) if self.kind == "loguniform" else self.values[:2]
        if self.kind == "quniform":
            q = self.values[2]
            value = round(float(value) / q) * q
            if all(float(v).is_integer() for v in self.values):
                return int(value)
        return min(max(float(f"{float(value):.4g}"), low), high)

    @property
    def count(self) -> int | None:
        """How many values there are, counted and not listed (to four digits some may be equal); None: not countable."""
        if self.kind == "choice":
            return len(self.values)
        if self.kind == "quniform":
            low, high, q = self.values
            return round(high / q) - round(low / q) + 1
        return None

    def grid(self) -> list[Any] | None:
        """All values, or None when they are not countable."""
        if self.kind == "choice":
            return list(self.values)
        if self.kind == "quniform":
            low, high, q = self.values
            steps = range(round(low / q), round(high / q) + 1)
            return list(dict.fromkeys(self.clean(step * q) for step in steps))
        return None

    def check(self, kind: Kind) -> None:
        """Refuse choices, or ends, that are no value of the setting.

        Raises:
            UserError: naming the setting and what it must be.
        """
        ends = [math.exp(v) for v in self.values] if self.kind == "loguniform" else self.values[:2]
        for value in self.values if self.kind == "choice" else map(self.clean, ends):
            kind.check(self.name, value)

    def __str__(self) -> str:
        if self.kind == "choice":
            return ", ".join(map(str, self.values))
        low, high = (math.exp(v) for v in self.values[:2]) if self.kind == "loguniform" else self.values[:2]
        return f"{low:.4g} to {high:.4g}" + (f", step {self.values[2]:g}" if self.kind == "quniform" else "")


def find_params_file(name: str | None, model: str) -> str:
    """Path of a params file: as given, else among the packaged ones; without a name, the model's packaged one.

    Raises:
        UserError: there is none.
    """
    packaged = properties_folder() / "hyper"
    known = sorted(path.name for path in packaged.glob("*.hyper"))
    if name is None:
        if f"{model}.hyper" in known:
            return str(packaged / f"{model}.hyper")
        raise UserError(f"there is no packaged search space for {model}; write one and name it with --params_file")
    if os.path.isfile(name):
        return os.path.abspath(name)
    base = os.path.basename(name)
    if base in known and name in (base, f"hyper/{base}", f"properties/hyper/{base}"):
        return str(packaged / base)
    raise UserError(f"there is no params file {name}{nearest(base, known)}")


def read_space(path: str, model: str | None = None) -> list[Parameter]:
    """Read a params file; every value must be one that its setting takes in a run of ``model``.

    Raises:
        UserError: a malformed line, an unknown key, a value out of range, or no parameter at all; file and line are
            named.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LONGEST_FILE + 1)
    except (OSError, UnicodeDecodeError) as failure:
        raise UserError(f"{path}: cannot be read as UTF-8 text") from failure
    if len(text) > LONGEST_FILE:
        raise UserError(f"{path}: longer than the {LONGEST_FILE:,} letters of a params file")
    kinds = {key: one.kind for key, one in (documented(model) if model else {}).items()}
    space: dict[str, Parameter] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parameter = _parameter(line, f"{path}, line {number}")
        if parameter.name in space:
            raise UserError(f"{path}, line {number}: '{parameter.name}' has a line already")
        try:
            parameter.check(kinds.get(parameter.name, PLAIN))
        except UserError as refusal:
            raise UserError(f"{path}, line {number}: {refusal}") from None
        space[parameter.name] = parameter
    if not space:
        raise UserError(f"{path}: no parameter to search; a line is 'learning_rate loguniform -8,-4'")
    return list(space.values())


def _parameter(line: str, where: str) -> Parameter:
    name, kind, text = [*line.split(None, 2), "", "", ""][:3]
    if not text:
        raise UserError(f"{where}: '{line.strip()[:100]}' is not of the form 'name kind values'")
    if name not in known_keys():
        raise UserError(f"{where}: unknown key '{name[:100]}'{nearest(name, known_keys())}")
    if name in FIXED:
        raise UserError(f"{where}: '{name}' cannot differ between the trials of a search")
    check_choice(f"{where}: the kind of '{name}',", kind, KINDS)
    refuse = partial(_refuse, f"{where}: '{text.strip()[:100]}'", f"{kind} takes {KINDS[kind]}")
    values = _choices(text) if kind == "choice" else _bounds(text)
    if values is None or len(values) == 0:
        raise refuse("is no list of values" if kind == "choice" else "are not numbers")
    return _in_range(Parameter(name, kind, values), refuse)


def stated(content: Any, where: str) -> Parameter:
    """The parameter that ``search.json`` keeps.

    Raises:
        UserError: it is none.
    """
    refuse = partial(_refuse, f"{where}: the parameter {shown(content)}", "the file is damaged")
    if not isinstance(content, dict) or set(content) != {"name", "kind", "values"}:
        raise refuse("is none")
    name, kind, values = (content[part] for part in ("name", "kind", "values"))
    if kind not in list(KINDS) or name not in list(known_keys()) or not isinstance(values, list) or not values:
        raise refuse("is none")
    if kind != "choice" and not all(map(_is_bound, values)):
        raise refuse("has no numbers")
    return _in_range(Parameter(name, kind, tuple(values)), refuse)


def _in_range(parameter: Parameter, refuse: Callable[[str], UserError]) -> Parameter:
    kind, values = parameter.kind, parameter.values
    if kind == "choice":
        return parameter
    if len(values) != (3 if kind == "quniform" else 2):
        raise refuse(f"has {len(values)} numbers")
    if not values[0] < values[1]:
        raise refuse("does not run from low to high")
    if kind == "quniform" and values[2] <= 0:
        raise refuse("has no positive step")
    if kind == "quniform" and (values[1] - values[0]) / values[2] > MOST_STEPS:
        raise refuse(f"has more than {MOST_STEPS:,} steps")
    if kind == "loguniform" and max(map(abs, values)) > LARGEST_LOGARITHM:
        raise refuse(f"are natural logarithms, of which none is beyond {LARGEST_LOGARITHM}")
    if kind == "loguniform" and values[0] > 0 and values[1] < 1:
        logs = f"{math.log(values[0]):.4g},{math.log(values[1]):.4g}"
        raise refuse(f"are natural logarithms, so {values[0]:g} to {values[1]:g} is written {logs}")
    return parameter


def _refuse(what: str, form: str, why: str) -> UserError:
    return UserError(f"{what} {why}; {form}")


def _choices(text: str) -> tuple[Any, ...] | None:
    """A YAML list; items that are strings are read once more, as ``'[64,64]'`` in RecBole's own files."""
    values = parse_value(text)
    if not isinstance(values, list):
        return None
    items = tuple(parse_value(item) if isinstance(item, str) else item for item in values)
    if any(isinstance(item, str) and set("()[]{}\"'") & set(item) for item in items):
        return None
    return items


def _bounds(text: str) -> tuple[float, ...] | None:
    values = [parse_value(part) for part in text.split(",", 4)]
    return tuple(values) if all(map(_is_bound, values)) else None


def _is_bound(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def space_size(space: list[Parameter]) -> int | None:
    """Number of different settings, or None when they are not countable."""
    counts = [parameter.count for parameter in space]
    return None if None in counts else math.prod(count for count in counts if count)


def samples(space: list[Parameter], seed: int) -> Iterator[dict[str, Any]]:
    """Settings at random, none twice; the k-th is a function of space, seed and k. Ends with the space."""
    size = space_size(space)
    if size is not None and size <= 10_000:
        yield from exhaustive(space, seed)
        return
    seen: set[str] = set()
    rng, in_vain = np.random.default_rng(seed), 0
    while in_vain < 1000:  # values that are equal to four digits make the space smaller than its count
        drawn = {parameter.name: parameter.draw(rng) for parameter in space}
        in_vain += 1
        if repr(drawn) not in seen:
            seen.add(repr(drawn))
            in_vain = 0
            yield drawn


def exhaustive(space: list[Parameter], seed: int) -> list[dict[str, Any]]:
    """Every setting of a countable space once, in random order.

    Raises:
        UserError: the space is not countable, or has more settings than can be listed.
    """
    for parameter in space:
        if parameter.count is None:
            raise UserError(f"an exhaustive search cannot try every value of '{parameter.name}' ({parameter.kind})")
    if (size := space_size(space) or 0) > MOST_LISTED:
        raise UserError(f"an exhaustive search cannot try {size:,} settings; the most is {MOST_LISTED:,}")
    grids = [parameter.grid() or [] for parameter in space]
    every = [dict(zip([p.name for p in space], values, strict=True)) for values in itertools.product(*grids)]
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))]
