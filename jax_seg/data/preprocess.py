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

    shift and scale are numbers, or tuples of one number per channel.
    """

    low: float
    high: float
    shift: float | tuple
    scale: float | tuple


class PerVolume(NamedTuple):
    """The rule by which each volume is normalised by its own intensities.

    Attributes:
      name, low_percentile, high_percentile: of `fit_preprocessing`.
      region: voxels whose intensities count, of REGIONS: 'all'; 'box', those in the smallest box
        that holds every voxel that is not zero; or 'nonzero', those that are not zero, and zeros
        stay 0. Prediction then leaves out what lies outside of the box, as nnU-Net does.
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
      sample: [N] intensities of the training volumes, finite.
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
    everything = np.asarray(sample, np.float64)
    for sample in (intensities.scan(everything), everything):
        low, high = np.percentile(sample, (low_percentile, high_percentile))
        if high > low:
            break
    else:
        raise ValueError(
            f"The training images are constant between the percentiles {low_percentile} and "
            f"{high_percentile} (value {low:g}); check that data.images names the images."
        )
    if name == "percentile":
        return Preprocessing(float(low), float(high), float(low), float(1 / (high - low)))
    clipped = np.clip(sample, low, high)
    return Preprocessing(float(low), float(high), float(clipped.mean()), float(1 / clipped.std()))


def measure(volume, rule):
    """The numbers of one volume, from all of its voxels.

    Args:
      volume: [D, H, W] as stored, read slice by slice: it may be larger than memory.
      rule: `PerVolume`.

    Returns:
      (Preprocessing, box): the box is a tuple of three slices, the part that counts as input. A
      constant volume becomes 0.
    """
    box = (slice(None),) * 3 if rule.region == "all" else _box(volume)
    inside = volume[box]

    def voxels(section):
        section = np.asarray(section, np.float64)
        return section[section != 0] if rule.region == "nonzero" else section.ravel()

    low, high = _percentiles(inside, voxels, rule)
    if rule.name == "percentile":
        return Preprocessing(low, high, low, 1 / max(high - low, 1e-8)), box
    count = total = squares = 0.0
    for section in inside:
        distances = np.clip(voxels(section), low, high) - low
        count += distances.size
        total += distances.sum()
        squares += np.square(distances).sum()
    mean = total / max(count, 1)
    deviation = np.sqrt(max(squares / max(count, 1) - mean**2, 0))
    return Preprocessing(low, high, float(low + mean), float(1 / max(deviation, 1e-8))), box


def _box(volume):
    """The smallest box with all voxels that are not zero; the whole volume where all are."""
    planes = np.array([np.any(section) for section in volume])
    if not planes.any():
        return (slice(None),) * 3
    shadow = np.zeros(volume.shape[1:], bool)
    for section in volume:
        shadow |= np.asarray(section) != 0
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
    step = max(int(np.ceil(volume.size / PERCENTILE_VOXELS)), 1)
    some = [voxels(section)[number % step :: step] for number, section in enumerate(volume)]
    some = np.concatenate(some)
    return tuple(float(v) for v in np.percentile(some, (low, high))) if some.size else (0.0, 0.0)


def preprocess(image, preprocessing, own=None):
    """Normalise an image of any dtype and shape to float32, on the device.

    Args:
      image: array as stored.
      preprocessing: `Preprocessing`, or `PerVolume`.
      own: of `PerVolume`: the `Preprocessing` that `measure` gave, as an array [4]; or [B, 4], one
        for each entry of the image's first axis.
    """
    image = image.astype(jnp.float32)
    if not isinstance(preprocessing, PerVolume):
        low, high, shift, scale = preprocessing
        shift, scale = jnp.asarray(shift, jnp.float32), jnp.asarray(scale, jnp.float32)
        return (jnp.clip(image, low, high) - shift) * scale
    own = jnp.asarray(own, jnp.float32)
    axes = (1,) * (image.ndim - 1)
    low, high, shift, scale = (
        own[:, n].reshape(-1, *axes) if own.ndim > 1 else own[n] for n in range(4)
    )
    result = (jnp.clip(image, low, high) - shift) * scale
    return jnp.where(image == 0, 0.0, result) if preprocessing.region == "nonzero" else result
