#!/usr/bin/env bash
# What a GPU does with both packages, in under 8 minutes: the tests marked `gpu`, then speeds beside the CPU, in one JSON
# file. Needs the project installed (PYTHON names its interpreter); no network, embedded and simulated data only.
#   tools/gpu_check.sh [--device cuda] [--json gpu_check.json]      on a machine with a GPU
#   tools/gpu_check.sh --device cpu --small                         the same steps on any machine, to try them out
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
device=cuda
for ((i = 1; i < $#; i++)); do
    if [ "${!i}" = --device ]; then
        next=$((i + 1))
        device=${!next}
    fi
done
PYTHONPATH=. "$python" -m pytest -p no:cacheprovider -m gpu tests/test_gpu.py --device "$device"
tests=$?
PYTHONPATH=. "$python" tools/gpu_check.py "$@" --tests-status "$tests"
status=$?
exit $((tests ? tests : status))
