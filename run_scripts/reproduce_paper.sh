#!/usr/bin/env bash
# Every table and figure of arXiv 2311.11351 as one command each; reproduce_paper.sh --help lists them.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: reproduce_paper.sh [--dataset D] [--out DIR] [--smoke [--quick]] [--dry_run] [PART ...] [--key=value ...]

Trains, fits, scores and draws what the paper shows, on the data set D (in dataset/D/D.inter; ml-100k comes along).
A run that is in DIR/runs.jsonl is not trained again, so the same command goes on where it was stopped.

parts (default: all, in this order)
  data        users, items and interactions of the data set
  sizes       the six sizes: layers, width, N, epochs, memory
  law         loss against N: the ladder, the fit on all but the held-out sizes, the prediction
  data_size   loss against the amount of data
  epochs      repeating the data: runs of several lengths
  shape       the aspect ratio at equal N
  width       two very wide layers against the small model
  overall     HR and NDCG of the sizes beside SASRec, GRU4Rec, Caser and FMLPRec
  ablation    layer-wise dropout and the optimizer switch, with and without
  challenges  long tail, cold start, domains, robustness, and steps ahead (on data with the last ten held out)
  report      all of it on one page, DIR/report.html

options
  --dataset D   name of the data set (with --smoke: ml-100k)
  --out DIR     where everything goes (default: results/reproduce-D)
  --smoke       tiny ladders, for a look at every part within ten minutes on two cores
  --quick       with --smoke: fewer runs still, within two minutes
  --sizes "S"   the ladder, sizes or LAYERSxWIDTH (default: tiny small base medium large xlarge)
  --holdout S   sizes judged instead of fitted, by name or count (default: large,xlarge)
  --seeds "S"   (default: 1 2 3)
  --dry_run     print the commands and stop
  --key=value   any setting of run_recbole, for every sweep

examples
  bash run_scripts/reproduce_paper.sh --smoke
  bash run_scripts/reproduce_paper.sh --dataset ml-20m law report
  bash run_scripts/reproduce_paper.sh --dataset ml-1m --sizes "1x16 2x16 2x32 tiny 4x64" --holdout 197K --epochs=20
TEXT
}

fail() { echo "error: $*" >&2; exit 2; }
say() { echo; echo "# $*"; }
note() { echo "note: $*"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python}
all_parts="data sizes law data_size epochs shape width overall ablation challenges report"
dataset="" out="" smoke="" quick="" dry="" sizes="" holdout="" seeds=""
parts=() settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --smoke) smoke=yes ;;
    --quick) quick=yes ;;
    --dry_run) dry=yes ;;
    --dataset=* | --out=* | --sizes=* | --holdout=* | --seeds=*)
      key=${1%%=*}; printf -v "${key#--}" %s "${1#*=}" ;;
    --dataset | --out | --sizes | --holdout | --seeds)
      [ $# -gt 1 ] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"; shift ;;
    --*=*) settings+=("$1") ;;
    --*) fail "there is no option $1; a setting of the runs is given as $1=VALUE" ;;
    all) read -ra parts <<<"$all_parts" ;;
    *) [[ " $all_parts " == *" $1 "* ]] || fail "there is no part '$1', only $all_parts"; parts+=("$1") ;;
  esac
  shift
done
[ -z "$quick" ] || [ -n "$smoke" ] || fail "--quick shortens --smoke, so give both"
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$all_parts"

if [ -n "$smoke" ]; then
  dataset=${dataset:-ml-100k}
  sizes=${sizes:-1x8 1x16 2x16 2x32 2x64} holdout=${holdout:-98.3K} seeds=${seeds:-1 2} predict=393K
  epochs="--epochs 8" data_sizes="1x16 2x32" fractions="0.1 0.25 0.5 1" lengths="1 2 4 8" length_sizes="2x32"
  equal_n=9400 wide="2x64 2x256" models="SASRec GRU4Rec FMLPRec ScaledSASRec:tiny" budget="--budget 15s --seeds 1"
  challenges="long_tail cold_start robustness" trajectory_sizes="1x16 2x32"
  ablated="2x16 4x16" ablated_for="--seeds 1 --epochs 4 sgd_epochs=2"
