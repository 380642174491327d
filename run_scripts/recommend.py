"""Write each user's best items, with raw ids, from a checkpoint of any sequential model."""

from __future__ import annotations

import sys

from recbole_scale.errors import exit_code
from recbole_scale.serving.command import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
