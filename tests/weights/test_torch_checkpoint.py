"""The reader of torch.save's format: types, views, and files that are damaged."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.weights.torch_checkpoint import read_state_dict
from tests.conftest import GOLDEN
from tests.torch_files import Stored, stored, torch_save


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


def test_a_damaged_directory_of_the_archive_names_the_file(tmp_path):
    path = tmp_path / "net.pth"
    content = bytearray((GOLDEN / "unet_f4_d2.pth").read_bytes())
    content[content.rindex(b"PK\x01\x02")] = 0
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match=r"net\.pth is damaged .*copy or download it again"):
        read_state_dict(path)
