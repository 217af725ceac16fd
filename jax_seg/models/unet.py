"""Plain U-Net in two or three dimensions (Ronneberger et al. 2015; Çiçek et al. 2016).

Down: two normalised convolutions per level, then 2×2(×2) max pooling; channels double. Up: a
transposed convolution halves the channels, the skip is appended, two normalised convolutions.
"""

from flax import linen as nn

from jax_seg.models.layers import UNetLevel, Upsample, max_pool, pointwise

MOST_POOLINGS = 12  # 4096 voxels along an axis become one


class Model(nn.Module):
    """U-Net: x [B, D, H, W, in_channels] -> float32 logits [B, D, H, W, out_channels].

    22,575,329 parameters in three dimensions with 32 filters and 4 poolings.

    Attributes:
      filters: channels of the finest level.
      poolings: number of times the resolution halves.
      in_channels: channels of the input.
      out_channels: channels of the logits.
      dimensions: 3 for [B, D, H, W, C], 2 for [B, H, W, C].
      planar_levels: number of finest levels that do not change depth: kernels 1×3×3, pooling and
        upsampling 1×2×2, as nnU-Net plans for voxels that are deeper than wide (Isensee et al.
        2021). One such level for each factor of 2 between the spacings, at most `poolings`.
      dtype: compute type, 'float32' or 'bfloat16'; parameters, norms and logits are float32.
      deep_supervision: number of extra heads, on the decoder levels 1/2, 1/4, … of the input's
        size; when positive the result is a tuple of logits, finest first.
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
    dtype: str = "float32"
    deep_supervision: int = 0
    foreground_prior: float = 0.5
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x_BDHWC, train=False):
        """Logits of a batch; ValueError for fields or an input that do not fit the network.

        `train` makes no difference: nothing here is random or keeps statistics.
        """
        self._check(x_BDHWC.shape)
        Level = nn.remat(UNetLevel) if self.rematerialise else UNetLevel

        skips = []
        for level in range(self.poolings):
            planar = level < self.planar_levels
            encoder = Level(self.filters << level, self.dtype, planar, name=f"encoder_{level}")
            x_BDHWC = encoder(x_BDHWC)
            skips.append(x_BDHWC)
            x_BDHWC = max_pool(x_BDHWC, planar)
        x_BDHWC = Level(self.filters << self.poolings, self.dtype, name="bottleneck")(x_BDHWC)

        def head(fan_in, name):
            return pointwise(self.out_channels, fan_in, name, self.foreground_prior)

        coarser = []
        for index, skip_BDHWC in enumerate(reversed(skips)):
            level = self.poolings - 1 - index
            features, planar = self.filters << level, level < self.planar_levels
            x_BDHWC = Upsample(features, self.dtype, planar, name=f"up_{index}")(x_BDHWC)
            decoder = Level(features, self.dtype, planar, name=f"decoder_{index}")
            x_BDHWC = decoder(x_BDHWC, skip_BDHWC)
            if 1 <= level <= self.deep_supervision:
                coarser.insert(0, head(features, f"head_{level}")(x_BDHWC))
        logits_BDHW1 = head(self.filters, "output")(x_BDHWC)
        return (logits_BDHW1, *coarser) if self.deep_supervision else logits_BDHW1

    def _check(self, shape):
        self._check_fields()
        expected = ", ".join("BDHW" if self.dimensions == 3 else "BHW")
        if len(shape) != self.dimensions + 2:
            raise ValueError(
                f"model.dimensions is {self.dimensions}, but the U-Net's input has shape {shape}; "
                f"give it [{expected}, {self.in_channels}], or change the field."
            )
        if shape[-1] != self.in_channels:
            raise ValueError(
                f"model.in_channels is {self.in_channels}, but the U-Net's input has shape "
                f"{shape}; give it [{expected}, {self.in_channels}], or change the field."
            )
        divisors = self.smallest_input()
        if any(not size or size % d for size, d in zip(shape[1:-1], divisors, strict=True)):
            raise ValueError(
                f"The U-Net's input has spatial sizes {shape[1:-1]}, but {self.poolings} poolings "
                f"need multiples of {divisors}; change data.patch (of images data.side), or lower "
                "model.poolings."
            )

    def _check_fields(self):
        if self.dimensions not in (2, 3):
            raise ValueError(f"model.dimensions is {self.dimensions}; set it to 2 or 3.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is '{self.dtype}'; set it to 'float32' or 'bfloat16'.")
        for name in ("filters", "in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; set it to 1 or more.")
        if not 0 <= self.poolings <= MOST_POOLINGS:
            raise ValueError(
                f"model.poolings is {self.poolings}; set it from 0 to {MOST_POOLINGS}."
            )
        if not 0 <= self.planar_levels <= (self.poolings if self.dimensions == 3 else 0):
            raise ValueError(
                f"model.planar_levels is {self.planar_levels}; set it from 0 to model.poolings in "
                "three dimensions, and to 0 in two."
            )
        if not 0 <= self.deep_supervision < max(self.poolings, 1):
            raise ValueError(
                f"model.deep_supervision is {self.deep_supervision}, but {self.poolings} poolings "
                f"leave {max(self.poolings - 1, 0)} coarser decoder levels; lower it."
            )

    def smallest_input(self):
        """The spatial sizes, in voxels, whose multiples the network takes."""
        size = 2**self.poolings
        return (size // 2**self.planar_levels, size, size)[-self.dimensions :]
