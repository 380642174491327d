"""Fit the scaling law to finished runs, judge it on held-out sizes, and predict sizes not yet trained."""

from __future__ import annotations

import sys

from recbole_scale.errors import exit_code
from recbole_scale.fit.command import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
