"""EdgeNeXt (Maaz et al. 2022): depthwise convolutions, and attention across channels.

Four stages at strides 4, 8, 16 and 32. A stage is a row of convolution blocks, and from the second
stage on its last block is a split depthwise transpose attention (SDTA) block: a cascade of
depthwise convolutions over groups of channels, then attention whose map is channels × channels, so
its cost grows with the number of pixels and not with its square.

Names and shapes are timm's, so `jax_seg.weights.timm` fits published weights tensor by tensor.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jax_seg.ops.depthwise import depthwise

STRIDE = 32
"""Of the coarsest features; an image side that it divides loses nothing."""

_COMMON = {"kernel_sizes": (3, 5, 7, 9), "scales": (2, 2, 3, 4)}
PRESETS = {
    "xx_small": {
        "depths": (2, 2, 6, 2),
        "dims": (24, 48, 88, 168),
        "heads": (4, 4, 4, 4),
        **_COMMON,
    },
    "x_small": {
        "depths": (3, 3, 9, 3),
        "dims": (32, 64, 100, 192),
        "heads": (4, 4, 4, 4),
        **_COMMON,
    },
    "small": {
        "depths": (3, 3, 9, 3),
        "dims": (48, 96, 160, 304),
        "heads": (8, 8, 8, 8),
        **_COMMON,
    },
    "base": {
        "depths": (3, 3, 9, 3),
        "dims": (80, 160, 288, 584),
        "heads": (8, 8, 8, 8),
        **_COMMON,
    },
}
"""Fields of the published sizes: `Model(**PRESETS['base'])`."""

_kernel = nn.initializers.truncated_normal(0.02)


class Model(nn.Module):
    """EdgeNeXt: x [B, H, W, channels] -> (logits, features).

    Logits are float32 [B, num_classes], or None without classes. Features are the four stages'
    outputs, [B, H // 4, W // 4, dims[0]] to [B, H // 32, W // 32, dims[3]], finest first. A side
    that a stride does not divide loses its remainder, as in the published network.

    18,511,292 parameters for `PRESETS['base']` with 1000 classes.

    Attributes:
      depths: blocks of each stage, at least 1; from the second stage on the last one is SDTA.
      dims: channels of each stage.
      heads: attention heads of each stage, divisors of its channels; the first is not used.
      kernel_sizes: sides of the convolution blocks' kernels, odd.
      scales: groups of channels in an SDTA block, at least 2; the first is not used.
      num_classes: of the classifier; 0 for none.
      layer_scale: the initial factors on a block's results. The published 1e-6 keeps deep
        networks stable through hundreds of epochs; a small network trained for few starts faster at
        1.
      dtype: compute type, 'float32' or 'bfloat16'; parameters, norms, attention and logits are
        float32.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    scales: tuple[int, ...]
    num_classes: int = 1000
    layer_scale: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BHWC):
        """(logits, features); ValueError for fields or an input that do not fit the network."""
        self._check(x_BHWC.shape)
        x_BHWC = x_BHWC.astype(self.dtype)
        x_BHWC = Patches(self.dims[0], 4, self.dtype, name="stem_0")(x_BHWC)
        x_BHWC = layer_norm("stem_1")(x_BHWC).astype(self.dtype)
        features = []
        for stage, depth in enumerate(self.depths):
            x_BHWC = Stage(
                depth,
                self.dims[stage],
                self.heads[stage],
                self.kernel_sizes[stage],
                self.scales[stage],
                first=stage == 0,
                position=stage == 1,
                layer_scale=self.layer_scale,
                dtype=self.dtype,
                name=f"stages_{stage}",
            )(x_BHWC)
            features.append(x_BHWC)
        logits = None
        if self.num_classes:
            logits = Head(self.num_classes, name="head")(x_BHWC)
        return logits, tuple(features)

    def _check(self, shape):
        for name in ("depths", "dims", "heads", "kernel_sizes", "scales"):
            values = getattr(self, name)
            if len(values) != 4:
                raise ValueError(
                    f"model.{name} is {values}; give one number for each of EdgeNeXt's 4 stages."
                )
            if min(values) < 1:
                raise ValueError(f"model.{name} is {values}; make each 1 or more.")
        if not all(size % 2 for size in self.kernel_sizes):
            raise ValueError(f"model.kernel_sizes is {self.kernel_sizes}; make each odd.")
        stages = list(zip(self.dims, self.heads, self.scales, strict=True))
        for channels, heads, scales in stages[1:]:
            if channels % heads:
                raise ValueError(
                    f"model.heads gives {heads} heads to a stage of {channels} channels "
                    "(model.dims); make it a divisor."
                )
            if not 2 <= scales <= channels:
                raise ValueError(
                    f"model.scales gives {scales} groups to a stage of {channels} channels "
                    "(model.dims); make it 2 or more, and not more than the channels."
                )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is '{self.dtype}'; use 'float32' or 'bfloat16'.")
        if len(shape) != 4 or min(shape[1:3]) < STRIDE:
            raise ValueError(
                f"EdgeNeXt's input has shape {shape}; give it [B, H, W, channels] with sides of at "
                f"least {STRIDE}."
            )


