import io
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logit

from jax_seg import convert
from jax_seg.convert import from_torch
from jax_seg.models.unet import Model
from jax_seg.weights.torch_checkpoint import read_state_dict
from tests.conftest import GOLDEN

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


def torch_shapes(filters=2, poolings=1, dimensions=3):
    """Names and shapes of the PyTorch network, written out independently of the model."""
    shapes = {}

    def block(name, channels, features):
        for position, c in ((0, channels), (3, features)):
            shapes[f"{name}.{position}.weight"] = (features, c, *(3,) * dimensions)
            shapes[f"{name}.{position}.bias"] = (features,)

    for level in range(poolings):
        block(
            f"encoders.{level}", max(1, filters * 2**level // 2) if level else 1, filters * 2**level
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


def random_arrays(**fields):
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in torch_shapes(**fields).items()
    }


def state_dict(arrays):
    return OrderedDict((name, stored(array)) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("unet_f4_d2", Model(filters=4, poolings=2)),
        ("unet_f6_d3", Model(filters=6, poolings=3)),
    ],
)
def test_golden_network(name, model):
    read_model, params = from_torch(GOLDEN / f"{name}.pth")
    assert read_model == model
    golden = np.load(GOLDEN / f"{name}.npz")
    logits = jax.jit(model.apply)({"params": params}, jnp.moveaxis(golden["input"], 1, -1))
    probability = np.moveaxis(golden["probability"], 1, -1).astype(np.float64)
    assert 0.1 < probability.min() < probability.max() < 0.95  # where the logit keeps its digits
    np.testing.assert_allclose(logits, logit(probability), atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), probability, atol=2e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_tensor_arrives(tmp_path, dimensions):
    arrays = random_arrays(filters=2, poolings=2, dimensions=dimensions)
    path = torch_save(tmp_path / "net.pth", state_dict(arrays))
    model, params = from_torch(path)
    assert model == Model(filters=2, poolings=2, dimensions=dimensions)
    window = tuple(range(2, 2 + dimensions))
    for name, layer in [
        ("encoders.0.0", params["encoder_0"]["conv_0"]),
        ("encoders.1.3", params["encoder_1"]["conv_1"]),
        ("bottleneck.0", params["bottleneck"]["conv_0"]),
        ("decoders.1.3", params["decoder_1"]["conv_1"]),
    ]:
        np.testing.assert_array_equal(
            layer["kernel"], arrays[f"{name}.weight"].transpose(*window, 1, 0)
        )
        np.testing.assert_array_equal(layer["bias"], arrays[f"{name}.bias"])
    np.testing.assert_array_equal(
        params["up_1"]["kernel"], arrays["upconvs.1.weight"].transpose(*window, 0, 1)
    )
    np.testing.assert_array_equal(params["output"]["kernel"][:, 0], arrays["output.weight"].ravel())
    # Every number of the file once: the sorted multisets agree.
    flat = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]))
    np.testing.assert_array_equal(
        flat, np.sort(np.concatenate([a.ravel() for a in arrays.values()]))
    )


