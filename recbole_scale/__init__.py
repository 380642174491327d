"""recbole-scale: scaling laws of sequential recommenders, inside RecBole.

Importing this package is cheap. The moment RecBole itself is imported, it is made to run on today's stack and gets
``ScaledSASRec`` and ``NLL`` in its look-ups, so that ``recbole.quick_start.run_recbole(model="ScaledSASRec", ...)``
works too.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbole_scale.errors import UserError, without_recbole
from recbole_scale.on_import import when_recbole_is_imported

if TYPE_CHECKING:
    from recbole_scale.laws.loss import fit_joint_law, fit_power_law
    from recbole_scale.runs.records import read_rows
    from recbole_scale.runs.run import run
    from recbole_scale.serving.recommend import recommend_frame as recommend

__all__ = ["UserError", "__version__", "fit_joint_law", "fit_power_law", "read_rows", "recommend", "run"]

# GNU OpenMP spins for milliseconds at every barrier, so that one busy neighbour slows small steps like ours down 5 to
# 20 times; a short spin costs nothing on an idle machine. Read when torch is first loaded; a user's choice stands.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

when_recbole_is_imported()

_HOMES = {
    "fit_joint_law": "recbole_scale.laws.loss",
    "fit_power_law": "recbole_scale.laws.loss",
    "read_rows": "recbole_scale.runs.records",
    "recommend": "recbole_scale.serving.recommend:recommend_frame",
    "run": "recbole_scale.runs.run",
}


def __getattr__(name: str) -> Any:
    """Public names come from their modules when first asked for: a law needs neither torch nor RecBole."""
    if name == "__version__":
        from importlib.metadata import version

        return version("recbole-scale")
    if name not in _HOMES:
        raise AttributeError(f"module 'recbole_scale' has no attribute '{name}'")
    try:
        module, _, own_name = _HOMES[name].partition(":")
        return getattr(import_module(module), own_name or name)
    except ModuleNotFoundError as failure:
        raise without_recbole(failure) or failure from failure
