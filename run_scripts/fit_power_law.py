"""``recbole-scale fit``, for a clone that is not installed."""

import sys

from recbole_scale.cli import run_verb
from recbole_scale.errors import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(lambda: run_verb(["fit", *sys.argv[1:]])))
