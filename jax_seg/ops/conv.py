"""Convolution with 'same' padding: the platform's own, or on a CPU the fastest of its forms.

XLA's own 3-D convolution reaches a fraction of a CPU's matrix-product speed, and its gradient with
respect to the kernel less. Accelerators have good ones. So the form is chosen when the program is
lowered, and one traced program runs everywhere. The fastest form for each shape was measured with
`python -m benchmarks.conv`; results are in BUILD.md. Where devices share the depth of a volume it
is the compiler's own on a CPU too, for that it knows how to divide.
"""

import functools
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_seg.ops import patches, winograd
from jax_seg.system.devices import depth_is_divided

# Multiplications, below which every form is fast and XLA's compiles fastest: of volumes, and of
# images, which XLA convolves better.
SMALL, SMALL_OF_IMAGES = 100_000, 15_000_000


class Form(NamedTuple):
    """One way to compute a convolution and its gradients.

    `convolve(x, kernel)`, and with the output's gradient as third argument the gradients with
    respect to x and to the kernel.
    """

    convolve: Callable
    input_gradient: Callable
    kernel_gradient: Callable


@functools.partial(jax.jit, static_argnums=2)
def conv(x, kernel, strides=()):
    """Convolve with 'same' padding.

    On a CPU the result and both gradients agree with the direct form to a few 1e-6 of their size,
    and bfloat16 is computed in float32 and rounded once.

    Args:
      x: [B, *spatial, C], two or three spatial axes.
      kernel: [*size, C, K], odd sizes, in the compute type of `x`.
      strides: voxels from one output to the next along each axis; () for 1. The first output lies
        on the first voxel, so with stride 2 and an even length the last voxel has none.

    Returns:
      [B, *spatial, K] in the type of `x`; with strides, the spatial sizes divided by them, rounded
      up.
    """
    strides = tuple(strides) or (1,) * (x.ndim - 2)
    # Along an axis of one voxel the rest of the kernel meets the padding alone.
    met = (
        slice(size // 2, size // 2 + 1) if length == 1 else slice(None)
        for length, size in zip(x.shape[1:-1], kernel.shape, strict=False)
    )
    kernel = kernel[tuple(met)]
    planar = x.ndim == 5 and kernel.shape[0] == 1 < kernel.shape[1] and strides[0] == 1
    if planar:  # slices are a batch of images
        images = _conv(x.reshape(-1, *x.shape[2:]), kernel[0], strides[1:])
        return images.reshape(*x.shape[:2], *images.shape[1:])
    return _conv(x, kernel, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, strides):
    return _by_platform("convolve", strides, x, kernel)


def _conv_forward(x, kernel, strides):
    return _conv(x, kernel, strides), (x, kernel)


def _conv_backward(strides, saved, gradient):
    return (
        _by_platform("input_gradient", strides, *saved, gradient),
        _by_platform("kernel_gradient", strides, *saved, gradient),
    )


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.jit, static_argnums=(0, 1))  # layers of one shape are traced once
def _by_platform(step, strides, *arrays):
    flat, dense = arrays[0].ndim == 4, set(strides) == {1}
    own = XLA if dense else _transposed(functools.partial(_xla, strides=strides))

    def on_cpu(*arrays):
        if depth_is_divided():
            form = own
        elif dense:
            form = (image_form if flat else cpu_form)(*arrays[:2])
        else:
            form = strided_form(*arrays[:2], strides) or own
        function = getattr(form, step)
        if not flat or function is getattr(own, step):
            return function(*arrays)
        # A batch of images is a volume whose slices do not see each other.
        return function(*(array[None] for array in arrays))[0]

    return lax.platform_dependent(*arrays, cpu=on_cpu, default=getattr(own, step))


def strided_form(x, kernel, strides):
    """The form on a CPU with strides: a product with patches, None for XLA's own.

    Winograd's would compute every output of stride 1. XLA's own is as poor as without strides.
    """
    outputs = prod((n - 1) // stride + 1 for n, stride in zip(x.shape[1:-1], strides, strict=True))
    small = SMALL if x.ndim == 5 else SMALL_OF_IMAGES
    if x.dtype not in (jnp.float32, jnp.bfloat16) or len(x) * outputs * kernel.size < small:
        return None
    in_depth = (1,) * (5 - x.ndim)  # a batch of images is the depth of one volume
    options = {"strides": (*in_depth, *strides)}
    return Form(*(functools.partial(function, **options) for function in PATCHES))


def cpu_form(x, kernel, small=None):
    """The fastest form on a CPU for x [B, D, H, W, C] and kernel [*size, C, K].

    Winograd's for kernels of 3 voxels a side, but patches where channels are few or the kernel
    outweighs the volume; a matrix product for one gradient of a kernel of a single voxel; XLA's own
    for the rest, and for those of fewer multiplications than `small`, by default SMALL.
    """
    size, channels = kernel.shape[:3], kernel.shape[3]
    voxels = prod(x.shape[1:4])
    if x.dtype not in (jnp.float32, jnp.bfloat16) or not set(size) <= {1, 3}:
        return XLA
    if size == (1, 1, 1):
        return ONE_OUTPUT if kernel.shape[4] == 1 else POINTWISE
    if len(x) * voxels * kernel.size < (SMALL if small is None else small):
        return XLA
    if channels < patches.FEW_CHANNELS:
        return PATCHES if size[0] > 1 else XLA
    return PATCHES if voxels < 6**3 else WINOGRAD


def image_form(x, kernel):
    """The fastest form on a CPU for x [B, H, W, C] and kernel [*size, C, K].

    As of a volume of one slice, but XLA's convolution of images is a good one where channels are
    few, all but its gradient with respect to the kernel.
    """
    of_volume = (jax.ShapeDtypeStruct((1, *a.shape), a.dtype) for a in (x, kernel))
    form = cpu_form(*of_volume, SMALL_OF_IMAGES)
    return NARROW if form is WINOGRAD and x.shape[-1] <= 16 else form


def _xla(x, kernel, strides=None):
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    # Not 'SAME', which with strides depends on whether the length is even.
    around = [(size // 2, size // 2) for size in kernel.shape[:-2]]
    padding = "SAME" if strides is None else around
    strides = strides or (1,) * (x.ndim - 2)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


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
# A matrix product wins where XLA's own gradient is poor: with respect to the kernel, and with one
# output with respect to x.
POINTWISE = Form(XLA.convolve, XLA.input_gradient, _MATRIX.kernel_gradient)
ONE_OUTPUT = Form(XLA.convolve, _MATRIX.input_gradient, XLA.kernel_gradient)
PATCHES = Form(patches.convolve, patches.input_gradient, patches.kernel_gradient)
WINOGRAD = Form(winograd.convolve, winograd.input_gradient, winograd.kernel_gradient)
NARROW = Form(XLA.convolve, XLA.input_gradient, winograd.kernel_gradient)
