"""The levels of a U-Net: channels, kernels, strides and depth of each, checked together.

A network's fields give a value per level, finest first, or leave it to the defaults: channels that
double, kernels of 3 voxels, strides of 2. `planar_levels` is the short form for what nnU-Net plans
for voxels that are deeper than wide (Isensee et al. 2021): 1×3×3 and 1×2×2 at the finest levels.
"""

from math import prod
from typing import NamedTuple

MOST_POOLINGS = 12  # 4096 voxels along an axis become one


class Level(NamedTuple):
    """One resolution of a U-Net.

    Attributes:
      features: channels.
      kernel: size of the convolutions' kernels.
      stride: from the level above; 1 along each axis for the finest.
      convolutions: of the encoder; residual blocks of a residual encoder.
      decoder_convolutions: of the decoder; 0 for the coarsest level, which has none.
    """

    features: int
    kernel: tuple
    stride: tuple
    convolutions: int
    decoder_convolutions: int


def of_model(model, *, convolutions, decoder_convolutions):
    """The levels of a network, finest first.

    Args:
      model: with the fields of `unet.Model`.
      convolutions, decoder_convolutions: the default of a level, a function of its number.

    Raises:
      ValueError: naming the field.
    """
    _check(model)
    count, rank = model.poolings + 1, model.dimensions
    numbers = range(count)

    def sizes(length, planar):
        return ((1,) * planar + (length,) * (rank - planar)) if planar else (length,) * rank

    kernels = model.kernels or [sizes(3, n < model.planar_levels) for n in numbers]
    strides = model.strides or [(1,) * rank] + [
        sizes(2, n < model.planar_levels) for n in range(model.poolings)
    ]
    rows = zip(
        model.features or [model.filters << n for n in numbers],
        kernels,
        strides,
        model.convolutions or [convolutions(n) for n in numbers],
        (*(model.decoder_convolutions or [decoder_convolutions] * model.poolings), 0),
        strict=True,
    )
    return [
        Level(features, tuple(kernel), tuple(stride), *depths)
        for features, kernel, stride, *depths in rows
    ]


def smallest_input(levels):
    """The spatial sizes, in voxels, whose multiples a network of these levels takes."""
    return tuple(prod(sizes) for sizes in zip(*(level.stride for level in levels), strict=True))


def check_input(model, shape, divisors):
    """ValueError unless a network takes an input of this shape; `divisors` of `smallest_input`."""
    expected = ", ".join("BDHW" if model.dimensions == 3 else "BHW")
    if len(shape) != model.dimensions + 2:
        raise ValueError(
            f"model.dimensions is {model.dimensions}, but the U-Net's input has shape {shape}; "
            f"give it [{expected}, {model.in_channels}], or change the field."
        )
    if shape[-1] != model.in_channels:
        raise ValueError(
            f"model.in_channels is {model.in_channels}, but the U-Net's input has shape "
            f"{shape}; give it [{expected}, {model.in_channels}], or change the field."
        )
    if any(not size or size % d for size, d in zip(shape[1:-1], divisors, strict=True)):
        raise ValueError(
            f"The U-Net's input has spatial sizes {shape[1:-1]}, but {model.poolings} poolings "
            f"need multiples of {divisors}; change data.patch (of images data.side), or lower "
            "model.poolings."
        )


def _check(model):
    if model.dimensions not in (2, 3):
        raise ValueError(f"model.dimensions is {model.dimensions}; set it to 2 or 3.")
    if model.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype is '{model.dtype}'; set it to 'float32' or 'bfloat16'.")
    for name in ("filters", "in_channels", "out_channels"):
        if getattr(model, name) < 1:
            raise ValueError(f"model.{name} is {getattr(model, name)}; set it to 1 or more.")
    if not 0 <= model.poolings <= MOST_POOLINGS:
        raise ValueError(f"model.poolings is {model.poolings}; set it from 0 to {MOST_POOLINGS}.")
    if not 0 <= model.planar_levels <= (model.poolings if model.dimensions == 3 else 0):
        raise ValueError(
            f"model.planar_levels is {model.planar_levels}; set it from 0 to model.poolings in "
            "three dimensions, and to 0 in two."
        )
    if model.downsample not in ("max", "stride"):
        raise ValueError(f"model.downsample is '{model.downsample}'; set it to 'max' or 'stride'.")
    if not 0 < model.slope <= 1:
        raise ValueError(f"model.slope is {model.slope}; set it above 0 and at most 1.")
    if not 0 <= model.deep_supervision < max(model.poolings, 1):
        raise ValueError(
            f"model.deep_supervision is {model.deep_supervision}, but {model.poolings} poolings "
            f"leave {max(model.poolings - 1, 0)} coarser decoder levels; lower it."
        )
    _check_per_level(model)


def _check_per_level(model):
    """ValueError for fields with a value per level that do not fit the levels or each other."""
    levels = model.poolings + 1
    for name in ("features", "kernels", "strides", "convolutions", "decoder_convolutions"):
        given = getattr(model, name)
        wanted = model.poolings if name == "decoder_convolutions" else levels
        if given and len(given) != wanted:
            raise ValueError(
                f"model.{name} has {len(given)} entries, but model.poolings is {model.poolings}; "
                f"give {wanted}, finest level first, or () for the default."
            )
        if any(isinstance(v, tuple | list) != (name in ("kernels", "strides")) for v in given):
            shape = f"{model.dimensions} numbers" if name in ("kernels", "strides") else "one"
            raise ValueError(f"model.{name} is {given}; give {shape} per level.")
        if (
            name in ("features", "convolutions", "decoder_convolutions")
            and min(given, default=1) < 1
        ):
            raise ValueError(f"model.{name} is {given}; give numbers of 1 or more.")
    if model.features and model.features[0] != model.filters:
        raise ValueError(
            f"model.features begins with {model.features[0]}, but model.filters is "
            f"{model.filters}; give the finest level's channels in both."
        )
    for name in ("kernels", "strides"):
        given = getattr(model, name)
        if given and model.planar_levels:
            raise ValueError(
                f"model.{name} and model.planar_levels are both set; set model.planar_levels to 0."
            )
        if any(len(sizes) != model.dimensions or min(sizes) < 1 for sizes in given):
            raise ValueError(
                f"model.{name} is {given}; give {model.dimensions} numbers of 1 or more per level."
            )
    if any(size % 2 == 0 for kernel in model.kernels for size in kernel):
        raise ValueError(f"model.kernels is {model.kernels}; give odd sizes.")
    if model.strides and set(model.strides[0]) != {1}:
        raise ValueError(
            f"model.strides begins with {model.strides[0]}; the finest level has the input's size, "
            "so begin with 1 along each axis."
        )
