"""Train a ladder of sizes, seeds, data fractions and epochs; one row per run, finished rows are skipped."""

from __future__ import annotations

import sys

from recbole_scale.errors import exit_code
from recbole_scale.sweep.command import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
