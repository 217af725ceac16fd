"""Import published EdgeNeXt weights in timm's naming."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.models import edgenext
from jax_seg.weights.tensors import fit, read_tensors, some


def from_timm(path):
    """Parameters of `jax_seg.models.edgenext.Model` from a weights file of timm's EdgeNeXt.

    The model's fields are read off the tensors, and every tensor is used exactly once.

    Args:
      path: model.safetensors as timm publishes it, or a .pth file of `torch.save`; no code
        in either is executed.

    Returns:
      The tree of float32 parameters; 'head' is in it where the file has a classifier.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read, holds a different network, lacks a tensor or has an extra
        one.
    """
    return edgenext_from_timm(path)[1]


def edgenext_from_timm(path):
    """(model, params): as `from_timm`, and the `edgenext.Model` that the tensors describe."""
    arrays = read_tensors(path)
    fields = _fields(arrays)
    if fields is None:
        raise ValueError(f"{path} does not hold an EdgeNeXt; its first tensors are {some(arrays)}.")
    model = edgenext.Model(**fields)
    stem = arrays["stem.0.weight"]
    x = jnp.zeros((1, edgenext.STRIDE, edgenext.STRIDE, stem.shape[1]))
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    except ValueError as error:
        raise ValueError(f"{path} does not fit EdgeNeXt: {error}") from error
    params = fit(
        path,
        arrays,
        shapes,
        name_of=timm_name,
        channels_last=lambda _, array, axes: _channels_last(array, axes),
        what=f"an EdgeNeXt with depths {model.depths} and dims {model.dims}",
    )
    return model, params


def timm_name(tree_path):
    """Name in timm's files of a leaf of the parameters: stages.1.blocks.2.xca.qkv.weight."""
    name = jax.tree_util.keystr(tree_path, simple=True, separator=".")
    name = re.sub(r"_(\d+)(?=\.)", r".\1", name)
    return re.sub(r"\.(kernel|scale)$", ".weight", name)


def _fields(arrays):
    """The model's fields from its tensors, or None where they are not those of an EdgeNeXt."""
    stages = [{} for _ in range(4)]
    for name, array in arrays.items():
        if found := re.fullmatch(r"stages\.([0-3])\.blocks\.(\d+)\.(.+)", name):
            stages[int(found[1])][int(found[2]), found[3]] = array
    stem, classes = arrays.get("stem.0.weight"), arrays.get("head.fc.weight")
    if np.ndim(stem) != 4 or not all(stages) or _last(stages[3], "xca.temperature") is None:
        return None

    def size(tail, axis, otherwise):
        found = (_last(stage, tail) for stage in stages)
        return tuple(otherwise if array is None else array.shape[axis] for array in found)

    return {
        "depths": tuple(1 + max(block for block, _ in stage) for stage in stages),
        "dims": size("gamma", 0, 0),
        "heads": size("xca.temperature", 0, 1),
        "kernel_sizes": size("conv_dw.weight", -1, 3),
        "scales": tuple(
            1 + len({tail for _, tail in stage if re.fullmatch(r"convs\.\d+\.weight", tail)})
            for stage in stages
        ),
        "num_classes": 0 if classes is None else len(classes),
    }


def _last(stage, tail):
    """The tensor of this name in the stage's last block that has one, or None."""
    blocks = [block for block, name in stage if name == tail]
    return stage[max(blocks), tail] if blocks else None


def _channels_last(array, dimensions):
    """[K, C, h, w] as [h, w, C, K], as [h, w, K] of a depthwise or [C, K] of a 1×1 convolution."""
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        if dimensions == 3 and array.shape[2] == 1:
            return array[:, :, 0]
        if dimensions == 2 and array.shape[:2] == (1, 1):
            return array[0, 0]
        return array
    return array.T if array.ndim == 2 else array
