#!/usr/bin/env bash
# The benchmark of a graphics card on a bare machine without network.
#
#   benchmarks/gpu.sh fetch WHEELS      on a machine with network: download what is needed
#   benchmarks/gpu.sh run WHEELS OUT    there, in a copy of this repository: install and measure
#
# Wheels: jax[cuda12] and the project's other dependencies as pinned, and the peers, torch (for
# CUDA) and monai, which are left out of the figures where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
action=${1:?fetch or run}
wheels=${2:?folder of wheels}
python=${PYTHON:-python3}

case "$action" in
fetch)
    "$python" -m pip download --constraint constraints.txt --dest "$wheels" '.[cuda12]' setuptools wheel
    "$python" -m pip download --dest "$wheels" torch monai || echo "Without PyTorch and MONAI."
    ;;
run)
    out=${3:?folder for the figures}
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    install=(.venv/bin/pip install --quiet --no-index --find-links "$wheels")
    "${install[@]}" setuptools wheel
    "${install[@]}" --constraint constraints.txt --no-build-isolation --editable '.[cuda12]'
    "${install[@]}" torch monai || echo "Without PyTorch and MONAI."
    .venv/bin/python -m benchmarks.gpu --output "$out"
    ;;
*)
    echo "fetch or run, not $action" >&2
    exit 2
    ;;
esac
