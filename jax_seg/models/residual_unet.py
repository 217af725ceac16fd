"""U-Net with a residual encoder, as nnU-Net plans it (Isensee et al. 2024, "nnU-Net revisited").

A stem convolution, then per level 1, 3, 4, 6, 6, … residual blocks, the first of which strides. The
decoder is the plain U-Net's with one convolution per level.
"""

from flax import linen as nn

from jax_seg.models import levels
from jax_seg.models.layers import ConvInstanceNorm, ResidualBlock
from jax_seg.models.unet import decode, encode

BLOCKS = (1, 3, 4, 6)  # of the finest levels; every level below has as many as the last of these


class ResidualLevel(nn.Module):
    """Residual blocks at one resolution, the first of them with the stride; see `ResidualBlock`."""

    features: int
    dtype: str
    kernel: tuple
    blocks: int
    stride: tuple
    slope: float
    affine: bool

    @nn.compact
    def __call__(self, x_BDHWC):
        for index in range(self.blocks):
            block = ResidualBlock(
                self.features,
                self.dtype,
                self.kernel,
                () if index else self.stride,
                self.slope,
                self.affine,
                name=f"block_{index}",
            )
            x_BDHWC = block(x_BDHWC)
        return x_BDHWC


class Model(nn.Module):
    """Residual-encoder U-Net: x [B, D, H, W, in_channels] -> float32 logits [B, D, H, W, out].

    102,348,193 parameters with nnU-Net's six levels in three dimensions, `features`
    (32, 64, 128, 256, 320, 320).

    Attributes: of `unet.Model`, but `convolutions` counts residual blocks, () for 1, 3, 4, 6, 6, …,
      and () for `decoder_convolutions` is 1.
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
    downsample: str = "stride"
    affine: bool = True
    slope: float = 0.01
    dtype: str = "float32"
    deep_supervision: int = 0
    foreground_prior: float = 0.5
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x_BDHWC, train=False):
        """Logits of a batch; errors and `train` as of `unet.Model`."""
        plan = self._levels()
        levels.check_input(self, x_BDHWC.shape, self.smallest_input())
        Level = nn.remat(ResidualLevel) if self.rematerialise else ResidualLevel
        stem = ConvInstanceNorm(
            plan[0].features,
            self.dtype,
            plan[0].kernel,
            slope=self.slope,
            affine=self.affine,
            name="stem",
        )
        x_BDHWC = stem(x_BDHWC)
        return decode(self, encode(self, Level, x_BDHWC, plan), plan)

    def smallest_input(self):
        """The spatial sizes, in voxels, whose multiples the network takes."""
        return levels.smallest_input(self._levels())

    def _levels(self):
        return levels.of_model(
            self,
            convolutions=lambda number: BLOCKS[min(number, len(BLOCKS) - 1)],
            decoder_convolutions=1,
        )
