"""Import the weights of a PyTorch U-Net as a run.

`python -m jax_seg.convert SRC.pth WORKDIR` writes a folder that `jax_seg.predict` can use.
"""

import argparse
import sys
from pathlib import Path

import jax

from jax_seg.runs import from_weights
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.program import program
from jax_seg.weights import unet


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Import the weights of a PyTorch U-Net into a folder for jax_seg.predict.",
    )
    parser.add_argument(
        "source",
        type=Path,
        help="weights saved by torch.save, or a .safetensors file; no code in it is executed",
    )
    parser.add_argument("workdir", type=Path, help="new folder for the run")
    parser.add_argument(
        "--patch",
        type=int,
        nargs=3,
        default=[128, 128, 128],
        help="size of a window in voxels (default: 128 128 128)",
    )
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=[0.0, 255.0],
        dest="limits",
        metavar=("LOW", "HIGH"),
        help="intensities that map to 0 and 1 (default: 0 255)",
    )
    parser.add_argument(
        "--images", help="folder of volumes whose 0.5 and 99.5 percentiles replace --range"
    )
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _convert(arguments))


def _convert(arguments):
    inputs = [Path(arguments.images)] if arguments.images else []
    outputs.require_apart(arguments.workdir, inside=inputs, flag="WORKDIR")
    outputs.require_folder(arguments.workdir, flag="WORKDIR")
    from_weights.require_empty(arguments.workdir)
    print(convert(**vars(arguments)))
    return 0


def convert(source, workdir, *, patch, limits, images=None):
    """Write the network of a weights file as a run; return a sentence that describes it.

    Args:
      source: see `weights.unet.from_torch`.
      workdir, patch: of `runs.from_weights.write_workdir`.
      limits: (low, high), intensities that map to 0 and 1; not used with `images`.
      images: folder of volumes whose intensities give the range, or None.

    Raises:
      ValueError, OSError: the file, the range or the folders cannot be used.
    """
    model, params = unet.from_torch(source)
    if (model.in_channels, model.out_channels, model.dimensions) != (1, 1, 3):
        raise ValueError(
            f"{source} is a network of {model.dimensions} dimensions, {model.in_channels} input "
            f"channels and {model.out_channels} logits, but prediction needs 3 dimensions, one "
            "input channel and one logit; jax_seg.weights.unet.from_torch reads its parameters."
        )
    preprocessing = (
        from_weights.preprocessing_of_images(images)
        if images
        else from_weights.preprocessing_of_range(*limits)
    )
    from_weights.write_workdir(workdir, model, params, preprocessing=preprocessing, patch=patch)
    size = sum(p.size for p in jax.tree.leaves(params))
    return (
        f"{workdir}: U-Net with {model.filters} filters and {model.poolings} poolings, {size:,} "
        f"parameters; intensities {preprocessing.low:g} to {preprocessing.high:g} map to 0 to 1."
    )


if __name__ == "__main__":
    sys.exit(main())
