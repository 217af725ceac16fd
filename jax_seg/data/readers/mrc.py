"""MRC files (.mrc, .rec) of electron microscopy, by mrcfile."""

import warnings
from pathlib import Path

import numpy as np

from jax_seg.data.readers import spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.library import library


class MrcReader:
    """One MRC volume, mapped into memory at every read, so that it holds no file and pickles."""

    random_access = by_slices = True

    def __init__(self, path):
        """Opens the file `path`."""
        self.path = Path(path)
        with _mapped(self.path) as file:
            shape, dtype = file.data.shape, file.data.dtype
            # Which axis the columns, rows and sections are: 1 is x, 2 is y, 3 is z.
            order = [int(file.header[name]) for name in ("maps", "mapr", "mapc")]
            size = file.voxel_size
            lengths = [float(size[axis]) for axis in "zyx"]
        names = ["xyz"[axis - 1] for axis in order] if sorted(order) == [1, 2, 3] else ()
        self._axes = find_axes(path, shape, names if len(shape) == 3 else ())
        self.shape = tuple(shape[axis] for axis in self._axes.zyx)
        self.dtype = decoded_dtype(path, dtype)
        self.spacing = spacing.in_micrometres(lengths, ["angstrom"] * 3)
        self.notes = ()

    def __reduce__(self):
        return MrcReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        index = self._axes.index(block_slices(self, start, size))
        with _mapped(self.path) as file:
            voxels = np.array(file.data[index])
        return finished(self, self._axes.to_zyx(voxels), start)


def _mapped(path):
    mrcfile = library("mrcfile", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a file that is too short for its header
            return mrcfile.mmap(path, mode="r")
    except Exception as error:
        raise damaged(path, error) from error
