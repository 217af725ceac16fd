"""MRC files (.mrc, .rec) of electron microscopy, by mrcfile."""

from pathlib import Path

import numpy as np

from jax_seg.data.readers import spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.library import library

# IMOD's stamp in a header, at byte 152; flags follow, of which the first bit means that bytes are
# signed (IMOD's documentation, "The MRC file format used by IMOD").
IMOD = 1146047817


class MrcReader:
    """One MRC volume, mapped into memory at every read, so that it holds no file and pickles."""

    random_access = by_slices = True

    def __init__(self, path):
        """Opens the file `path`."""
        self.path = Path(path)
        mrcfile = library("mrcfile", path)
        try:
            with mrcfile.mmap(path, mode="r") as file:
                data, header, size = file.data, file.header, file.voxel_size
            if beyond := self.path.stat().st_size - data.offset - data.nbytes:
                raise ValueError(f"it is {beyond} bytes longer than its header says")
        except Exception as error:
            raise damaged(path, error) from error
        stored = data.dtype
        if stored == np.int8 and _bytes_are_unsigned(header):
            stored = np.dtype(np.uint8)
        self._stored = stored, data.offset, data.shape
        # Which axis the columns, rows and sections are: 1 is x, 2 is y, 3 is z.
        order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
        names = ["xyz"[axis - 1] for axis in order] if sorted(order) == [1, 2, 3] else ()
        self._axes = find_axes(path, data.shape, names if data.ndim == 3 else ())
        self.shape = tuple(data.shape[axis] for axis in self._axes.zyx)
        self.dtype = decoded_dtype(path, stored)
        self.spacing = spacing.in_micrometres(
            [float(size[axis]) for axis in "zyx"], ["angstrom"] * 3
        )
        self.unit = "micrometer" if self.spacing else None
        self.notes = ()

    def __reduce__(self):
        return MrcReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        index = self._axes.index(block_slices(self, start, size))
        dtype, offset, shape = self._stored
        try:
            stored = np.memmap(self.path, dtype, "r", offset, shape)
            voxels = np.array(stored[index])
        except Exception as error:
            raise damaged(self.path, error) from error
        return finished(self, self._axes.to_zyx(voxels), start)


def _bytes_are_unsigned(header):
    """Whether IMOD has written the file with unsigned bytes, as it did before the format said."""
    stamp, flags = np.frombuffer(header["extra2"].tobytes(), header["mode"].dtype, 2, 152 - 112)
    return stamp == IMOD and not flags & 1
