"""``python -m recbole_scale``: a verb of ``recbole-scale``, or the settings of ``run_recbole``."""

from recbole_scale.cli import module_command

if __name__ == "__main__":
    module_command()
