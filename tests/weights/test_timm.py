"""Published EdgeNeXt weights in either file format, and files of other networks."""

import jax
import numpy as np
import pytest

from jax_seg.weights.tensors import read_safetensors
from jax_seg.weights.timm import edgenext_from_timm, from_timm
from tests.conftest import GOLDEN
from tests.torch_files import state_dict, torch_save, write_safetensors

WEIGHTS = GOLDEN / "edgenext_small_public.safetensors"


@pytest.fixture(scope="module")
def arrays():
    return read_safetensors(WEIGHTS)


def test_both_file_formats_hold_the_same_weights(tmp_path, arrays):
    expected = from_timm(WEIGHTS)
    for content in (arrays, {f"module.{name}": array for name, array in arrays.items()}):
        path = torch_save(tmp_path / "model.pth", {"state_dict": state_dict(content), "epoch": 3})
        jax.tree.map(np.testing.assert_array_equal, from_timm(path), expected)


def test_every_tensor_is_used_exactly_once(tmp_path, arrays):
    short = {name: a for name, a in arrays.items() if name != "stages.2.blocks.0.norm.bias"}
    path = write_safetensors(tmp_path / "a.safetensors", short | {"extra.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"missing stages.2.blocks.0.norm.bias; unexpected extra"):
        from_timm(path)
    wrong = arrays | {"stem.1.bias": np.zeros(7, np.float32)}
    path = write_safetensors(tmp_path / "b.safetensors", wrong)
    with pytest.raises(ValueError, match=r"'stem.1.bias' has shape \(7,\)"):
        from_timm(path)


def test_the_headless_encoder_is_read_too(tmp_path, arrays):
    encoder = {name: a for name, a in arrays.items() if not name.startswith("head.")}
    model, params = edgenext_from_timm(write_safetensors(tmp_path / "e.safetensors", encoder))
    assert model.num_classes == 0
    assert "head" not in params


def test_another_architecture_is_one_sentence(tmp_path, arrays):
    other = {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32), "fc.bias": np.zeros(2)}
    path = write_safetensors(tmp_path / "resnet.safetensors", other)
    with pytest.raises(ValueError, match=r"resnet.* does not hold an EdgeNeXt.* conv1.weight"):
        from_timm(path)
    # ConvNeXt has timm's names of stem and blocks too, but no attention.
    plain = {name: a for name, a in arrays.items() if "xca" not in name}
    path = write_safetensors(tmp_path / "convnext.safetensors", plain)
    with pytest.raises(ValueError, match="does not hold an EdgeNeXt"):
        from_timm(path)
