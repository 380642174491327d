"""``python -m recbole_scale`` is ``run_recbole``."""

from recbole_scale.cli import run_recbole_command

if __name__ == "__main__":
    run_recbole_command()
