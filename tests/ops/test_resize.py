"""Gradients of pooling and upsampling: those of a GPU and of a CPU are the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jax_seg.ops import resize


@pytest.mark.parametrize("size", [(2, 2), (2, 2, 2), (1, 2, 2), (1, 3, 2)])
def test_gradients_of_upsampling_on_a_gpu_and_on_a_cpu(size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*(2, 3, 4, 5)[: len(size) + 1], 6))
    kernel = jax.random.normal(keys[1], (*size, 6, 7))
    y = resize.upsample(x, kernel)
    assert y.shape[1:-1] == tuple(n * s for n, s in zip(x.shape[1:-1], size, strict=True))
    gradient = jax.random.normal(keys[2], y.shape)
    on_cpu = resize._product_gradients(x, kernel, gradient)
    for one, other in zip(on_cpu, resize._convolution_gradients(x, kernel, gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_upsampling_by_hand():
    """Voxel d makes voxels 2d and 2d + 1."""
    x = jnp.array([1.0, 10.0])[None, :, None, None]
    kernel = jnp.array([2.0, 3.0])[:, None, None, None]
    assert resize.upsample(x, kernel)[0, :, 0, 0].tolist() == [2, 3, 20, 30]


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 1), (1, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_and_its_gradient(size, dtype):
    shape = (2, *(3 * n for n in size), 3)
    x = jax.random.permutation(jax.random.key(0), jnp.prod(jnp.array(shape)))
    x = (x.reshape(shape) % 251 / 8).astype(dtype)  # no number is rounded; some are equal
    y, pull_back = jax.vjp(lambda x: resize.max_pool(x, size), x)
    np.testing.assert_array_equal(y, nn.max_pool(x, size, size))
    gradient = (1 + jnp.arange(y.size) % 5).reshape(y.shape).astype(dtype)
    (found,) = pull_back(gradient)
    assert found.dtype == x.dtype
    wide = [part for n in size for part in (3, n)]
    windows = np.asarray(found, np.float32).reshape(2, *wide, 3)
    within = tuple(range(2, 2 * len(size) + 1, 2))
    # What a window passes on adds up to its gradient, and goes to its maxima alone.
    np.testing.assert_allclose(windows.sum(within), gradient.astype(np.float32), rtol=0.02)
    repeated = np.asarray(y, np.float32)
    for axis, n in enumerate(size, 1):
        repeated = repeated.repeat(n, axis)
    highest = np.asarray(x, np.float32) == repeated
    np.testing.assert_array_equal(np.asarray(found, np.float32) > 0, highest)
