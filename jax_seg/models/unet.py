"""Plain U-Net in two or three dimensions (Ronneberger et al. 2015; Çiçek et al. 2016).

Down: two normalised convolutions per level, then 2×2(×2) max pooling; channels double. Up: a
transposed convolution halves the channels, the skip is appended, two normalised convolutions.
"""

from flax import linen as nn

from jax_seg.models import levels
from jax_seg.models.layers import UNetLevel, Upsample, max_pool, pointwise


class Model(nn.Module):
    """U-Net: x [B, D, H, W, in_channels] -> float32 logits [B, D, H, W, out_channels].

    22,575,329 parameters in three dimensions with 32 filters and 4 poolings. With
    downsample='stride' and affine=True it is nnU-Net's plain network (Isensee et al. 2021).

    Attributes:
      filters: channels of the finest level; each other level has twice those of the one above.
      poolings: number of levels below the finest.
      in_channels: channels of the input.
      out_channels: channels of the logits.
      dimensions: 3 for [B, D, H, W, C], 2 for [B, H, W, C].
      planar_levels: number of finest levels that do not change depth: kernels 1×3×3, pooling and
        upsampling 1×2×2, as nnU-Net plans for voxels that are deeper than wide (Isensee et al.
        2021). One such level for each factor of 2 between the spacings, at most `poolings`.
      features: channels of each level, finest first, beginning with `filters`; () doubles them.
      kernels: size of each level's kernels, as ((1, 3, 3), (3, 3, 3), …); () for 3 voxels, or as
        `planar_levels` says.
      strides: of each level from the one above, beginning with (1, 1, 1); () for 2.
      convolutions: of each level of the encoder; () for 2.
      decoder_convolutions: of each level of the decoder, finest first, one fewer; () for 2.
      downsample: 'max' pools, 'stride' strides the first convolution of a level.
      affine: whether the norms have a gain and an offset per channel.
      slope: of the leaky ReLUs for negative values.
      dtype: compute type, 'float32' or 'bfloat16'; parameters, norms and logits are float32.
      deep_supervision: number of extra heads, on the decoder levels below the finest; when positive
        the result is a tuple of logits, finest first.
      foreground_prior: share of foreground that the first logits express, `layers.pointwise`.
      rematerialise: keep only the input of each level for the backward pass and recompute the
        level: less memory for about a third more computation (Chen et al. 2016).
    """

    filters: int = 32
    poolings: int = 4
    in_channels: int = 1
    out_channels: int = 1
    dimensions: int = 3
    planar_levels: int = 0
    features: tuple = ()
    kernels: tuple = ()
    strides: tuple = ()
    convolutions: tuple = ()
    decoder_convolutions: tuple = ()
    downsample: str = "max"
    affine: bool = False
    slope: float = 0.01
    dtype: str = "float32"
    deep_supervision: int = 0
    foreground_prior: float = 0.5
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x_BDHWC, train=False):
        """Logits of a batch; ValueError for fields or an input that do not fit the network.

        `train` makes no difference: nothing here is random or keeps statistics.
        """
        plan = self._levels()
        levels.check_input(self, x_BDHWC.shape, self.smallest_input())
        Level = nn.remat(UNetLevel) if self.rematerialise else UNetLevel
        return decode(self, encode(self, Level, x_BDHWC, plan), plan)

    def smallest_input(self):
        """The spatial sizes, in voxels, whose multiples the network takes."""
        return levels.smallest_input(self._levels())

    def _levels(self):
        return levels.of_model(self, convolutions=lambda _: 2, decoder_convolutions=2)


def encoder_name(number, poolings):
    """The name of an encoder level's parameters."""
    return "bottleneck" if number == poolings else f"encoder_{number}"


def encode(model, Level, x_BDHWC, plan):
    """The encoder of a U-Net, called within its `__call__`.

    Args:
      model: with the fields of `Model`.
      Level: module of one level, with the fields of `UNetLevel`.
      x_BDHWC: [B, *spatial, C].
      plan: list of `levels.Level`.

    Returns:
      [B, *spatial, features] of each level, finest first.
    """
    skips = []
    for number, level in enumerate(plan):
        stride = level.stride if number else ()
        if number and model.downsample == "max":
            x_BDHWC, stride = max_pool(x_BDHWC, stride), ()
        encoder = Level(
            level.features,
            model.dtype,
            level.kernel,
            level.convolutions,
            stride,
            model.slope,
            model.affine,
            name=encoder_name(number, model.poolings),
        )
        x_BDHWC = encoder(x_BDHWC)
        skips.append(x_BDHWC)
    return skips


def decode(model, skips, plan):
    """The decoder of a U-Net, called within its `__call__`.

    Args:
      model: with the fields of `Model`.
      skips: [B, *spatial, features] of each level, finest first.
      plan: list of `levels.Level`.

    Returns:
      The logits, see `Model`.
    """
    Level = nn.remat(UNetLevel) if model.rematerialise else UNetLevel

    def head(fan_in, name):
        return pointwise(model.out_channels, fan_in, name, model.foreground_prior)

    x_BDHWC, coarser = skips[-1], []
    for index in range(model.poolings):
        number = model.poolings - 1 - index
        level = plan[number]
        up = Upsample(level.features, model.dtype, plan[number + 1].stride, name=f"up_{index}")
        decoder = Level(
            level.features,
            model.dtype,
            level.kernel,
            level.decoder_convolutions,
            slope=model.slope,
            affine=model.affine,
            stored=number > 0,
            name=f"decoder_{index}",
        )
        x_BDHWC = decoder(up(x_BDHWC), skips[number])
        if 1 <= number <= model.deep_supervision:
            coarser.insert(0, head(level.features, f"head_{number}")(x_BDHWC))
    logits_BDHW1 = head(plan[0].features, "output")(x_BDHWC)
    return (logits_BDHW1, *coarser) if model.deep_supervision else logits_BDHW1
