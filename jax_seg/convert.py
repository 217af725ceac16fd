"""Import weights that were trained elsewhere as a run: of a PyTorch U-Net, or of nnU-Net.

python -m jax_seg.convert SRC.pth WORKDIR
python -m jax_seg.convert NNUNET_MODEL_FOLDER WORKDIR

Either writes a folder that `jax_seg.predict` can use. No code in a checkpoint is executed.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from jax_seg import models
from jax_seg.data import preprocess
from jax_seg.data.readers.spacing import in_words
from jax_seg.infer.ensemble import AXES
from jax_seg.runs import from_weights, members
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.files import existing
from jax_seg.system.program import program
from jax_seg.weights import nnunet, unet
from jax_seg.weights.nnunet_plans import NETWORKS

PATCH = (128, 128, 128)
LIMITS = (0.0, 255.0)
FLAT = 3  # times as wide as deep; nnU-Net turns such patches in the plane alone


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Import the weights of a PyTorch U-Net, or the networks of an nnU-Net model "
        "folder, into a folder for jax_seg.predict.",
    )
    parser.add_argument(
        "source",
        type=Path,
        help="weights saved by torch.save, a .safetensors file, or nnU-Net's model folder, which "
        "holds plans.json, dataset.json and fold_X; no code in it is executed",
    )
    parser.add_argument("workdir", type=Path, help="new folder for the run")
    of_file = parser.add_argument_group("weights files")
    of_file.add_argument(
        "--patch",
        type=int,
        nargs=3,
        help="size of a window in voxels (default: 128 128 128)",
    )
    of_file.add_argument(
        "--range",
        type=float,
        nargs=2,
        dest="limits",
        metavar=("LOW", "HIGH"),
        help="intensities that map to 0 and 1 (default: 0 255)",
    )
    of_file.add_argument(
        "--images", help="folder of volumes whose 0.5 and 99.5 percentiles replace --range"
    )
    of_folder = parser.add_argument_group("nnU-Net's model folders")
    of_folder.add_argument(
        "--folds", nargs="+", metavar="FOLD", help="folds to import, as 0 1 or all (default: all)"
    )
    of_folder.add_argument(
        "--checkpoint", choices=nnunet.CHECKPOINTS, help="checkpoint of each fold (default: final)"
    )
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _convert(arguments))


def _convert(arguments):
    inputs = [Path(arguments.images)] if arguments.images else []
    if arguments.source.is_dir():
        inputs.append(arguments.source)
    outputs.require_apart(arguments.workdir, inside=inputs, flag="WORKDIR")
    outputs.require_folder(arguments.workdir, flag="WORKDIR")
    from_weights.require_empty(arguments.workdir)
    folder = nnunet.is_model_folder(existing(arguments.source))
    if arguments.source.is_dir() and not folder:
        raise ValueError(
            f"{arguments.source} holds no plans.json; give nnU-Net's model folder, which holds "
            "plans.json, dataset.json and fold_X, or a weights file."
        )
    for name in ("patch", "limits", "images") if folder else ("folds", "checkpoint"):
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"--{'range' if name == 'limits' else name} is for "
                f"{'weights files' if folder else 'model folders of nnU-Net'}; remove it."
            )
    if folder:
        print(
            convert_folder(
                arguments.source,
                arguments.workdir,
                folds=arguments.folds or (),
                checkpoint=arguments.checkpoint or "final",
            )
        )
        return 0
    print(
        convert(
            arguments.source,
            arguments.workdir,
            patch=arguments.patch or PATCH,
            limits=arguments.limits or LIMITS,
            images=arguments.images,
        )
    )
    return 0


def convert(source, workdir, *, patch, limits, images=None):
    """Write the network of a weights file as a run; return a sentence that describes it.

    Args:
      source: see `weights.unet.from_torch`.
      workdir, patch: of `runs.from_weights`.
      limits: (low, high), intensities that map to 0 and 1; not used with `images`.
      images: folder of volumes whose intensities give the range, or None.

    Raises:
      ValueError, OSError: the file, the range or the folders cannot be used.
    """
    model, params = unet.from_torch(source)
    if (model.out_channels, model.dimensions) != (1, 3):
        raise ValueError(
            f"{source} is a network of {model.dimensions} dimensions and {model.out_channels} "
            "logits, but prediction needs 3 dimensions and one logit; "
            "jax_seg.weights.unet.from_torch reads its parameters."
        )
    divisors = model.smallest_input()
    if any(size < 1 or size % divisor for size, divisor in zip(patch, divisors, strict=True)):
        raise ValueError(
            f"--patch is {' '.join(map(str, patch))}, but the network of {source} takes multiples "
            f"of {' '.join(map(str, divisors))}."
        )
    preprocessing = (
        from_weights.preprocessing_of_images(images, model.in_channels)
        if images
        else from_weights.preprocessing_of_range(*limits)
    )
    network = from_weights.Imported(model, params, preprocessing, patch)
    from_weights.write_workdir(workdir, {"": network})
    return (
        f"{workdir}: U-Net with {model.filters} filters and {model.poolings} poolings, "
        f"{_size(params):,} parameters; {_ranges(preprocessing)} map to 0 to 1."
    )


def _ranges(preprocessing):
    """'intensities 0 to 255', or the same of each channel that has a range of its own."""
    each = preprocess.of_channels(preprocessing)
    ranges = [f"{one.low:g} to {one.high:g}" for one in each]
    return "intensities " + ", ".join(
        f"{one} (channel {number})" if len(each) > 1 else one for number, one in enumerate(ranges)
    )


def convert_folder(source, workdir, *, folds=(), checkpoint="final"):
    """Write the networks of an nnU-Net model folder as runs; return lines that describe them.

    One fold becomes the run `workdir`, several become `workdir`/fold_0 and so on.

    Args:
      source: nnU-Net's model folder.
      workdir: of `runs.from_weights.write_workdir`.
      folds, checkpoint: of `weights.nnunet.find_folds`.

    Raises:
      ValueError, OSError: a file or the folder cannot be used, or describes a network that this
        project has not.
    """
    paths = nnunet.find_folds(source, folds, checkpoint)
    read = [nnunet.read_fold(path) for path in paths.values()]
    networks = {
        fold.name if len(read) > 1 else "": _imported(fold, path)
        for fold, path in zip(read, paths.values(), strict=True)
    }
    from_weights.write_workdir(workdir, networks)
    names = [str(Path(workdir) / name) for name in networks]
    lines = [*map(_describe, names, read), *_advice(workdir, names[0], read[0])]
    absent = [name for name in nnunet.USUAL if name not in paths]
    if not folds and "fold_all" not in paths and absent:
        lines.insert(len(names), f"{source} has no {', '.join(absent)}; nnU-Net averages all five.")
    return "\n".join(lines)


def _imported(fold, path):
    plan = fold.plan
    return from_weights.Imported(
        models.build(NETWORKS[plan.network], **plan.fields),
        fold.params,
        preprocess.stored(plan.intensities),
        plan.patch,
        name=NETWORKS[plan.network],
        validate={"convention": members.NNUNET},
        rule=plan.rule,
        data=plan.labels | plan.target,
        source={
            "program": "nnU-Net",
            "checkpoint": str(path.absolute()),
            "trainer": fold.trainer,
            "epochs": fold.epoch,
            "configuration": plan.configuration,
            "foreground": plan.foreground,
            "spacing": plan.spacing,
            "head": jax.tree.map(np.ndarray.tolist, fold.head),
        },
    )


def _describe(name, fold):
    plan = fold.plan
    heads = [tensor for tensor in fold.unused if ".seg_layers." in tensor]
    copies = len(fold.unused) - len(heads)
    left = f"; left out: {copies} names of tensors that are copies" if copies else ""
    if heads:
        left += f", and {', '.join(heads)}, which have no weight in nnU-Net's loss"
    return (
        f"{name}: {plan.network} ({NETWORKS[plan.network]}), {_size(fold.params):,} parameters, "
        f"{plan.configuration}, {fold.name}, trained by {fold.trainer} for {fold.epoch} epochs to "
        f"find {plan.foreground}; window {' × '.join(map(str, plan.patch))}{left}."
    )


def _advice(workdir, first, fold):
    """The commands that nnU-Net's own prediction corresponds to."""
    flips = [name for name, axis in AXES.items() if axis in fold.mirrored]
    flags = f" --flips {' '.join(flips)}" if flips else ""
    lines = [
        "Predict as nnU-Net does, flips included:",
        f"  python -m jax_seg.predict --workdir {workdir}{flags} --input IMAGES --output FOLDER",
    ]
    depth, *plane = fold.plan.patch
    in_plane = " --config.augment.in_plane_only=True" if max(plane) > FLAT * depth else ""
    lines += [
        "Train it further on your volumes:",
        f"  python launch.py --config configs/nnunet.py --config.train.start_from={first} "
        f"--config.schedule.learning_rate=1e-3{in_plane} --config.data.root=FOLDER",
    ]
    lines.append(f"It was trained on volumes with a spacing of {in_words(fold.plan.spacing)}.")
    return lines


def _size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(main())
