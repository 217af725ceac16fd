"""Datasets of HDF5 files, by h5py, and of N5 folders, by tensorstore."""

import json
import math
from pathlib import Path

import numpy as np
import tensorstore

from jax_seg.data.readers import spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.library import library
from jax_seg.system.files import container

MOST_CHANNELS = 9  # of an axis that nothing names: a longer one may be slices


class Hdf5Reader:
    """One dataset of an HDF5 file; reopened at every read, so that it holds no file and pickles.

    `name` of the dataset, and its `axes`, are for who writes another like it.
    """

    random_access = True

    def __init__(self, path):
        """Opens FILE.h5:/DATASET, or FILE.h5 where it holds one volume or image of channels."""
        self.path = Path(path)
        with _file(self.path) as file:
            self.name = container(self.path)[1] or _only(self.path, _volumes(file))
            if self.name not in file or not hasattr(file[self.name], "shape"):
                raise ValueError(
                    f"{self.path} names no dataset of the file, which holds "
                    f"{', '.join(_volumes(file)) or 'no volume'}: choose one of these."
                )
            dataset = file[self.name]
            names = _names(self.path, dataset.shape, [axis.label for axis in dataset.dims])
            self.axes = find_axes(path, dataset.shape, names, channels=True)
            self.shape = tuple(dataset.shape[axis] for axis in self.axes.zyx)
            if self.axes.channel is not None:
                self.channels = dataset.shape[self.axes.channel]
            self.dtype = decoded_dtype(path, dataset.dtype)
            lengths = dataset.attrs.get("element_size_um")  # of ilastik and ImageJ
        self.spacing, self.unit, self.notes = None, None, ()
        if np.shape(lengths) == (3,):
            self.spacing = spacing.in_micrometres([float(n) for n in lengths], ["um"] * 3)
            self.unit = "micrometer" if self.spacing else None

    def __reduce__(self):
        return Hdf5Reader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W] or [D, H, W, C]."""
        index = self.axes.index(block_slices(self, start, size))
        try:
            with _file(self.path) as file:
                voxels = file[self.name][index]
        except OSError as error:
            raise damaged(self.path, error) from error
        return finished(self, self.axes.to_zyx(voxels), start)


class N5Reader:
    """One dataset of an N5 folder, whose axes are stored as x, y, z.

    Its `name`, `axes` (in the opposite order) and `attributes` are for who writes another like it.
    """

    random_access = True

    def __init__(self, path):
        """Opens FOLDER.n5:/DATASET, or FOLDER.n5 where it holds one volume."""
        self.path = Path(path)
        folder, name = container(self.path)
        found = [
            "/" + str(one.parent.relative_to(folder)) if one.parent != folder else "/"
            for one in sorted(folder.rglob("attributes.json"))
            if "dimensions" in _attributes(one)
        ]
        name = name or _only(self.path, found)
        if name not in found:
            raise ValueError(
                f"{self.path} names no dataset of the folder, which holds "
                f"{', '.join(found) or 'no volume'}: choose one of these."
            )
        self.name, self._folder = name, folder / name.strip("/")
        self.attributes = about = _attributes(self._folder / "attributes.json")
        shape = about["dimensions"][::-1]
        self.axes = find_axes(path, shape, [*about.get("axes", ())][::-1])
        self.shape = tuple(shape[axis] for axis in self.axes.zyx)
        self.dtype = decoded_dtype(path, about["dataType"])
        self.spacing, self.notes = None, ()
        found = about.get("pixelResolution")
        found = found if isinstance(found, dict) else {"dimensions": found}
        lengths = about.get("resolution") or found.get("dimensions")
        units = about.get("units") or found.get("unit", "")
        units = units if isinstance(units, list) else [units]
        units *= len(shape) if len(units) == 1 else 1  # one for all axes
        if isinstance(lengths, list) and len(lengths) == len(units) == len(shape):
            self.spacing = spacing.in_micrometres(
                *([values[::-1][axis] for axis in self.axes.zyx] for values in (lengths, units))
            )

    def __reduce__(self):
        return N5Reader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        index = self.axes.index(block_slices(self, start, size))
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(self._folder.absolute())}}
        try:
            store = tensorstore.open(spec, open=True, read=True).result()
            voxels = store[index[::-1]].read().result()
        except Exception as error:  # each codec has its own
            raise damaged(self.path, error) from error
        return finished(self, self.axes.to_zyx(voxels.T), start)


def _file(path):
    try:
        return library("h5py", path).File(container(path)[0], "r")
    except OSError as error:
        raise damaged(path, error) from error


def _names(path, shape, labels):
    """The names of a dataset's axes; of four that have none, the channels are the shortest axis.

    Raises:
        ValueError: which of four axes holds channels cannot be seen.
    """
    if any(labels) or len(shape) != 4 or 1 in shape:
        return labels
    shortest = [axis for axis, length in enumerate(shape) if length == min(shape)]
    if len(shortest) > 1 or shortest[0] not in (0, 3) or min(shape) > MOST_CHANNELS:
        raise ValueError(
            f"{path} has shape {tuple(shape)}, and its channels are not the shortest axis, first "
            f"or last, of at most {MOST_CHANNELS}: label that axis c, or save each channel as a "
            "dataset of its own."
        )
    return ["c" if axis == shortest[0] else "" for axis in range(4)]


def _volumes(file):
    """The names of the datasets of an HDF5 file that may be volumes."""
    found = []

    def look(name, item):
        if hasattr(item, "shape") and len(item.shape) >= 3 and math.prod(item.shape):
            found.append(f"/{name}")

    file.visititems(look)
    return found


def _only(path, names):
    if len(names) != 1:
        raise ValueError(
            f"{path} holds {', '.join(names) or 'no volume'}: name one volume as "
            f"{path}:{names[0] if names else '/DATASET'}."
        )
    return names[0]


def _attributes(path):
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    return content if isinstance(content, dict) else {}
