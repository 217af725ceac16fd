"""Preprocessing as four numbers, of a whole run or of each volume, and stored with the model.

Scanners differ by factors: of volumes that one range does not suit, each is normalised by its own
intensities. The checkpoint then stores the rule (`PerVolume`), and the numbers of a volume are
measured on all of it (`measure`), whether its patches, blocks or windows are normalised.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_seg.data import intensities


class Preprocessing(NamedTuple):
    """`(clip(x, low, high) - shift) * scale`, in the units of the stored image.

    Each is a number, or a tuple of one number per channel.
    """

    low: float | tuple
    high: float | tuple
    shift: float | tuple
    scale: float | tuple


class PerVolume(NamedTuple):
    """The rule by which each volume is normalised by its own intensities.

    Attributes:
      name, low_percentile, high_percentile: of `fit_preprocessing`.
      region: voxels whose intensities count, of REGIONS: 'all'; 'box', those in the smallest box
        that holds every voxel that is not zero; or 'nonzero', those that are not zero, and zeros
        stay 0. Prediction then leaves out what lies outside of the box, as nnU-Net does. Of several
        channels, a voxel is zero where it is so in all, and the box is that of all together.
    """

    name: str
    low_percentile: float
    high_percentile: float
    region: str


REGIONS = ("all", "box", "nonzero")
PERCENTILE_VOXELS = 1_000_000  # of which a volume's percentiles are taken: exact to about 0.02 %

IMAGENET = Preprocessing(
    0.0,
    255.0,
    shift=tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
    scale=tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)),
)
"""Of red, green and blue, to mean 0 and standard deviation 1 over ImageNet's photographs."""


def stored(fields):
    """The `Preprocessing` or `PerVolume` of a checkpoint's dict: lists become tuples again."""
    if "region" in fields:
        return PerVolume(**fields)
    return Preprocessing(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    )


def fit_preprocessing(
    sample, *, name, low_percentile, high_percentile, per_volume=False, region="all"
):
    """Fit the numbers to a sample of intensities.

    Of masked scans, which are zero outside of the object, the other voxels alone count
    (`intensities.scan`): nnU-Net crops to them (Isensee et al. 2021).

    Args:
      sample: [N] intensities of the training volumes, finite; or [N, C], each channel by itself.
      name: 'percentile' clips to the two percentiles and scales to [0, 1]; 'zscore' clips the same
        way and scales to mean 0 and standard deviation 1 (nnU-Net's CT normalisation).
      low_percentile, high_percentile: in percent.
      per_volume: fit nothing, and normalise each volume by its own intensities.
      region: of `PerVolume`; 'all' for a whole run.

    Returns:
      Preprocessing, or with `per_volume` a PerVolume.

    Raises:
      ValueError: the name is unknown, the percentiles are out of order, or the images are constant.
    """
    if name not in ("percentile", "zscore"):
        raise ValueError(f"preprocess.name is {name!r}; choose 'percentile' or 'zscore'.")
    if not 0 <= low_percentile < high_percentile <= 100:
        raise ValueError(
            f"preprocess.low_percentile and high_percentile are {low_percentile} and "
            f"{high_percentile}; set them in increasing order, from 0 to 100."
        )
    if region not in REGIONS:
        raise ValueError(f"preprocess.region is {region!r}; choose one of {', '.join(REGIONS)}.")
    if per_volume:
        return PerVolume(name, low_percentile, high_percentile, region)
    if region != "all":
        raise ValueError(
            f"preprocess.region is {region!r}, which is for preprocess.per_volume; set that to "
            "True, or the region to 'all'."
        )
    samples = np.asarray(sample, np.float64)
    samples = [samples] if samples.ndim == 1 else list(samples.T)
    return together(
        [
            _fitted(
                one,
                name,
                (low_percentile, high_percentile),
                f"Channel {number} of the training images is" if samples[1:] else "",
            )
            for number, one in enumerate(samples)
        ]
    )


def _fitted(everything, name, percentiles, subject):
    """The `Preprocessing` of one channel; `subject` begins the error where it is constant."""
    for sample in (intensities.scan(everything), everything):
        low, high = np.percentile(sample, percentiles)
        if high > low:
            break
    else:
        raise ValueError(
            f"{subject or 'The training images are'} constant between the percentiles "
            f"{percentiles[0]} and {percentiles[1]} (value {low:g}); check that data.images names "
            "the images."
        )
    if name == "percentile":
        return Preprocessing(float(low), float(high), float(low), float(1 / (high - low)))
    clipped = np.clip(sample, low, high)
    return Preprocessing(float(low), float(high), float(clipped.mean()), float(1 / clipped.std()))


def together(channels):
    """The `Preprocessing` of an image from those of its channels; of one it is that channel's."""
    first, *others = channels
    return Preprocessing(*map(tuple, zip(*channels, strict=True))) if others else first


def of_channels(preprocessing, count=1):
    """The `Preprocessing` of each channel, a list; of `count` where all have the same numbers."""
    count = max([count, *(len(v) for v in preprocessing if isinstance(v, tuple))])
    columns = [v if isinstance(v, tuple) else (v,) * count for v in preprocessing]
    return [Preprocessing(*numbers) for numbers in zip(*columns, strict=True)]