fi
if [ -n "$quick" ]; then
  sizes="1x8 1x16 2x16 2x32" holdout=24.6K seeds=1 epochs="--epochs 2" data_sizes=1x16 fractions="0.25 0.5 1"
  lengths="1 2" length_sizes=1x16 wide="2x16 2x128" models="GRU4Rec ScaledSASRec:tiny" budget="--epochs 1 --seeds 1"
  challenges="long_tail cold_start" trajectory_sizes=1x16 ablated=2x16 ablated_for="--seeds 1 --epochs 2 sgd_epochs=1"
fi
if [ -z "$smoke" ]; then
  [ -n "$dataset" ] || fail "name the data set with --dataset, or look around with --smoke"
  sizes=${sizes:-tiny small base medium large xlarge} seeds=${seeds:-1 2 3} predict=829M epochs=""
  holdout=${holdout:-large,xlarge}
  data_sizes=$sizes fractions="0.1 0.25 0.5 1" lengths="1 2 5 10 20 30" length_sizes="tiny base" equal_n="98.3K 1.57M"
  wide="2x64 2x1200" models="SASRec GRU4Rec Caser FMLPRec ScaledSASRec:tiny ScaledSASRec:base" budget="--seeds 2"
  challenges="all" trajectory_sizes="tiny base" ablated="2x64 24x512" ablated_for="--seeds $seeds"
fi
out=${out:-results/reproduce-$dataset}
rows=$out/runs.jsonl
first_seed=${seeds%% *}

# Prints a command in full, and runs it unless only asked to show it.
run() {
  printf '+'; printf ' %q' "$@"; echo
  [ -n "$dry" ] || "$@"
}

# Runs a script of the project: SCRIPT ARGUMENTS ...; without it the part says so and the others go on.
script() {
  local name=$1; shift
  if [ ! -f "$root/$name" ]; then note "$name is not there, so this part is left out"; return 0; fi
  run "$python" "$root/$name" "$@"
}

sweep() {
  script run_scripts/size_sweep.py --dataset "$dataset" --rows "$rows" "--checkpoint_dir=$out/saved" "$@" \
    ${settings[@]+"${settings[@]}"}
}

# The folder of data sets that holds $dataset: dataset/, or RecBole's examples.
data_folder() {
  if [ -d "dataset/$dataset" ]; then echo dataset; else
    "$python" -c 'from importlib.util import find_spec; print(find_spec("recbole").submodule_search_locations[0])' |
      sed 's|$|/dataset_example|'
  fi
}

part_data() {
  say "Data: users, items, interactions"
  run "$python" -m recbole_scale "--dataset=$dataset" --dry_run
}

part_sizes() {
  say "The six sizes, planned on $dataset"
  for size in tiny small base medium large xlarge; do
    run "$python" -m recbole_scale "--dataset=$dataset" "--size=$size" --dry_run
  done
}

part_law() {
  say "Loss against N"
  # shellcheck disable=SC2086 # lists of words
  sweep --shapes $sizes --seeds "$first_seed" $epochs # their checkpoints stay, for the challenges
  # shellcheck disable=SC2086
  sweep --shapes $sizes --seeds $seeds $epochs --keep none
  script run_scripts/fit_power_law.py --rows "$rows" --dataset "$dataset" --holdout "$holdout" --predict "$predict" \
    --out "$out/law"
  [ -z "$smoke" ] || note "five tiny sizes trained for a few epochs show a falling loss; the paper's constants need its data"
}

part_data_size() {
  say "Loss against data"
  # shellcheck disable=SC2086
  sweep --shapes $data_sizes --seeds "$first_seed" --fractions $fractions $epochs --keep none
  [ -z "$smoke" ] || note "that larger models need less data cannot be seen with models this small"
  draw
}

part_epochs() {
  say "Repeating the data"
  # shellcheck disable=SC2086
  sweep --shapes $length_sizes --seeds "$first_seed" --epochs $lengths --keep none
  [ -z "$smoke" ] || note "the paper's 13 to 30 epochs, which gain nothing, are not reached"
  draw
}

