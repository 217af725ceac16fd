"""Import weights of the PyTorch U-Net."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.models import unet
from jax_seg.weights.tensors import fit, read_tensors, some


def from_torch(path):
    """A U-Net and its weights from a PyTorch weights file; no code in the file is executed.

    Names in the checkpoint: encoders.I.{0,3}, bottleneck.{0,3}, upconvs.I, decoders.I.{0,3} and
    output, each with weight and bias. Filters, poolings, channels and dimensions are read off the
    tensors; every tensor is used exactly once.

    Args:
      path: see `read_tensors`.

    Returns:
      (model, params): a `jax_seg.models.unet.Model` and its float32 parameters.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: the file cannot be read or holds a different network.
    """
    arrays = read_tensors(path)
    first, last = arrays.get("encoders.0.0.weight"), arrays.get("output.weight")
    if first is None or last is None or first.ndim not in (4, 5):
        raise ValueError(f"{path} does not hold this U-Net; its first tensors are {some(arrays)}.")
    model = unet.Model(
        filters=first.shape[0],
        poolings=sum(name.startswith("upconvs.") for name in arrays) // 2,
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        dimensions=first.ndim - 2,
    )
    x = jnp.zeros((1, *model.smallest_input(), model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = fit(
        path,
        arrays,
        shapes,
        name_of=_torch_name,
        channels_last=lambda name, array, axes: channels_last(
            array, transposed=name.startswith("upconvs."), pointwise=axes == 2
        ),
        what=f"a U-Net of {model.filters} filters and {model.poolings} poolings",
    )
    return model, params


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


def channels_last(array, *, transposed, pointwise):
    """A kernel in the order of axes of Flax.

    Args:
      array: [K, C, *size], or [C, K, *size] of a transposed convolution; others stay as they are.
      transposed: whether it is of a transposed convolution.
      pointwise: give [C, K] of a kernel of a single voxel.

    Returns:
      [*size, C, K].
    """
    if array.ndim < 2:
        return array
    array = np.moveaxis(array, (0, 1), (-2, -1) if transposed else (-1, -2))
    single = all(size == 1 for size in array.shape[:-2])
    return array.reshape(array.shape[-2:]) if pointwise and single else array
