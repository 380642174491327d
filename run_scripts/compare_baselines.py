"""Compare ScaledSASRec with RecBole's models: same split, order, ranking and budget, significance over users."""

from __future__ import annotations

import sys

from recbole_scale.compare.command import main
from recbole_scale.errors import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main))
