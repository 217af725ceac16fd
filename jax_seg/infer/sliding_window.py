"""Run a network over a volume of any size, window by window, blended on the device."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def window_starts(length, window, overlap):
    """First voxels of the windows along one axis: evenly spread, both borders met exactly.

    Args:
      length: voxels along the axis, at least `window`.
      window: voxels of a window.
      overlap: wanted share of a window that its neighbour covers too, in [0, 1); the real share
        is at least this.

    Returns:
      Rising list of ints, from 0 to `length - window`.

    Raises:
      ValueError: overlap outside [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"The overlap is {overlap}; it must lie in [0, 1), 0.5 is usual.")
    step = max(int(window * (1 - overlap)), 1)
    count = math.ceil((length - window) / step) + 1
    return [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]


def gaussian_profile(window):
    """Weight of each voxel along one axis of a window: a Gaussian of sigma window / 8.

    As in nnU-Net (Isensee et al. 2021), from which the weight of the borders, kept above zero, is
    taken too. The weight of a voxel is the product over the axes.
    """
    positions = np.arange(window) - (window - 1) / 2
    return np.maximum(np.exp(-0.5 * (positions / (window / 8)) ** 2), 1e-3).astype(np.float32)


def predict_volume(network, volume, *, patch, overlap=0.5, batch=1):
    """Blend a network's outputs over a volume.

    The windows lie on a grid, so the blending weights are products of three one-dimensional
    partitions of unity: they are normalised before, and a voxel's output is a plain sum.
    Volumes smaller than the window are extended by repeating their border, as in training.

    Args:
      network: jitted [batch, *patch, 1] of the volume's dtype -> float32 [batch, *patch, 1]. It is
        compiled once, whatever the volumes' shapes are.
      volume: [D, H, W] array.
      patch: window size in voxels.
      overlap: see `window_starts`.
      batch: windows per call.

    Returns:
      float32 [D, H, W] on the device.

    Raises:
      ValueError: overlap outside [0, 1).
    """
    shape = volume.shape
    room = [max(p - s, 0) for s, p in zip(shape, patch, strict=True)]
    if any(room):
        volume = np.pad(volume, [(r // 2, r - r // 2) for r in room], mode="edge")
    starts_per_axis = [
        window_starts(s, p, overlap) for s, p in zip(volume.shape, patch, strict=True)
    ]
    weights = [
        _partition_of_unity(s, p, starts)
        for s, p, starts in zip(volume.shape, patch, starts_per_axis, strict=True)
    ]
    windows = list(itertools.product(*(range(len(s)) for s in starts_per_axis)))
    if volume.dtype.itemsize > 4:  # JAX would keep 32 of 64 bits, and integers wrap
        volume = volume.astype(np.float32)
    device_volume = jnp.asarray(volume)
    total = jnp.zeros(volume.shape, jnp.float32)
    for first in range(0, len(windows), batch):
        chosen = windows[first : first + batch]
        starts = [[s[i] for s, i in zip(starts_per_axis, w, strict=True)] for w in chosen]
        profiles = tuple(
            np.stack([weights[axis][w[axis]] for w in chosen]) for axis in range(len(patch))
        )
        missing = batch - len(chosen)  # the last batch is filled up with windows of weight zero
        starts = np.array(starts + starts[:1] * missing, np.int32)
        profiles = tuple(np.pad(p, ((0, missing), (0, 0))) for p in profiles)
        patches = _gather(device_volume, starts, patch=tuple(patch))
        total = _blend(total, network(patches), starts, profiles)
    inside = tuple(slice(r // 2, r // 2 + s) for r, s in zip(room, shape, strict=True))
    return total[inside] if any(room) else total


def _partition_of_unity(length, window, starts):
    """[windows, window] float32: the profiles, divided so that they add up to one everywhere."""
    profile = gaussian_profile(window)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + window] += profile
    return np.stack([profile / total[start : start + window] for start in starts])


@functools.partial(jax.jit, static_argnames="patch")
def _gather(volume, starts, patch):
    return jax.vmap(lambda start: lax.dynamic_slice(volume, start, patch))(starts)[..., None]


@functools.partial(jax.jit, donate_argnums=0)
def _blend(total, outputs, starts, profiles):
    """Add weighted windows [B, *patch, 1] to `total`, one after another: they may overlap."""

    def add(i, total):
        weighted = outputs[i, ..., 0]
        for axis, profile in enumerate(profiles):
            weighted *= jnp.expand_dims(profile[i], [a for a in range(total.ndim) if a != axis])
        here = lax.dynamic_slice(total, starts[i], weighted.shape)
        return lax.dynamic_update_slice(total, here + weighted, starts[i])

    return lax.fori_loop(0, outputs.shape[0], add, total)
