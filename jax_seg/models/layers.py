"""Layers of the U-Nets: double convolution, pooling, upsampling, and the 1×1(×1) output.

Every layer works on two or three spatial axes, channels last. Shape names show the 3-D case.
Parameters are float32; `dtype` is the compute type.
"""

from math import log, prod

import jax
import jax.numpy as jnp
from flax import linen as nn

from jax_seg.ops.conv import conv
from jax_seg.ops.norm import instance_norm_leaky_relu


def uniform(fan_in):
    """Initialiser U(-1/√fan_in, 1/√fan_in), PyTorch's default for kernels and biases.

    It is the uniform rule of He et al. 2015 (eq. 10) with a = √5 for the negative slope:
    √(6 / ((1 + a²) fan_in)).
    """
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def extent(length, x_BDHWC, planar):
    """Size of a kernel or window: `length` along each axis, but 1 along depth where `planar`."""
    rank = x_BDHWC.ndim - 2
    return (1,) * planar + (length,) * (rank - planar)


class ConvInstanceNorm(nn.Module):
    """3×3(×3) convolution, instance norm without affine parameters, leaky ReLU 0.01.

    1×3×3 where `planar`.
    """

    features: int
    dtype: str = "float32"
    planar: bool = False

    @nn.compact
    def __call__(self, x_BDHWC):
        size, channels = extent(3, x_BDHWC, self.planar), x_BDHWC.shape[-1]
        initialiser = uniform(prod(size) * channels)
        kernel = self.param("kernel", initialiser, (*size, channels, self.features))
        # The norm subtracts each channel's mean, and with it any constant, so adding the bias would
        # waste a pass over memory. It stays a parameter: the network has the published parameter
        # count, and imported weights stay complete.
        self.param("bias", initialiser, (self.features,))
        x_BDHWK = conv(x_BDHWC.astype(self.dtype), kernel.astype(self.dtype))
        return instance_norm_leaky_relu(x_BDHWK, slope=0.01, epsilon=1e-5)


class UNetLevel(nn.Module):
    """The channels of all inputs together, then two normalised convolutions: one U-Net level."""

    features: int
    dtype: str = "float32"
    planar: bool = False

    @nn.compact
    def __call__(self, *inputs):
        x_BDHWC = jnp.concatenate(inputs, axis=-1)
        for index in range(2):
            x_BDHWC = ConvInstanceNorm(
                self.features, self.dtype, self.planar, name=f"conv_{index}"
            )(x_BDHWC)
        return x_BDHWC


class Upsample(nn.Module):
    """Transposed convolution of size 2 and stride 2, with bias: twice each spatial size.

    Where `planar`, size and stride are 1×2×2.

    The windows do not overlap, so it is one matrix product and a depth-to-space, exactly. Kernel
    [2, 2(, 2), C, K]: entry [i, j, k] makes the output voxel (2d + i, 2h + j, 2w + k).
    """

    features: int
    dtype: str = "float32"
    planar: bool = False

    @nn.compact
    def __call__(self, x_BDHWC):
        batch, *spatial, channels = x_BDHWC.shape
        rank, size = len(spatial), extent(2, x_BDHWC, self.planar)
        # PyTorch counts a transposed convolution's fan in over its output channels.
        initialiser = uniform(prod(size) * self.features)
        kernel = self.param("kernel", initialiser, (*size, channels, self.features))
        bias = self.param("bias", initialiser, (self.features,))

        kernel_CijkK = jnp.moveaxis(kernel, -2, 0).astype(self.dtype)
        x_BDHWijkK = jnp.tensordot(x_BDHWC.astype(self.dtype), kernel_CijkK, axes=1)
        interleaved = [axis for d in range(1, rank + 1) for axis in (d, d + rank)]
        x_BDiHjWkK = x_BDHWijkK.transpose(0, *interleaved, 2 * rank + 1)
        larger = (length * factor for length, factor in zip(spatial, size, strict=True))
        return x_BDiHjWkK.reshape(batch, *larger, self.features) + bias.astype(self.dtype)


def pointwise(features, fan_in, name, foreground_prior=0.5):
    """1×1(×1) convolution with bias, in float32: logits keep their precision under bfloat16.

    The bias starts around the log odds of `foreground_prior` (Lin et al. 2017, "Focal loss",
    §4.1): where foreground is rare, the first epochs are not spent on learning that it is.
    ValueError unless it is in (0, 1).
    """
    if not 0 < foreground_prior < 1:
        raise ValueError(
            f"model.foreground_prior is {foreground_prior}; give the share of foreground, above 0 "
            "and below 1."
        )
    initialiser = uniform(fan_in)
    odds = log(foreground_prior / (1 - foreground_prior))

    def around(key, shape, dtype=jnp.float32):
        return odds + initialiser(key, shape, dtype)

    return nn.Dense(
        features, dtype=jnp.float32, kernel_init=initialiser, bias_init=around, name=name
    )


def max_pool(x_BDHWC, planar=False):
    """Maximum over 2×2(×2) windows of stride 2, or 1×2×2 where `planar`; even spatial sizes.

    Where several voxels of a window hold its maximum, the gradient is shared equally among them.
    """
    batch, *spatial, channels = x_BDHWC.shape
    # A window reduction's gradient is a select-and-scatter, 3-4× slower than this on a CPU.
    windows = extent(2, x_BDHWC, planar)
    pairs = [
        part
        for length, size in zip(spatial, windows, strict=True)
        for part in (length // size, size)
    ]
    windows = x_BDHWC.reshape(batch, *pairs, channels)
    return windows.max(axis=tuple(range(2, 2 * len(spatial) + 1, 2)))
