"""The console commands ``recbole-scale VERB``, ``run_recbole`` and ``run_hyper``; each imports what it needs."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from recbole_scale.arguments import CommandParser, file_names, filled, print_version
from recbole_scale.errors import UserError, exit_code, nearest
from recbole_scale.settings import find_settings_file, load_settings_file
from recbole_scale.signals import ends_by_signal, leave

# in the order one uses them: the room, and what the verb does; its module is command.py, its options options.py
VERBS = {
    "prepare": ("prepare", "your own log, or a published one, to a data set that RecBole reads"),
    "synthetic": ("prepare.synthetic", "a made-up data set whose best possible loss is known"),
    "study": ("study", "from a data set to the answer page in one command: plan, sweep, fit, report"),
    "sweep": ("sweep", "train a ladder of sizes, seeds and amounts of data; one row a run"),
    "fit": ("fit", "the scaling law of finished runs, its bands, and what a larger model would reach"),
    "report": ("report", "one HTML page from finished runs"),
    "challenges": ("challenges", "where size wins: long tail, cold start, domains, noise, steps ahead"),
    "compare": ("compare", "ScaledSASRec beside RecBole's models, everybody treated alike"),
    "recommend": ("serving", "each user's best items from a checkpoint"),
}
_EXAMPLES = """  run_recbole --model=ScaledSASRec --dataset=ml-100k
  run_recbole --model=ScaledSASRec --config_files=properties/large.yaml --dataset=ml-20m --dry_run
  run_recbole --model=GRU4Rec --dataset=ml-100k --epochs=20
  run_recbole --model=ScaledSASRec --dataset=my-log --hidden_size=32 --inner_size=128 --resume auto
"""


def recbole_scale_command() -> None:
    """Entry point of ``recbole-scale``."""
    leave(exit_code(lambda: run_verb(sys.argv[1:])))


def module_command() -> None:
    """Entry point of ``python -m recbole_scale``."""
    words = sys.argv[1:2]
    (run_recbole_command if words and words[0].startswith("-") and words != ["-V"] else recbole_scale_command)()


def run_verb(arguments: Sequence[str]) -> int:
    """Carry out ``VERB OPTIONS``; without a verb, list them."""
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(verbs_text())
        return 0
    if verb in ("--version", "-V"):
        print_version()
        return 0
    if verb.startswith("-") and (later := next((word for word in rest if word in _there()), None)):
        raise UserError(f"the verb comes first: recbole-scale {later} {verb} ...")
    if verb not in _there():
        raise UserError(f"there is no verb '{verb}'{nearest(verb, _there())} (recbole-scale --help lists them)")
    if _only_asks(verb, rest):
        return 0
    return _main_of(verb)(rest) or 0


def verbs_text() -> str:
    """What ``recbole-scale --help`` prints."""
    lines = [f"  {verb:<12}{VERBS[verb][1]}" for verb in _there()]
    text = (
        "usage: recbole-scale VERB [OPTIONS]\n\n"
        "If I make my sequential recommender bigger, or give it more data, how much better will it get?\n\n"
        + "\n".join(lines)
        + "\n\nBeside them, with RecBole's own flags: run_recbole trains one model, run_hyper searches its settings. "
        "recbole-scale VERB --help lists a verb's options; --version says which this is."
    )
    return filled(text, shutil.get_terminal_size().columns - 2)


def _there() -> list[str]:
    return [verb for verb in VERBS if _is_there(_module(verb))]


def _is_there(module: str) -> bool:
    """Whether a module of ours exists, without importing its package."""
    return Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py").is_file()


def _room(verb: str) -> str:
    return f"recbole_scale.{VERBS[verb][0]}"


def _module(verb: str) -> str:
    return _room(verb) if "." in VERBS[verb][0] else f"{_room(verb)}.command"


def parser_of(command: str) -> CommandParser:
    """The options of a verb, ``run_recbole`` or ``run_hyper``, without importing what carries it out."""
    if command == "run_recbole":
        return _parser()
    room = "recbole_scale.search" if command == "run_hyper" else _room(command)
    options = f"{room}_options" if room.count(".") > 1 else f"{room}.options"
    made: CommandParser = import_module(options if _is_there(options) else _module(command)).parser()
    return made


def _only_asks(command: str, words: Sequence[str]) -> bool:
    """Whether only help or the version is asked for, which is told."""
    if {"--help", "-h"} & set(words):
        parser_of(command).print_help()
    elif "--version" in words:
        print_version()
    return bool({"--help", "-h", "--version"} & set(words))


def _main_of(verb: str) -> Callable[[Sequence[str]], int | None]:
    main: Callable[[Sequence[str]], int | None] = import_module(_module(verb)).main
    return main


def _parser() -> CommandParser:
    parser = CommandParser(
        "run_recbole",
        "Train and test ScaledSASRec or any model of RecBole. Any setting can be given as --key=value.",
        _EXAMPLES,
    )
    parser.add_argument("--model", "-m", help="name of the model (default: the config files', else ScaledSASRec)")
    parser.add_argument("--dataset", "-d", help="name of the data set (default: the config files', else ml-100k)")
    parser.add_argument(
        "--config_files",
        nargs="+",
        metavar="FILE",
        help="config files, separated by spaces; packaged ones are found by name",
    )
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
    leave(exit_code(_run_recbole))


def _run_recbole() -> None:
    arguments, settings = _parser().parse_with_settings()
    if arguments.nproc < 1:
        raise UserError(f"--nproc is {arguments.nproc}, but must be at least 1")
    from recbole_scale.training import group

    files = file_names(arguments.config_files)
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
    from recbole_scale.training.processes import start

    start(_run_one, (call, members), arguments.nproc)


def _run_one(local_rank: int, call: dict[str, Any], members: dict[str, Any]) -> None:
    """One process of a run: alone when ``members`` is empty, else rank ``offset + local_rank`` of it."""
    from recbole_scale.runs.run import run
    from recbole_scale.training import group

    if members:
        call["config_dict"] = {"local_rank": local_rank, **call["config_dict"], **members}
    child = local_rank > 0 or multiprocessing.parent_process() is not None  # whose parent tells the user
    with ends_by_signal(child), group.first_failure_speaks():
        result = run(**call)
    if not call["dry_run"] and group.rank() == 0:
        print(f"checkpoint  {result['checkpoint'] or 'none'}")
        print(f"row         {result['results_file'] or 'none (results_file is empty)'}, run_id {result['run_id']}")
    group.leave()


def run_hyper_command() -> None:
    """Entry point of ``run_hyper``."""
    leave(exit_code(_run_hyper))


def _run_hyper() -> None:
    if not _only_asks("run_hyper", sys.argv[1:]):
        from recbole_scale.search.command import main

        main()
