"""The console commands ``run_recbole`` and ``run_hyper``."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

import torch

from recbole_scale.errors import UserError, exit_code
from recbole_scale.settings import find_settings_file, load_settings_file, parse_arguments
from recbole_scale.training import group

_EXAMPLES = """examples:
  run_recbole --model=ScaledSASRec --dataset=ml-100k
  run_recbole --model=ScaledSASRec --config_files=properties/large.yaml --dataset=ml-20m --dry_run
  run_recbole --model=GRU4Rec --dataset=ml-100k --epochs=20
  run_recbole --model=ScaledSASRec --dataset=my-log --hidden_size=32 --inner_size=128 --resume auto
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_recbole",
        description="Train and test ScaledSASRec or any model of RecBole. Any setting can be given as --key=value.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", "-m", help="name of the model (default: the config files', else ScaledSASRec)")
    parser.add_argument("--dataset", "-d", help="name of the data set (default: the config files', else ml-100k)")
    parser.add_argument("--config_files", help="config files, separated by spaces; packaged ones are found by name")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    parser.add_argument("--ip", default="localhost", help="address of the first machine")
    parser.add_argument("--port", default="5678", help="port of the first machine")
    parser.add_argument("--group_offset", type=int, default=0, help="first rank on this machine")
    parser.add_argument(
        "--resume", metavar="PATH|auto", help="continue from a .last.pth or .last.dcp; auto: this run's own"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    return parser


def run_recbole_command() -> None:
    """Entry point of ``run_recbole``."""
    sys.exit(exit_code(_run_recbole))


def _run_recbole() -> None:
    arguments, rest = _parser().parse_known_args()
    settings = parse_arguments(rest)
    files = (arguments.config_files or "").split()
    named = {key: value for path in files for key, value in load_settings_file(find_settings_file(path)).items()}
    call = {
        "model": arguments.model or named.get("model", "ScaledSASRec"),
        "dataset": arguments.dataset or named.get("dataset", "ml-100k"),
        "config_file_list": files or None,
        "config_dict": settings,
        "resume": arguments.resume,
        "dry_run": arguments.dry_run,
    }
    world_size = max(arguments.world_size, arguments.nproc)
    if arguments.dry_run and world_size > 1:  # one process can plan for all
        call["config_dict"] = {**settings, "world_size": world_size}
    if world_size <= 1 or arguments.dry_run:
        _run_one(0, call, group.torchrun_settings())
        return
    members = {
        "nproc": arguments.nproc,
        "world_size": world_size,
        "ip": arguments.ip,
        "port": arguments.port,
        "offset": arguments.group_offset,
    }
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # one sentence says it all
    try:
        torch.multiprocessing.spawn(_run_one, (call, members), nprocs=arguments.nproc)
    except torch.multiprocessing.ProcessExitedException as failure:
        sys.exit(f"error: {group.how_it_ended(failure)}")
    except torch.multiprocessing.ProcessRaisedException as failure:  # the other ranks have been ended by now
        kind, _, sentence = str(failure).strip().splitlines()[-1].partition(": ")
        if not kind.endswith(UserError.__name__):
            raise
        raise UserError(sentence) from failure


def _run_one(local_rank: int, call: dict[str, Any], members: dict[str, Any]) -> None:
    """One process of a run: alone when ``members`` is empty, else rank ``offset + local_rank`` of it."""
    from recbole_scale.runs.run import run

    if members:
        call["config_dict"] = {"local_rank": local_rank, **call["config_dict"], **members}
    with group.first_failure_speaks():
        result = run(**call)
    if not call["dry_run"] and group.rank() == 0:
        print(f"checkpoint  {result['checkpoint']}\nrow         {result['results_file']}, run_id {result['run_id']}")
    group.leave()


def run_hyper_command() -> None:
    """Entry point of ``run_hyper``."""
    sys.exit(exit_code(_run_hyper))


def _run_hyper() -> None:
    from recbole_scale.search.command import main

    main()
