"""Preprocessing as four numbers, fitted once or published, and stored with the model."""

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


IMAGENET = Preprocessing(
    0.0,
    255.0,
    shift=tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
    scale=tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)),
)
"""Of red, green and blue, to mean 0 and standard deviation 1 over ImageNet's photographs."""


def stored(fields):
    """The `Preprocessing` of the dict that a checkpoint keeps: lists become tuples again."""
    return Preprocessing(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    )


def fit_preprocessing(sample, *, name, low_percentile, high_percentile):
    """Fit the numbers to a sample of intensities.

    Of masked scans, which are zero outside of the object, the other voxels alone count
    (`intensities.scan`): nnU-Net crops to them (Isensee et al. 2021).

    Args:
      sample: [N] intensities of the training volumes, finite.
      name: 'percentile' clips to the two percentiles and scales to [0, 1]; 'zscore' clips the same
        way and scales to mean 0 and standard deviation 1 (nnU-Net's CT normalisation).
      low_percentile, high_percentile: in percent.

    Returns:
      Preprocessing.

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


def preprocess(image, preprocessing):
    """Normalise an image of any dtype and shape to float32, on the device."""
    low, high, shift, scale = preprocessing
    clipped = jnp.clip(image.astype(jnp.float32), low, high)
    return (clipped - jnp.asarray(shift, jnp.float32)) * jnp.asarray(scale, jnp.float32)
