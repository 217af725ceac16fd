"""Maximum over windows, and the transposed convolution whose size is its stride.

Both have gradients of their own, for what a GPU moves: activations of the finest level are read and
written more often than anything else.
"""

import functools
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOST = 32  # voxels of a window, one bit for each


@functools.partial(jax.jit, static_argnums=1)
def max_pool(x, size):
    """Maximum over windows that do not overlap.

    Where several voxels of a window hold its maximum, the gradient is shared equally among them.
    What the gradient needs is kept as one integer for each window, a bit for each of its voxels.

    Args:
      x: [B, *spatial, C]; the spatial sizes are multiples of the windows'.
      size: of a window along each axis, `MOST` voxels at most.

    Returns:
      [B, *spatial, C], smaller by `size`.
    """
    return _max_pool(x, tuple(size))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size):
    return functools.reduce(jnp.maximum, _places(x, size))


def _max_pool_forward(x, size):
    places = _places(x, size)
    highest = functools.reduce(jnp.maximum, places)
    kind = np.min_scalar_type(2 ** prod(size) - 1)
    bits = jnp.zeros(highest.shape, kind)
    for number, place in enumerate(places):
        bits |= (place == highest).astype(kind) << number
    return lax.optimization_barrier((highest, bits))


def _max_pool_backward(size, bits, gradient):
    shared = gradient / lax.population_count(bits).astype(gradient.dtype)
    # Windows as axes of their own: [B, D, i, H, j, W, k, C].
    within = np.arange(prod(size), dtype=bits.dtype)
    within = within.reshape(1, *(n for factor in size for n in (1, factor)), 1)
    axes = tuple(range(2, 2 * len(size) + 1, 2))
    here = jnp.expand_dims(bits, axes) >> within & 1 > 0
    spread = jnp.where(here, jnp.expand_dims(shared, axes), 0)
    batch, *spatial, channels = gradient.shape
    larger = (length * factor for length, factor in zip(spatial, size, strict=True))
    return (spread.reshape(batch, *larger, channels),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _places(x, size):
    """The voxels in each place of the windows: list of [B, *spatial, C], smaller by `size`."""
    return [
        x[(slice(None), *(slice(a, None, n) for a, n in zip(place, size, strict=True)))]
        for place in np.ndindex(*size)
    ]


@jax.jit
def upsample(x, kernel):
    """Transposed convolution whose stride is its kernel's size: larger by that factor.

    The windows of the result do not overlap, so it is one matrix product, and voxels in another
    order. On a GPU its gradients are those of the opposite convolution, which reads the result's
    gradient where it lies; as matrix products they would need it in that other order, twice.

    Args:
      x: [B, *spatial, C].
      kernel: [*size, C, K] in the type of `x`; entry [i, j, k] makes the voxel (2d + i, 2h + j,
        2w + k).

    Returns:
      [B, *spatial, K], larger by `size`.
    """
    return _upsample(x, kernel)


@jax.custom_vjp
def _upsample(x, kernel):
    return _as_product(x, kernel)


def _as_product(x, kernel):
    *size, _, features = kernel.shape
    batch, *spatial, _ = x.shape
    rank = len(spatial)
    x_BDHWijkK = jnp.tensordot(x, jnp.moveaxis(kernel, -2, 0), axes=1)
    interleaved = [axis for d in range(1, rank + 1) for axis in (d, d + rank)]
    x_BDiHjWkK = x_BDHWijkK.transpose(0, *interleaved, 2 * rank + 1)
    larger = (length * factor for length, factor in zip(spatial, size, strict=True))
    return x_BDiHjWkK.reshape(batch, *larger, features)


def _upsample_forward(x, kernel):
    return _as_product(x, kernel), (x, kernel)


def _upsample_backward(saved, gradient):
    return lax.platform_dependent(
        *saved, gradient, cpu=_product_gradients, default=_convolution_gradients
    )


def _product_gradients(x, kernel, gradient):
    return jax.vjp(_as_product, x, kernel)[1](gradient)


def _convolution_gradients(x, kernel, gradient):
    """Those of x and of the kernel: ⟨g, up(x, k)⟩ = ⟨down(g, k), x⟩, and down is a convolution."""
    *size, _, _ = kernel.shape
    names = ("NDHWC", "DHWIO", "NDHWC") if len(size) == 3 else ("NHWC", "HWIO", "NHWC")

    def down(kernel):
        return lax.conv_general_dilated(
            gradient, kernel.swapaxes(-1, -2), size, "VALID", dimension_numbers=names
        )

    smaller, of_kernel = jax.vjp(down, kernel)
    return smaller, *of_kernel(x)


_upsample.defvjp(_upsample_forward, _upsample_backward)
