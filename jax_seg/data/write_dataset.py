"""Write a mask as one dataset of an HDF5 file or an N5 folder, laid out as that of its input.

The dataset has the input's name and axes, so that the attributes that place the input in space are
true of the mask as well; an axis that is no part of space keeps length 1.
"""

import json
from pathlib import Path

import tensorstore

from jax_seg.data.readers.library import library
from jax_seg.system.files import container, write_json

CHUNK = 64  # voxels along each axis
PLACE = (
    "element_size_um",  # of ilastik and ImageJ
    "axistags",
    "axis_labels",
    "axes",
    "resolution",
    "pixelResolution",
    "spacing",
    "voxel_size",
    "offset",
    "translation",
    "transform",
    "units",
    "unit",
)
"""The attributes of a dataset that say where its voxels lie."""


def write_hdf5(path, mask, reader, origin):
    """Write an HDF5 file of one dataset.

    Args:
      path: of the file, which is written in place.
      mask: integers [D, H, W].
      reader: `Hdf5Reader` of the input.
      origin: name of the writing program, which becomes the file's attribute 'software'.
    """
    h5py, voxels = library("h5py", reader.path), reader.axes.from_zyx(mask)
    with h5py.File(container(reader.path)[0], "r") as source, h5py.File(path, "w") as file:
        before = source[reader.name]
        file.attrs["software"] = origin  # first, so that it lies at the beginning of the file
        dataset = file.create_dataset(
            reader.name, data=voxels, chunks=_chunks(voxels.shape), compression="gzip"
        )
        for name in PLACE:
            if name in before.attrs:
                dataset.attrs[name] = before.attrs[name]
        for ours, theirs in zip(dataset.dims, before.dims, strict=True):
            if theirs.label:
                ours.label = theirs.label


def write_n5(folder, mask, reader, origin):
    """Write an N5 folder of one dataset.

    Args:
      folder: an empty one, which is written in place.
      mask: integers [D, H, W].
      reader: `N5Reader` of the input.
      origin: name of the writing program, which becomes the folder's attribute 'software'.
    """
    folder, voxels = Path(folder), reader.axes.from_zyx(mask)
    dataset = folder / reader.name.strip("/")
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": str(dataset.absolute())},
        "metadata": {
            "dimensions": voxels.shape[::-1],
            "blockSize": _chunks(voxels.shape)[::-1],
            "dataType": mask.dtype.name,
            "compression": {"type": "gzip"},
        },
        "create": True,
    }
    tensorstore.open(spec).result().write(voxels.T).result()
    before = {name: value for name, value in reader.attributes.items() if name in PLACE}
    _add(dataset / "attributes.json", before)
    _add(folder / "attributes.json", {"n5": "2.0.0", "software": origin})


def _chunks(shape):
    return tuple(min(length, CHUNK) for length in shape)


def _add(path, attributes):
    """Add attributes to those of a group or dataset."""
    content = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, content | attributes)
