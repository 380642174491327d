"""The console commands ``run_recbole`` and ``run_hyper``."""

from __future__ import annotations

import argparse
import sys

from recbole_scale.errors import UserError, exit_code
from recbole_scale.settings import parse_arguments

_EXAMPLES = """examples:
  run_recbole --model=ScaledSASRec --dataset=ml-100k
  run_recbole --model=ScaledSASRec --config_files=properties/large.yaml --dataset=ml-20m --dry_run
  run_recbole --model=GRU4Rec --dataset=ml-100k --train_neg_sample_args=None --epochs=20
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
    parser.add_argument("--model", "-m", default="ScaledSASRec", help="name of the model (default: %(default)s)")
    parser.add_argument("--dataset", "-d", default="ml-100k", help="name of the data set (default: %(default)s)")
    parser.add_argument("--config_files", help="config files, separated by spaces; packaged ones are found by name")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    parser.add_argument("--ip", default="localhost", help="address of the first machine")
    parser.add_argument("--port", default="5678", help="port of the first machine")
    parser.add_argument("--group_offset", type=int, default=0, help="first rank on this machine")
    parser.add_argument(
        "--resume", metavar="PATH|auto", help="continue from a .last.pth checkpoint; auto: this run's own"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    return parser


def run_recbole_command() -> None:
    """Entry point of ``run_recbole``."""
    sys.exit(exit_code(_run_recbole))


def _run_recbole() -> None:
    arguments, rest = _parser().parse_known_args()
    settings = parse_arguments(rest)
    if arguments.nproc != 1 or arguments.world_size > 1:
        raise UserError("training on several processes is not in this release; leave out --nproc and --world_size")
    import recbole_scale

    result = recbole_scale.run(
        model=arguments.model,
        dataset=arguments.dataset,
        config_file_list=arguments.config_files.split() if arguments.config_files else None,
        config_dict=settings,
        resume=arguments.resume,
        dry_run=arguments.dry_run,
    )
    if not arguments.dry_run:
        print(f"checkpoint  {result['checkpoint']}\nrow         {result['results_file']}, run_id {result['run_id']}")


def run_hyper_command() -> None:
    """Entry point of ``run_hyper``."""
    sys.exit(exit_code(_run_hyper))


def _run_hyper() -> None:
    raise UserError("hyperparameter search is not in this release yet; run_recbole trains one setting at a time")
