"""recbole-scale: scaling laws of sequential recommenders, inside RecBole.

Importing this package makes RecBole run on today's stack and adds ``ScaledSASRec`` and ``NLL`` to its look-ups, so
that ``recbole.quick_start.run_recbole(model="ScaledSASRec", ...)`` works too.
"""

import os

# GNU OpenMP spins for milliseconds at every barrier, so that one busy neighbour slows small steps like ours down 5 to
# 20 times; a short spin costs nothing on an idle machine. Read when torch is first loaded; a user's choice stands.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from recbole_scale.plugin import compat

compat.apply()

from recbole_scale import plugin  # noqa: E402 (RecBole cannot be imported before compat.apply)

plugin.register()

from recbole_scale.errors import UserError  # noqa: E402
from recbole_scale.runs.run import run  # noqa: E402
from recbole_scale.laws.loss import fit_joint_law, fit_power_law  # noqa: E402

__all__ = ["UserError", "fit_joint_law", "fit_power_law", "run"]
