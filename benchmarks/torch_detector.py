"""The PyTorch peer: the same detector of camouflaged objects, layer for layer.

Features are [B, H, W, C], which PyTorch's convolutions see as their fast 'channels last' memory
without a copy. Layers have the names of ours in timm's spelling, so that `load` finds them.
"""

import itertools
import math
import re

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jax_seg.weights.timm import timm_name


class Convolution(nn.Conv2d):
    """A convolution whose channels come last."""

    def forward(self, x):
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


def _patches(channels_in, channels_out, size):
    return Convolution(channels_in, channels_out, size, stride=size)


def _depthwise(channels, size):
    return Convolution(channels, channels, size, padding=size // 2, groups=channels)


def _layer_norm(channels):
    return nn.LayerNorm(channels, eps=1e-6)


class Mlp(nn.Module):
    """1×1 to four times the channels, GELU, 1×1 back."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class ConvolutionBlock(nn.Module):
    """EdgeNeXt's block of a depthwise convolution and a multilayer perceptron."""

    def __init__(self, channels, size, layer_scale):
        super().__init__()
        self.conv_dw = _depthwise(channels, size)
        self.norm = _layer_norm(channels)
        self.mlp = Mlp(channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x):
        return x + self.gamma * self.mlp(self.norm(self.conv_dw(x)))


class SplitTransposeBlock(nn.Module):
    """EdgeNeXt's block of a cascade over groups of channels and attention across channels."""

    def __init__(self, channels, heads, scales, layer_scale, position):
        super().__init__()
        self.width = math.ceil(channels / scales)
        before_last = (channels - 1) // self.width
        self.convs = nn.ModuleList(_depthwise(self.width, 3) for _ in range(before_last))
        self.pos_embd = position
        self.norm_xca, self.norm = _layer_norm(channels), _layer_norm(channels)
        self.xca = ChannelAttention(channels, heads)
        self.mlp = Mlp(channels)
        self.gamma_xca = nn.Parameter(torch.full((channels,), layer_scale))
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x):
        *groups, last = x.split(self.width, -1)
        outputs = []
        for group, convolve in zip(groups, self.convs, strict=True):
            outputs.append(convolve(group + outputs[-1] if outputs else group))
        y = torch.cat([*outputs, last], -1)
        if self.pos_embd is not None:
            y = y + self.pos_embd()
        y = y + self.gamma_xca * self.xca(self.norm_xca(y))
        return x + self.gamma * self.mlp(self.norm(y))


class ChannelAttention(nn.Module):
    """Attention whose map is channels × channels, of queries and keys of unit length."""

    def __init__(self, channels, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x):
        parts = self.qkv(x).flatten(1, 2).unflatten(-1, (3, len(self.temperature), -1))
        q, k, v = parts.permute(2, 0, 3, 4, 1)  # each [B, heads, channels, pixels]
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
        return self.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(x.shape))


class PositionEncoding(nn.Module):
    """Sines and cosines of both coordinates, computed once for images of one size, then 1×1."""

    def __init__(self, channels, side, hidden=32):
        super().__init__()
        self.token_projection = nn.Linear(2 * hidden, channels)
        position = torch.arange(1, side + 1).double() * 2 * math.pi / (side + 1e-6)
        periods = 10000 ** (torch.arange(0, hidden, 2) / hidden).double()
        angles = position[:, None] / periods
        along = torch.stack([angles.sin(), angles.cos()], -1).flatten(1).float()
        y, x = along[:, None].expand(-1, side, -1), along.expand(side, -1, -1)
        self.register_buffer("encoding", torch.cat([y, x], -1), persistent=False)

    def forward(self):
        return self.token_projection(self.encoding)


