"""The command ``run_hyper``: options in, trials carried out, the table and ``best.yaml`` out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from recbole_scale.errors import UserError, check_choice
from recbole_scale.plugin.compat import load_ray_tune
from recbole_scale.runs.run import make_config
from recbole_scale.search.folder import locked
from recbole_scale.search.outcome import conclude
from recbole_scale.search.plan import ALGORITHMS, TOOLS, SearchPlan
from recbole_scale.search.space import find_params_file, read_space
from recbole_scale.settings import check_keys, find_settings_file, load_settings_file, parse_arguments

_EXAMPLES = """examples:
  run_hyper --model=ScaledSASRec --dataset=ml-100k --num_samples=8 --epochs=20
  run_hyper --model=SASRec --dataset=ml-100k --params_file=my.hyper --valid_metric=NDCG@10 --gpus_per_trial=0.25
  run_hyper --resume search/ScaledSASRec-ml-100k
  run_hyper --tool=Hyperopt --algo=bayes --model=GRU4Rec --dataset=ml-100k --num_samples=20
  run_recbole --config_files=search/ScaledSASRec-ml-100k/best.yaml

A line of a params file is 'name kind values', as RecBole's: hidden_size choice [64,128] | hidden_dropout_prob uniform
0.0,0.5 | n_layers quniform 1,4,1 | learning_rate loguniform -8,-4 (natural logarithms: 3.4e-4 to 1.8e-2).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: a mistake in options, settings or params file, in one sentence.
    """
    options, rest = _parser().parse_known_args(arguments)
    plan, source = _resumed(options, rest) if options.resume else _planned(options, parse_arguments(rest))
    if options.dry_run:
        print(plan.describe(source))
        return
    search = _search(plan)
    with locked(plan.folder):
        earlier = SearchPlan.load(plan.folder)
        if earlier is not None:
            plan.check_same(earlier)
            print(f"continuing the search in {os.path.relpath(plan.folder)}")
        print(plan.describe(source), flush=True)
        plan.save()
        try:
            search(plan)
        except KeyboardInterrupt as stop:
            where = os.path.relpath(plan.folder)
            raise UserError(f"interrupted; the same command, or run_hyper --resume {where}, goes on") from stop
        conclude(plan, options.output_file)


def _search(plan: SearchPlan) -> Any:
    """The tool's function; a tool that is not installed is found out before anything is written."""
    if plan.tool == "Ray":
        load_ray_tune()
        from recbole_scale.search.ray_search import search_with_ray

        return search_with_ray
    from recbole_scale.search.hyperopt_search import load_hyperopt, search_with_hyperopt

    if plan.algo != "exhaustive":
        load_hyperopt()
    elif plan.samples() == []:
        raise UserError("there is nothing to search")
    return search_with_hyperopt


def _planned(options: argparse.Namespace, given: dict[str, Any]) -> tuple[SearchPlan, str]:
    """A plan from the options, checked before anything is spent."""
    check_choice("--tool", options.tool, TOOLS)
    check_choice("--algo", options.algo or "bayes", ALGORITHMS)
    if options.algo and options.tool == "Ray":
        raise UserError("--algo is for --tool=Hyperopt; with Ray, values are drawn at random and ASHA stops bad trials")
    if "gpu_id" in given:
        raise UserError("run_hyper hands out GPUs by itself; choose them with CUDA_VISIBLE_DEVICES instead of --gpu_id")
    files = [find_settings_file(name) for name in (options.config_files or "").split()]
    model, dataset, settings = merged_settings(options.model, options.dataset, files, given)
    config = make_config(model, dataset, None, settings)
    path = find_params_file(options.params_file, model)
    space = [parameter for parameter in read_space(path) if parameter.name not in given]
    if not space:
        raise UserError(f"every parameter of {path} is fixed by the command line; there is nothing to search")
    plan = SearchPlan(
        folder=os.path.abspath(options.folder or os.path.join("search", f"{model}-{dataset}")),
        model=model,
        dataset=dataset,
        settings=settings,
        space=space,
        metric=config["valid_metric"].lower(),
        bigger=bool(config["valid_metric_bigger"]),
        epochs=int(config["epochs"]),
        seed=int(config["seed"]),
        tool=options.tool,
        algo=options.algo or ("bayes" if options.tool == "Hyperopt" else "random"),
        halving=not options.no_halving,
        **{name: value for name in _CHANGEABLE if (value := getattr(options, name)) is not None},
    )
    return plan, os.path.relpath(path) if options.params_file else f"packaged {os.path.basename(path)}"


