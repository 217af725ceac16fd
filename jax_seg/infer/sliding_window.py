"""Run a network over a volume of any size, window by window, blended on the device."""

import bisect
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.part import Part, box, whole


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


def predict_volume(network, volume, *, patch, overlap=0.5, batch=1, classes=1):
    """Blend a network's outputs over a volume, or over a part of one.

    The windows lie on a grid, so the blending weights are products of three one-dimensional
    partitions of unity: they are normalised before, and a voxel's output is a plain sum.
    Volumes smaller than the window are extended by repeating their border, as in training.

    The grid belongs to the whole volume, whichever part is computed, and the windows that hold a
    voxel are added in one order: a part equals the same part of the whole, bit for bit.

    A window of zeros alone, as outside of a masked scan, holds no input: once normalised it would
    look like any other image, and networks would find objects in it. It counts as
    `logits.BACKGROUND` instead, and the network does not run. Every voxel of such a window is zero,
    so the output of no other voxel changes.

    Args:
      network: jitted [batch, *patch, C] of the volume's dtype -> float32 [batch, *patch, classes].
        It is compiled once, whatever the volumes' shapes are. The output of a window must not
        depend on its place in the batch.
      volume: [D, H, W] array, or [D, H, W, C], or `Part`.
      patch: window size in voxels.
      overlap: see `window_starts`.
      batch: windows per call.
      classes: number of them.

    Returns:
      float32 [D, H, W] on the device; of several classes [D, H, W, classes].

    Raises:
      ValueError: overlap outside [0, 1).
    """
    part = volume if isinstance(volume, Part) else whole(volume)
    axes = axes_of(part, patch, overlap)
    voxels = read(part, axes)
    windows, empty = _split(voxels, axes)
    part.tally.update(windows=len(windows) + len(empty), empty=len(empty))
    several = (classes,) if classes > 1 else ()
    if not windows:
        return jnp.full((*part.size, *several), BACKGROUND, jnp.float32)
    if voxels.dtype.itemsize > 4:  # JAX would keep 32 of 64 bits, and integers wrap
        voxels = voxels.astype(np.float32)
    device_volume = jnp.asarray(voxels)
    total = jnp.zeros((*voxels.shape[: len(axes)], *several), jnp.float32)

    def place(chosen):
        """First voxels and weights along each axis of a batch, filled up with weight zero."""
        starts = [[a.starts[i] for a, i in zip(axes, w, strict=True)] for w in chosen]
        profiles = (np.stack([a.weights[w[k]] for w in chosen]) for k, a in enumerate(axes))
        missing = batch - len(chosen)
        return (
            np.array(starts + starts[:1] * missing, np.int32),
            tuple(np.pad(p, ((0, missing), (0, 0))) for p in profiles),
        )

    for chosen in _batches(windows, batch):
        starts, profiles = place(chosen)
        patches = _gather(device_volume, starts, patch=tuple(patch))
        total = _add(total, _weigh(network(patches), profiles), starts)
    if empty:
        background = jnp.full((batch, *patch, classes), BACKGROUND)
    for chosen in _batches(empty, batch):
        starts, profiles = place(chosen)
        total = _add(total, _weigh(background, profiles), starts)
    return trimmed(total, axes, part)


def trimmed(total, axes, part):
    """What windows add up to, [*extent, …], as that of their `Part` alone, on the device."""
    if part.size == total.shape[: len(axes)]:
        return total
    inside = box([axis.inside for axis in axes], part.size)
    if jax.default_backend() == "cpu":  # a view, where a slice would be compiled for every place
        return jnp.asarray(np.asarray(total)[inside])
    return _cut(total, np.array([axis.inside for axis in axes], np.int32), tuple(part.size))


@functools.partial(jax.jit, static_argnums=2)
def _cut(total, starts, size):
    """One program for all places, unlike `total[...]`."""
    channels = total.shape[len(size) :]
    starts = (*starts, *(np.int32(0) for _ in channels))
    return lax.dynamic_slice(total, starts, (*size, *channels))


def count_empty(volume, *, patch, overlap=0.5):
    """(windows of `predict_volume` that hold zeros alone, all its windows)."""
    part = volume if isinstance(volume, Part) else whole(volume)
    axes = axes_of(part, patch, overlap)
    windows, empty = _split(read(part, axes), axes)
    return len(empty), len(windows) + len(empty)


def count_windows(length, window, overlap, start, size):
    """Number of the windows along an axis that touch the voxels [start, start + size)."""
    return len(_axis(length, window, overlap, start, size, ((0, length),)).starts)


class Axis(NamedTuple):
    """The windows that touch a part, along one axis.

    Attributes:
      first, length: voxels of the whole volume that they cover; as much as there is.
      before, after: voxels by which those are extended.
      extent: voxels of the array, zeros after the last window included; the same for every part.
      starts: of the windows in that array.
      weights: [windows, window] of theirs.
      window: its voxels.
      inside: the part's first voxel in that array.
    """

    first: int
    length: int
    before: int
    after: int
    extent: int
    starts: list
    weights: np.ndarray
    window: int
    inside: int


