"""Generate a data set with a known answer; ``make_synthetic.py --help`` shows an example."""

import sys

from recbole_scale.errors import exit_code
from recbole_scale.prepare.synthetic import main

if __name__ == "__main__":
    sys.exit(exit_code(main))
