"""Options of ``run_hyper``; apart from the command, so that --help imports nothing."""

from __future__ import annotations

from typing import Any

from recbole_scale.arguments import ONE_PROCESS, CommandParser

DECIDED = {
    **ONE_PROCESS,
    "checkpoint_dir": "each trial's checkpoints lie in --folder",
    "per_user_file": "trials would overwrite each other's; run_recbole writes that of the best",
}

TOOLS = ("Ray", "Hyperopt")
ALGORITHMS = ("bayes", "random", "exhaustive")
_EXAMPLES = """  run_hyper --model=ScaledSASRec --dataset=ml-100k --num_samples=8 --epochs=20
  run_hyper --model=SASRec --dataset=ml-100k --params_file=my.hyper --valid_metric=NDCG@10 --gpus_per_trial=0.25
  run_hyper --resume search/ScaledSASRec-ml-100k
  run_hyper --tool=Hyperopt --algo=bayes --model=GRU4Rec --dataset=ml-100k --num_samples=20
  run_recbole --config_files=search/ScaledSASRec-ml-100k/best.yaml

A line of a params file is 'name kind values', as RecBole's: hidden_size choice [64,128] | hidden_dropout_prob uniform
0.0,0.5 | n_layers quniform 1,4,1 | learning_rate loguniform -8,-4 (natural logarithms: 3.4e-4 to 1.8e-2).
"""


def parser() -> CommandParser:
    """Options of the command; what it does not know is a setting."""
    made = CommandParser(
        "run_hyper",
        "Search hyperparameters of ScaledSASRec or any model of RecBole for the best valid_metric. Any setting can be "
        "given as --key=value; what the command line fixes is not searched. The same command, or --resume, goes on "
        "with a search that was interrupted.",
        _EXAMPLES,
        DECIDED,
    )
    add: Any = made.add_argument
    add("--tool", help="Ray (parallel, ASHA stops bad trials) or Hyperopt (default: Ray)")
    add("--model", "-m", help="name of the model (default: ScaledSASRec)")
    add("--dataset", "-d", help="name of the data set (default: ml-100k)")
    add(
        "--config_files",
        nargs="+",
        metavar="FILE",
        help="config files, separated by spaces; packaged ones are found by name",
    )
    add("--params_file", metavar="FILE", help="search space (default: the packaged one of the model)")
    add("--num_samples", type=int, metavar="N", help="trials (default: 10)")
    add("--folder", metavar="DIR", help="folder of the search (default: search/MODEL-DATASET)")
    add("--resume", nargs="?", const=True, metavar="DIR", help="go on with the search in this folder")
    add("--output_file", metavar="FILE", help="also write the table of trials here")
    add("--display_file", metavar="FILE", help="also draw the trials' scores there (.html, .svg, .png or .pdf)")
    add("--dry_run", action="store_true", help="print the space and the plan, and stop")
    ray = made.add_argument_group("Ray")
    ray.add_argument("--cpus_per_trial", type=float, metavar="N", help="CPUs, and threads, of a trial (default: 1)")
    ray.add_argument(
        "--gpus_per_trial", type=float, metavar="N", help="GPUs of a trial, also a part of one (default: 1 if there is)"
    )
    ray.add_argument("--ray_address", metavar="HOST:PORT|auto", help="cluster; --folder must be on a disk all share")
    ray.add_argument("--grace_period", type=int, metavar="N", help="epochs before ASHA may stop a trial")
    ray.add_argument("--reduction_factor", type=float, metavar="R", help="at each rung the best 1/R go on (default: 3)")
    ray.add_argument("--no_halving", action="store_true", help="train every trial to its end")
    ray.add_argument("--max_failures", type=int, metavar="N", help="restarts of a trial that lost its process (3)")
    hyperopt = made.add_argument_group("Hyperopt")
    hyperopt.add_argument("--algo", help=f"{', '.join(ALGORITHMS)} (default: bayes)")
    hyperopt.add_argument(
        "--early_stop", type=int, metavar="N", help="end after N trials without a better score (default: 10)"
    )
    return made
