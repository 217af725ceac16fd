"""TIFF stacks."""

import math
from pathlib import Path

import numpy as np
import tifffile

from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.tiff_header import read_header


class TiffReader:
    """One TIFF stack; reopened at every read, so that it holds no file and pickles.

    `by_slices` says whether slices are read one by one: otherwise a part costs as much as the
    whole.
    """

    def __init__(self, path, plane=False):
        """Opens the TIFF file `path`; with `plane`, a 2-D image is a volume of one slice."""
        self.path, self.plane = Path(path), plane
        self._header = header = read_header(self.path)
        self._stored_shape, names = header.shape, header.names
        if plane and math.prod(header.shape[:-2]) == 1:
            self._stored_shape, names = (1, *header.shape[-2:]), ()
        self._axes = find_axes(path, self._stored_shape, names)
        self.shape = tuple(self._stored_shape[axis] for axis in self._axes.zyx)
        self.dtype = decoded_dtype(path, header.dtype)
        self.spacing, self.notes = header.spacing, header.notes
        self.by_slices = header.pages == self.shape[0] and self._axes.in_order
        self.random_access = header.offset is not None

    def __reduce__(self):
        return TiffReader, (self.path, self.plane)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        window = block_slices(self, start, size)
        header, index = self._header, self._axes.index(window)
        if self.random_access:
            stored = np.memmap(self.path, header.dtype, "r", header.offset, self._stored_shape)
            voxels = self._axes.to_zyx(stored[index])
        else:
            try:
                voxels = self._decode(window, index)
            except Exception as error:
                raise damaged(self.path, error) from error
        if header.white is not None:
            voxels = self.dtype.type(header.white) - voxels.astype(self.dtype, copy=False)
        return finished(self, voxels, start)

    def _decode(self, window, index):
        image = None if self._header.separate else 0
        with tifffile.TiffFile(self.path) as tiff:
            if self.by_slices:
                pages = tiff.asarray(key=window[0], series=image).reshape(-1, *self.shape[1:])
                return pages[:, window[1], window[2]]
            whole = tiff.asarray(series=image).reshape(self._stored_shape)
            return self._axes.to_zyx(whole[index])
