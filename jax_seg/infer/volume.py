"""Segment a whole volume by a network and the volume's own normalisation."""

import functools

import jax.numpy as jnp
import numpy as np

from jax_seg.data.preprocess import PerVolume, measure
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.sliding_window import predict_volume


def segment_volume(network, volume, preprocessing, *, patch, overlap, batch=1):
    """The logits of a whole volume.

    Under `PerVolume` the volume is measured, and what lies outside of its box is background.

    Args:
      network: [B, *patch, 1] as stored -> float32 [B, *patch, 1], of `make_network` with its
        variables; under `PerVolume` with a second argument `own`.
      volume: [D, H, W] as stored.
      preprocessing: `Preprocessing` or `PerVolume` of the network.
      patch, overlap, batch: of `predict_volume`.

    Returns:
      float32 [D, H, W] on the device.
    """
    if not isinstance(preprocessing, PerVolume):
        return predict_volume(network, volume, patch=patch, overlap=overlap, batch=batch)
    numbers, box = measure(volume, preprocessing)
    network = functools.partial(network, own=np.array(numbers, np.float32))
    logits = predict_volume(network, volume[box], patch=patch, overlap=overlap, batch=batch)
    return within(logits, box, volume.shape)


def within(logits, box, shape):
    """Logits [*box] as those of a volume of `shape`: the rest is background."""
    if logits.shape == tuple(shape):
        return logits
    return jnp.full(shape, BACKGROUND).at[box].set(logits)
