"""recbole-scale: scaling laws of sequential recommenders, inside RecBole.

Importing this package makes RecBole run on today's stack and adds ``ScaledSASRec`` and ``NLL`` to its look-ups, so
that ``recbole.quick_start.run_recbole(model="ScaledSASRec", ...)`` works too.
"""

from recbole_scale import compat

compat.apply()

from recbole_scale import plugin  # noqa: E402 (RecBole cannot be imported before compat.apply)

plugin.register()

from recbole_scale.errors import UserError  # noqa: E402
from recbole_scale.run import run  # noqa: E402

__all__ = ["UserError", "run"]
