"""Resampling against nnU-Net's own."""

import numpy as np
import pytest

from jax_seg.data.resample import new_shape, resample
from tests.conftest import GOLDEN

SPACINGS = {
    "isotropic": ((1.0, 1.2, 0.9), (1.5, 1.0, 1.0)),
    "sliced": ((4.0, 1.0, 1.0), (3.0, 1.3, 0.8)),  # thick slices
    "finer": ((1.0, 1.0, 1.0), (4.0, 1.0, 0.7)),  # to thick slices
    "two": ((4.0, 4.0, 1.0), (3.0, 3.0, 1.0)),  # two coarse axes are not slices
}


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("name", SPACINGS)
def test_equals_nnunet(name, order):
    golden, (before, after) = np.load(GOLDEN / "nnunet" / "resampled.npz"), SPACINGS[name]
    expected = golden[f"{name}_{order}"]
    shape = new_shape(golden["volume"].shape, before, after)
    actual = resample(golden["volume"], shape, before, after, order)
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_an_equal_shape_is_left_alone():
    volume = np.zeros((2, 3, 4), np.float32)
    assert resample(volume, volume.shape, (1, 1, 1), (1, 1, 1.1), 3) is volume
