import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.infer import as_nnunet
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.sliding_window import (
    count_empty,
    gaussian_profile,
    predict_volume,
    window_starts,
)


def identity(patches):
    return patches.astype(jnp.float32)


@pytest.mark.parametrize(
    "length, window, overlap, expected",
    [
        (10, 10, 0.5, [0]),
        (11, 10, 0.5, [0, 1]),
        (16, 8, 0.5, [0, 4, 8]),
        (17, 8, 0.5, [0, 3, 6, 9]),
        (16, 8, 0.0, [0, 8]),
    ],
)
def test_window_starts_by_hand(length, window, overlap, expected):
    assert window_starts(length, window, overlap) == expected


@pytest.mark.parametrize(
    "length, window, expected, number",
    [
        (10, 5, [0, 2, 5], None),
        (287, 36, 125, 7),
        (525, 68, 229, 7),
        (16, 8, [0, 4, 8], None),
        (5, 1, [0, 1, 2, 3, 4], None),
    ],
)
def test_windows_of_nnunet(length, window, expected, number):
    """As its compute_steps_for_sliding_window (version 2.8.1) gives them for half a window.

    Its 2-D networks take slices one by one.
    """
    starts = as_nnunet.window_starts(length, window, 0.5)
    assert (starts if number is None else starts[number]) == expected


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_window_starts_refuses_overlap(overlap):
    with pytest.raises(ValueError, match="overlap"):
        window_starts(20, 8, overlap)


def test_gaussian_profile_is_symmetric_and_positive():
    profile = gaussian_profile(8)
    np.testing.assert_allclose(profile, profile[::-1])
    np.testing.assert_allclose(profile[3], np.exp(-0.5 * 0.5**2))  # half a voxel off, sigma 1
    assert profile.min() >= 1e-3


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 23, 8), (5, 30, 9), (3, 4, 5), (8, 8, 41)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_identity_network_returns_the_volume_edges_included(shape, overlap):
    volume = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result = predict_volume(identity, volume, patch=(8, 8, 8), overlap=overlap, batch=3)
    np.testing.assert_allclose(result, volume, rtol=1e-5)


def test_blending_is_the_gaussian_mean_of_the_windows():
    """Two windows of 4 along an axis of 6: each voxel is the weighted mean of what covers it."""
    counter = iter([1.0, 2.0])

    def constant(patches):
        return jnp.full(patches.shape, next(counter), jnp.float32)

    volume = np.ones((4, 4, 6), np.float32)
    result = predict_volume(constant, volume, patch=(4, 4, 4), overlap=0.5, batch=1)
    weights = gaussian_profile(4)
    expected = [
        1,
        1,
        (weights[2] * 1 + weights[0] * 2) / (weights[2] + weights[0]),
        (weights[3] * 1 + weights[1] * 2) / (weights[3] + weights[1]),
        2,
        2,
    ]
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-6)


def test_the_network_is_compiled_once_whatever_the_shapes():
    traces = []

    @jax.jit
    def network(patches):
        traces.append(patches.shape)
        return patches.astype(jnp.float32)

    for shape in [(8, 8, 8), (20, 9, 13), (4, 30, 8)]:
        predict_volume(network, np.ones(shape, np.uint8), patch=(8, 8, 8), batch=2)
    assert traces == [(2, 8, 8, 8, 1)]


def test_two_dimensional_images():
    image = np.random.default_rng(0).normal(size=(19, 11)).astype(np.float32)
    result = predict_volume(identity, image, patch=(8, 8), batch=2)
    np.testing.assert_allclose(result, image, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_integers_of_64_bits_do_not_wrap(dtype):
    volume = np.full((4, 4, 4), 2**32 + 2**20, dtype)
    result = predict_volume(identity, volume, patch=(4, 4, 4), overlap=0.0)
    np.testing.assert_allclose(result, 2.0**32 + 2.0**20, rtol=1e-6)


def bright(patches):
    """A network that finds foreground wherever it looks, as one does in an image of nothing."""
    return patches.astype(jnp.float32) + 5


def masked_scan(voxels=6):
    """8 × 8 × 32 voxels, of which the first ones along the last axis are scan and the others 0."""
    volume = np.zeros((8, 8, 32), np.uint8)
    volume[..., :voxels] = np.random.default_rng(0).integers(1, 256, (8, 8, voxels))
    return volume


def test_windows_without_input_are_background():
    """Windows of 8 from 0, 4, … 24: the voxels from 8 on are in windows of zeros alone."""
    volume = masked_scan()
    assert count_empty(volume, patch=(8, 8, 8)) == (5, 7)
    for batch in (1, 2, 3):
        result = predict_volume(bright, volume, patch=(8, 8, 8), batch=batch)
        np.testing.assert_allclose(result[..., 12:], BACKGROUND, rtol=1e-6)
        # Of the scan, nothing changes: to the last bit.
        without = predict_volume(bright, volume[..., :12], patch=(8, 8, 8), batch=batch)
        np.testing.assert_array_equal(result[..., :6], without[..., :6])
        np.testing.assert_allclose(result[..., :6], volume[..., :6] + 5.0, rtol=1e-6)


def test_a_voxel_in_both_kinds_of_windows_is_their_gaussian_mean():
    """Of windows of 4 from 0, 2 and 4 along an axis of 8, the first two hold the voxel at 3."""
    volume = np.zeros((4, 4, 8), np.float32)
    volume[..., 3] = 1
    result = predict_volume(bright, volume, patch=(4, 4, 4), overlap=0.5)
    weights = gaussian_profile(4)
    seen, empty = weights[2] * 5, weights[0] * BACKGROUND  # the voxel at 4
    np.testing.assert_allclose(result[0, 0, 4], (seen + empty) / (weights[2] + weights[0]), 1e-6)
    np.testing.assert_allclose(result[0, 0, 5], _mean_of_last(weights), rtol=1e-6)
    np.testing.assert_allclose(result[0, 0, 6:], BACKGROUND, rtol=1e-6)


def _mean_of_last(weights):
    return (weights[3] * 5 + weights[1] * BACKGROUND) / (weights[3] + weights[1])


@pytest.mark.parametrize("shape", [(20, 9, 13), (3, 4, 5), (8, 8, 41)])
def test_a_volume_of_zeros_does_not_run_the_network(shape):
    def network(_):
        raise AssertionError("run on nothing")

    volume = np.zeros(shape, np.float32)
    result = predict_volume(network, volume, patch=(8, 8, 8), overlap=0.3, batch=2)
    assert result.shape == shape
    np.testing.assert_allclose(result, BACKGROUND, rtol=1e-6)
    empty, total = count_empty(volume, patch=(8, 8, 8), overlap=0.3)
    assert empty == total > 0


def test_one_voxel_is_input():
    volume = np.zeros((8, 8, 8), np.int16)
    volume[7, 0, 3] = -1
    assert count_empty(volume, patch=(8, 8, 8)) == (0, 1)
    assert predict_volume(bright, volume, patch=(8, 8, 8)).min() == 4
