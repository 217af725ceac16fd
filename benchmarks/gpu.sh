#!/usr/bin/env bash
# The figures of a graphics card on a bare machine without network.
#
#   benchmarks/gpu.sh fetch WHEELS [cuda12]   on a machine with network: download what is needed,
#                                             for CUDA 13 or, where the driver is older, CUDA 12
#   benchmarks/gpu.sh run WHEELS OUT          there, in a copy of this repository: install, measure
#   benchmarks/gpu.sh extras                  what the driver of this machine allows to install
#
# JAX and PyTorch share one CUDA: the libraries of two would overwrite each other's files. PyTorch
# is built for CUDA 13, so it and MONAI, the peers, are left out where the driver is older.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
oldest=580 # driver of CUDA 13

end() {
    echo "$1" >&2
    exit 1
}

driver_is_new() {
    local driver
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || driver=
    [[ $driver =~ ^([0-9]+)\. ]] || end "nvidia-smi finds no card: install NVIDIA's driver, $oldest or newer."
    ((BASH_REMATCH[1] >= oldest))
}

extras() {
    if driver_is_new; then
        echo cuda13,bench
    else
        echo "Without PyTorch and MONAI: their build needs a driver of $oldest or newer." >&2
        echo cuda12
    fi
}

version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

fetch() { # WHEELS CUDA
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        end "Fetch on Linux x86_64, as the card's machine is: here pip would choose other wheels."
    [[ $2 = cuda1[23] ]] || end "Wheels are for cuda12 or cuda13, not '$2'."
    local download=("$python" -m pip download --constraint constraints.txt --dest "$1" setuptools wheel)
    local extras=$2
    if [ "$2" = cuda13 ] && "${download[@]}" '.[cuda13,bench]'; then
        extras=cuda13,bench
    else
        echo "Without PyTorch and MONAI."
        "${download[@]}" ".[$2]"
    fi
    echo "$extras $(version "$python")" >"$1/for"
}

run() { # WHEELS OUT
    local extras wanted
    read -r extras wanted <"$1/for"
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
    [ "$(version "$python")" = "$wanted" ] ||
        end "The wheels are for Python $wanted, unlike $python: remove .venv and set PYTHON=python$wanted."
    driver_is_new || [[ $extras = cuda12 ]] ||
        end "The wheels are for CUDA 13, which needs a driver of $oldest or newer: fetch them with cuda12."
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    local install=(.venv/bin/pip install --quiet --no-index --find-links "$1" --constraint constraints.txt)
    "${install[@]}" setuptools wheel
    "${install[@]}" --no-build-isolation --editable ".[$extras]"
    .venv/bin/python -m benchmarks.gpu --output "$2"
}

case "${1:-}" in
extras) extras ;;
fetch) fetch "${2:?folder of wheels}" "${3:-cuda13}" ;;
run) run "${2:?folder of wheels}" "${3:?folder for the figures}" ;;
*) end "Say extras, fetch or run, not '${1:-}'." ;;
esac
