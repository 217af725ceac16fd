"""Which axes of a stored array are depth, height and width: by their names, else by position."""

import itertools
from typing import NamedTuple

import numpy as np

_ALIASES = {"depth": "z", "height": "y", "width": "x", "channel": "c", "time": "t", "sample": "s"}
_COUNTED = {"c": "channels", "t": "times", "s": "samples per pixel"}


class Axes(NamedTuple):
    """Where depth, height and width lie among the `rank` axes of an array; others have length 1.

    Where `channel` is the number of an axis, that one is kept, whole.
    """

    rank: int
    zyx: tuple
    channel: int | None = None

    @property
    def in_order(self):
        """Whether the voxels are stored slice by slice and row by row."""
        return self.zyx == tuple(sorted(self.zyx))

    def index(self, window):
        """The index into the stored array of the slices `window` (depth, height, width)."""
        index = [0] * self.rank
        for axis, part in zip(self.zyx, window, strict=True):
            index[axis] = part
        if self.channel is not None:
            index[self.channel] = slice(None)
        return tuple(index)

    def to_zyx(self, voxels):
        """The voxels that `index` gave, as [D, H, W], or [D, H, W, C]."""
        kept = self.zyx if self.channel is None else (*self.zyx, self.channel)
        return np.transpose(voxels, np.argsort(np.argsort(kept)))

    def from_zyx(self, voxels):
        """The array of all stored axes that holds [D, H, W]; the others have length 1."""
        others = [axis for axis in range(self.rank) if axis not in self.zyx]
        return np.expand_dims(np.transpose(voxels, np.argsort(self.zyx)), others)


def find_axes(path, shape, names=(), channels=False):
    """The axes of a volume among those of a stored array.

    Names decide where there are any. Unnamed axes take the remaining places of z, y and x, in this
    order. Axes of length 1 are dropped wherever they are.

    Args:
        path: of the file, for errors.
        shape: lengths of the stored axes.
        names: one for each axis, '' or None for one without: z, y, x, c (channels), t (times), s
            (samples), their English words, or any other. Empty means that none has one. Where none
            is z, y, x, c, t or s, position decides.
        channels: whether several channels may be read.

    Returns:
        Axes.

    Raises:
        ValueError: the array has several channels, times or the like, or is not a 3-D volume; or
            its shape does not show which axis is which.
    """
    shape = tuple(int(length) for length in shape)
    names = _known(names) or ("",) * len(shape)
    if len(names) != len(shape):
        raise ValueError(
            f"{path} names {len(names)} axes, {_text(names)}, but its array has shape {shape}: "
            "correct the names in its metadata."
        )
    if repeated := [name for name in "zyx" if names.count(name) > 1]:
        raise ValueError(
            f"{path} names several axes {repeated[0]}, in {_text(names)}: correct the names in its "
            "metadata."
        )
    channel, spatial = None, sum(name in "zyx" for name in names)  # '' among them
    for axis, (name, length) in enumerate(zip(names, shape, strict=True)):
        if channels and name == "c" and length > 1 and channel is None and spatial >= 3:
            channel = axis
        elif name and name not in "zyx" and length > 1:
            raise ValueError(
                f"{path} has {length} {_COUNTED.get(name, f'places along the axis {name}')} (axes "
                f"{_text(names)}, shape {shape}): save one of them or, if they are "
                "slices, name that axis z."
            )
    return Axes(len(shape), _places(path, shape, names), channel)


def _known(names):
    """Names in one spelling, or () where they are not those of a volume."""
    names = tuple((name or "").lower() for name in names)
    names = tuple(_ALIASES.get(name, name) for name in names)
    if set(names) & set("zyx"):
        return names
    return tuple(name if name in _COUNTED else "" for name in names)


def _places(path, shape, names):
    missing = [name for name in "zyx" if name not in names]
    free = [axis for axis, name in enumerate(names) if not name]
    if 3 - len(missing) + len(free) == 2:
        raise ValueError(f"{path} is a 2-D image of shape {shape}: a volume is a [D, H, W] stack.")
    kept_of = {
        tuple(shape[axis] for axis in kept): kept
        for kept in itertools.combinations(free, len(missing))
        if all(shape[axis] == 1 for axis in free if axis not in kept)
    }
    if not kept_of or 0 in shape:
        raise ValueError(
            f"{path} has shape {shape}: a volume has three axes [D, H, W], so save one channel "
            "of one time point."
        )
    if len(kept_of) > 1:
        raise ValueError(
            f"{path} has shape {shape}, which could be a volume of "
            f"{' or '.join(str(kept) for kept in kept_of)}: save it with three axes [D, H, W]."
        )
    (kept,) = kept_of.values()
    place = dict(zip(missing, kept, strict=True))
    return tuple(place[name] if name in place else names.index(name) for name in "zyx")


def _text(names):
    """'tczyx', or 'phase y x' where a name is a word."""
    shown = [name or "?" for name in names]
    return ("" if all(len(name) == 1 for name in shown) else " ").join(shown)
