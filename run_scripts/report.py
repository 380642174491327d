"""One HTML file from finished runs: the answer in two sentences, then the figures, tables and runs behind it."""

from __future__ import annotations

import sys

from recbole_scale.errors import exit_code
from recbole_scale.report.command import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
