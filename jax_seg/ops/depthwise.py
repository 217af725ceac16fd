"""Depthwise convolution, one kernel per channel: the platform's own, or on a CPU a sum of shifts.

XLA's grouped convolution on a CPU handles one channel after the other. A depthwise convolution has
as many products as kernel entries and no sum over channels, so it is a sum of nine to eighty-one
shifted copies of the image, each times a vector, which XLA fuses into one vectorised loop: 5 to 50
times as fast, see BUILD.md.
"""

import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def depthwise(x, kernel):
    """Convolve each channel with its own kernel: 'same' padding with zeros, stride 1.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C], h and w odd, in the type of `x`.

    Returns:
      [B, H, W, C] in the type of `x`; on a CPU bfloat16 is computed in float32 and rounded once.
    """
    return _depthwise(x, kernel)


@jax.custom_vjp
def summed(x, kernel):
    """Convolve to a single channel: `depthwise` summed over the channels.

    As a matrix product to one map per kernel entry, and the maps shifted and added. Both gradients
    are products of the output's gradient, shifted once per entry; XLA's own gradient with respect
    to the kernel takes a hundred times as long.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C], h and w odd, in the type of `x`.

    Returns:
      [B, H, W, 1] float32.
    """
    entries = kernel.reshape(-1, kernel.shape[2]).T
    maps = _pad(jnp.matmul(x, entries, preferred_element_type=jnp.float32), kernel.shape)
    windows = _windows(maps, x.shape, kernel.shape)
    return sum(window[..., entry, None] for entry, window in enumerate(windows))


def _summed_forward(x, kernel):
    return summed(x, kernel), (x, kernel)


def _summed_backward(saved, gradient):
    x, kernel = saved
    # An entry met the pixel before where it wrote: the shifts of the gradient go the other way.
    windows = _windows(_pad(gradient[..., 0], kernel.shape), x.shape, kernel.shape)[::-1]
    shifted = jnp.stack(windows, -1).astype(x.dtype)
    entries = kernel.reshape(-1, kernel.shape[2])
    options = {"preferred_element_type": jnp.float32}
    x_gradient = jnp.matmul(shifted, entries, **options).astype(x.dtype)
    kernel_gradient = jnp.einsum("bhwe,bhwc->ec", shifted, x, **options)
    return x_gradient, kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)


summed.defvjp(_summed_forward, _summed_backward)


@jax.custom_vjp
def _depthwise(x, kernel):
    return lax.platform_dependent(x, kernel, cpu=shift_and_add, default=_xla)


def _forward(x, kernel):
    return _depthwise(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    # The transpose of a stride-1 'same' convolution is one with the kernel turned round.
    x_gradient = _depthwise(gradient, kernel[::-1, ::-1])
    kernel_gradient = lax.platform_dependent(
        x, kernel, gradient, cpu=shifted_products, default=_xla_kernel_gradient
    )
    return x_gradient, kernel_gradient


_depthwise.defvjp(_forward, _backward)


def shift_and_add(x, kernel):
    """`depthwise` as Σ over the kernel's entries of the shifted image times the entry."""
    # Without the barrier XLA fuses the padding into every read of it.
    padded = lax.optimization_barrier(_pad(x, kernel.shape))
    entries = kernel.reshape(-1, kernel.shape[2]).astype(jnp.float32)
    windows = _windows(padded, x.shape, kernel.shape)
    total = sum(w.astype(jnp.float32) * entry for w, entry in zip(windows, entries, strict=True))
    return total.astype(x.dtype)


def shifted_products(x, kernel, gradient):
    """Gradient of `depthwise` with respect to the kernel, one row of the kernel at a time."""
    padded = _pad(x.astype(jnp.float32), kernel.shape)
    gradient = gradient.astype(jnp.float32)
    _, H, W, _ = x.shape

    def row(_, start):
        rows = lax.dynamic_slice_in_dim(padded, start, H, 1)
        # As a batched dot product; XLA's sum over a product's leading axes is 4× slower.
        entries = [
            jnp.einsum("bhwc,bhwc->c", rows[:, :, j : j + W], gradient)
            for j in range(kernel.shape[1])
        ]
        return None, jnp.stack(entries)

    _, result = lax.scan(row, None, jnp.arange(kernel.shape[0]))
    return result.astype(kernel.dtype)


def _windows(padded, shape, kernel_shape):
    """The views [B, H, W, …] of a padded image that each entry of the kernel meets, row by row."""
    _, H, W, _ = shape
    return [
        padded[:, i : i + H, j : j + W]
        for i in range(kernel_shape[0])
        for j in range(kernel_shape[1])
    ]


def _pad(x, kernel_shape):
    rims = [(size // 2, size // 2) for size in kernel_shape[:2]]
    return jnp.pad(x, [(0, 0), *rims, *[(0, 0)] * (x.ndim - 3)])


def _xla(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _xla_kernel_gradient(x, kernel, gradient):
    return jax.linear_transpose(lambda kernel: _xla(x, kernel), kernel)(gradient)[0]