part_shape() {
  say "Aspect ratio at equal N"
  # shellcheck disable=SC2086
  sweep --equal_n $equal_n --seeds "$first_seed" $epochs --keep none
  draw
}

part_width() {
  say "Width alone"
  # shellcheck disable=SC2086
  script run_scripts/size_sweep.py --dataset "$dataset" --rows "$out/width.jsonl" "--checkpoint_dir=$out/saved-width" \
    --shapes $wide --seeds "$first_seed" $epochs --keep none ${settings[@]+"${settings[@]}"}
  [ -z "$smoke" ] || note "the paper's wide model has 2 layers of 1200; here the loss of a narrower one stands beside"
}

part_overall() {
  say "HR and NDCG beside other models"
  # shellcheck disable=SC2086
  script run_scripts/compare_baselines.py --dataset "$dataset" --models $models $budget \
    --results_file "$out/baselines.jsonl" --out "$out/overall"
  [ -z "$smoke" ] || note "so short a training ranks nothing; this shows that the table comes out"
}

part_ablation() {
  say "Layer-wise dropout and optimizer switch"
  # shellcheck disable=SC2086
  script benchmarks/ablation.py --dataset "$dataset" --data_path "$(data_folder)" --shapes $ablated $ablated_for \
    --out "$out/ablation.jsonl" --checkpoint_dir "$out/saved-ablation" ${settings[@]+"${settings[@]#--}"}
  [ -z "$smoke" ] || note "the paper's gain is of 24 layers, and none of 2; it cannot show here"
}

part_challenges() {
  say "The challenge tasks"
  local cut=$dataset-cut10
  # shellcheck disable=SC2086
  script run_scripts/challenge_tasks.py --dataset "$dataset" --runs "$rows" --checkpoint_dir "$out/saved" \
    --challenges $challenges --out "$out"
  script run_scripts/challenge_tasks.py --dataset "$dataset" --data_path "$(data_folder)" \
    --make_trajectory_data "$out/dataset"
  # shellcheck disable=SC2086
  script run_scripts/size_sweep.py --dataset "$cut" --rows "$out/trajectory.jsonl" "--data_path=$out/dataset" \
    "--checkpoint_dir=$out/saved-cut10" --shapes $trajectory_sizes --seeds "$first_seed" $epochs \
    ${settings[@]+"${settings[@]}"}
  script run_scripts/challenge_tasks.py --dataset "$cut" --data_path "$out/dataset" --runs "$out/trajectory.jsonl" \
    --checkpoint_dir "$out/saved-cut10" --challenges trajectory --out "$out"
  [ -z "$smoke" ] || note "gains of models this small say nothing of the paper's; $dataset has no domains to transfer between"
}

# The page, and every figure that the rows allow: page [--holdout S --predict S]
page() {
  local more=()
  if [ -n "$dry" ] || [ -f "$out/challenges.jsonl" ]; then more+=(--challenges "$out/challenges.jsonl"); fi
  if [ -n "$dry" ] || [ -f "$out/baselines.jsonl" ]; then more+=(--others "$out/baselines.jsonl"); fi
  script run_scripts/report.py --rows "$rows" --dataset "$dataset" "$@" ${more[@]+"${more[@]}"} \
    --out "$out/report.html" --figures "$out/figures"
}

# At the end of a part whose figure is on the page: nothing is held out, since the ladder may not be trained.
draw() {
  [[ " ${parts[*]} " == *" report "* ]] || page
}

part_report() {
  say "One page"
  page --holdout "$holdout" --predict "$predict"
}

[ -n "$dry" ] || mkdir -p "$out"
failed=()
for part in "${parts[@]}"; do
  # a part that fails is named at the end and does not keep the others from being tried; `|| ...` would turn -e off
  set +e
  (set -e; "part_$part")
  code=$?
  set -e
  [ $code -eq 0 ] || failed+=("$part")
done
[ ${#failed[@]} -eq 0 ] || { echo "error: failed: ${failed[*]}" >&2; exit 1; }
