"""Files in the formats of torch.save and of safetensors, written without PyTorch."""

import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from unittest import mock

import numpy as np

STORAGES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16"}


def _rebuild_tensor_v2():
    """Only its name is pickled."""


_rebuild_tensor_v2.__module__ = "torch._utils"


class Stored:
    """Pickles as PyTorch's tensor: a view of a storage, given as a one-dimensional array."""

    def __init__(self, numbers, shape, strides, offset=0):
        self.numbers, self.view = numbers, (offset, shape, strides)

    def __reduce__(self):
        return _rebuild_tensor_v2, (self.numbers, *self.view, False, OrderedDict())


def stored(array):
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Stored(array.reshape(-1), array.shape, strides)


def torch_save(path, content):
    """Write `content`, with `Stored` for tensors, in the zip format of torch.save."""
    kinds = {
        dtype: type(f"{kind}Storage", (), {"__module__": "torch"})
        for dtype, kind in STORAGES.items()
    }
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, numbers):
            if not isinstance(numbers, np.ndarray):
                return None
            storages.append(numbers)
            kind = kinds[numbers.dtype.name]
            return "storage", kind, str(len(storages) - 1), "cpu", numbers.size

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for kind in kinds.values():
        setattr(torch, kind.__name__, kind)
    buffer = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        Pickler(buffer, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", buffer.getvalue())
        archive.writestr("any/byteorder", "little")
        for index, numbers in enumerate(storages):
            archive.writestr(f"any/data/{index}", numbers.tobytes())
    return path


def state_dict(arrays):
    return OrderedDict((name, stored(array)) for name, array in arrays.items())


def torch_shapes(filters=2, poolings=1, dimensions=3, channels=1):
    """Names and shapes of the PyTorch network, written out independently of the model."""
    shapes = {}

    def block(name, before, features):
        for position, c in ((0, before), (3, features)):
            shapes[f"{name}.{position}.weight"] = (features, c, *(3,) * dimensions)
            shapes[f"{name}.{position}.bias"] = (features,)

    for level in range(poolings):
        block(
            f"encoders.{level}",
            max(1, filters * 2**level // 2) if level else channels,
            filters * 2**level,
        )
    block("bottleneck", filters * 2**poolings // 2, filters * 2**poolings)
    for index in range(poolings):
        features = filters * 2 ** (poolings - 1 - index)
        shapes[f"upconvs.{index}.weight"] = (2 * features, features, *(2,) * dimensions)
        shapes[f"upconvs.{index}.bias"] = (features,)
        block(f"decoders.{index}", 2 * features, features)
    shapes["output.weight"] = (1, filters, *(1,) * dimensions)
    shapes["output.bias"] = (1,)
    return shapes


def write_safetensors(path, arrays, edit=lambda header: header):
    """The format written out by hand: 8 bytes of length, JSON, raw numbers."""
    arrays = {name: array.astype("<f4") for name, array in arrays.items()}
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(edit(header)).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
