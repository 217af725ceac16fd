"""NIfTI files (.nii, .nii.gz), by nibabel."""

from pathlib import Path

import numpy as np

from jax_seg.data.readers import spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.library import library

UNITS = {"mm": "mm", "micron": "um", "meter": "m"}
USUAL = "mm"  # of files that name no unit, as other programs read them


class NiftiReader:
    """One NIfTI volume; reopened at every read, so that it holds no file and pickles.

    Its spacing counts millimetres where it names no unit, as other programs read it. `orientation`
    says where its axes point, None where they point nowhere.

    NIfTI stores [x, y, z], and this is its transpose, in the orientation in which the file stores
    it, as SimpleITK and nnU-Net read it. A prediction is written with the same orientation.
    """

    by_slices = False  # a compressed file is read from its beginning

    def __init__(self, path):
        """Opens the file `path`."""
        self.path = Path(path)
        image = _load(self.path)
        self._axes = find_axes(path, image.shape[::-1])
        self.shape = tuple(image.shape[::-1][axis] for axis in self._axes.zyx)
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        stored = np.float32 if scaled else image.get_data_dtype()
        self.dtype = decoded_dtype(path, stored)
        self.random_access = self.path.suffix.lower() == ".nii"
        lengths = [*image.header.get_zooms()[::-1]]
        unit = UNITS.get(image.header.get_xyzt_units()[0], USUAL)
        kept = [float(lengths[axis]) for axis in self._axes.zyx]
        self.spacing, self.unit = spacing.in_micrometres(kept, [unit] * 3), spacing.unit_of([unit])
        self.orientation = None
        if np.isfinite(image.affine).all():
            codes = library("nibabel", path).aff2axcodes(image.affine)
            self.orientation = "".join(map(str, codes))  # as 'RAS'
        self.notes = ()

    def __reduce__(self):
        return NiftiReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        index = self._axes.index(block_slices(self, start, size))
        try:
            voxels = np.asarray(_load(self.path).dataobj[index[::-1]])
        except Exception as error:  # zlib, nibabel and NumPy have their own
            raise damaged(self.path, error) from error
        return finished(self, self._axes.to_zyx(voxels.T), start)


def _load(path):
    try:
        return library("nibabel", path).load(path)
    except ValueError:
        raise
    except Exception as error:
        raise damaged(path, error) from error
