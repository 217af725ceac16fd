"""Segment a whole volume by a network and the volume's own normalisation."""

import functools

import jax.numpy as jnp
import numpy as np

from jax_seg.data.preprocess import PerVolume, as_array, measure
from jax_seg.data.readers.spacing import differ
from jax_seg.data.resample import resample, resample_image
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.sliding_window import predict_volume


def segment_volume(network, volume, preprocessing, *, patch, overlap, batch=1, classes=1):
    """The logits of a whole volume.

    Under `PerVolume` the volume is measured, and what lies outside of its box is background.

    Args:
      network: [B, *patch, C] as stored -> float32 [B, *patch, classes], of `make_network` with its
        variables; under `PerVolume` with a second argument `own`.
      volume: [D, H, W] as stored, or [D, H, W, C].
      preprocessing: `Preprocessing` or `PerVolume` of the network.
      patch, overlap, batch, classes: of `predict_volume`.

    Returns:
      float32 [D, H, W] on the device; of several classes [D, H, W, classes].
    """
    options = {"patch": patch, "overlap": overlap, "batch": batch, "classes": classes}
    if not isinstance(preprocessing, PerVolume):
        return predict_volume(network, volume, **options)
    numbers, box = measure(volume, preprocessing)
    network = functools.partial(network, own=as_array(numbers))
    logits = predict_volume(network, volume[box], **options)
    return within(logits, box, volume.shape[:3])


def at_spacing(segment, trained):
    """`segment` with a further argument `spacing`: resamples a volume on the way in and back.

    Args:
      segment: (..., volume [D, H, W] as stored) -> float32 logits [D, H, W] on the device.
      trained: (z, y, x) of the network; None where it is not known, and nothing is resampled.

    Returns:
      (..., volume, spacing=None) -> float32 logits [D, H, W] of the volume's own grid, interpolated
      linearly. A `spacing` of None, which is not known, or equal to `trained` resamples nothing.
    """

    def resampling(*arguments, spacing=None):
        *first, volume = arguments
        if not spacing or not trained or not differ(spacing, trained):
            return segment(*first, volume)
        logits = segment(*first, resample_image(volume, spacing, trained))
        return resampled_back(logits, volume.shape[:3], trained, spacing)

    return resampling


def resampled_back(logits, shape, trained, spacing):
    """Logits at the spacing `trained`, interpolated to a grid of `shape` and `spacing`, linearly.

    They are [d, h, w] or [d, h, w, classes].
    """

    def back(of_class):
        return resample(of_class, shape, trained, spacing, 1)

    logits = np.asarray(logits)
    if logits.ndim == 3:
        return jnp.asarray(back(logits))
    return jnp.stack([back(of_class) for of_class in np.moveaxis(logits, -1, 0)], -1)


def within(logits, box, shape):
    """Logits [*box] or [*box, classes] as those of a volume of `shape`: the rest is background."""
    if logits.shape[:3] == tuple(shape):
        return logits
    return jnp.full((*shape, *logits.shape[3:]), BACKGROUND).at[box].set(logits)
