"""TIFF stacks."""

import os
import struct
from pathlib import Path

import numpy as np
import tifffile

from jax_seg.data.readers.contract import block_slices, check_axes, damaged, decoded_dtype, finished


class TiffReader:
    """One TIFF stack; reopened at every read, so that it holds no file and pickles.

    Leading axes of length 1 are dropped. `by_slices` says whether slices are read one by one:
    otherwise a part costs as much as the whole.
    """

    def __init__(self, path):
        self.path = Path(path)
        size = self.path.stat().st_size
        if size == 0:
            raise ValueError(f"{path} is an empty file: copy it again.")
        # A damaged header breaks tifffile in many ways, so everything is caught and named.
        try:
            with tifffile.TiffFile(path) as tiff:
                complete = _is_complete(tiff, size)
                if complete:
                    shapes = [series.shape for series in tiff.series]
                    series = tiff.series[0]
                    axes, pages = series.axes, list(series.pages)
                    self._stored_dtype = series.dtype.newbyteorder(tiff.byteorder)
                    self._offset = series.dataoffset  # None when compressed or scattered
                    complete = not self._offset or self._offset + series.nbytes <= size
        except Exception as error:
            raise ValueError(
                f"{path} is not a readable TIFF file ({error}): give a TIFF stack or a Zarr folder."
            ) from error
        if not complete:
            raise ValueError(f"{path} is truncated, its last pages are missing: copy it again.")
        if "S" in axes:
            raise ValueError(
                f"{path} holds colour (RGB) pages, shape {shapes[0]}: save it as a stack of "
                "grey-value pages."
            )
        if len(shapes) > 1:
            raise ValueError(
                f"{path} holds {len(shapes)} images that differ in shape or type, {shapes[0]} and "
                f"{shapes[1]} among them: keep one stack per file."
            )
        if None in pages:
            raise ValueError(
                f"{path} refers to pages in other files that are missing: save it as one file."
            )
        self.shape = check_axes(path, shapes[0])[-3:]
        self.dtype = decoded_dtype(path, self._stored_dtype)
        self.by_slices = len(pages) == self.shape[0]
        self.random_access = self._offset is not None

    def __reduce__(self):
        return TiffReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        window = block_slices(self, start, size)
        if self.random_access:
            voxels = np.memmap(self.path, self._stored_dtype, "r", self._offset, self.shape)[window]
            return finished(self, voxels, start)
        try:
            with tifffile.TiffFile(self.path) as tiff:
                if self.by_slices:
                    pages = tiff.asarray(key=window[0], series=0).reshape(-1, *self.shape[1:])
                    voxels = pages[:, window[1], window[2]]
                else:
                    voxels = tiff.asarray(series=0).reshape(self.shape)[window]
        except Exception as error:
            raise damaged(self.path, error) from error
        return finished(self, voxels, start)


def _is_complete(tiff, size):
    """Whether a TIFF of `size` bytes holds all its pages.

    tifffile takes a page list that was cut for a shorter stack. Here every page's bytes must lie
    inside the file, and the last page must say that it is the last.
    """
    if not len(tiff.pages):
        return False
    for page in tiff.pages:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if count == 0 or offset + count > size:
                return False
    layout, file = tiff.tiff, tiff.filehandle
    file.seek(tiff.pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, os.SEEK_CUR)
    return file.read(layout.offsetsize) == bytes(layout.offsetsize)
