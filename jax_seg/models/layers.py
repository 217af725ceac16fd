"""Layers of the U-Nets: convolutions, residual blocks, pooling, upsampling, the 1×1(×1) output.

Every layer works on two or three spatial axes, channels last. Shape names show the 3-D case.
Parameters are float32; `dtype` is the compute type.
"""

from collections.abc import Callable
from math import log, prod

import jax
import jax.numpy as jnp
from flax import linen as nn

from jax_seg.ops import resize
from jax_seg.ops.conv import conv
from jax_seg.ops.norm import affine_norm, instance_norm_leaky_relu

FEW = 8  # logits, at most, that a GPU computes as sums instead of a matrix product


def uniform(fan_in):
    """Initialiser U(-1/√fan_in, 1/√fan_in), PyTorch's default for kernels and biases.

    It is the uniform rule of He et al. 2015 (eq. 10) with a = √5 for the negative slope:
    √(6 / ((1 + a²) fan_in)).
    """
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class ConvInstanceNorm(nn.Module):
    """Convolution, instance norm, leaky ReLU.

    Attributes:
      features: channels of the result.
      dtype: compute type.
      kernel: its size, odd numbers; () for 3 voxels along each axis.
      stride: along each axis; () for 1.
      slope: of the leaky ReLU for negative values; 1 is no activation.
      affine: whether the norm has a gain and an offset per channel.
      bias: whether the convolution has one. The norm subtracts each channel's mean, and with it any
        constant, so adding it would waste a pass over memory. It stays a parameter: the network has
        the published parameter count, and imported weights stay complete.
      stored: of `instance_norm_leaky_relu`: whether a convolution or an upsampling is next; without
        effect where the norm is affine.
    """

    features: int
    dtype: str = "float32"
    kernel: tuple = ()
    stride: tuple = ()
    slope: float = 0.01
    affine: bool = False
    bias: bool = True
    stored: bool = False

    @nn.compact
    def __call__(self, x_BDHWC):
        size, channels = self.kernel or (3,) * (x_BDHWC.ndim - 2), x_BDHWC.shape[-1]
        initialiser = uniform(prod(size) * channels)
        kernel = self.param("kernel", initialiser, (*size, channels, self.features))
        if self.bias:
            self.param("bias", initialiser, (self.features,))
        x_BDHWK = conv(x_BDHWC.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if not self.affine:
            return instance_norm_leaky_relu(x_BDHWK, self.slope, 1e-5, self.stored)
        gain = self.param("gain", nn.initializers.ones, (self.features,))
        offset = self.param("offset", nn.initializers.zeros, (self.features,))
        return affine_norm(x_BDHWK, gain, offset, self.slope, 1e-5)


class UNetLevel(nn.Module):
    """The channels of all inputs together, then normalised convolutions: one U-Net level.

    Attributes:
      features, dtype, kernel, slope, affine: of `ConvInstanceNorm`.
      convolutions: how many.
      stride: of the first one; () for 1.
      stored: of the last one's `ConvInstanceNorm`.
    """

    features: int
    dtype: str = "float32"
    kernel: tuple = ()
    convolutions: int = 2
    stride: tuple = ()
    slope: float = 0.01
    affine: bool = False
    stored: bool = False

    @nn.compact
    def __call__(self, *inputs):
        x_BDHWC = jnp.concatenate(inputs, axis=-1)
        for index in range(self.convolutions):
            layer = ConvInstanceNorm(
                self.features,
                self.dtype,
                self.kernel,
                () if index else self.stride,
                self.slope,
                self.affine,
                stored=self.stored or index < self.convolutions - 1,
                name=f"conv_{index}",
            )
            x_BDHWC = layer(x_BDHWC)
        return x_BDHWC


class ResidualBlock(nn.Module):
    """Two normalised convolutions whose result is added to the input, then leaky ReLU.

    Block D of He et al. 2019 ("Bag of tricks for image classification", figure 2) with instance
    norm, as nnU-Net's residual encoder has it: where it strides, the input is averaged over windows
    of the stride, and where the channels change, projected by a normalised 1×1×1 convolution.

    Attributes: of `ConvInstanceNorm`; the stride is that of the first convolution.
    """

    features: int
    dtype: str = "float32"
    kernel: tuple = ()
    stride: tuple = ()
    slope: float = 0.01
    affine: bool = False

    @nn.compact
    def __call__(self, x_BDHWC):
        rank, options = x_BDHWC.ndim - 2, {"affine": self.affine}
        first = ConvInstanceNorm(
            self.features,
            self.dtype,
            self.kernel,
            self.stride,
            self.slope,
            **options,
            stored=True,
            name="conv_0",
        )
        second = ConvInstanceNorm(
            self.features, self.dtype, self.kernel, slope=1.0, **options, name="conv_1"
        )
        y_BDHWK = second(first(x_BDHWC))
        x_BDHWC = mean_pool(x_BDHWC, self.stride).astype(self.dtype)
        if x_BDHWC.shape[-1] != self.features:
            ones = (1,) * rank
            skip = ConvInstanceNorm(
                self.features, self.dtype, ones, slope=1.0, **options, bias=False, name="skip"
            )
            x_BDHWC = skip(x_BDHWC)
        return jax.nn.leaky_relu(x_BDHWC + y_BDHWK, self.slope)


class Upsample(nn.Module):
    """Transposed convolution whose size is its stride, with bias: larger by that factor.

    Attributes:
      features: channels of the result.
      dtype: compute type.
      stride: factor along each axis; () for 2.

    Its kernel is [*stride, C, K], see `resize.upsample`.
    """

    features: int
    dtype: str = "float32"
    stride: tuple = ()

    @nn.compact
    def __call__(self, x_BDHWC):
        channels = x_BDHWC.shape[-1]
        size = self.stride or (2,) * (x_BDHWC.ndim - 2)
        # PyTorch counts a transposed convolution's fan in over its output channels.
        initialiser = uniform(prod(size) * self.features)
        kernel = self.param("kernel", initialiser, (*size, channels, self.features))
        bias = self.param("bias", initialiser, (self.features,))

        larger = resize.upsample(x_BDHWC.astype(self.dtype), kernel.astype(self.dtype))
        return larger + bias.astype(self.dtype)


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

    return Pointwise(features, initialiser, around, name=name)


class Pointwise(nn.Module):
    """1×1(×1) convolution with bias, in float32; its kernel is [C, features].

    On a GPU few features are sums over the channels rather than a matrix product: XLA computes
    those together with the layers around them, so that neither the normalised activations before
    them nor their gradient are written to memory.

    Attributes:
      features: channels of the result.
      kernel_init, bias_init: initialisers.
    """

    features: int
    kernel_init: Callable
    bias_init: Callable

    @nn.compact
    def __call__(self, x_BDHWC):
        kernel = self.param("kernel", self.kernel_init, (x_BDHWC.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        x_BDHWC = x_BDHWC.astype(jnp.float32)
        other = _sums if self.features <= FEW else jnp.dot
        return jax.lax.platform_dependent(x_BDHWC, kernel, cpu=jnp.dot, default=other) + bias


def _sums(x, kernel):
    return jnp.stack([(x * column).sum(-1) for column in kernel.T], -1)


def max_pool(x_BDHWC, stride=()):
    """Maximum over windows of `stride`, () for 2 voxels along each axis; sizes are multiples of it.

    Where several voxels of a window hold its maximum, the gradient is shared equally among them.
    """
    size = tuple(stride) or (2,) * (x_BDHWC.ndim - 2)
    if prod(size) <= resize.MOST:
        return resize.max_pool(x_BDHWC, size)
    windows, within = _windows(x_BDHWC, size)
    return windows.max(within)


def mean_pool(x_BDHWC, stride=()):
    """Mean over windows of `stride`, in float32; () for none."""
    if set(stride) <= {1}:
        return x_BDHWC
    windows, within = _windows(x_BDHWC, stride)
    return windows.astype(jnp.float32).mean(within)


def _windows(x_BDHWC, stride):
    """x with each axis split into windows, and the axes within the windows."""
    batch, *spatial, channels = x_BDHWC.shape
    stride = stride or (2,) * len(spatial)
    pairs = [
        part
        for length, size in zip(spatial, stride, strict=True)
        for part in (length // size, size)
    ]
    return x_BDHWC.reshape(batch, *pairs, channels), tuple(range(2, 2 * len(spatial) + 1, 2))
