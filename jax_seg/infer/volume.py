"""Segment a whole volume by a network and the volume's own normalisation."""

import functools

import jax.numpy as jnp
import numpy as np

from jax_seg.data.preprocess import PerVolume, as_array
from jax_seg.data.readers.spacing import differ
from jax_seg.data.resample import resample, resample_image
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.part import Part, cropped, whole
from jax_seg.infer.sliding_window import predict_volume


def segment_volume(network, volume, preprocessing, *, patch, overlap, batch=1, classes=1):
    """The logits of a whole volume, or of a part of one.

    Under `PerVolume` the whole volume is measured, and what lies outside of its box is background.

    Args:
      network: [B, *patch, C] as stored -> float32 [B, *patch, classes], of `make_network` with its
        variables; under `PerVolume` with a second argument `own`.
      volume: [D, H, W] as stored, or [D, H, W, C]; or the `Part` of one.
      preprocessing: `Preprocessing` or `PerVolume` of the network.
      patch, overlap, batch, classes: of `predict_volume`.

    Returns:
      float32 [D, H, W] on the device; of several classes [D, H, W, classes].
    """
    options = {"patch": patch, "overlap": overlap, "batch": batch, "classes": classes}
    if not isinstance(preprocessing, PerVolume):
        return predict_volume(network, volume, **options)
    part = volume if isinstance(volume, Part) else whole(volume)
    numbers, box = part.measured(preprocessing)
    inside = cropped(part, box)
    if inside is None:
        return background(part, classes)
    network = functools.partial(network, own=as_array(numbers))
    return placed(predict_volume(network, inside, **options), box, part)


def at_spacing(segment, trained):
    """`segment` with a further argument `spacing`: resamples a volume on the way in and back.

    Args:
      segment: (..., volume [D, H, W] as stored, or a `Part`) -> float32 logits [D, H, W] on the
        device.
      trained: (z, y, x) of the network; None where it is not known, and nothing is resampled.

    Returns:
      (..., volume, spacing=None) -> float32 logits [D, H, W] of the volume's own grid, interpolated
      linearly. A `spacing` of None, which is not known, or equal to `trained` resamples nothing.
    """

    def resampling(*arguments, spacing=None):
        *first, volume = arguments
        if not spacing or not trained or not differ(spacing, trained):
            return segment(*first, volume)
        if isinstance(volume, Part):
            volume = volume.read(volume.start, volume.size)
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


def placed(logits, box, part):
    """Logits of what a box of the whole volume leaves of a `Part`, as those of all of the part."""
    if logits.shape[:3] == part.size:
        return logits
    corner = (max((one.start or 0) - a, 0) for one, a in zip(box, part.start, strict=True))
    here = tuple(slice(a, a + n) for a, n in zip(corner, logits.shape, strict=False))
    return background(part, *logits.shape[3:]).at[here].set(logits)


def background(part, classes=1):
    """The logits of a `Part` without foreground."""
    return jnp.full((*part.size, *((classes,) if classes > 1 else ())), BACKGROUND, jnp.float32)
