"""Run a network over a volume of any size, window by window, blended on the device."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_seg.infer.logits import BACKGROUND


def window_starts(length, window, overlap):
    """First voxels of the windows along one axis, evenly spread from border to border.

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
        raise ValueError(f"The overlap is {overlap}; set it in [0, 1), usually 0.5.")
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

    A window of zeros alone, as outside of a masked scan, holds no input: once normalised it would
    look like any other image, and networks would find objects in it. It counts as
    `logits.BACKGROUND` instead, and the network does not run. Every voxel of such a window is zero,
    so the output of no other voxel changes.

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
    shape, volume = volume.shape, _extended(volume, patch)
    starts_per_axis = _grid(volume, patch, overlap)
    weights = [
        _partition_of_unity(s, p, starts)
        for s, p, starts in zip(volume.shape, patch, starts_per_axis, strict=True)
    ]
    windows, empty = _split(volume, patch, starts_per_axis)
    if volume.dtype.itemsize > 4:  # JAX would keep 32 of 64 bits, and integers wrap
        volume = volume.astype(np.float32)
    device_volume = jnp.asarray(volume)
    total = jnp.zeros(volume.shape, jnp.float32)

    def place(chosen):
        """First voxels and weights along each axis of a batch, filled up with weight zero."""
        starts = [[s[i] for s, i in zip(starts_per_axis, w, strict=True)] for w in chosen]
        profiles = (np.stack([weights[a][w[a]] for w in chosen]) for a in range(len(patch)))
        missing = batch - len(chosen)
        return (
            np.array(starts + starts[:1] * missing, np.int32),
            tuple(np.pad(p, ((0, missing), (0, 0))) for p in profiles),
        )

    for chosen in _batches(windows, batch):
        starts, profiles = place(chosen)
        patches = _gather(device_volume, starts, patch=tuple(patch))
        total = _blend(total, network(patches), starts, profiles)
    if empty:
        background = jnp.full((batch, *patch, 1), BACKGROUND)
    for chosen in _batches(empty, batch):
        total = _blend(total, background, *place(chosen))
    before = [(t - s) // 2 for s, t in zip(shape, volume.shape, strict=True)]
    inside = tuple(slice(b, b + s) for b, s in zip(before, shape, strict=True))
    return total if shape == volume.shape else total[inside]


def count_empty(volume, *, patch, overlap=0.5):
    """(windows of `predict_volume` that hold zeros alone, all its windows)."""
    volume = _extended(volume, patch)
    windows, empty = _split(volume, patch, _grid(volume, patch, overlap))
    return len(empty), len(windows) + len(empty)


def _extended(volume, patch):
    """The volume, at least as large as a window: its border is repeated."""
    room = [max(p - s, 0) for s, p in zip(volume.shape, patch, strict=True)]
    if not any(room):
        return volume
    return np.pad(volume, [(r // 2, r - r // 2) for r in room], mode="edge")


def _grid(volume, patch, overlap):
    return [window_starts(s, p, overlap) for s, p in zip(volume.shape, patch, strict=True)]


def _split(volume, patch, starts_per_axis):
    """(windows with input, windows without), as their numbers along each axis."""
    windows, empty = [], []
    voxels = np.asarray(volume)
    for numbers in itertools.product(*(range(len(starts)) for starts in starts_per_axis)):
        corner = [starts[n] for starts, n in zip(starts_per_axis, numbers, strict=True)]
        inside = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        (windows if voxels[inside].any() else empty).append(numbers)
    return windows, empty


def _batches(windows, batch):
    return (windows[first : first + batch] for first in range(0, len(windows), batch))


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
