"""The reader of safetensors files: what it gives, and that every error names the file."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_seg.weights.tensors import read_tensors
from tests.conftest import GOLDEN
from tests.torch_files import state_dict, torch_save, write_safetensors

WEIGHTS = GOLDEN / "edgenext_small_public.safetensors"


def _with(name, **entry):
    return lambda header: header | {name: header[name] | entry}


@pytest.mark.parametrize(
    "edit",
    [
        _with("a", data_offsets=[0, 4096]),
        _with("a", data_offsets=[-4, 4]),
        _with("a", shape=[3]),
        _with("a", shape=[-1, -2]),
        _with("a", dtype="F4"),
        lambda header: header | {"a": 7},
        lambda header: [header],
    ],
)
def test_damaged_headers_name_the_file(tmp_path, edit):
    path = write_safetensors(tmp_path / "d.safetensors", {"a": np.ones(2)}, edit)
    with pytest.raises(ValueError, match=r"d\.safetensors is truncated or not a safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        b"\xff" * 64,
        (9).to_bytes(8, "little") + b"{",
        WEIGHTS.read_bytes()[:-8],
        WEIGHTS.read_bytes() + b"1234",
    ],
)
def test_files_that_are_no_safetensors(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors is truncated or not a safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.int64, np.uint8, np.bool_]
)
def test_tensor_types(tmp_path, dtype):
    array = np.array([[0.5, -3.0], [1e-3, 7.0]]).astype(dtype)
    save_file({"a": array}, tmp_path / "a.safetensors")
    read = read_tensors(tmp_path / "a.safetensors")["a"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_a_type_that_numpy_lacks_names_file_and_tensor(tmp_path):
    path = write_safetensors(
        tmp_path / "f8.safetensors", {"a": np.ones(2)}, _with("a", dtype="F8_E4M3", shape=[8])
    )
    with pytest.raises(ValueError, match=r"f8\.safetensors: tensor 'a' cannot be read .*float32"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_errors_of_the_operating_system_name_the_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=rf"absent\{suffix}"):
        read_tensors(tmp_path / f"absent{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(IsADirectoryError, match=rf"folder\{suffix}"):
        read_tensors(tmp_path / f"folder{suffix}")


def test_both_formats_are_read_by_their_name(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([7])}
    for path in (
        write_safetensors(tmp_path / "x.safetensors", arrays),
        torch_save(tmp_path / "x.pth", state_dict(arrays)),
    ):
        read = read_tensors(path)
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