def axes_of(part, patch, overlap, starts_of=window_starts):
    """The windows that touch a `Part`, along each axis: list of `Axis`.

    Args:
      part: `Part`.
      patch, overlap: of `predict_volume`.
      starts_of: (length, window, overlap) -> first voxels of the windows, as `window_starts`.
    """
    each = zip(part.whole, patch, part.start, part.size, part.cuts, strict=True)
    return [
        _axis(length, window, overlap, *of_part, starts_of=starts_of)
        for length, window, *of_part in each
    ]


def _axis(length, window, overlap, start, size, cuts, starts_of=window_starts):
    room = max(window - length, 0)
    before, extended = room // 2, length + room
    starts = starts_of(extended, window, overlap)

    def touching(start, stop):
        """(number of the first window, number after the last) that touch these voxels."""
        after_first = bisect.bisect_right(starts, start + before - window)
        return after_first, bisect.bisect_left(starts, stop + before)

    first, last = touching(start, start + size)
    origin, end = starts[first], starts[last - 1] + window
    spans = [touching(*cut) for cut in cuts]
    return Axis(
        first=0 if room else origin,
        length=length if room else end - origin,
        before=before,
        after=room - before,
        extent=max(starts[b - 1] + window - starts[a] for a, b in spans),
        starts=[s - origin for s in starts[first:last]],
        weights=_partition_of_unity(extended, window, tuple(starts))[first:last],
        window=window,
        inside=start + before - origin,
    )


def read(part, axes, value=None):
    """The voxels that the windows cover.

    Args:
      part: `Part`.
      axes: of `axes_of`.
      value: of what extends a volume that is smaller than a window, a number or one of each
        channel; None repeats its border.

    Returns:
      [*extent] or [*extent, C], zero after the last window.
    """
    voxels = part.read(tuple(a.first for a in axes), tuple(a.length for a in axes))
    channels = voxels.shape[len(axes) :]
    if any(a.before + a.after for a in axes):
        ends = [(a.before, a.after) for a in axes] + [(0, 0)] * len(channels)
        if value is None:
            voxels = np.pad(voxels, ends, mode="edge")
        else:
            inside = voxels
            shape = [n + sum(end) for n, end in zip(voxels.shape, ends, strict=True)]
            voxels = np.empty(shape, np.float32)
            voxels[...] = value
            voxels[box([low for low, _ in ends], inside.shape)] = inside
    room = [(0, a.extent - n) for a, n in zip(axes, voxels.shape, strict=False)]
    room += [(0, 0)] * len(channels)
    return np.pad(voxels, room) if any(n for _, n in room) else voxels


def _split(voxels, axes):
    """(windows with input, windows without), as their numbers along each axis."""
    windows, empty = [], []
    size = [axis.window for axis in axes]
    for numbers in itertools.product(*(range(len(axis.starts)) for axis in axes)):
        corner = [axis.starts[n] for axis, n in zip(axes, numbers, strict=True)]
        (windows if voxels[box(corner, size)].any() else empty).append(numbers)
    return windows, empty


def _batches(windows, batch):
    return (windows[first : first + batch] for first in range(0, len(windows), batch))


@functools.lru_cache(32)
def _partition_of_unity(length, window, starts):
    """[windows, window] float32: the profiles, divided so that they add up to one everywhere."""
    profile = gaussian_profile(window)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + window] += profile
    return np.stack([profile / total[start : start + window] for start in starts])


@functools.partial(jax.jit, static_argnames="patch")
def _gather(volume, starts, patch):
    if volume.ndim == len(patch):
        volume = volume[..., None]
    size = (*patch, volume.shape[-1])
    return jax.vmap(lambda start: lax.dynamic_slice(volume, (*start, 0), size))(starts)


@jax.jit
def _weigh(outputs, profiles):
    """Windows [B, *patch, classes] times their weights; of one class [B, *patch].

    Apart from `_add`, since a compiler may fuse a product and a sum into one operation that rounds
    once, in the program of one shape and not of another.
    """
    weighted = outputs[..., 0] if outputs.shape[-1] == 1 else outputs
    for axis, profile in enumerate(profiles, 1):
        others = [a for a in range(1, weighted.ndim) if a != axis]
        weighted *= jnp.expand_dims(profile, others)
    return weighted


@functools.partial(jax.jit, donate_argnums=0)
def _add(total, weighted, starts):
    """Add windows [B, *patch] or [B, *patch, classes] to `total`, one by one: they may overlap."""
    first_class = [0] * (weighted.ndim - 1 - starts.shape[1])

    def add(i, total):
        start = [*starts[i], *first_class]
        here = lax.dynamic_slice(total, start, weighted.shape[1:])
        return lax.dynamic_update_slice(total, here + weighted[i], start)

    return lax.fori_loop(0, weighted.shape[0], add, total)
