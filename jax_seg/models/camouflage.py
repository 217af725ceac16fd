"""A detector of camouflaged objects: EdgeNeXt, attention and experts at each level, a decoder.

At each of four levels, at strides 4 to 32, squeeze and excitation scales the channels, a spatial
gate the pixels, and a mixture of experts adds the results that its gate chose. The decoder goes
from coarse to fine like a U-Net's; under deep supervision each of its levels has logits of its own.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jax_seg.models import edgenext, experts, trees
from jax_seg.models.layers import pointwise
from jax_seg.ops.conv import conv
from jax_seg.ops.depthwise import summed

NORMS = ("batch", "group", "layer")
LEVELS = 4


class Model(nn.Module):
    """Detector: x [B, H, W, 3] -> (logits, gates).

    Logits are a tuple of float32 [B, H, W, 1], all at the size of the image, finest first: the
    decoder's result and, with `deep_supervision`, those of its levels at strides 4, 8 and 16,
    resized. `gates` is a dict: 'load_balance', 'gate_importance' and 'gate_z', each the mean over
    levels of the loss of that name (`experts.gate_losses`); 'expert_use' [4, experts] and
    'gate_entropy' [4], one row per level, finest first.

    Images of any size: the bottom and right borders are repeated up to a multiple of 32, and the
    logits cropped.

    30,954,585 parameters by default. `apply(variables, x, train=True, mutable=['batch_stats'],
    rngs={'dropout': key})` also returns the new running statistics of batch norm.

    Attributes:
      depths, dims, heads, kernel_sizes, scales, layer_scale: of the encoder, `edgenext.Model`; by
        default EdgeNeXt-base. Each of dims is a multiple of 8.
      experts: kinds of the experts at each level, names in `experts.EXPERTS`.
      active: experts chosen for an image at a level.
      norm: of the decoder. 'batch' keeps running statistics in the collection 'batch_stats';
        'group' (16 groups, or the most that divide the channels) and 'layer' (over the channels of
        a pixel) look at one image alone, so they suit a batch of 2.
      batch_momentum: share of batch norm's running statistics that an update keeps.
      last_features: channels of the decoder's finest level, at stride 2; even.
      deep_supervision: whether the coarser levels have logits.
      foreground_prior: share of foreground that the first logits express, `layers.pointwise`.
      dropout: of the attention expert.
      dtype: compute type, 'float32' or 'bfloat16'; parameters, gates, attention, norms and logits
        are float32.
    """

    depths: tuple[int, ...] = edgenext.PRESETS["base"]["depths"]
    dims: tuple[int, ...] = edgenext.PRESETS["base"]["dims"]
    heads: tuple[int, ...] = edgenext.PRESETS["base"]["heads"]
    kernel_sizes: tuple[int, ...] = edgenext.PRESETS["base"]["kernel_sizes"]
    scales: tuple[int, ...] = edgenext.PRESETS["base"]["scales"]
    layer_scale: float = 1e-6
    experts: tuple[str, ...] = tuple(experts.EXPERTS)
    active: int = 3
    norm: str = "batch"
    batch_momentum: float = 0.9
    last_features: int = 64
    deep_supervision: bool = True
    foreground_prior: float = 0.5
    dropout: float = 0.1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BHWC, train=False):
        """(logits, gates); ValueError for fields or an input that do not fit the network."""
        self._check(x_BHWC.shape)
        _, H, W, _ = x_BHWC.shape
        x_BHWC = pad_to_stride(x_BHWC)
        encoder = edgenext.Model(
            self.depths,
            self.dims,
            self.heads,
            self.kernel_sizes,
            self.scales,
            num_classes=0,
            layer_scale=self.layer_scale,
            dtype=self.dtype,
            name="encoder",
        )
        features, gates = [], []
        for level, y_BHWC in enumerate(encoder(x_BHWC)[1]):
            y_BHWC = SpatialChannelAttention(self.dtype, name=f"attention_{level}")(y_BHWC)
            mixture = experts.Mixture(
                self.experts, self.active, self.dtype, self.dropout, name=f"experts_{level}"
            )
            y_BHWC, gate = mixture(y_BHWC, train)
            features.append(y_BHWC)
            gates.append(gate)

        def head(fan_in, name):
            return pointwise(1, fan_in, name, self.foreground_prior)

        norm = {"norm": self.norm, "momentum": self.batch_momentum, "dtype": self.dtype}
        y_BHWC, coarser = features[-1], []
        for level in reversed(range(LEVELS - 1)):
            decoder = DecoderLevel(self.dims[level], **norm, name=f"up_{level}")
            y_BHWC = decoder((double(y_BHWC), features[level]), train)
            if self.deep_supervision:
                logits = head(self.dims[level], f"head_{level}")(y_BHWC)
                shape = (*x_BHWC.shape[:3], 1)
                coarser.insert(0, jax.image.resize(logits, shape, "bilinear"))
        decoder = DecoderLevel(self.last_features, **norm, name="up_last")
        y_BHWC = double(decoder((double(y_BHWC),), train))
        half = self.last_features // 2
        y_BHWC = ConvNormReLU(half, **norm, name="output_0")(y_BHWC, train)
        logits = (head(half, "output_1")(y_BHWC), *coarser)
        return tuple(level[:, :H, :W] for level in logits), _over_levels(gates)

    def _check(self, shape):
        if self.norm not in NORMS:
            raise ValueError(f"model.norm is {self.norm!r}; choose one of {', '.join(NORMS)}.")
        if not 0 <= self.batch_momentum < 1:
            raise ValueError(f"model.batch_momentum is {self.batch_momentum}; set it in [0, 1).")
        if any(channels % 8 for channels in self.dims):
            raise ValueError(f"model.dims is {self.dims}; make each a multiple of 8.")
        if self.last_features < 2 or self.last_features % 2:
            raise ValueError(
                f"model.last_features is {self.last_features}; give an even number of at least 2."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout is {self.dropout}; set it in [0, 1).")
        if len(shape) != 4:
            raise ValueError(f"The detector's input has shape {shape}; give it [B, H, W, 3].")


def _over_levels(gates):
    stacked = jax.tree.map(lambda *levels: jnp.stack(levels), *gates)
    losses = {name: values.mean() for name, values in stacked.pop("losses").items()}
    return losses | stacked


def with_encoder(params, encoder):
    """The detector's parameters with the encoder's replaced by pretrained ones.

    Args:
      params: of the detector.
      encoder: of an `edgenext.Model`, such as `jax_seg.weights.timm.from_timm` returns; its
        classifier ('head') is dropped.

    Returns:
      A new tree.

    Raises:
      ValueError: the two encoders differ.
    """
    encoder = {name: tree for name, tree in encoder.items() if name != "head"}
    if differing := trees.first_difference(params["encoder"], encoder):
        name, needed, found = differing
        raise ValueError(
            f"The pretrained encoder differs in size from the detector's: {name} has shape {found} "
            f"and should have {needed}; set model.depths, model.dims and model.heads to the "
            "encoder's."
        )
    return {**params, "encoder": encoder}


def pad_to_stride(x_BHWC):
    """Repeat the bottom and right borders until STRIDE divides the height and the width."""
    after = [-length % edgenext.STRIDE for length in x_BHWC.shape[1:3]]
    if not any(after):
        return x_BHWC
    return jnp.pad(x_BHWC, [(0, 0), *((0, number) for number in after), (0, 0)], mode="edge")


def double(x_BHWC):
    """Bilinear resizing to twice the height and width, pixel centres aligned at half pixels.

    Each new pixel is 3/4 of the nearest old one and 1/4 of the next: two shifts per axis.
    """
    for axis in (1, 2):
        length = x_BHWC.shape[axis]
        first, but_last, but_first, last = (
            jax.lax.slice_in_dim(x_BHWC, start, stop, axis=axis)
            for start, stop in ((0, 1), (0, length - 1), (1, length), (length - 1, length))
        )
        before = jnp.concatenate([first, but_last], axis)
        after = jnp.concatenate([but_first, last], axis)
        pair = [0.75 * x_BHWC + 0.25 * other for other in (before, after)]
        shape = list(x_BHWC.shape)
        shape[axis] *= 2
        x_BHWC = jnp.stack(pair, axis + 1).reshape(shape)
    return x_BHWC


class SpatialChannelAttention(nn.Module):
    """Squeeze and excitation over the channels, then a 7×7 gate over the pixels."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        C = x_BHWC.shape[-1]
        excite = experts.SqueezeExcite(C // 8, name="channels")
        x_BHWC *= excite(x_BHWC).astype(self.dtype)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (7, 7, C, 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        gate_BHW1 = jax.nn.sigmoid(summed(x_BHWC, kernel[..., 0].astype(self.dtype)) + bias)
        return x_BHWC * gate_BHW1.astype(self.dtype)


class DecoderLevel(nn.Module):
    """The channels of all inputs together, then two convolutions, each normalised; see `Model`."""

    features: int
    norm: str
    momentum: float
    dtype: str

    @nn.compact
    def __call__(self, inputs, train):
        x_BHWC = jnp.concatenate(inputs, axis=-1)
        for index in range(2):
            layer = ConvNormReLU(
                self.features, self.norm, self.momentum, self.dtype, name=f"conv_{index}"
            )
            x_BHWC = layer(x_BHWC, train)
        return x_BHWC


class ConvNormReLU(nn.Module):
    """3×3 convolution with bias, norm with scale and bias in float32, ReLU; see `Model`."""

    features: int
    norm: str
    momentum: float
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC, train):
        shape = (3, 3, x_BHWC.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x_BHWC = conv(x_BHWC.astype(self.dtype), kernel.astype(self.dtype))
        x_BHWC = self._normalise(x_BHWC + bias.astype(self.dtype), train)
        return jax.nn.relu(x_BHWC).astype(self.dtype)

    def _normalise(self, x_BHWC, train):
        options = {"dtype": jnp.float32, "use_fast_variance": False, "name": "norm"}
        if self.norm == "batch":
            return nn.BatchNorm(not train, momentum=self.momentum, epsilon=1e-5, **options)(x_BHWC)
        if self.norm == "group":
            return nn.GroupNorm(math.gcd(self.features, 16), epsilon=1e-5, **options)(x_BHWC)
        return nn.LayerNorm(epsilon=1e-5, **options)(x_BHWC)
