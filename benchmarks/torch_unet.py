"""The PyTorch peer: the same plain 3-D U-Net, its tensors named as `jax_seg.convert` reads them."""

import torch
import torch.nn.functional as F
from torch import nn


def _double_convolution(channels_in, channels_out, planar):
    size, padding = ((1, 3, 3), (0, 1, 1)) if planar else (3, 1)
    layers = []
    for before in (channels_in, channels_out):
        layers += [
            nn.Conv3d(before, channels_out, size, padding=padding),
            nn.InstanceNorm3d(channels_out),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """[B, 1, D, H, W] -> logits [B, 1, D, H, W].

    The finest `planar_levels` levels do not change depth, as those of `jax_seg.models.unet`.
    """

    def __init__(self, filters, poolings, planar_levels=0):
        super().__init__()
        widths = [filters << level for level in range(poolings + 1)]
        planar = [level < planar_levels for level in range(poolings + 1)]
        finer = list(zip(widths[:-1], planar[:-1], strict=True))
        self.strides = [(1, 2, 2) if flat else (2, 2, 2) for _, flat in finer]
        self.encoders = nn.ModuleList(
            _double_convolution(before, width, flat)
            for before, (width, flat) in zip([1, *widths[:-2]], finer, strict=True)
        )
        self.bottleneck = _double_convolution(widths[-2], widths[-1], planar[-1])
        self.upconvs = nn.ModuleList(
            nn.ConvTranspose3d(2 * width, width, stride, stride=stride)
            for (width, _), stride in zip(finer[::-1], self.strides[::-1], strict=True)
        )
        self.decoders = nn.ModuleList(
            _double_convolution(2 * width, width, flat) for width, flat in finer[::-1]
        )
        self.output = nn.Conv3d(filters, 1, 1)

    def forward(self, x):
        skips = []
        for encoder, stride in zip(self.encoders, self.strides, strict=True):
            skips.append(encoder(x))
            x = F.max_pool3d(skips[-1], stride)
        x = self.bottleneck(x)
        for up, decoder, skip in zip(self.upconvs, self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat([up(x), skip], 1))
        return self.output(x)
