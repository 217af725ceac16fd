"""Resampling against nnU-Net's own, against SciPy's coordinates, and against exact values."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jax_seg.data.resample import nearest, new_shape, resample, resample_classes, resample_image
from tests.conftest import GOLDEN

SPACINGS = {
    "isotropic": ((1.0, 1.2, 0.9), (1.5, 1.0, 1.0)),
    "sliced": ((4.0, 1.0, 1.0), (3.0, 1.3, 0.8)),  # thick slices
    "finer": ((1.0, 1.0, 1.0), (4.0, 1.0, 0.7)),  # to thick slices
    "two": ((4.0, 4.0, 1.0), (3.0, 3.0, 1.0)),  # two coarse axes are not slices
}
UNIT = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("name", SPACINGS)
def test_equals_nnunet(name, order):
    golden, (before, after) = np.load(GOLDEN / "nnunet" / "resampled.npz"), SPACINGS[name]
    expected = golden[f"{name}_{order}"]
    shape = new_shape(golden["volume"].shape, before, after)
    actual = resample(golden["volume"], shape, before, after, order)
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def places(old, new):
    """Where the centres of `new` voxels lie in an axis of `old`, in voxels of it."""
    return (np.arange(new) + 0.5) * old / new - 0.5


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    ("shape", "after"),
    [
        ((7, 9, 11), (1.5, 0.7, 1.0)),
        ((5, 8, 3), (0.31, 0.45, 0.6)),
        ((13, 6, 10), (2.0, 2.9, 2.5)),
        ((9, 9, 1), (0.5, 1.4, 0.6)),  # a single column
    ],
)
def test_a_voxel_is_the_spline_at_its_centre(shape, after, order):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    new = new_shape(shape, UNIT, after)
    grid = np.meshgrid(*map(places, shape, new), indexing="ij")
    expected = map_coordinates(volume.astype(np.float64), grid, order=order, mode="nearest")
    expected = np.clip(expected, volume.min(), volume.max())  # as scikit-image and nnU-Net do
    np.testing.assert_allclose(resample(volume, new, UNIT, after, order), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("after", [0.25, 0.4, 0.8, 1.25, 2.5, 2.8])
def test_a_linear_ramp_stays_one(axis, after):
    """Exactly, up to the outer half voxel, which repeats the border; the other axes change too."""
    shape, spacing = [6, 6, 6], [1.5, 1.5, 1.5]
    shape[axis], spacing[axis] = 20, after
    ramp = np.broadcast_to(np.arange(20.0).reshape(np.roll([20, 1, 1], axis)), shape)
    new = new_shape(shape, UNIT, spacing)
    assert new[axis] == round(20 / after) and sum(new) == round(20 / after) + 8
    expected = np.clip(places(20, new[axis]), 0, 19)
    found = np.moveaxis(resample(ramp.astype(np.float32), new, UNIT, spacing, 1), axis, -1)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_three_times_as_fine_keeps_every_voxel_and_as_coarse_takes_every_third(order):
    """The centres of the middle of three voxels and of the old one are the same place."""
    volume = np.random.default_rng(1).normal(size=(6, 9, 15)).astype(np.float32)
    third, triple = (1 / 3,) * 3, (3.0, 3.0, 3.0)
    finer = resample(volume, (18, 27, 45), UNIT, third, order)
    np.testing.assert_allclose(finer[1::3, 1::3, 1::3], volume, atol=1e-5)
    coarser = resample(volume, (2, 3, 5), UNIT, triple, order)
    np.testing.assert_allclose(coarser, volume[1::3, 1::3, 1::3], atol=1e-5)


def test_thick_slices_are_the_nearest_by_hand():
    """Of slices 0, 1, 2 four times as thick as wide, six are 0, 0, 1, 1, 2, 2, nothing between."""
    volume = np.broadcast_to(np.array([0, 10, 20], np.float32)[:, None, None], (3, 4, 4))
    before, after = (4.0, 1.0, 1.0), (2.0, 2.0, 2.0)
    found = resample(volume, new_shape(volume.shape, before, after), before, after, 3)
    assert found.shape == (6, 2, 2)
    np.testing.assert_allclose(found[:, 0, 0], [0, 0, 10, 10, 20, 20], atol=1e-5)


def test_an_equal_shape_is_left_alone():
    volume = np.zeros((2, 3, 4), np.float32)
    assert resample(volume, volume.shape, (1, 1, 1), (1, 1, 1.1), 3) is volume


def test_an_image_keeps_its_type_and_its_zeros():
    """A cubic spline rings where the image is zero."""
    image = np.zeros((8, 8, 12), np.uint8)
    image[..., 3:] = 200
    image[..., 7:] = 250
    after = (1.0, 1.0, 0.5)
    raw = resample(image.astype(np.float32), (8, 8, 24), UNIT, after, 3)
    assert raw[..., :6].max() > 3 and raw.max() == 250
    found = resample_image(image, UNIT, after)
    assert found.dtype == np.uint8 and not found[..., :6].any()
    np.testing.assert_array_equal(found[..., 6:], np.rint(raw[..., 6:]))
    both = resample_image(np.stack([image, 2 * (image // 4)], -1), UNIT, after)
    np.testing.assert_array_equal(both[..., 0], found)
    assert both.shape == (8, 8, 24, 2) and both[..., 1].max() == 124


def test_nearest_by_hand():
    """Of 5 voxels three have centres at 1/3, 2 and 11/3 of them, in the voxels 0, 2 and 4."""
    line = np.arange(5)[None, None]
    assert nearest(line, UNIT, (1, 1, 5 / 3)).tolist() == [[[0, 2, 4]]]
    assert nearest(line, UNIT, (1, 0.5, 0.5))[0, 1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    channels = np.stack([line, 10 * line], -1)
    assert nearest(channels, UNIT, (1, 1, 5 / 3))[0, 0].tolist() == [[0, 0], [2, 20], [4, 40]]


def test_classes_by_hand():
    """Of 0 0 1 1 2 2 at 2/3 of the spacing, voxels lie at -1/6, 1/2, 7/6, 11/6, 5/2, …

    Shares are linear: at 7/6 class 0 has 5/6; at 11/6 class 1 has 5/6; at 19/6 it has 5/6.
    """
    label = np.array([0, 0, 1, 1, 2, 2], np.uint8)[None, None]
    found = resample_classes(label, UNIT, (1, 1, 2 / 3))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2])
