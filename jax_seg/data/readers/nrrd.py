"""NRRD files, by pynrrd."""

from pathlib import Path

import numpy as np

from jax_seg.data.readers import spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.library import library

SPATIAL = ("domain", "space")  # kinds of an axis that are depth, height or width
SIZES = {"char": 1, "short": 2, "int": 4, "long long": 8, "longlong": 8}  # of C's types, in bytes


class NrrdReader:
    """One NRRD volume, whose axes, fastest first, are x, y and z; a part costs as much as all."""

    random_access = by_slices = False

    def __init__(self, path):
        """Opens the file `path`."""
        self.path = Path(path)
        nrrd = library("nrrd", path, "pynrrd")
        try:
            header = nrrd.read_header(str(path))
            shape = tuple(int(size) for size in header["sizes"][::-1])
            dtype = _dtype(header["type"])
        except Exception as error:
            raise damaged(path, error) from error
        kinds = [kind or "" for kind in header.get("kinds", [""] * len(shape))][::-1]
        names = ["" if kind.lower() in ("", *SPATIAL) else kind.lower() for kind in kinds]
        self._axes = find_axes(path, shape, names if any(names) else ())
        self.shape = tuple(shape[axis] for axis in self._axes.zyx)
        self.dtype = decoded_dtype(path, dtype)
        try:
            self.lengths, self.spacing = _spacing(header, self._axes)
        except (IndexError, TypeError, ValueError) as error:
            raise damaged(path, error) from error
        self.notes = ()

    def __reduce__(self):
        return NrrdReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        index = self._axes.index(block_slices(self, start, size))
        try:
            voxels, _ = library("nrrd", self.path).read(str(self.path), index_order="C")
            voxels = voxels[index]
        except Exception as error:
            raise damaged(self.path, error) from error
        return finished(self, self._axes.to_zyx(voxels), start)


def _dtype(name):
    """The NumPy type of a header's type: 'uint8', 'uint8_t' and 'unsigned char' are one."""
    name = name.removesuffix("_t")
    if name in ("float", "double", "block"):
        return np.dtype({"float": "f4", "double": "f8", "block": "V1"}[name])
    if name.startswith(("int", "uint")) and name[-1].isdigit():
        return np.dtype(name)
    unsigned = name.startswith("u") and not name.startswith("unsigned ")
    words = name[1:] if unsigned else name.removeprefix("unsigned ").removeprefix("signed ")
    kind = "u" if unsigned or name.startswith("unsigned ") else "i"
    return np.dtype(f"{kind}{SIZES[words if words == 'int' else words.removesuffix(' int')]}")


def _spacing(header, axes):
    """((z, y, x) as stored, in micrometres) of the header's directions or spacings, else of None.

    Directions are in the unit of the space, spacings in that of each axis; by default millimetres.
    """
    directions, of_axes = header.get("space directions"), header.get("units", [])
    of_space = [*header.get("space units", []), "mm"][0]
    if directions is not None:
        lengths, of_axes = [np.linalg.norm(np.asarray(row, float)) for row in directions], []
    elif (lengths := header.get("spacings")) is None:
        return None, None
    units = [str(unit).strip('"') or "mm" for unit in of_axes or [of_space] * len(lengths)]
    lengths, units = ([each[::-1][axis] for axis in axes.zyx] for each in ([*lengths], units))
    return spacing.three_positive(lengths), spacing.in_micrometres(lengths, units)
