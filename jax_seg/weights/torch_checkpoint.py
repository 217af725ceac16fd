"""Tensors of PyTorch checkpoints, read without PyTorch.

A PyTorch checkpoint is a zip archive: `data.pkl`, a pickle that describes the tensors, and one file
of raw numbers per storage. A pickle may request that any code be run, so this reader runs none:
each name that the pickle looks up becomes a record of this module or an inert placeholder.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

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


STATE_DICTS = ("model_state_dict", "state_dict", "network_weights", "model")
"""Names under which a checkpoint keeps its state dict."""


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
    """An inert placeholder for any object that a network's weights do not need."""

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
        or a dict with one under a name of `STATE_DICTS`. Other content is skipped, never executed.

    Returns:
      {name: array}; the prefix 'module.' of data-parallel training is removed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, of the old format, or holds no state dict.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path):
    """The tensors of a PyTorch checkpoint and the plain values beside them.

    Args:
      path: see `read_state_dict`, as are the errors.

    Returns:
      ({name: array}, {name: value}): what `read_state_dict` returns, and the checkpoint's other
      entries that are text, numbers, or lists and dicts. What else these hold is inert.
    """
    path = Path(path)
    with path.open("rb") as file:
        first = file.read(2)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} {_not_a_zip(first)}")
    try:
        with zipfile.ZipFile(path) as archive:
            root, content = _unpickled(path, archive)
            state = _state_of(path, content)
            arrays = _arrays(path, archive, root, state)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged ({error}); copy or download it again.") from error
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    beside = {} if state is content else content
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    return arrays, {
        name: value
        for name, value in beside.items()
        if value is not state and isinstance(value, plain)
    }


def _unpickled(path, archive):
    """(folder in the archive, content of its data.pkl)."""
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise ValueError(
            f"{path} is a zip archive but not a PyTorch checkpoint: it must hold one data.pkl."
        )
    root = pickles[0].removesuffix("data.pkl")
    byteorder = root + "byteorder"
    if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
        raise ValueError(f"{path} holds big-endian numbers; save it on a little-endian machine.")
    try:
        with archive.open(pickles[0]) as file:
            return root, InertUnpickler(file).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} holds a damaged data.pkl ({error}); copy it again.") from error


def _state_of(path, content):
    """The state dict in a checkpoint's content: {name: Tensor}."""
    state = content
    for key in STATE_DICTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            state = content[key]
            break
    if not isinstance(state, dict) or not any(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict; save model.state_dict(), not the model.")
    return state


def _arrays(path, archive, root, state):
    arrays = {}
    for name, tensor in state.items():
        try:
            arrays[name] = _array(archive, root, tensor)
        except Exception as error:  # the record's fields are not to be trusted either
            raise ValueError(f"{path}: tensor '{name}' cannot be read ({error}).") from error
    return arrays


def _not_a_zip(first_bytes):
    if first_bytes == b"PK":
        return "is truncated; copy or download it again."
    if first_bytes[:1] == b"\x80":
        return (
            "is in PyTorch's old format; load it with PyTorch and save it again with torch.save's "
            "default format."
        )
    return "is not a PyTorch checkpoint; give a file that torch.save wrote."


def _array(archive, root, tensor):
    if not isinstance(tensor, Tensor) or tensor.storage.kind not in STORAGE_DTYPES:
        raise TypeError("it is not a tensor of a known type")
    dtype = np.dtype(STORAGE_DTYPES[tensor.storage.kind])
    # This constructor, unlike as_strided, refuses a view that leaves its buffer.
    return np.ndarray(
        tensor.shape,
        dtype,
        buffer=archive.read(f"{root}data/{tensor.storage.file}"),
        offset=tensor.offset * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.strides],
    )