class Stage(nn.Module):
    """Downsampling by 2 (but in the first stage), convolution blocks, and one SDTA block last."""

    depth: int
    features: int
    heads: int
    kernel_size: int
    scales: int
    first: bool
    position: bool
    layer_scale: float
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        if not self.first:
            x_BHWC = layer_norm("downsample_0")(x_BHWC).astype(self.dtype)
            x_BHWC = Patches(self.features, 2, self.dtype, name="downsample_1")(x_BHWC)
        for index in range(self.depth):
            name = f"blocks_{index}"
            if index == self.depth - 1 and not self.first:
                block = SplitTransposeBlock(
                    self.heads, self.scales, self.position, self.layer_scale, self.dtype, name=name
                )
            else:
                block = ConvolutionBlock(self.kernel_size, self.layer_scale, self.dtype, name=name)
            x_BHWC = block(x_BHWC)
        return x_BHWC


class ConvolutionBlock(nn.Module):
    """x + gamma · MLP(LN(depthwise(x))) (Liu et al. 2022, "ConvNeXt", fig. 4)."""

    kernel_size: int
    layer_scale: float
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        y_BHWC = Depthwise(self.kernel_size, self.dtype, name="conv_dw")(x_BHWC)
        y_BHWC = Mlp(self.dtype, name="mlp")(layer_norm("norm")(y_BHWC))
        return x_BHWC + scaled(self, "gamma", y_BHWC)


class SplitTransposeBlock(nn.Module):
    """Split depthwise transpose attention (Maaz et al. 2022, §3.1).

    The channels are split in `scales` groups. Every group but the last passes a depthwise 3×3, and
    each result is added to the next group before its own. Then attention across channels, and a
    multilayer perceptron whose result is added to the block's input.
    """

    heads: int
    scales: int
    position: bool
    layer_scale: float
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        B, H, W, C = x_BHWC.shape
        width = math.ceil(C / self.scales)
        *groups, last = jnp.split(x_BHWC, list(range(width, C, width)), axis=-1)
        outputs = []
        for index, group in enumerate(groups):
            group = group + outputs[-1] if outputs else group
            outputs.append(Depthwise(3, self.dtype, name=f"convs_{index}")(group))
        y_BNC = jnp.concatenate([*outputs, last], axis=-1).reshape(B, H * W, C)
        if self.position:
            y_BNC += PositionEncoding(C, self.dtype, name="pos_embd")(H, W)
        attention = ChannelAttention(self.heads, self.dtype, name="xca")
        attended = attention(layer_norm("norm_xca")(y_BNC))
        y_BNC += scaled(self, "gamma_xca", attended)
        y_BNC = Mlp(self.dtype, name="mlp")(layer_norm("norm")(y_BNC))
        return x_BHWC + scaled(self, "gamma", y_BNC).reshape(B, H, W, C)


