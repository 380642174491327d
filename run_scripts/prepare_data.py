"""Turn published raw files, or your own log, into a RecBole atomic file: ``prepare_data.py --help`` shows examples."""

import sys

from recbole_scale.errors import exit_code
from recbole_scale.prepare.command import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
