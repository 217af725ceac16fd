"""Convolution on a CPU as a product with the matrix of patches, a few slices at a time.

It suits what Winograd's form does not: inputs of a few channels, whose patches are small, and the
deepest levels, whose kernel outweighs its voxels and is read here once, as it is. Patches are
gathered block by block and stay in cache: a whole volume's would cost more than the product.
"""

import itertools
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

BLOCK_BYTES = 4 << 20  # of a block's patches: written once, read once
FEW_CHANNELS = 8  # below this, copying a voxel's channels at a time is slow


def convolve(x, kernel, strides=(1, 1, 1)):
    """'Same' convolution: x [B, D, H, W, C], kernel [*size, C, K] -> [B, D, H, W, K].

    With strides, every so many voxels along each axis, the first included.
    """
    y = jnp.zeros((len(x), *output_size(x, strides), kernel.shape[4]), x.dtype)
    slices, starts = _blocks(y.shape, kernel.shape)
    halo = (slices - 1) * strides[0] + kernel.shape[0]
    padded = _pad(x, kernel.shape)

    def block_step(y, start):
        block = _product(_read(padded, start * strides[0], halo), kernel, strides)
        block = block.astype(y.dtype).reshape(len(y), slices, *y.shape[2:])
        return lax.dynamic_update_slice_in_dim(y, block, start, 1), None

    return _scan(block_step, y, starts)


def input_gradient(x, kernel, gradient, strides=(1, 1, 1)):
    """Gradient of `convolve` with respect to x: that of the patches, added where they came from."""
    slices, starts = _blocks(gradient.shape, kernel.shape)
    halo = (slices - 1) * strides[0] + kernel.shape[0]
    padded = _pad(jnp.zeros(x.shape, jnp.float32), kernel.shape)
    scatter = jax.linear_transpose(lambda block: _product(block, kernel, strides), padded[:, :halo])

    def block_step(total, start):
        (block,) = scatter(_read(gradient, start, slices).reshape(-1, kernel.shape[4]))
        block += lax.dynamic_slice_in_dim(total, start * strides[0], halo, 1)
        return lax.dynamic_update_slice_in_dim(total, block, start * strides[0], 1), None

    total = _scan(block_step, padded, starts)
    inner = (
        slice(size // 2, size // 2 + length)
        for size, length in zip(kernel.shape[:3], x.shape[1:4], strict=True)
    )
    return total[:, *inner].astype(x.dtype)


def kernel_gradient(x, kernel, gradient, strides=(1, 1, 1)):
    """Gradient of `convolve` with respect to the kernel: patchesᵀ · gradient, over all blocks."""
    slices, starts = _blocks(gradient.shape, kernel.shape)
    padded = _pad(x, kernel.shape)
    size, K = kernel.shape[:3], kernel.shape[4]
    halo = (slices - 1) * strides[0] + size[0]

    def block_step(total, start):
        read = _read(padded, start * strides[0], halo)
        patches, values_axis = _patches(read, size, strides)
        block = _read(gradient, start, slices).reshape(-1, K)
        return total + lax.dot_general(patches, block, (((1 - values_axis,), (0,)), ((), ()))), None

    total = _scan(block_step, jnp.zeros((prod(kernel.shape[:4]), K), jnp.float32), starts)
    return total.reshape(kernel.shape).astype(kernel.dtype)


def output_size(x, strides):
    """The spatial size of the output of `convolve`."""
    return tuple((n - 1) // stride + 1 for n, stride in zip(x.shape[1:4], strides, strict=True))


def _product(block, kernel, strides):
    """Block of slices with its halo -> its part of the output, float32 [voxels, K]."""
    patches, values_axis = _patches(block, kernel.shape[:3], strides)
    kernel = kernel.astype(jnp.float32).reshape(-1, kernel.shape[4])
    return lax.dot_general(patches, kernel, (((values_axis,), (0,)), ((), ())))


def _patches(block, size, strides):
    """Matrix of the patches of [B, D, H, W, C], and its axis that counts a patch's values.

    What is copied in one piece is a voxel's channels, or, where they are few, a row of voxels.
    """
    C = block.shape[4]
    reach = [length - s + 1 for length, s in zip(block.shape[1:4], size, strict=True)]
    taps = []
    for corner in itertools.product(*map(range, size)):
        inside = (
            slice(first, first + length, stride)
            for first, length, stride in zip(corner, reach, strides, strict=True)
        )
        taps.append(block[:, *inside])
    if C < FEW_CHANNELS:
        return jnp.stack([jnp.moveaxis(tap, -1, 0) for tap in taps]).reshape(len(taps) * C, -1), 0
    return jnp.concatenate(taps, axis=-1).reshape(-1, len(taps) * C), 1


def _pad(x, kernel_shape):
    return jnp.pad(x, [(0, 0), *((size // 2, size // 2) for size in kernel_shape[:3]), (0, 0)])


def _read(x, start, slices):
    return lax.dynamic_slice_in_dim(x, start, slices, 1).astype(jnp.float32)


def _blocks(shape, kernel_shape):
    """Slices per block of an output of `shape`, a divisor of the depth, and each block's first one.

    Every block reads the whole kernel, so its patches may be as large.
    """
    B, D, H, W, _ = shape
    limit = max(BLOCK_BYTES, 4 * prod(kernel_shape)) // (4 * B * H * W * prod(kernel_shape[:4]))
    slices = max(n for n in range(1, D + 1) if D % n == 0 and n <= max(limit, 1))
    return slices, jnp.arange(0, D, slices)


def _scan(step, carry, starts):
    """`lax.scan` for the carry alone; one block needs no loop."""
    return step(carry, 0)[0] if len(starts) == 1 else lax.scan(step, carry, starts)[0]
