"""Score trained models on the five challenge tasks: long tail, cold start, multi-domain, robustness, trajectory."""

from __future__ import annotations

import sys

from recbole_scale.challenges.command import main
from recbole_scale.errors import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main))
