"""Winograd's minimal filtering (Lavin & Gray 2016) for 3-D convolution on a CPU, block by block.

Along one axis, F(m, 3) makes m outputs from m + 2 inputs with m + 2 multiplications instead of 3m:

    y = A [(G g) · (B d)]        A [m, m+2], G [m+2, 3], B [m+2, m+2]

In three dimensions the transforms nest, and what is left between them is one matrix product
[tiles, C] x [C, K] per transformed position. F(4³, 3³) multiplies 8 times less than the direct
form, and the 216/64 = 3.4 values that it keeps per voxel and channel are fewer than the 27 (or,
slice by slice, 9) of a patch matrix. A block of tiles is transformed, multiplied and transformed
back while it is in cache.

The interpolation points 0, ±1/√2, ±√2, ∞ keep the error of the six-point form near 1e-6 of the
output's size (root mean square over 32 channels: 1.4e-6, where 0, ±1, ±2, ∞ give 4.2e-6).
"""

import functools
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import lax

POINTS = {1: (), 4: (0, 1, -1), 6: (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}
BLOCK_BYTES = 24 << 20  # both transformed sides of a block; larger ones leave the last-level cache


def choose_tiles(spatial, sizes):
    """Outputs per tile along each axis.

    Tiles of 4 multiply and move least, but their kernel has 3.4 times the values of tiles of 2:
    on a short axis reading it costs more than it saves.
    """
    return tuple(
        1 if size == 1 else 4 if length >= 12 else 2
        for length, size in zip(spatial, sizes, strict=True)
    )


@functools.lru_cache
def transforms(tile, size):
    """Matrices A [tile, n], G [n, size], B [n, n] of F(tile, size), n = tile + size - 1.

    Toom-Cook: polynomials are multiplied by their values at n - 1 points and at infinity, and
    convolution is the transpose of that. F(1, 1), F(2, 3) and F(4, 3) have points.
    """
    points = POINTS[tile + size - 1]

    def values(degree):
        finite = [[point**power for power in range(degree)] for point in points]
        return np.array([*finite, [0] * (degree - 1) + [1]], float)

    interpolation = []
    for point in points:
        others = [other for other in points if other != point]
        scale = np.prod([point - other for other in others])
        interpolation.append([*np.poly(others)[::-1] / scale, 0])
    interpolation.append(np.poly(points)[::-1] if points else [1])
    return values(tile).T, values(size), np.array(interpolation, float)


def convolve(x, kernel, adjoint=False):
    """'Same' convolution of stride 1, computed in float32.

    Args:
      x: [B, D, H, W, C].
      kernel: [*sizes, C, K], each size 1 or 3; with `adjoint` [*sizes, K, C], and flipped in space.

    Returns:
      [B, D, H, W, K] in the type of `x`.
    """
    sizes = kernel.shape[:3]
    tiles = choose_tiles(x.shape[1:4], sizes)
    kernel_PCK = kernel.astype(jnp.float32)
    for axis, (tile, size) in enumerate(zip(tiles, sizes, strict=True)):
        matrix = transforms(tile, size)[1][:, ::-1] if adjoint else transforms(tile, size)[1]
        kernel_PCK = _combine(matrix, _unstack(kernel_PCK, axis))
    P = prod(kernel_PCK.shape[:3])
    kernel_PCK = kernel_PCK.reshape(P, *kernel.shape[3:])
    K = kernel.shape[3] if adjoint else kernel.shape[4]
    contraction = (((2,), (2 if adjoint else 1,)), ((0,), (0,)))

    shape, x = x.shape, _whole_tiles(x, tiles)
    B, D, H, W, C = x.shape
    size, starts = _blocks(x.shape, K, tiles, sizes)

    def block_step(y, start):
        v = _transform(_read(x, start, size, sizes), tiles, sizes, 2)
        products = lax.dot_general(v.reshape(P, -1, C), kernel_PCK, contraction)
        block = _inverse(products.reshape(*v.shape[:-1], K), tiles, sizes).astype(y.dtype)
        return lax.dynamic_update_slice(y, block, (0, *start, 0, 0)), None

    y, _ = lax.scan(block_step, jnp.zeros((B, D, H, W, K), x.dtype), starts)
    return y[:, : shape[1], : shape[2], : shape[3]]


def input_gradient(x, kernel, gradient):
    """Gradient of `convolve` with respect to x: again a convolution."""
    return convolve(gradient, kernel, adjoint=True).astype(x.dtype)


def kernel_gradient(x, kernel, gradient):
    """Gradient of `convolve` with respect to the kernel: Σ over tiles of (B d)ᵀ · (Aᵀ dy)."""
    sizes = kernel.shape[:3]
    tiles = choose_tiles(x.shape[1:4], sizes)
    x, gradient = _whole_tiles(x, tiles), _whole_tiles(gradient, tiles)
    C, K = x.shape[-1], gradient.shape[-1]
    size, starts = _blocks(x.shape, K, tiles, sizes)
    counts = [tile + length - 1 for tile, length in zip(tiles, sizes, strict=True)]
    P = prod(counts)
    # Of two transposed operands the product is up to twice as fast with the narrower one first.
    swap = K < C

    def block_step(total, start):
        v = _transform(_read(x, start, size, sizes), tiles, sizes, 2).reshape(P, -1, C)
        w = _transform(_read(gradient, start, size, (1, 1, 1)), tiles, sizes, 0).reshape(P, -1, K)
        pair = (w, v) if swap else (v, w)
        return total + lax.dot_general(*pair, (((1,), (1,)), ((0,), (0,)))), None

    total = jnp.zeros((P, K, C) if swap else (P, C, K), jnp.float32)
    total = lax.scan(block_step, total, starts)[0].reshape(*counts[::-1], *total.shape[1:])
    for axis, lead in ((2, 0), (1, 1), (0, 2)):
        matrix = transforms(tiles[axis], sizes[axis])[1].T
        total = _combine(matrix, _unstack(total, lead))
    return (total.swapaxes(3, 4) if swap else total).astype(kernel.dtype)


def _combine(matrix, parts):
    """Stack of the sums Σ_j matrix[i, j] · parts[j]; zero entries cost nothing."""
    rows = []
    for weights in matrix:
        terms = [
            part * np.float32(w) for w, part in zip(weights, parts, strict=True) if abs(w) > 1e-9
        ]
        rows.append(functools.reduce(jnp.add, terms))
    return jnp.stack(rows)


def _unstack(x, axis):
    return [lax.index_in_dim(x, index, axis, keepdims=False) for index in range(x.shape[axis])]


def _transform(block, tiles, sizes, which):
    """Transform every tile of [B, D, H, W, C] (with its halo): [w, h, d, B, tD, tH, tW, C]."""
    for axis, (tile, size) in enumerate(zip(tiles, sizes, strict=True)):
        matrix = transforms(tile, size)[which]
        matrix = matrix.T if which == 0 else matrix
        position = 1 + 2 * axis  # each pass has put one axis of transformed positions in front
        count, length = (block.shape[position] - matrix.shape[1]) // tile + 1, matrix.shape[1]
        parts = [
            lax.slice_in_dim(block, first, first + tile * (count - 1) + 1, tile, position)
            for first in range(length)
        ]
        block = _combine(matrix, parts)
    return block


def _inverse(products, tiles, sizes):
    """[w, h, d, B, tD, tH, tW, K] -> the block of outputs [B, D, H, W, K]."""
    for axis in range(3):
        matrix = transforms(tiles[axis], sizes[axis])[0]
        products = _combine(matrix, _unstack(products, 2))
    w, h, d, B, tD, tH, tW, K = products.shape
    return products.transpose(3, 4, 2, 5, 1, 6, 0, 7).reshape(B, tD * d, tH * h, tW * w, K)


def _whole_tiles(x, tiles):
    pads = [(0, -length % tile) for length, tile in zip(x.shape[1:4], tiles, strict=True)]
    return jnp.pad(x, [(0, 0), *pads, (0, 0)]) if any(after for _, after in pads) else x


def _blocks(shape, K, tiles, sizes):
    """Size (depth, height) of a block, and the start of every block, int32 [blocks, 2].

    A block is as wide as the volume, and as high and as deep as BLOCK_BYTES allow, in that order.
    """
    B, D, H, W, C = shape
    values = prod(tile + size - 1 for tile, size in zip(tiles, sizes, strict=True))
    row_bytes = 4 * values * (C + K) * B * (W // tiles[2])
    rows = _largest_divisor(H // tiles[1], BLOCK_BYTES // row_bytes)
    slabs = _largest_divisor(D // tiles[0], BLOCK_BYTES // (row_bytes * rows))
    if rows < H // tiles[1]:
        slabs = 1
    size = (slabs * tiles[0], rows * tiles[1])
    starts = np.mgrid[: D : size[0], : H : size[1]].reshape(2, -1).T
    return size, jnp.asarray(starts, jnp.int32)


def _largest_divisor(number, limit):
    return max(d for d in range(1, number + 1) if number % d == 0 and (d <= limit or d == 1))


def _read(x, start, size, sizes):
    """Block of `x` in float32, with the neighbours that a kernel of `sizes` needs: zero outside."""
    B, D, H, W, C = x.shape
    depth, height = start

    def planes(depth, count):
        def rows(height, count_rows):
            return lax.dynamic_slice(x, (0, depth, height, 0, 0), (B, count, count_rows, W, C))

        if sizes[1] > 1 and size[1] < H:
            return _with_neighbours(rows, height, size[1], H, 2)
        return rows(height, size[1])

    if sizes[0] > 1 and size[0] < D:
        block = _with_neighbours(planes, depth, size[0], D, 1)
    else:
        block = planes(depth, size[0])
    edges = (size[0] == D, size[1] == H, True)
    pads = [(s // 2 * edge,) * 2 for s, edge in zip(sizes, edges, strict=True)]
    return jnp.pad(block, [(0, 0), *pads, (0, 0)]).astype(jnp.float32)


def _with_neighbours(read, start, count, length, axis):
    """`read(start, count)` between one entry before and one after: zero where they are outside."""
    before = jnp.where(start > 0, read(jnp.maximum(start - 1, 0), 1), 0)
    after = jnp.where(start + count < length, read(jnp.minimum(start + count, length - 1), 1), 0)
    return jnp.concatenate([before, read(start, count), after], axis)
