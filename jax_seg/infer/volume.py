"""Segment a whole volume by a network and the volume's own normalisation."""

import functools

import jax.numpy as jnp
import numpy as np

from jax_seg.data.preprocess import PerVolume, measure
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.sliding_window import predict_volume

PADDINGS = ("edge", "zero")


def segment_volume(network, volume, preprocessing, *, patch, overlap, batch=1, padding="edge"):
    """The logits of a whole volume.

    Under `PerVolume` the volume is measured, and what lies outside of its box is background.

    Args:
      network: [B, *patch, 1] as stored -> float32 [B, *patch, 1], of `make_network` with its
        variables; under `PerVolume` with a second argument `own`.
      volume: [D, H, W] as stored.
      preprocessing: `Preprocessing` or `PerVolume` of the network.
      patch, overlap, batch: of `predict_volume`.
      padding: how a volume smaller than the window is extended: 'edge' repeats its border, 'zero'
        adds what normalises to 0, as nnU-Net does.

    Returns:
      float32 [D, H, W] on the device.
    """
    numbers, box = preprocessing, (slice(None),) * 3
    if isinstance(preprocessing, PerVolume):
        numbers, box = measure(volume, preprocessing)
        network = functools.partial(network, own=np.array(numbers, np.float32))
    inside = np.asarray(volume)[box]
    padded, within = inside, (slice(None),) * 3
    if padding == "zero":
        kept_zero = getattr(preprocessing, "region", "") == "nonzero"
        padded, within = _padded(inside, patch, 0.0 if kept_zero else numbers.shift)
    logits = predict_volume(network, padded, patch=patch, overlap=overlap, batch=batch)[within]
    if inside.shape == volume.shape:
        return logits
    return jnp.full(volume.shape, BACKGROUND).at[box].set(logits)


def _padded(volume, patch, value):
    """(the volume at least as large as a patch, where in it the volume lies)."""
    room = [max(p - s, 0) for s, p in zip(volume.shape, patch, strict=True)]
    if not any(room):
        return volume, (slice(None),) * 3
    widths = [(r // 2, r - r // 2) for r in room]
    padded = np.pad(volume.astype(np.float32), widths, constant_values=value)
    return padded, tuple(
        slice(before, before + s) for (before, _), s in zip(widths, volume.shape, strict=True)
    )
