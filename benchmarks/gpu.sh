#!/usr/bin/env bash
# All GPU measurements on one CUDA GPU, without network or Ray:
#     bash benchmarks/gpu.sh [--data dataset/ml-1m/ml-1m.inter]     rows go to results/gpu.jsonl
#     bash benchmarks/gpu.sh --minutes 8                            the most telling parts first, as many as fit in
#     bash benchmarks/gpu.sh --wheels                               with a network: what such a machine lacks, to carry along
#     bash benchmarks/gpu.sh --smoke --out /tmp/gpu.jsonl            everything in small, on a CPU
# WHEELS is where wheels lie (benchmarks/wheels), PYTHON the interpreter that has recbole-scale (python3 by default).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
case " $* " in
*" --out "* | *" --wheels "*) ;;
*) set -- --out "$here/../results/gpu.jsonl" "$@" ;;
esac
exec "${PYTHON:-python3}" "$here/gpu.py" "$@"