def test_wrapped_prefixed_and_among_other_things(tmp_path):
    arrays = random_arrays()
    prefixed = {f"module.{name}": array for name, array in arrays.items()}
    content = {
        "epoch": 3,
        "model_state_dict": state_dict(prefixed),
        "best_val_score": np.float64(0.5),
        "path": Path("somewhere"),
        "namespace": types.SimpleNamespace(a=[1]),
        "set": {1, 2},
    }
    _, params = from_torch(torch_save(tmp_path / "net.pth", content))
    _, bare = from_torch(torch_save(tmp_path / "bare.pth", state_dict(arrays)))
    jax.tree.map(np.testing.assert_array_equal, params, bare)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_tensor_types(tmp_path, dtype):
    array = np.array([[0.5, -3.0], [1e-3, 7.0]]).astype(dtype)
    read = read_state_dict(torch_save(tmp_path / "a.pth", {"a": stored(array)}))["a"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_tensors_are_strided_views(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    content = {
        "transposed": Stored(numbers, (4, 3), (1, 4)),
        "offset": Stored(numbers, (2, 2), (4, 2), offset=5),
        "expanded": Stored(numbers, (3,), (0,), offset=7),
        "scalar": Stored(numbers, (), (), offset=11),
    }
    read = read_state_dict(torch_save(tmp_path / "a.pth", content))
    np.testing.assert_array_equal(read["transposed"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(read["offset"], [[5, 7], [9, 11]])
    np.testing.assert_array_equal(read["expanded"], [7, 7, 7])
    assert read["scalar"] == 11


@pytest.mark.parametrize("offset", [10, -1, 2**61])
def test_a_view_outside_its_storage_is_refused(tmp_path, offset):
    content = {"a": Stored(np.arange(12, dtype=np.float32), (3,), (1,), offset)}
    with pytest.raises(ValueError, match=r"a.pth: tensor 'a' cannot be read"):
        read_state_dict(torch_save(tmp_path / "a.pth", content))


class Command:
    """Unpickled by the standard reader, it runs a command."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_a_malicious_pickle_is_not_executed(tmp_path):
    trace = tmp_path / "trace"
    commands = [Command(os.system, f"touch {trace}"), Command(eval, f"open({str(trace)!r}, 'w')")]
    for command in commands:
        pickle.loads(pickle.dumps(command))
        assert trace.exists()  # the attack works where it is let
        trace.unlink()

    arrays = random_arrays()
    content = {"model_state_dict": state_dict(arrays), "epoch": commands[0], "other": commands}
    _, params = from_torch(torch_save(tmp_path / "net.pth", content))
    np.testing.assert_array_equal(params["output"]["bias"], arrays["output.bias"])
    assert not trace.exists()

    content["model_state_dict"]["output.bias"] = commands[1]
    with pytest.raises(ValueError, match=r"net.pth: tensor 'output.bias' cannot be read"):
        from_torch(torch_save(tmp_path / "net.pth", content))
    assert not trace.exists()


def changed(change):
    def write(path):
        arrays = random_arrays()
        change(arrays)
        torch_save(path, state_dict(arrays))

    return write


def cut(path):
    path.write_bytes((GOLDEN / "unet_f4_d2.pth").read_bytes()[:50_000])


def flipped(path):
    content = bytearray((GOLDEN / "unet_f4_d2.pth").read_bytes())
    with zipfile.ZipFile(GOLDEN / "unet_f4_d2.pth") as archive:
        start = archive.getinfo("unet_f4_d2/data/4").header_offset
    content[start + 500] ^= 1
    path.write_bytes(content)


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<a/>")


def broken_pickle(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}q")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (cut, "is cut short"),
        (flipped, "tensor 'encoders.1.0.weight' cannot be read .*CRC"),
        (foreign_zip, "is a zip archive but no PyTorch checkpoint"),
        (broken_pickle, "damaged data.pkl"),
        (lambda p: p.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2)), "old format"),
        (lambda p: p.write_text("hello"), "is not a PyTorch checkpoint"),
        (lambda p: p.write_bytes(b""), "is not a PyTorch checkpoint"),
        (lambda p: torch_save(p, types.SimpleNamespace(a=1)), "holds no state dict"),
        (lambda p: torch_save(p, {"epoch": 3}), "holds no state dict"),
        (lambda p: torch_save(p, {"fc.weight": stored(np.ones(3))}), "another network.*fc.weight"),
        (
            changed(lambda a: a.pop("decoders.0.3.bias")),
            "missing decoders.0.3.bias; left over nothing",
        ),
        (changed(lambda a: a.update(extra=np.ones(1))), "missing nothing; left over extra"),
        (
            changed(lambda a: a.update({"bottleneck.3.weight": np.ones((4, 5, 3, 3, 3))})),
            r"'bottleneck.3.weight' has shape \(4, 5, 3, 3, 3\)",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, write, message):
    path = tmp_path / "net.pth"
    write(path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
        from_torch(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        from_torch(tmp_path / "absent.pth")


def test_a_network_that_prediction_cannot_run_is_refused(tmp_path, capsys):
    source = torch_save(tmp_path / "flat.pth", state_dict(random_arrays(dimensions=2)))
    assert convert.main([str(source), str(tmp_path / "run")]) == 1
    assert "of 2 dimensions, 1 input channels and 1 logits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
