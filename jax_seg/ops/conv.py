"""Convolution with 'same' padding: the platform's own, or on a CPU the fastest of its forms.

XLA's own 3-D convolution reaches a tenth to a third of a CPU's matrix-product speed, and its
gradient with respect to the kernel less. Accelerators have good ones. So the form is chosen when
the program is lowered, and one traced program runs everywhere.
"""

import functools
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_seg.ops import patches, winograd

SMALL = 15_000_000  # multiplications; below, every form takes about 1 ms and XLA's compiles fastest


class Form(NamedTuple):
    """One way to compute a convolution and its gradients.

    `convolve(x, kernel)`, and with the output's gradient as third argument the gradients with
    respect to x and to the kernel.
    """

    convolve: Callable
    input_gradient: Callable
    kernel_gradient: Callable


@jax.jit
def conv(x, kernel):
    """Convolve with 'same' padding and stride 1.

    On a CPU the result and both gradients agree with the direct form to a few 1e-6 of their size,
    and bfloat16 is computed in float32 and rounded once.

    Args:
      x: [B, *spatial, C], two or three spatial axes.
      kernel: [*size, C, K], odd sizes, in the compute type of `x`.

    Returns:
      [B, *spatial, K] in the type of `x`.
    """
    if x.ndim == 5 and kernel.shape[0] == 1 < kernel.shape[1]:  # slices are a batch of images
        images = _conv(x.reshape(-1, *x.shape[2:]), kernel[0])
        return images.reshape(*x.shape[:4], -1)
    return _conv(x, kernel)


@jax.custom_vjp
def _conv(x, kernel):
    return _by_platform("convolve", x, kernel)


def _conv_forward(x, kernel):
    return _conv(x, kernel), (x, kernel)


def _conv_backward(saved, gradient):
    return (
        _by_platform("input_gradient", *saved, gradient),
        _by_platform("kernel_gradient", *saved, gradient),
    )


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.jit, static_argnums=0)  # layers of one shape are traced once
def _by_platform(step, *arrays):
    flat = arrays[0].ndim == 4

    def on_cpu(*arrays):
        function = getattr((image_form if flat else cpu_form)(*arrays[:2]), step)
        if not flat or function is getattr(XLA, step):
            return function(*arrays)
        # A batch of images is a volume whose slices do not see each other.
        return function(*(array[None] for array in arrays))[0]

    return lax.platform_dependent(*arrays, cpu=on_cpu, default=getattr(XLA, step))


def cpu_form(x, kernel):
    """The fastest form on a CPU for x [B, D, H, W, C] and kernel [*size, C, K], by measurement.

    GFLOP/s of the direct form's operations (two cores, float32, batch 1; forward, gradient with
    respect to x, gradient with respect to the kernel), and of XLA's own in brackets:

    | side, channels | form     | forward   | x         | kernel   |
    |----------------|----------|-----------|-----------|----------|
    | 64³, 1 → 32    | PATCHES  |  28   (7) |  79   (2) |  91 (12) |
    | 64³, 32 → 32   | WINOGRAD | 322  (51) | 337  (51) | 286 (28) |
    | 32³, 64 → 64   | WINOGRAD | 545  (98) | 714 (101) | 506 (50) |
    | 16³, 128 → 128 | WINOGRAD | 518 (170) | 483  (84) | 790 (77) |
    | 8³, 256 → 256  | WINOGRAD | 189 (112) | 266 (179) | 290 (91) |
    | 4³, 512 → 512  | PATCHES  | 147  (81) | 277  (49) | 178 (51) |
    """
    size, channels = kernel.shape[:3], kernel.shape[3]
    voxels = prod(x.shape[1:4])
    if x.dtype not in (jnp.float32, jnp.bfloat16) or not set(size) <= {1, 3}:
        return XLA
    if size == (1, 1, 1):
        return ONE_OUTPUT if kernel.shape[4] == 1 else POINTWISE
    if len(x) * voxels * kernel.size < SMALL:
        return XLA
    if channels < patches.FEW_CHANNELS:
        return PATCHES if size[0] > 1 else XLA
    return PATCHES if voxels < 6**3 else WINOGRAD


def image_form(x, kernel):
    """The fastest form on a CPU for x [B, H, W, C] and kernel [*size, C, K], by measurement.

    XLA's convolution of images is a good one where channels are few, but for its gradient with
    respect to the kernel. Milliseconds (two cores, float32, batch 4), XLA's own in brackets:

    | side, channels | form     | forward   | x         | kernel    |
    |----------------|----------|-----------|-----------|-----------|
    | 256², 3 → 11   | XLA      | 18 (8)    | 20 (22)   | 9 (4)     |
    | 256², 16 → 8   | NARROW   | 26 (12)   | 30 (8)    | 15 (26)   |
    | 256², 16 → 16  | NARROW   | 35 (12)   | 35 (12)   | 31 (41)   |
    | 128², 16 → 16  | NARROW   | 3.9 (2.9) | 3.7 (2.9) | 5.0 (6.9) |
    | 256², 24 → 24  | WINOGRAD | 24 (60)   | 31 (57)   | 37 (216)  |
    | 128², 32 → 32  | WINOGRAD | 9 (12)    | 10 (12)   | 7 (15)    |

    The first figures are Winograd's.
    """
    form = cpu_form(*(jax.ShapeDtypeStruct((1, *a.shape), a.dtype) for a in (x, kernel)))
    return NARROW if form is WINOGRAD and x.shape[-1] <= 16 else form


def _xla(x, kernel):
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, (1,) * (x.ndim - 2), "SAME", dimension_numbers=numbers
    )


def _pointwise(x, kernel):
    product = jnp.matmul(x, kernel[0, 0, 0], preferred_element_type=jnp.float32)
    return product.astype(x.dtype)


def _transposed(convolve):
    """The form whose gradients are XLA's transposes of `convolve`."""
    return Form(
        convolve,
        lambda x, kernel, g: jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)[0],
        lambda x, kernel, g: jax.linear_transpose(lambda k: convolve(x, k), kernel)(g)[0],
    )


XLA = _transposed(_xla)
_MATRIX = _transposed(_pointwise)
# A matrix product wins where XLA's own gradient is poor: for the kernel 34 ms to 85 (64³, 32 → 32);
# with one output 14 ms to 24, for the gradient with respect to x.
POINTWISE = Form(XLA.convolve, XLA.input_gradient, _MATRIX.kernel_gradient)
ONE_OUTPUT = Form(XLA.convolve, _MATRIX.input_gradient, XLA.kernel_gradient)
PATCHES = Form(patches.convolve, patches.input_gradient, patches.kernel_gradient)
WINOGRAD = Form(winograd.convolve, winograd.input_gradient, winograd.kernel_gradient)
NARROW = Form(XLA.convolve, XLA.input_gradient, winograd.kernel_gradient)
