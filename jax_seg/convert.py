"""Weights of PyTorch networks as ours.

`python -m jax_seg.convert SRC.pth WORKDIR` makes a folder that `jax_seg.predict` works on.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jax_seg.data import intensities
from jax_seg.data.folder import find_images
from jax_seg.data.preprocess import Preprocessing, fit_preprocessing
from jax_seg.data.readers import read_volume
from jax_seg.models import unet
from jax_seg.runs import checkpoints
from jax_seg.system import configuration, outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.files import write_json
from jax_seg.system.program import program
from jax_seg.weights.timm import from_timm as from_timm
from jax_seg.weights.timm import some
from jax_seg.weights.torch_checkpoint import read_state_dict


def from_torch(path):
    """A U-Net and its weights from a PyTorch checkpoint, without running anything in it.

    Names in the checkpoint: encoders.I.{0,3}, bottleneck.{0,3}, upconvs.I, decoders.I.{0,3} and
    output, each with weight and bias. Filters, poolings, channels and dimensions are read off the
    tensors; every tensor is used exactly once.

    Args:
      path: see `read_state_dict`.

    Returns:
      (model, params): a `jax_seg.models.unet.Model` and its float32 parameters.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read or holds another network.
    """
    arrays = read_state_dict(path)
    first, last = arrays.get("encoders.0.0.weight"), arrays.get("output.weight")
    if first is None or last is None or first.ndim not in (4, 5):
        raise ValueError(
            f"{path} holds another network than this U-Net; its tensors begin {some(arrays)}."
        )
    model = unet.Model(
        filters=first.shape[0],
        poolings=sum(name.startswith("upconvs.") for name in arrays) // 2,
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        dimensions=first.ndim - 2,
    )
    x = jnp.zeros((1, *model.smallest_input(), model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    wanted = {_torch_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    missing, left_over = wanted - arrays.keys(), arrays.keys() - wanted
    if missing or left_over:
        raise ValueError(
            f"{path} does not fit a U-Net of {model.filters} filters and {model.poolings} "
            f"poolings: missing {some(missing)}; left over {some(left_over)}."
        )

    def leaf(tree_path, expected):
        name = _torch_name(tree_path)
        array = _channels_last(arrays[name], transposed=name.startswith("upconvs."))
        if array.shape != expected.shape:
            raise ValueError(
                f"{path}: tensor '{name}' has shape {arrays[name].shape}, which does not fit a "
                f"U-Net of {model.filters} filters and {model.poolings} poolings."
            )
        return jnp.asarray(array, jnp.float32)

    return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def _torch_name(tree_path):
    name = jax.tree_util.keystr(tree_path, simple=True, separator=".")
    for ours, theirs in (
        ("encoder_", "encoders."),
        ("decoder_", "decoders."),
        ("up_", "upconvs."),
        ("conv_0", "0"),
        ("conv_1", "3"),
        ("kernel", "weight"),
    ):
        name = name.replace(ours, theirs)
    return name


def _channels_last(array, transposed):
    """[K, C, *size], or [C, K, *size] of a transposed convolution, as [*size, C, K]."""
    if array.ndim < 2:
        return array
    array = np.moveaxis(array, (0, 1), (-2, -1) if transposed else (-1, -2))
    pointwise = all(size == 1 for size in array.shape[:-2])
    return array.reshape(array.shape[-2:]) if pointwise else array


def write_workdir(workdir, model, params, *, preprocessing, patch):
    """Write a network as the folder of a run, so that `jax_seg.predict` finds all it needs.

    Args:
      workdir: a folder that does not exist, or is empty.
      model: `unet.Model`.
      params: its parameters.
      preprocessing: `Preprocessing` that the network was trained with.
      patch: window size in voxels.

    Raises:
      ValueError: the folder holds something.
    """
    workdir = Path(workdir)
    _require_empty(workdir)
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}
    config = ml_collections.ConfigDict(
        {
            "model": {"name": "unet", **fields},
            "data": {"patch": tuple(patch)},
            "validate": {"metric": "loss", "overlap": 0.5, "windows": 1, "threshold": 0.5},
        }
    )
    stored = configuration.as_dict(config)
    write_json(workdir / "config.json", stored)
    manager = checkpoints.open_checkpoints(workdir, metric="loss")
    checkpoints.save_params(
        manager,
        params,
        {
            "epoch": 0,
            "config": stored,
            "preprocessing": preprocessing._asdict(),
            "code_version": checkpoints.code_version(),
        },
    )


def _require_empty(workdir):
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty; choose another folder.")


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Make a folder for jax_seg.predict from a PyTorch checkpoint of the U-Net.",
    )
    parser.add_argument(
        "source", type=Path, help="file that torch.save wrote; nothing in it is run"
    )
    parser.add_argument("workdir", type=Path, help="new folder")
    parser.add_argument(
        "--patch", type=int, nargs=3, default=[128, 128, 128], help="window, voxels"
    )
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=[0.0, 255.0],
        metavar=("LOW", "HIGH"),
        help="intensities that become 0 and 1",
    )
    parser.add_argument(
        "--images", help="folder: take the range from its percentiles 0.5 and 99.5 instead"
    )
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _convert(arguments))


def _convert(arguments):
    inputs = [Path(arguments.images)] if arguments.images else []
    outputs.require_apart(arguments.workdir, inside=inputs, flag="WORKDIR")
    outputs.require_folder(arguments.workdir, flag="WORKDIR")
    _require_empty(arguments.workdir)
    model, params = from_torch(arguments.source)
    if (model.in_channels, model.out_channels, model.dimensions) != (1, 1, 3):
        raise ValueError(
            f"{arguments.source} is a network of {model.dimensions} dimensions, "
            f"{model.in_channels} input channels and {model.out_channels} logits; prediction "
            "is of volumes with one channel, and of one logit: use `from_torch` of this module "
            "for the parameters alone."
        )
    if arguments.images:
        preprocessing = _fit_to(find_images(arguments.images))
    else:
        low, high = arguments.range
        if not low < high:
            raise ValueError(f"--range is {low} {high}; the second number must be the larger.")
        preprocessing = Preprocessing(low, high, low, 1 / (high - low))
    write_workdir(
        arguments.workdir, model, params, preprocessing=preprocessing, patch=arguments.patch
    )
    size = sum(p.size for p in jax.tree.leaves(params))
    print(
        f"{arguments.workdir}: U-Net of {model.filters} filters and {model.poolings} poolings, "
        f"{size:,} parameters; intensities {preprocessing.low:g} to {preprocessing.high:g} become "
        "0 to 1."
    )
    return 0


def _fit_to(volumes):
    """The `Preprocessing` of some volumes; prints what is unusual about them."""
    samples = {v.id: intensities.sample(read_volume(v.image)) for v in volumes}
    preprocessing = fit_preprocessing(
        np.concatenate([*samples.values()]),
        name="percentile",
        low_percentile=0.5,
        high_percentile=99.5,
    )
    for remark in intensities.remarks(samples, {}, preprocessing.low, preprocessing.high):
        print(f"Warning: {remark}", file=sys.stderr)
    return preprocessing


if __name__ == "__main__":
    sys.exit(main())
