"""A part of a volume, on the same path through networks and ensembles as a volume in memory."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_seg.data.preprocess import measure

PLANE = (1, 2)  # height and width


class Orientation(NamedTuple):
    """Mirrored along `flips`, then turned by `turns` quarters in the plane of height and width."""

    flips: tuple
    turns: int


class Part(NamedTuple):
    """The voxels [start, start + size) of a whole volume, whose surroundings can be read too.

    Attributes:
      read: (start, size) -> the voxels of that box of the whole volume, perhaps with channels.
      whole: shape of the whole volume.
      channels: number of them.
      dtype: of its voxels.
      start, size: of the part.
      cuts: for each axis a tuple of the (start, stop) of all parts that the volume is divided into:
        their programs get arrays of one shape.
      tally: counts 'windows', and those without input as 'empty'.
      measured: `PerVolume` -> what `preprocess.measure` finds on the whole volume.
    """

    read: Callable
    whole: tuple
    channels: int
    dtype: np.dtype
    start: tuple
    size: tuple
    cuts: tuple
    tally: Counter
    measured: Callable

    @property
    def shape(self):
        """Shape of the result, which covers the part alone."""
        return self.size


def whole(volume):
    """An array in memory, [D, H, W] or [D, H, W, C], as a `Part`: all of it."""
    shape = volume.shape[:3]
    return Part(
        read=lambda start, size: volume[box(start, size)],
        whole=shape,
        channels=volume.shape[3] if volume.ndim == 4 else 1,
        dtype=volume.dtype,
        start=(0,) * len(shape),
        size=shape,
        cuts=tuple(((0, length),) for length in shape),
        tally=Counter(),
        measured=functools.cache(lambda rule: measure(volume, rule)),
    )


def cropped(part, slices):
    """The `Part` of what the slices leave of its whole volume; None where it holds none of that.

    Args:
      part: `Part`.
      slices: one of each axis of the whole volume.
    """
    limits = [one.indices(n)[:2] for one, n in zip(slices, part.whole, strict=True)]
    corner = tuple(low for low, _ in limits)
    cuts = tuple(
        tuple(
            (max(a, low) - low, min(b, high) - low) for a, b in axis if max(a, low) < min(b, high)
        )
        for axis, (low, high) in zip(part.cuts, limits, strict=True)
    )
    start, size = [], []
    for a, n, (low, high) in zip(part.start, part.size, limits, strict=True):
        start.append(max(a - low, 0))
        size.append(min(a + n, high) - max(a, low))
    if min(size) <= 0:
        return None

    def read(start, size):
        return part.read(tuple(a + low for a, low in zip(start, corner, strict=True)), size)

    return part._replace(
        read=read,
        whole=tuple(high - low for low, high in limits),
        start=tuple(start),
        size=tuple(size),
        cuts=cuts,
    )


def box(start, size):
    """The slices of [start, start + size)."""
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))


def turn_array(volume, orientation):
    """The volume [D, H, W] or [D, H, W, C] in that orientation, a view."""
    return np.rot90(np.flip(volume, orientation.flips), orientation.turns, PLANE)


def turn_part(part, orientation):
    """The `Part` of the turned volume that holds the same voxels."""

    def read(start, size):
        spans = [(a, a + n) for a, n in zip(start, size, strict=True)]
        turned = _rotated(part.whole, orientation.turns)[0]
        back = _rotated(turned, -orientation.turns % 4, spans)[1]
        back = _flipped(part.whole, orientation.flips, back)
        voxels = part.read(tuple(a for a, _ in back), tuple(b - a for a, b in back))
        return turn_array(voxels, orientation)

    def forward(spans):
        return _rotated(
            part.whole, orientation.turns, _flipped(part.whole, orientation.flips, spans)
        )

    shape, spans = forward([(a, a + n) for a, n in zip(part.start, part.size, strict=True)])
    cuts = []
    for axis, source in enumerate(_rotated((0, 1, 2), orientation.turns)[0]):
        everything = [(0, length) for length in part.whole]
        moved = [
            forward([*everything[:source], cut, *everything[source + 1 :]])[1][axis]
            for cut in part.cuts[source]
        ]
        cuts.append(tuple(moved))

    def measured(rule):
        numbers, slices = part.measured(rule)
        limits = [one.indices(n)[:2] for one, n in zip(slices, part.whole, strict=True)]
        return numbers, tuple(slice(a, b) for a, b in forward(limits)[1])

    return part._replace(
        read=read,
        whole=tuple(shape),
        start=tuple(a for a, _ in spans),
        size=tuple(b - a for a, b in spans),
        cuts=tuple(cuts),
        measured=measured,
    )


def _flipped(shape, flips, spans):
    return [
        (length - b, length - a) if axis in flips else (a, b)
        for axis, (length, (a, b)) in enumerate(zip(shape, spans, strict=True))
    ]


def _rotated(shape, turns, spans=None):
    """(shape, spans) after quarter turns, as `np.rot90` in PLANE: row i was column W - 1 - i."""
    shape = list(shape)
    spans = list(spans) if spans is not None else [(0, 0)] * len(shape)
    for _ in range(turns % 4):
        width, (a, b) = shape[2], spans[2]
        spans[1], spans[2] = (width - b, width - a), spans[1]
        shape[1], shape[2] = shape[2], shape[1]
    return shape, spans
