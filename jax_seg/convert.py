"""Weights of PyTorch networks as parameter trees, read without PyTorch.

A PyTorch checkpoint is a zip archive: `data.pkl`, a pickle that describes the tensors, and one file
of raw numbers per storage. A pickle may ask for any code to be run, so this reader runs none: each
name that the pickle looks up becomes a record of ours or a placeholder that does nothing.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.models import unet

STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Storage(NamedTuple):
    """The raw numbers behind one or more tensors: their PyTorch type and their file's name."""

    kind: str
    file: str


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Placeholder:
    """Stands for any object that a network's weights do not need, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _ignore(self, *args, **kwargs):
        pass

    __call__ = __setstate__ = __setitem__ = append = extend = add = _ignore


class InertUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers and `Tensor` records; imports and runs nothing."""

    def find_class(self, module, name):
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return OrderedDict
            case "torch._utils._rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: Tensor(
                    storage, offset, shape, strides
                )
            case "torch._utils._rebuild_parameter":
                return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return name
        return type(name, (Placeholder,), {})

    def persistent_load(self, pid):
        _, kind, file, *_ = pid
        return Storage(kind, file)


def read_state_dict(path):
    """The tensors of a PyTorch checkpoint, by name.

    Args:
      path: a file that `torch.save` wrote in its zip format (PyTorch 1.6 and later): a state dict,
        or a dict with one under 'model_state_dict'. Other content is skipped, never run.

    Returns:
      {name: array}; the prefix 'module.' of data-parallel training is taken off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, of the old format, or holds no state dict.
    """
    path = Path(path)
    with path.open("rb") as file:
        first = file.read(2)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} {_not_a_zip(first)}")

    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                f"{path} is a zip archive but no PyTorch checkpoint: it needs one data.pkl."
            )
        root = pickles[0].removesuffix("data.pkl")
        byteorder = root + "byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
            raise ValueError(
                f"{path} holds big-endian numbers; save it on a little-endian machine."
            )
        try:
            with archive.open(pickles[0]) as file:
                content = InertUnpickler(file).load()
        except Exception as error:  # a damaged pickle may raise anything
            raise ValueError(
                f"{path} holds a damaged data.pkl ({error}); copy it again."
            ) from error

        state = content.get("model_state_dict", content) if isinstance(content, dict) else None
        if not isinstance(state, dict) or not any(isinstance(t, Tensor) for t in state.values()):
            raise ValueError(f"{path} holds no state dict; save model.state_dict(), not the model.")
        arrays = {}
        for name, tensor in state.items():
            try:
                arrays[name] = _array(archive, root, tensor)
            except Exception as error:  # nor are the record's fields to be trusted
                raise ValueError(f"{path}: tensor '{name}' cannot be read ({error}).") from error
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def _not_a_zip(first_bytes):
    if first_bytes == b"PK":
        return "is cut short; copy or download it again."
    if first_bytes[:1] == b"\x80":
        return (
            "is in PyTorch's old format; load it with PyTorch and save it again with torch.save's "
            "default format."
        )
    return "is not a PyTorch checkpoint; give a file that torch.save wrote."


def _array(archive, root, tensor):
    if not isinstance(tensor, Tensor) or tensor.storage.kind not in STORAGE_DTYPES:
        raise TypeError("it is no tensor of a known type")
    dtype = np.dtype(STORAGE_DTYPES[tensor.storage.kind])
    # This constructor, unlike as_strided, refuses a view that leaves its buffer.
    return np.ndarray(
        tensor.shape,
        dtype,
        buffer=archive.read(f"{root}data/{tensor.storage.file}"),
        offset=tensor.offset * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.strides],
    )


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
            f"{path} holds another network than this U-Net; its tensors begin {_some(arrays)}."
        )
    model = unet.Model(
        filters=first.shape[0],
        poolings=sum(name.startswith("upconvs.") for name in arrays) // 2,
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        dimensions=first.ndim - 2,
    )
    x = jnp.zeros((1, *(2**model.poolings,) * model.dimensions, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    wanted = {_torch_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    missing, left_over = wanted - arrays.keys(), arrays.keys() - wanted
    if missing or left_over:
        raise ValueError(
            f"{path} does not fit a U-Net of {model.filters} filters and {model.poolings} "
            f"poolings: missing {_some(missing)}; left over {_some(left_over)}."
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


def _some(names, limit=6):
    names = sorted(names)
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
