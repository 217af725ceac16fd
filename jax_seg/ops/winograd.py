"""Winograd's minimal filtering (Lavin & Gray 2016) for 3-D convolution on a CPU, block by block.

Along one axis, F(m, 3) makes m outputs from m + 2 inputs with m + 2 multiplications instead of 3m:

    y = A [(G g) · (B d)]        A [m, m+2], G [m+2, 3], B [m+2, m+2]

In three dimensions the transforms nest, and between them remains one matrix product
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
# With few channels, input's and output's together, most of the time is the transforms', and blocks
# that lie in cache between them are worth more than long products.
NARROW, NARROW_BLOCK_BYTES = 48, 8 << 20
KERNEL_BYTES = 8 << 20  # of a part of a transformed kernel that is used once


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

    # The scale of each interpolating polynomial goes to G, so that B has a 1 in every row.
    interpolation, scales = [], []
    for point in points:
        others = [other for other in points if other != point]
        scales.append([np.prod([point - other for other in others])])
        interpolation.append([*np.poly(others)[::-1], 0])
    interpolation.append(np.poly(points)[::-1] if points else [1])
    return values(tile).T, values(size) / [*scales, [1]], np.array(interpolation, float)


def convolve(x, kernel, adjoint=False):
    """'Same' convolution of stride 1, computed in float32.

    Args:
      x: [B, D, H, W, C].
      kernel: [*sizes, C, K], each size 1 or 3; with `adjoint` [*sizes, K, C], and flipped in space.

    Returns:
      [B, D, H, W, K] in the type of `x`.
    """
    shape, tiles = x.shape, choose_tiles(x.shape[1:4], kernel.shape[:3])
    x = _whole_tiles(x, tiles)
    size, starts = _blocks(x.shape, kernel.shape[3 if adjoint else 4], tiles, kernel.shape[:3])
    if len(starts) > 1:
        y = _block_by_block(x, kernel, adjoint, tiles, size, starts)
    elif adjoint:
        y = _output_channels_in_parts(x, kernel, tiles)
    else:
        y = _input_channels_in_parts(x, kernel, tiles)
    return y[:, : shape[1], : shape[2], : shape[3]]


def _block_by_block(x, kernel, adjoint, tiles, size, starts):
    """`convolve` of a volume of several blocks: the kernel is transformed once and used by all."""
    y = jnp.zeros((*x.shape[:4], kernel.shape[3 if adjoint else 4]), x.dtype)
    kernel_PCK = _transform_kernel(kernel, tiles, adjoint)
    sizes = kernel.shape[:3]
    padded = _with_halo(x, sizes)

    def block_step(y, start):
        v = _transform(_read(padded, start, size, sizes), tiles, sizes, 2)
        block = _inverse(_multiply(v, kernel_PCK, adjoint), tiles, sizes).astype(x.dtype)
        return lax.dynamic_update_slice(y, block, (0, *start, 0, 0)), None

    return lax.scan(block_step, y, starts)[0]


# A volume of one block uses the kernel once: it is transformed in parts that stay in cache, along
# its axis 3, which counts the output's channels where it is the adjoint and else the input's.


def _output_channels_in_parts(x, kernel, tiles):
    """`convolve` of a volume of one block with the adjoint of a kernel."""
    y = jnp.zeros((*x.shape[:4], kernel.shape[3]), x.dtype)
    channels, firsts = _kernel_parts(kernel, tiles)
    sizes = kernel.shape[:3]
    v = _transform(_with_halo(x, sizes).astype(jnp.float32), tiles, sizes, 2)

    def part_step(y, first):
        part = lax.dynamic_slice_in_dim(kernel, first, channels, 3)
        products = _multiply(v, _transform_kernel(part, tiles, adjoint=True), adjoint=True)
        outputs = _inverse(products, tiles, sizes).astype(x.dtype)
        return lax.dynamic_update_slice_in_dim(y, outputs, first, 4), None

    return lax.scan(part_step, y, firsts)[0]


def _input_channels_in_parts(x, kernel, tiles):
    """`convolve` of a volume of one block with a kernel."""
    channels, firsts = _kernel_parts(kernel, tiles)
    sizes = kernel.shape[:3]
    padded = _with_halo(x, sizes)

    def part_step(total, first):
        inputs = lax.dynamic_slice_in_dim(padded, first, channels, 4).astype(jnp.float32)
        v = _transform(inputs, tiles, sizes, 2)
        part = lax.dynamic_slice_in_dim(kernel, first, channels, 3)
        return total + _multiply(v, _transform_kernel(part, tiles, adjoint=False), False), None

    counts = (length // tile for length, tile in zip(x.shape[1:4], tiles, strict=True))
    points = _points(tiles, sizes)
    total = jnp.zeros((*points, x.shape[0], *counts, kernel.shape[4]), jnp.float32)
    return _inverse(lax.scan(part_step, total, firsts)[0], tiles, sizes).astype(x.dtype)


def _multiply(v, kernel_PCK, adjoint):
    """One product per transformed position: [w, h, d, …tiles, C] by [P, C, K], or [P, K, C]."""
    v_PTC = v.reshape(len(kernel_PCK), -1, v.shape[-1])
    contraction = (((2,), (2 if adjoint else 1,)), ((0,), (0,)))
    y_PTK = lax.dot_general(v_PTC, kernel_PCK, contraction)
    return y_PTK.reshape(*v.shape[:-1], y_PTK.shape[-1])


def input_gradient(x, kernel, gradient):
    """Gradient of `convolve` with respect to x: again a convolution."""
    return convolve(gradient, kernel, adjoint=True).astype(x.dtype)


def kernel_gradient(x, kernel, gradient):
    """Gradient of `convolve` with respect to the kernel: Σ over tiles of (B d)ᵀ · (Aᵀ dy)."""
    sizes = kernel.shape[:3]
    tiles = choose_tiles(x.shape[1:4], sizes)
    x, gradient = _whole_tiles(x, tiles), _whole_tiles(gradient, tiles)
    C, K = kernel.shape[3:]
    size, starts = _blocks(x.shape, K, tiles, sizes)
    P = prod(_points(tiles, sizes))
    padded = _with_halo(x, sizes)

    def products(padded, start):
        block = _read(padded, start, size, sizes)
        v = _transform(block, tiles, sizes, 2).reshape(P, -1, block.shape[4])
        w = _transform(_read(gradient, start, size, (1, 1, 1)), tiles, sizes, 0).reshape(P, -1, K)
        # Of two transposed operands, the narrower first is up to twice as fast: [P, K, C] then.
        pair = (w, v) if block.shape[4] > K else (v, w)
        return lax.dot_general(*pair, (((1,), (1,)), ((0,), (0,))))

    if len(starts) > 1:

        def block_step(total, start):
            return total + products(padded, start), None

        total = jnp.zeros((P, K, C) if K < C else (P, C, K), jnp.float32)
        result = _kernel_of(lax.scan(block_step, total, starts)[0], tiles, sizes, K < C)
    else:
        channels, firsts = _kernel_parts(kernel, tiles)

        def inputs_step(result, first):
            inputs = lax.dynamic_slice_in_dim(padded, first, channels, 4)
            part = _kernel_of(products(inputs, (0, 0)), tiles, sizes, channels > K)
            return lax.dynamic_update_slice_in_dim(result, part, first, 3), None

        result, _ = lax.scan(inputs_step, jnp.zeros(kernel.shape, jnp.float32), firsts)
    return result.astype(kernel.dtype)


@functools.lru_cache
def _kernel_matrix(tiles, sizes):
    """G of all axes at once, float32 [P, entries], the P positions ordered (w, h, d)."""
    axes = (transforms(tile, size)[1] for tile, size in zip(tiles, sizes, strict=True))
    nested = np.einsum("ad,bh,cw->cbadhw", *axes)
    return nested.reshape(-1, prod(sizes)).astype(np.float32)


def _transform_kernel(kernel, tiles, adjoint):
    """[*sizes, C, K] -> float32 [P, C, K], the P positions ordered (w, h, d)."""
    # One product with all of G, because sums along each axis are three loops to compile per layer.
    entries = kernel.astype(jnp.float32).reshape(-1, prod(kernel.shape[3:]))
    matrix = _kernel_matrix(tiles, kernel.shape[:3])
    matrix = matrix[:, ::-1] if adjoint else matrix  # of entries in reverse order: flipped in space
    return jnp.matmul(matrix, entries).reshape(-1, *kernel.shape[3:])


def _kernel_of(total, tiles, sizes, swapped):
    """The transpose of `_transform_kernel`, of [P, C, K] or swapped [P, K, C]."""
    result = jnp.matmul(_kernel_matrix(tiles, sizes).T, total.reshape(len(total), -1))
    result = result.reshape(*sizes, *total.shape[1:])
    return result.swapaxes(3, 4) if swapped else result


# The arrays of a transform are reshaped to three or four axes: XLA compiles a loop over eight, one
# for each row of a matrix, in four times as long, and a training step is no faster with it.


def _along(matrix, x, before):
    """`matrix` times the middle axis of `x` as [before, n, after]: [rows, before, after]."""
    x = x.reshape(before, matrix.shape[1], -1)
    return _combine(matrix, [lax.index_in_dim(x, n, 1, keepdims=False) for n in range(x.shape[1])])


def _combine(matrix, parts):
    """Stack of the sums Σ_j matrix[i, j] · parts[j]; zero entries cost nothing."""

    # lax, for these are thousands of operations, and jnp takes ten times as long to trace one.
    def times(weight, part):
        if weight == 1:
            return part
        return lax.mul(part, np.float32(weight))

    rows = []
    for weights in matrix:
        terms = [times(w, part) for w, part in zip(weights, parts, strict=True) if abs(w) > 1e-9]
        rows.append(lax.expand_dims(functools.reduce(lax.add, terms), [0]))
    return lax.concatenate(rows, 0)


def _transform(block, tiles, sizes, which):
    """Transform every tile of [B, D, H, W, C] (with its halo): [w, h, d, B, tD, tH, tW, C]."""
    batch, *lengths, channels = block.shape
    before, counts = batch, []
    for axis, (tile, size, length) in enumerate(zip(tiles, sizes, lengths, strict=True)):
        matrix = transforms(tile, size)[which]
        matrix = matrix.T if which == 0 else matrix
        rows, needed = matrix.shape
        counts.append((length - needed) // tile + 1)
        last = tile * (counts[-1] - 1) + 1
        block = block.reshape(before, length, prod(lengths[axis + 1 :]) * channels)
        parts = [lax.slice_in_dim(block, first, first + last, tile, 1) for first in range(needed)]
        block = _combine(matrix, parts)
        before *= rows * counts[-1]
    return block.reshape(*_points(tiles, sizes), batch, *counts, channels)


def _inverse(products, tiles, sizes):
    """[w, h, d, B, tD, tH, tW, K] -> the block of outputs [B, D, H, W, K]."""
    leading, (B, tD, tH, tW, K) = products.shape[:3], products.shape[3:]
    for axis, tile in enumerate(tiles):
        products = _along(transforms(tile, sizes[axis])[0], products, prod(leading[:2]))
        leading = (tile, *leading[:2])
    outputs = products.reshape(*leading, B, tD, tH, tW, K).transpose(3, 4, 2, 5, 1, 6, 0, 7)
    return outputs.reshape(B, tD * tiles[0], tH * tiles[1], tW * tiles[2], K)


def _whole_tiles(x, tiles):
    pads = [(0, -length % tile) for length, tile in zip(x.shape[1:4], tiles, strict=True)]
    return jnp.pad(x, [(0, 0), *pads, (0, 0)]) if any(after for _, after in pads) else x


def _blocks(shape, K, tiles, sizes):
    """Size (depth, height) of a block, and the start of every block, int32 [blocks, 2].

    A block is as wide as the volume, and as high and as deep as its bytes allow, in that order.
    """
    B, D, H, W, C = shape
    limit = min(BLOCK_BYTES, NARROW_BLOCK_BYTES) if C + K <= NARROW else BLOCK_BYTES
    row_bytes = 4 * prod(_points(tiles, sizes)) * (C + K) * B * (W // tiles[2])
    rows = _largest_divisor(H // tiles[1], limit // row_bytes)
    slabs = _largest_divisor(D // tiles[0], limit // (row_bytes * rows))
    if rows < H // tiles[1]:
        slabs = 1
    size = (slabs * tiles[0], rows * tiles[1])
    starts = np.mgrid[: D : size[0], : H : size[1]].reshape(2, -1).T
    return size, jnp.asarray(starts, jnp.int32)


def _kernel_parts(kernel, tiles):
    """Size of a part of the kernel's axis 3, and the first index of every part."""
    points = prod(_points(tiles, kernel.shape[:3]))
    count = _largest_divisor(kernel.shape[3], KERNEL_BYTES // (4 * points * kernel.shape[4]))
    return count, jnp.arange(0, kernel.shape[3], count)


def _points(tiles, sizes):
    """Transformed positions along w, h and d: the order of the arrays' leading axes."""
    return [tile + size - 1 for tile, size in zip(tiles[::-1], sizes[::-1], strict=True)]


def _largest_divisor(number, limit):
    return max(d for d in range(1, number + 1) if number % d == 0 and (d <= limit or d == 1))


def _with_halo(x, sizes):
    """`x` between the zeros outside of it that a kernel of `sizes` needs."""
    # Once for the volume: to tell in every block what lies outside is slower than this copy.
    return jnp.pad(x, [(0, 0), *((size // 2, size // 2) for size in sizes), (0, 0)])


def _read(padded, start, size, sizes):
    """Block (depth, height) of `_with_halo`, as wide as it, with its own halo, in float32."""
    B, _, _, W, C = padded.shape
    lengths = (length + entries - 1 for length, entries in zip(size, sizes, strict=False))
    block = lax.dynamic_slice(padded, (0, *start, 0, 0), (B, *lengths, W, C))
    return block.astype(jnp.float32)