# options of one start: they may differ when a search goes on
_CHANGEABLE = (
    "num_samples", "grace_period", "reduction_factor", "early_stop", "cpus_per_trial", "gpus_per_trial",
    "max_failures", "ray_address",
)  # fmt: skip


def merged_settings(
    model: str | None, dataset: str | None, files: Sequence[str], given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Model, data set and settings of config files and command line, where the command line wins.

    A file may name the model and the data set, as ``best.yaml`` does.
    """
    settings: dict[str, Any] = {}
    for path in files:
        content = load_settings_file(path)
        check_keys(content, f"in {path}")
        settings.update(content)
    settings.update(given)
    model = model or settings.pop("model", None) or "ScaledSASRec"
    dataset = dataset or settings.pop("dataset", None) or "ml-100k"
    return model, dataset, {key: value for key, value in settings.items() if key not in ("model", "dataset")}


def _resumed(options: argparse.Namespace, rest: Sequence[str]) -> tuple[SearchPlan, str]:
    """The plan of a folder, with this start's means."""
    folder = options.resume if isinstance(options.resume, str) else options.folder
    folder = folder or os.path.join("search", f"{options.model or 'ScaledSASRec'}-{options.dataset or 'ml-100k'}")
    plan = SearchPlan.load(folder)
    if plan is None:
        raise UserError(f"there is no search to resume in {folder}")
    if rest:
        raise UserError(f"--resume takes the settings from {folder}/search.json; leave '{rest[0]}' out")
    for name in _CHANGEABLE:
        if getattr(options, name) is not None:
            setattr(plan, name, getattr(options, name))
    plan.halving = plan.halving and not options.no_halving
    plan.__post_init__()
    return plan, ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_hyper",
        description="Search hyperparameters of ScaledSASRec or any model of RecBole for the best valid_metric. Any "
        "setting can be given as --key=value; what the command line fixes is not searched. The same command, or "
        "--resume, goes on with a search that was interrupted.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add("--tool", default="Ray", help="Ray (parallel, ASHA stops bad trials) or Hyperopt (default: %(default)s)")
    add("--model", "-m", help="name of the model (default: ScaledSASRec)")
    add("--dataset", "-d", help="name of the data set (default: ml-100k)")
    add("--config_files", help="config files, separated by spaces; packaged ones are found by name")
    add("--params_file", metavar="FILE", help="search space (default: the packaged one of the model)")
    add("--num_samples", type=int, metavar="N", help="trials (default: 10)")
    add("--folder", metavar="DIR", help="folder of the search (default: search/MODEL-DATASET)")
    add("--resume", nargs="?", const=True, metavar="DIR", help="go on with the search in this folder")
    add("--output_file", metavar="FILE", help="also write the table of trials here")
    add("--dry_run", action="store_true", help="print the space and the plan, and stop")
    ray = parser.add_argument_group("Ray")
    ray.add_argument("--cpus_per_trial", type=float, metavar="N", help="CPUs, and threads, of a trial (default: 1)")
    ray.add_argument(
        "--gpus_per_trial", type=float, metavar="N", help="GPUs of a trial, also a part of one (default: 1 if there is)"
    )
    ray.add_argument("--ray_address", metavar="HOST:PORT|auto", help="cluster; --folder must be on a disk all share")
    ray.add_argument("--grace_period", type=int, metavar="N", help="epochs before ASHA may stop a trial")
    ray.add_argument("--reduction_factor", type=float, metavar="R", help="at each rung the best 1/R go on (default: 3)")
    ray.add_argument("--no_halving", action="store_true", help="train every trial to its end")
    ray.add_argument("--max_failures", type=int, metavar="N", help="restarts of a trial that lost its process (3)")
    hyperopt = parser.add_argument_group("Hyperopt")
    hyperopt.add_argument("--algo", help=f"{', '.join(ALGORITHMS)} (default: bayes)")
    hyperopt.add_argument(
        "--early_stop", type=int, metavar="N", help="end after N trials without a better score (default: 10)"
    )
    return parser
