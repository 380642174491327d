"""The command ``run_hyper``: options in, trials carried out, the table and ``best.yaml`` out."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from typing import Any

from recbole_scale.arguments import file_names
from recbole_scale.errors import UserError, check_choice
from recbole_scale.plugin.compat import load_ray_tune
from recbole_scale.runs.prepared import digest_there
from recbole_scale.runs.run import make_config
from recbole_scale.search.display import check_display, write_display
from recbole_scale.search.folder import locked
from recbole_scale.search.options import ALGORITHMS, TOOLS, parser
from recbole_scale.search.outcome import conclude, outcomes
from recbole_scale.search.plan import SearchPlan
from recbole_scale.search.space import find_params_file, read_space
from recbole_scale.settings import check_keys, find_settings_file, load_settings_file
from recbole_scale.signals import Interrupted


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: a mistake in options, settings or params file, in one sentence.
    """
    options, settings = parser().parse_with_settings(arguments)
    if options.display_file:
        check_display(options.display_file)
    plan, source = _resumed(options, settings) if options.resume else _planned(options, settings)
    config = make_config(plan.model, plan.dataset, None, dict(plan.settings))
    plan.digest = digest_there(config)
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
        except KeyboardInterrupt as stop:  # ours, or one that Ray raises
            advice = f"the same command, or run_hyper --resume {os.path.relpath(plan.folder)}, goes on"
            raise Interrupted(getattr(stop, "signum", signal.SIGINT), advice) from None
        conclude(plan, options.output_file)
        if options.display_file:
            write_display(options.display_file, plan, outcomes(plan))


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
    tool = options.tool or "Ray"
    check_choice("--tool", tool, TOOLS)
    check_choice("--algo", options.algo or "bayes", ALGORITHMS)
    _check_for_tool(options, tool)
    if options.algo and tool == "Ray":
        raise UserError("--algo is for --tool=Hyperopt; with Ray, values are drawn at random and ASHA stops bad trials")
    if "gpu_id" in given:
        raise UserError("run_hyper hands out GPUs by itself; choose them with CUDA_VISIBLE_DEVICES instead of --gpu_id")
    files = [find_settings_file(name) for name in file_names(options.config_files)]
    parser().check_files(files)
    model, dataset, settings = merged_settings(options.model, options.dataset, files, given)
    config = make_config(model, dataset, None, settings)
    path = find_params_file(options.params_file, model)
    space = [parameter for parameter in read_space(path, model) if parameter.name not in given]
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
        tool=tool,
        algo=options.algo or ("bayes" if tool == "Hyperopt" else "random"),
        halving=not options.no_halving,
        **{name: value for name in _CHANGEABLE if (value := getattr(options, name)) is not None},
    )
    return plan, os.path.relpath(path) if options.params_file else f"packaged {os.path.basename(path)}"


def _check_for_tool(options: argparse.Namespace, tool: str) -> None:
    """Refuse options of the other tool, which would change nothing."""
    for name in _OF_RAY if tool == "Hyperopt" else ("early_stop",):
        if (value := getattr(options, name)) is not None and value is not False:
            raise UserError(f"--{name} is not for --tool={tool}; run_hyper --help shows what is")


_OF_RAY = (
    "cpus_per_trial", "gpus_per_trial", "ray_address", "grace_period", "reduction_factor", "no_halving", "max_failures"
)  # fmt: skip
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


def _resumed(options: argparse.Namespace, given: dict[str, Any]) -> tuple[SearchPlan, str]:
    """The plan of a folder, with this start's means."""
    folder = options.resume if isinstance(options.resume, str) else options.folder
    folder = folder or os.path.join("search", f"{options.model or 'ScaledSASRec'}-{options.dataset or 'ml-100k'}")
    plan = SearchPlan.load(folder)
    if plan is None:
        raise UserError(f"there is no search to resume in {folder}")
    said = {name: getattr(options, name) for name in ("model", "dataset", "tool", "algo")}
    other = [name for name, value in said.items() if value not in (None, getattr(plan, name))]
    for name in (*given, *other, *(name for name in ("params_file", "config_files") if getattr(options, name))):
        raise UserError(f"--resume takes {name} from {folder}/search.json; leave '--{name}' out")
    _check_for_tool(options, plan.tool)
    for name in _CHANGEABLE:
        if getattr(options, name) is not None:
            setattr(plan, name, getattr(options, name))
    plan.halving = plan.halving and not options.no_halving
    plan.__post_init__()
    return plan, ""
