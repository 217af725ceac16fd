"""Write trained networks as files that need nothing of jax_seg.

python -m jax_seg.export runs/v6@swa OUT
python -m jax_seg.export runs/fold_0 runs/fold_1 OUT     # their probabilities are averaged
"""

import argparse
import sys
from pathlib import Path

from jax_seg.infer import as_onnx
from jax_seg.runs import exporting
from jax_seg.system import startup
from jax_seg.system.commands import exit_status
from jax_seg.system.program import program


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("export"),
        description="Write trained networks to a folder that needs nothing of jax_seg: a program "
        "of jax.export for CPUs and NVIDIA GPUs, from stored voxels to probabilities; the weights; "
        "load.py, which loads them; segment.py, for volumes that fit into memory; a model card.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="WORKDIR, WORKDIR@STEP, WORKDIR@swa or WORKDIR@ema; the probabilities of several are "
        "averaged",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="new folder, or an earlier export")
    parser.add_argument(
        "--onnx", action="store_true", help="also write each network as ONNX (extra 'onnx')"
    )
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _export(arguments))


def _export(arguments):
    if arguments.onnx:
        as_onnx.require_installed()
    sources = [exporting.read(text) for text in arguments.runs]
    exporting.require_writable(arguments.output, sources)
    exporting.write(arguments.output, sources, onnx=arguments.onnx)
    print(f"{arguments.output}: {', '.join(sorted(p.name for p in arguments.output.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