class ChannelAttention(nn.Module):
    """Cross-covariance attention (El-Nouby et al. 2021, eq. 3), computed in float32.

    softmax(q̂ k̂ᵀ · temperature) v per head, with q̂ and k̂ [d, tokens] of unit length over tokens.
    """

    heads: int
    dtype: str

    @nn.compact
    def __call__(self, x_BNC):
        B, N, C = x_BNC.shape
        qkv = dense(3 * C, self.dtype, "qkv")(x_BNC).astype(jnp.float32)
        q, k, v = jnp.moveaxis(qkv.reshape(B, N, 3, self.heads, C // self.heads), 2, 0)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads, 1, 1))
        scores = jnp.einsum("bnhd,bnhe->bhde", _unit(q), _unit(k)) * temperature
        attended = jnp.einsum("bhde,bnhe->bnhd", jax.nn.softmax(scores), v)
        return dense(C, self.dtype, "proj")(attended.reshape(B, N, C))


def _unit(x_BNhd):
    """Unit length over the tokens; a zero vector stays zero, and its gradient finite."""
    squares = jnp.square(x_BNhd).sum(1, keepdims=True)
    return x_BNhd * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


class PositionEncoding(nn.Module):
    """Sines and cosines of both coordinates (Vaswani et al. 2017, §3.5), then 1×1: [H·W, C]."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, H, W):
        encoding = jnp.asarray(position_encoding(H, W).reshape(H * W, -1))
        return dense(self.features, self.dtype, "token_projection")(encoding)


def position_encoding(H, W, hidden=32, temperature=10000):
    """Fourier encoding [H, W, 2 · hidden], y first; coordinates 1..H are scaled to 2π.

    Entries 2i and 2i + 1 are the sine and cosine of position / temperature^(2i / hidden).
    """
    periods = temperature ** (2 * (np.arange(hidden) // 2) / hidden)

    def along(length):
        position = np.arange(1, length + 1) * (2 * math.pi / (length + 1e-6))
        angles = position[:, None] / periods
        return np.where(np.arange(hidden) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)

    y, x = along(H)[:, None], along(W)[None]
    return np.concatenate(
        [np.broadcast_to(y, (H, W, hidden)), np.broadcast_to(x, (H, W, hidden))], axis=-1
    )


class Head(nn.Module):
    """Mean over the image, layer norm, and the classes' logits in float32."""

    classes: int

    @nn.compact
    def __call__(self, x_BHWC):
        pooled = x_BHWC.astype(jnp.float32).mean((1, 2))
        return dense(self.classes, "float32", "fc")(layer_norm("norm")(pooled))


class Mlp(nn.Module):
    """1×1 to four times the channels, exact GELU, 1×1 back."""

    dtype: str

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        x = gelu(dense(4 * features, self.dtype, "fc1")(x))
        return dense(features, self.dtype, "fc2")(x)


class Patches(nn.Module):
    """Convolution whose stride is its size: one matrix product over the pixels of each window."""

    features: int
    size: int
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        B, H, W, C = x_BHWC.shape
        size, h, w = self.size, H // self.size, W // self.size
        kernel = self.param("kernel", _kernel, (size, size, C, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        whole = x_BHWC[:, : h * size, : w * size].reshape(B, h, size, w, size, C)
        windows = whole.transpose(0, 1, 3, 2, 4, 5).reshape(B, h, w, size * size * C)
        product = windows @ kernel.astype(self.dtype).reshape(-1, self.features)
        return product + bias.astype(self.dtype)


class Depthwise(nn.Module):
    """Depthwise convolution with bias: kernel [size, size, C]."""

    size: int
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        kernel = self.param("kernel", _kernel, (self.size, self.size, x_BHWC.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, x_BHWC.shape[-1:])
        x_BHWC = depthwise(x_BHWC.astype(self.dtype), kernel.astype(self.dtype))
        return x_BHWC + bias.astype(self.dtype)


def dense(features, dtype, name):
    """1×1 convolution over the last axis, initialised as the published network."""
    return nn.Dense(features, dtype=dtype, kernel_init=_kernel, name=name)


def layer_norm(name):
    """Layer norm over the channels, epsilon 1e-6, computed and returned in float32."""
    return nn.LayerNorm(1e-6, dtype=jnp.float32, use_fast_variance=False, name=name)


def scaled(module, name, x):
    """x times a learned factor per channel (Touvron et al. 2021, eq. 4)."""
    gamma = module.param(name, nn.initializers.constant(module.layer_scale), x.shape[-1:])
    return x * gamma.astype(x.dtype)


def gelu(x):
    """x Φ(x) (Hendrycks & Gimpel 2016), by erf: on a CPU a third of the time of JAX's, by erfc."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))
