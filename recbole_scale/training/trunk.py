"""The trunk that runs of several lengths share under a wsd schedule: their state up to where the shortest decays.

All of a run but its decay is the same for every number of epochs, so the state at which one begins its decay is the
state of a longer one at that step (arXiv 2405.18392). It lies in the checkpoint folder under a name that has every
setting in it but ``epochs``, with the best models up to there beside it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from recbole_scale.interfaces import RunConfig
from recbole_scale.settings import run_id
from recbole_scale.training import group
from recbole_scale.training.best import Bests
from recbole_scale.training.checkpoint import copy_checkpoint, link_checkpoint
from recbole_scale.training.run_checkpoints import best_file, goes_on_from
from recbole_scale.training.schedule import Schedule, decay_start


class Trunk:
    """The trunk of a run, as files.

    Args:
        config: RecBole's Config.
        warmup: steps of the run's warm-up, which may depend on its length.
        ending: of its ``last`` checkpoints: ``pth`` or ``dcp``.
        branch: step up to which the trunk is shared, where the run's decay begins.
    """

    def __init__(self, config: RunConfig, warmup: int, ending: str, branch: int) -> None:
        self.stem, self.ending, self.branch = f"{trunk_stem(config)}-{warmup}", ending, branch

    def furthest(self, bests: Bests) -> tuple[str, int] | None:
        """The whole ``last`` checkpoint nearest before the branch (or there), and its step; None: there is none yet."""
        mine = None
        if group.rank() == 0:  # which decides
            found = sorted(self._found(self.branch), key=lambda found: -found[1])
            mine = next((one for one in found if goes_on_from(one[0], bests)), None)
        return group.gather(mine)[0]

    def _found(self, branch: int) -> list[tuple[str, int]]:
        folder, name = os.path.split(self.stem)
        pattern = re.compile(rf"{re.escape(name)}-(\d+)\.last\.{self.ending}")
        names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        found = [match for match in map(pattern.fullmatch, names) if match and int(match[1]) <= branch]
        return [(os.path.join(folder, match[0]), int(match[1])) for match in found]

    def keep(self, last_file: str, run_stem: str, bests: Bests) -> None:
        """Keep a run's checkpoint at the branch as the trunk; what was kept of it at earlier steps goes."""
        if group.rank() != 0:
            return
        step = self.branch
        before = self._found(step - 1)
        for best in bests.all:
            chosen = best is bests.chosen
            if os.path.isfile(found := best_file(run_stem, best, chosen)):
                link_checkpoint(found, best_file(f"{self.stem}-{step}", best, chosen))
        kept = f"{self.stem}-{step}.last.{self.ending}"
        (copy_checkpoint if os.path.isdir(last_file) else link_checkpoint)(
            last_file, kept
        )  # last, as what is looked for
        for path, earlier in before:
            remove_checkpoint(path)
            for best in bests.all:
                remove_checkpoint(best_file(f"{self.stem}-{earlier}", best, best is bests.chosen))


def shared_trunk(config: RunConfig, schedule: Schedule, steps_per_epoch: int, last_file: str) -> Trunk | None:
    """The trunk of a run that writes ``last_file``, if it is to share one."""
    if not config["share_trunk"] or schedule.kind != "wsd":
        return None
    total = int(config["epochs"]) * steps_per_epoch
    branch = decay_start(total, schedule.decay_share)
    return Trunk(config, schedule.warmup_of(total), last_file.rpartition(".")[2], branch)


def trunk_stem(config: RunConfig) -> str:
    """Path of all that is kept of a run's trunk, less its ending."""
    shared = run_id(config, without=("epochs",))
    return os.path.join(config["checkpoint_dir"], f"{config['model']}-{config['dataset']}-trunk-{shared}")


def remove_checkpoint(path: str) -> None:
    """Remove a checkpoint, a file or a sharded folder, if it is there."""
    with suppress(OSError):
        for piece in Path(path).iterdir() if os.path.isdir(path) else ():
            piece.unlink()
        os.rmdir(path) if os.path.isdir(path) else os.remove(path)
