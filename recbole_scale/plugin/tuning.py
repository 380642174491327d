"""RecBole's own ``HyperTuning`` on today's numpy and hyperopt, its files of choices read and not evaluated."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from recbole_scale.settings import parse_value


class _Numpy(types.ModuleType):
    """numpy as ``HyperTuning`` knows it: names of numpy 1, and the generator that hyperopt >= 0.2.7 asks for."""

    random = types.SimpleNamespace(RandomState=np.random.default_rng)

    def __getattr__(self, name: str) -> Any:
        return "str" if name == "str" else getattr(np, name)


def mend_hyper_tuning() -> None:
    """Rebind the two names that ``recbole.trainer.hyper_tuning`` reads as globals."""
    from recbole.trainer import hyper_tuning

    hyper_tuning.np = _Numpy("numpy")
    hyper_tuning.eval = parse_value
