"""A volume of any size as a sequence of sections, so that it can be measured without holding it."""

import numpy as np

from jax_seg.data.readers.contract import channels_of

SLAB_BYTES, SLAB = 2**28, 64  # that are read at once, and sections of a slab at most


class Sections:
    """The sections [H, W] or [H, W, C] of a box of a volume, read slab by slab.

    It has of an array what `preprocess.measure` asks for: `ndim`, `shape`, iteration, and a part of
    it by three slices.
    """

    def __init__(self, reader, start, size):
        self._reader, self._start, self._size = reader, tuple(start), tuple(size)
        channels = channels_of(reader)
        self.shape = (*self._size, *((channels,) if channels > 1 else ()))
        self.ndim = len(self.shape)

    def __getitem__(self, slices):
        limits = [one.indices(n)[:2] for one, n in zip(slices, self._size, strict=True)]
        start = (a + low for a, (low, _) in zip(self._start, limits, strict=True))
        return Sections(self._reader, start, (high - low for low, high in limits))

    def __iter__(self):
        of_one = np.prod(self.shape[1:], dtype=np.int64) * self._reader.dtype.itemsize
        depth = int(np.clip(SLAB_BYTES // of_one, 1, SLAB))
        first, *plane = self._start
        for z in range(0, self._size[0], depth):
            count = min(depth, self._size[0] - z)
            yield from self._reader.read((first + z, *plane), (count, *self._size[1:]))


def of(reader):
    """The sections of a whole volume."""
    return Sections(reader, (0, 0, 0), reader.shape)


def in_memory_if_small(reader):
    """The voxels of a whole volume, or of one that is larger than a slab its sections."""
    size = np.prod(reader.shape, dtype=np.int64) * channels_of(reader) * reader.dtype.itemsize
    return of(reader) if size > SLAB_BYTES else reader.read((0, 0, 0), reader.shape)