def remarks(training, validation, preprocessing):
    """Sentences on unusual intensities of each channel, see `intensities.remarks`.

    Args:
      training, validation: {id: sample of intensities, [N] or [N, C]}.
      preprocessing: `Preprocessing` of the run.
    """
    channels, found = of_channels(preprocessing), []
    for number, one in enumerate(channels):
        samples = [
            {id: v if v.ndim == 1 else v[:, number] for id, v in part.items()}
            for part in (training, validation)
        ]
        channel = number if len(channels) > 1 else None
        found += intensities.remarks(*samples, one.low, one.high, channel)
    return found


def has_input(image, axes=3):
    """Where an image [*spatial] or [*spatial, C] of so many axes is not zero in every channel."""
    inside = image != 0
    return inside if image.ndim == axes else inside.any(-1)


def measure(volume, rule):
    """The numbers of one volume, from all of its voxels.

    Args:
      volume: [D, H, W] as stored, read slice by slice: it may be larger than memory; or
        [D, H, W, C].
      rule: `PerVolume`.

    Returns:
      (Preprocessing, box): the box is a tuple of three slices, the part that counts as input. A
      constant volume becomes 0.
    """
    box = (slice(None),) * 3 if rule.region == "all" else box_with_input(volume)
    inside = volume[box]
    if volume.ndim == 3:
        return _numbers(inside, rule), box
    channels = [_numbers(inside, rule, number) for number in range(volume.shape[3])]
    return together(channels), box


def _numbers(inside, rule, channel=None):
    """The `Preprocessing` of a volume within its box, or of one of its channels."""

    def voxels(section):
        one = np.asarray(section if channel is None else section[..., channel], np.float64)
        return one[has_input(section, 2)] if rule.region == "nonzero" else one.ravel()

    low, high = _percentiles(inside, voxels, rule)
    if rule.name == "percentile":
        return Preprocessing(low, high, low, 1 / max(high - low, 1e-8))
    count = total = squares = 0.0
    for section in inside:
        distances = np.clip(voxels(section), low, high) - low
        count += distances.size
        total += distances.sum()
        squares += np.square(distances).sum()
    mean = total / max(count, 1)
    deviation = np.sqrt(max(squares / max(count, 1) - mean**2, 0))
    return Preprocessing(low, high, float(low + mean), float(1 / max(deviation, 1e-8)))


def box_with_input(volume):
    """The smallest box of a volume that holds all of its input; the whole where there is none.

    Args:
      volume: [D, H, W] or [D, H, W, C].

    Returns:
      tuple of three slices.
    """
    planes = np.array([np.any(section) for section in volume])
    if not planes.any():
        return (slice(None),) * 3
    shadow = np.zeros(volume.shape[1:3], bool)
    for section in volume:
        shadow |= has_input(np.asarray(section), 2)
    filled = planes, shadow.any(1), shadow.any(0)
    ends = ((np.argmax(line), len(line) - np.argmax(line[::-1])) for line in filled)
    return tuple(slice(int(first), int(last)) for first, last in ends)


def _percentiles(volume, voxels, rule):
    """The rule's two percentiles: the extremes exactly, others of up to a million voxels."""
    low, high = rule.low_percentile, rule.high_percentile
    if (low, high) == (0, 100):
        ends = [(v.min(), v.max()) for v in map(voxels, volume) if v.size]
        return float(min((a for a, _ in ends), default=0)), float(
            max((b for _, b in ends), default=0)
        )
    size = volume.shape[0] * volume.shape[1] * volume.shape[2]
    step = max(int(np.ceil(size / PERCENTILE_VOXELS)), 1)
    some = [voxels(section)[number % step :: step] for number, section in enumerate(volume)]
    some = np.concatenate(some)
    return tuple(float(v) for v in np.percentile(some, (low, high))) if some.size else (0.0, 0.0)


def preprocess(image, preprocessing, own=None):
    """Normalise an image of any dtype and shape to float32, on the device.

    Args:
      image: array as stored; of several channels, these are its last axis.
      preprocessing: `Preprocessing`, or `PerVolume`.
      own: of `PerVolume`: the `Preprocessing` that `measure` gave, as an array [4]; or [B, 4], one
        for each entry of the image's first axis; or of several channels [B, 4, C] or [1, 4, C].
    """
    image = image.astype(jnp.float32)
    if not isinstance(preprocessing, PerVolume):
        low, high, shift, scale = (jnp.asarray(value, jnp.float32) for value in preprocessing)
        return (jnp.clip(image, low, high) - shift) * scale
    own = jnp.asarray(own, jnp.float32)
    axes = (1,) * (image.ndim - own.ndim + 1)
    low, high, shift, scale = (
        own[:, n].reshape(-1, *axes, *own.shape[2:]) if own.ndim > 1 else own[n] for n in range(4)
    )
    result = (jnp.clip(image, low, high) - shift) * scale
    if preprocessing.region != "nonzero":
        return result
    empty = (image == 0).all(-1, keepdims=True) if own.ndim == 3 else image == 0
    return jnp.where(empty, 0.0, result)


def as_array(numbers):
    """A `Preprocessing` as `own` of `preprocess`: float32 [4], or [1, 4, C] of several channels."""
    own = np.array(numbers, np.float32)
    return own if own.ndim == 1 else own[None]
