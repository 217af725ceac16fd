"""The PyTorch U-Net as ours: every tensor once, the published numbers, and no code executed."""

import os
import pickle
import re
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logit

from jax_seg.models.unet import Model
from jax_seg.weights.unet import from_torch
from tests.conftest import GOLDEN
from tests.torch_files import state_dict, stored, torch_save, torch_shapes, write_safetensors


def random_arrays(**fields):
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in torch_shapes(**fields).items()
    }


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
        (cut, "is truncated"),
        (flipped, "tensor 'encoders.1.0.weight' cannot be read .*CRC"),
        (foreign_zip, "is a zip archive but not a PyTorch checkpoint"),
        (broken_pickle, "damaged data.pkl"),
        (lambda p: p.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2)), "old format"),
        (lambda p: p.write_text("hello"), "is not a PyTorch checkpoint"),
        (lambda p: p.write_bytes(b""), "is not a PyTorch checkpoint"),
        (lambda p: torch_save(p, types.SimpleNamespace(a=1)), "holds no state dict"),
        (lambda p: torch_save(p, {"epoch": 3}), "holds no state dict"),
        (
            lambda p: torch_save(p, {"fc.weight": stored(np.ones(3))}),
            "does not hold this U-Net; .*fc.weight",
        ),
        (
            changed(lambda a: a.pop("decoders.0.3.bias")),
            "missing decoders.0.3.bias; unexpected nothing",
        ),
        (changed(lambda a: a.update(extra=np.ones(1))), "missing nothing; unexpected extra"),
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


def test_both_file_formats_hold_the_same_weights(tmp_path):
    arrays = random_arrays()
    model, params = from_torch(write_safetensors(tmp_path / "net.safetensors", arrays))
    same, expected = from_torch(torch_save(tmp_path / "net.pth", state_dict(arrays)))
    assert model == same
    jax.tree.map(np.testing.assert_array_equal, params, expected)