class Encoder(nn.Module):
    """EdgeNeXt: [B, H, W, 3] -> the features of its four stages."""

    def __init__(self, model, side):
        super().__init__()
        self.stem = nn.Sequential(_patches(3, model.dims[0], 4), _layer_norm(model.dims[0]))
        self.stages = nn.ModuleList()
        for number, channels in enumerate(model.dims):
            blocks = [
                ConvolutionBlock(channels, model.kernel_sizes[number], model.layer_scale)
                for _ in range(model.depths[number])
            ]
            stage = nn.Module()
            stage.downsample = nn.Sequential()
            if number:
                before = model.dims[number - 1]
                stage.downsample.extend([_layer_norm(before), _patches(before, channels, 2)])
                position = PositionEncoding(channels, side // 8) if number == 1 else None
                blocks[-1] = SplitTransposeBlock(
                    channels,
                    model.heads[number],
                    model.scales[number],
                    model.layer_scale,
                    position,
                )
            stage.blocks = nn.Sequential(*blocks)
            self.stages.append(stage)

    def forward(self, x):
        features, x = [], self.stem(x)
        for stage in self.stages:
            x = stage.blocks(stage.downsample(x))
            features.append(x)
        return features


class SqueezeExcite(nn.Module):
    """A factor in (0, 1) per channel from the image's mean features."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        return self.excite(F.relu(self.squeeze(x.mean((1, 2), keepdim=True)))).sigmoid()


class SpatialChannelAttention(Convolution):
    """Squeeze and excitation over the channels, then a 7×7 gate over the pixels."""

    def __init__(self, channels):
        super().__init__(channels, 1, 7, padding=3)
        self.channels = SqueezeExcite(channels, channels // 8)

    def forward(self, x):
        x = x * self.channels(x)
        return x * super().forward(x).sigmoid()


class Branches(nn.Module):
    """Branches of a quarter of the channels each, mixed by a 1×1 convolution: most experts."""

    def __init__(self, channels, names="0123"):
        super().__init__()
        quarter = channels // 4
        self.reduce = nn.ModuleDict({name: nn.Linear(channels, quarter) for name in names})
        self.norm = nn.ModuleDict({name: _layer_norm(quarter) for name in names})
        self.fuse, self.norm_fuse = nn.Linear(4 * quarter, channels), _layer_norm(channels)

    def branch(self, name, x):
        return F.gelu(self.norm[name](self.reduce[name](x)))

    def mixed(self, branches):
        return F.gelu(self.norm_fuse(self.fuse(torch.cat(branches, -1))))

    def of_inputs(self, *inputs):
        return self.mixed([self.branch(str(n), x) for n, x in enumerate(inputs)])


class Texture(Branches):
    """3×3 convolutions of dilation 1 to 4."""

    def __init__(self, channels):
        super().__init__(channels)
        quarter = channels // 4
        self.conv = nn.ModuleList(
            Convolution(quarter, quarter, 3, padding=n, dilation=n) for n in (1, 2, 3, 4)
        )

    def branch(self, name, x):
        return F.gelu(self.norm[name](self.conv[int(name)](self.reduce[name](x))))

    def forward(self, x):
        return self.of_inputs(x, x, x, x)


class Attention(nn.Module):
    """Linear attention with its normaliser."""

    def __init__(self, channels, dropout, heads=8):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj, self.dropout = nn.Linear(channels, channels), nn.Dropout(dropout)

    def forward(self, x):
        parts = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each [B, heads, pixels, channels]
        q, k = F.elu(q) + 1, F.elu(k) + 1
        values = k.mT @ (v / v.shape[2])
        total = q @ k.mean(2)[..., None]
        attended = (q @ values / (total + 1e-6)).transpose(1, 2)
        return self.dropout(self.proj(attended.reshape(x.shape)))


class Hybrid(nn.Module):
    """A depthwise convolution, each channel then scaled by squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.conv_dw, self.norm = _depthwise(channels, 5), _layer_norm(channels)
        self.expand, self.project = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.excite = SqueezeExcite(channels, channels // 4)

    def forward(self, x):
        y = F.gelu(self.expand(self.norm(self.conv_dw(x))))
        return self.project(y * self.excite(y))


class Frequency(Branches):
    """Bands of spatial frequency: smooth, the band between two means, fine, and the whole."""

    def forward(self, x):
        mean3, mean5 = (
            F.avg_pool2d(x.movedim(-1, 1), n, 1, n // 2, count_include_pad=False).movedim(1, -1)
            for n in (3, 5)
        )
        return self.of_inputs(mean3, mean3 - mean5, x - mean3, x)


class Edge(Branches):
    """Sobel magnitude, |Laplacian|, their norm, and the features themselves."""

    def __init__(self, channels):
        super().__init__(channels)
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
        kernels = torch.stack([sobel, sobel.T, laplacian]).repeat_interleave(channels, 0)
        self.register_buffer("kernels", kernels[:, None], persistent=False)

    def forward(self, x):
        # Slices rather than F.pad, which does not keep the channels last on every device.
        padded = torch.cat([x[:, :1], x, x[:, -1:]], 1)
        padded = torch.cat([padded[:, :, :1], padded, padded[:, :, -1:]], 2).movedim(-1, 1)
        across, down, laplacian = (
            F.conv2d(padded, kernel, groups=len(kernel)).movedim(1, -1)
            for kernel in self.kernels.chunk(3)
        )
        sobel = (across.square() + down.square() + 1e-6).sqrt()
        both = (sobel.square() + laplacian.square()).sqrt()
        return self.of_inputs(sobel, laplacian.abs(), both, x)


class Context(Branches):
    """Means over 8², 4², 2² parts of the image and over the whole."""

    def __init__(self, channels):
        super().__init__(channels, "8421")

    def forward(self, x):
        branches = []
        for parts in self.reduce:
            pooled = F.adaptive_avg_pool2d(x.movedim(-1, 1), int(parts)).movedim(1, -1)
            branches.append(_resize(self.branch(parts, pooled), x.shape[1:3]))
        return self.mixed(branches)


class Contrast(nn.Module):
    """A depthwise convolution and two 1×1 convolutions, each normalised."""

    def __init__(self, channels):
        super().__init__()
        self.conv_dw = _depthwise(channels, 3)
        self.norm = nn.ModuleList(_layer_norm(channels) for _ in range(3))
        self.pointwise = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))

    def forward(self, x):
        y = self.pointwise[0](F.gelu(self.norm[0](self.conv_dw(x))))
        return F.gelu(self.norm[2](self.pointwise[1](self.norm[1](y))))


EXPERTS = {
    "texture": Texture,
    "attention": Attention,
    "hybrid": Hybrid,
    "frequency": Frequency,
    "edge": Edge,
    "context": Context,
    "contrast": Contrast,
}


class Mixture(nn.Module):
    """x and the weighted results of the experts that the gate chose; all are computed, as ours."""

    def __init__(self, channels, model):
        super().__init__()
        self.active = model.active
        self.gate = nn.Linear(channels, len(model.experts))
        self.kinds = nn.ModuleList(
            EXPERTS[kind](channels, *[model.dropout] * (kind == "attention"))
            for kind in model.experts
        )

    def forward(self, x):
        gate = self.gate(x.mean((1, 2)))
        largest, places = gate.topk(self.active)
        chosen = largest.softmax(-1)
        weights = chosen.new_zeros(gate.shape).scatter(1, places, chosen)
        y = x
        for weight, expert in zip(weights.T, self.kinds, strict=True):
            y = y + weight[:, None, None, None] * expert(x)
        return y


class ConvNormReLU(nn.Conv2d):
    """3×3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in, channels_out, momentum):
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out, momentum=momentum)

    def forward(self, x):
        return F.relu(self.norm(super().forward(x.movedim(-1, 1))), inplace=True).movedim(1, -1)


class DecoderLevel(nn.Module):
    """The channels of all inputs together, then two convolutions, each normalised."""

    def __init__(self, channels_in, channels_out, momentum):
        super().__init__()
        self.conv = nn.Sequential(
            ConvNormReLU(channels_in, channels_out, momentum),
            ConvNormReLU(channels_out, channels_out, momentum),
        )

    def forward(self, *inputs):
        return self.conv(torch.cat(inputs, -1))


class Detector(nn.Module):
    """[B, side, side, 3] -> logits [B, side, side, 1] of four levels, finest first.

    Args:
      model: our network, with batch norm and deep supervision; its fields are read.
      side: of the images in pixels, a multiple of 32.
    """

    def __init__(self, model, side):
        super().__init__()
        dims, last, momentum = model.dims, model.last_features, 1 - model.batch_momentum
        self.encoder = Encoder(model, side)
        self.attention = nn.ModuleList(SpatialChannelAttention(channels) for channels in dims)
        self.experts = nn.ModuleList(Mixture(channels, model) for channels in dims)
        self.up = nn.ModuleList(
            DecoderLevel(coarse + fine, fine, momentum) for fine, coarse in itertools.pairwise(dims)
        )
        self.head = nn.ModuleList(nn.Linear(channels, 1) for channels in dims[:-1])
        self.up_last = DecoderLevel(dims[0], last, momentum)
        self.output = nn.Sequential(
            ConvNormReLU(last, last // 2, momentum), nn.Linear(last // 2, 1)
        )

    def forward(self, x):
        *features, y = (
            mix(attend(feature))
            for feature, attend, mix in zip(
                self.encoder(x), self.attention, self.experts, strict=True
            )
        )
        coarser = []
        for up, head, skip in list(zip(self.up, self.head, features, strict=True))[::-1]:
            y = up(_double(y), skip)
            coarser.insert(0, _resize(head(y), x.shape[1:3]))
        y = self.up_last(_double(y))
        return [self.output(_double(y)), *coarser]


def _resize(x, size):
    x = F.interpolate(x.movedim(-1, 1), tuple(size), mode="bilinear", align_corners=False)
    return x.movedim(1, -1)


def _double(x):
    return _resize(x, (2 * x.shape[1], 2 * x.shape[2]))


def load(peer, variables):
    """Give a `Detector` our weights and running statistics.

    Args:
      peer: the `Detector`.
      variables: 'params' and 'batch_stats' of the network from whose fields it was made.

    Raises:
      RuntimeError: a name or a shape differs.
    """
    tensors = {}
    for tree in (variables["params"], variables["batch_stats"]):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            # An expert of ours is named by its kind too.
            name = re.sub(r"^(experts\.\d+)\.[a-z]+\.(\d+)", r"\1.kinds.\2", timm_name(path))
            name = re.sub(r"\.(mean|var)$", r".running_\1", name)
            array = np.array(leaf)
            if path[-1].key == "kernel":
                array = _channels_first(array)
            tensors[name] = torch.from_numpy(array)
    peer.load_state_dict(peer.state_dict() | tensors)


def _channels_first(kernel):
    if kernel.ndim == 3:  # a depthwise convolution
        kernel = kernel[:, :, None]
    return kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
