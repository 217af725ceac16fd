"""The PyTorch peer: the same plain 3-D U-Net, its tensors named as `jax_seg.convert` reads them."""

import torch
import torch.nn.functional as F
from torch import nn


def _double_convolution(channels_in, channels_out):
    layers = []
    for before in (channels_in, channels_out):
        layers += [
            nn.Conv3d(before, channels_out, 3, padding=1),
            nn.InstanceNorm3d(channels_out),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """[B, 1, D, H, W] -> logits [B, 1, D, H, W]."""

    def __init__(self, filters, poolings):
        super().__init__()
        widths = [filters << level for level in range(poolings + 1)]
        self.encoders = nn.ModuleList(
            _double_convolution(before, after)
            for before, after in zip([1, *widths], widths[:-1], strict=False)
        )
        self.bottleneck = _double_convolution(widths[-2], widths[-1])
        self.upconvs = nn.ModuleList(
            nn.ConvTranspose3d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(
            _double_convolution(2 * width, width) for width in reversed(widths[:-1])
        )
        self.output = nn.Conv3d(filters, 1, 1)

    def forward(self, x):
        skips = []
        for encoder in self.encoders:
            skips.append(encoder(x))
            x = F.max_pool3d(skips[-1], 2)
        x = self.bottleneck(x)
        for up, decoder, skip in zip(self.upconvs, self.decoders, reversed(skips), strict=True):
            x = decoder(torch.cat([up(x), skip], 1))
        return self.output(x)
